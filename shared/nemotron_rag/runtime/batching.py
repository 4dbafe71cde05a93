"""Cutting work into batches by tokens, longest first, with the order restored. It knows no model.

Inputs are prepared (decoded, tokenised) a window at a time, so that a million passages need the memory of two windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

import torch

from nemotron_rag.errors import ItemTooLargeError, NonFiniteError
from nemotron_rag.runtime.worker import Worker

__all__ = ["Sized", "plan_batches", "run_batches"]

WINDOW = 32  # inputs prepared at a time; a page of 7 tiles takes 5.5 MB

T = TypeVar("T")


class Sized(Protocol):
    """Anything with a cost in tokens."""

    @property
    def tokens(self) -> int:
        """Tokens that the model computes for it."""


S = TypeVar("S", bound=Sized)


def plan_batches(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices so that each group's costs sum to at most `budget`; longest first, alone if too long.

    Args:
        costs: tokens of each item.
        budget: tokens a batch may hold.

    Returns:
        Lists of indices into `costs`; each index once.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        if not batches or costs[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= costs[index]
    return batches


def run_batches(
    inputs: Sequence[T],
    *,
    prepare: Callable[[T, int], S],
    compute: Callable[[Sequence[S]], torch.Tensor],
    worker: Worker,
    budget: int,
) -> Iterator[torch.Tensor]:
    """Compute one row for every input, in the order of the inputs.

    The caller's thread prepares a window while the worker computes the one before.

    Args:
        inputs: what to compute.
        prepare: makes an input ready for the device; gets the input and its index, for error messages.
        compute: from a batch of prepared inputs to one float32 row each; runs on the worker.
        worker: the model's.
        budget: tokens a batch may hold.

    Yields:
        Rows on the CPU.

    Raises:
        ItemTooLargeError: one input alone does not fit into the device's memory.
        NonFiniteError: a row holds NaN or infinity.
    """
    running: Future[list[torch.Tensor]] | None = None
    for start in range(0, len(inputs), WINDOW):
        window = [prepare(item, start + i) for i, item in enumerate(inputs[start : start + WINDOW])]
        following = worker.submit(partial(_run_window, window, start, compute, budget))
        if running:
            yield from running.result()
        running = following
    if running:
        yield from running.result()


def _run_window(
    window: Sequence[S], start: int, compute: Callable[[Sequence[S]], torch.Tensor], budget: int
) -> list[torch.Tensor]:
    """All rows of one window, in its order; `start` is the index of its first input."""
    rows: dict[int, torch.Tensor] = {}
    for batch in plan_batches([item.tokens for item in window], budget):
        rows.update(_run_batch(window, batch, compute))
    for i in range(len(window)):
        if not torch.isfinite(rows[i]).all():
            raise NonFiniteError(f"the model's output for input {start + i} is not finite; load it with another dtype")
    return [rows[i] for i in range(len(window))]


def _run_batch(
    window: Sequence[S], batch: Sequence[int], compute: Callable[[Sequence[S]], torch.Tensor]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Compute a batch; where the device's memory does not hold it, its halves."""
    try:
        rows = compute([window[i] for i in batch]).cpu()
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise ItemTooLargeError(
                f"an input of {window[batch[0]].tokens} tokens alone does not fit into device memory; "
                f"lower max_input_tiles or max_length"
            ) from error
    else:
        yield from zip(batch, rows, strict=True)
        return
    # Outside the handler: the exception's frames would keep the tensors alive that are to be freed.
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    yield from _run_batch(window, batch[:middle], compute)
    yield from _run_batch(window, batch[middle:], compute)
