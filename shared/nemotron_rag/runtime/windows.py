"""Compute many inputs in windows: one window is prepared while the window before it is computed.

The first is small, so that the device begins at once, and each is twice as large as the one before, up to a limit: a
million passages need the memory of two windows. The caller's thread tokenizes, a thread pool decodes images, the worker
computes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

import torch

from nemotron_rag._forking import Threads
from nemotron_rag._token_count import count_tokens
from nemotron_rag.errors import NonFiniteError
from nemotron_rag.runtime.batching import Sized
from nemotron_rag.runtime.timing import timer
from nemotron_rag.runtime.worker import Worker

__all__ = ["WINDOW", "arun_windows", "run_windows"]

WINDOW = 512  # short texts prepared at a time, or 32 images; a page of 7 tiles takes 5.5 MB, a scan for a GPU up to 16
_FIRST = 64  # short texts of the first window
_IMAGE = 16  # short texts that an image counts as
_SHORT = 1000  # characters of a text; longer ones count as several

# Pillow releases the GIL while it resizes, 80 ms a page; tokenizing gains nothing from threads.
_threads = Threads(max(2, min(16, os.cpu_count() or 1)), "nemotron-rag prepare")

T = TypeVar("T")
S = TypeVar("S", bound=Sized)


def run_windows(inputs: Sequence[T], *, prepare: Callable[[T, int], S], worker: Worker[S]) -> list[torch.Tensor]:
    """Compute one row for every input, in the order of the inputs.

    Args:
        inputs: at least one.
        prepare: turns an input and its index (for error messages) into a sequence for the device.
        worker: of the model.

    Returns:
        One float32 tensor for each input, on the CPU; their shapes may differ.

    Raises:
        ItemTooLargeError: one input alone does not fit into the device's memory.
        NonFiniteError: a row holds NaN or infinity.
    """
    running: list[Future[list[torch.Tensor]]] = []
    rows: list[torch.Tensor] = []
    try:
        for window in _windows(inputs):
            running.append(worker.submit(_prepare(inputs, window, prepare)))
            if len(running) > 1:
                rows += running.pop(0).result()
        rows += running.pop().result()
    finally:
        for future in running:
            future.cancel()
    return _checked(rows)


async def arun_windows(inputs: Sequence[T], *, prepare: Callable[[T, int], S], worker: Worker[S]) -> list[torch.Tensor]:
    """Async `run_windows`; when cancelled, windows that still wait are not computed."""
    running: list[asyncio.Future[list[torch.Tensor]]] = []
    rows: list[torch.Tensor] = []
    try:
        for window in _windows(inputs):
            items = await asyncio.to_thread(_prepare, inputs, window, prepare)
            submitted: Future[list[torch.Tensor]] = Future()
            running.append(asyncio.wrap_future(submitted))  # cancelled with this call, also while it waits for room
            await asyncio.to_thread(worker.submit, items, submitted)
            if len(running) > 1:
                rows += await running[0]
                del running[0]
        rows += await running[0]
        running.clear()
    finally:
        for future in running:
            future.cancel()
    return _checked(rows)


def _windows(inputs: Sequence[object]) -> Iterator[range]:
    """The indices of each window, in order."""
    start, room = 0, min(_FIRST, WINDOW)
    left = room
    for index, item in enumerate(inputs):
        left -= _cost(item)
        if left < 0 and index > start:
            yield range(start, index)
            start, room = index, min(2 * room, WINDOW)
            left = room - _cost(item)
    yield range(start, len(inputs))


def _cost(item: object) -> int:
    """Of preparing an input, in short texts."""
    text = item if isinstance(item, str) else getattr(item, "text", "")
    image = _IMAGE if getattr(item, "image", None) is not None else 0
    return max(1, image + len(text) // _SHORT)


def _prepare(inputs: Sequence[T], window: range, prepare: Callable[[T, int], S]) -> list[S]:
    items = [inputs[index] for index in window]
    several = sum(getattr(item, "image", None) is not None for item in items) > 1
    run = _threads.map if several else map
    with timer("preprocess"):
        prepared = list(run(prepare, items, window))
    count_tokens(sum(one.tokens for one in prepared))
    return prepared


def _checked(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    for index, row in enumerate(rows):
        if not row.isfinite().all():
            raise NonFiniteError(f"the model's output for input {index} is not finite; load it with another dtype")
    return rows
