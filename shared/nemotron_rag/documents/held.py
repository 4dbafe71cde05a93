"""One budget for the pixels of all images that are decoded at the same time, in all threads of the process.

Each image may be large; without this, as many large ones as there are threads would be in memory at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from nemotron_rag._forking import renewed_in_child

__all__ = ["HELD_PIXELS", "admit", "holding_images", "in_parts"]

T = TypeVar("T")

HELD_PIXELS = 2**26
"""Pixels that are decoded at once, 192 MiB as RGB; one image that has more is decoded while no other one is."""


class _Budget:
    """Who asks waits until there is room; a thread that holds some already never waits, so that none waits in vain."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._after_fork()
        renewed_in_child(self)

    def take(self, pixels: int) -> None:
        """Count some pixels to this thread's, once there is room for them."""
        with self._freed:
            mine = self.held_here()
            while not mine and self._held and self._held + pixels > self._pixels:
                self._freed.wait()
            self._held += pixels
            self._own.pixels = mine + pixels

    def give_back(self, pixels: int) -> None:
        """Count them no more."""
        with self._freed:
            self._held -= pixels
            self._own.pixels = self.held_here() - pixels
            self._freed.notify_all()

    def held_here(self) -> int:
        """Of this thread."""
        return int(getattr(self._own, "pixels", 0))

    def _after_fork(self) -> None:
        self._freed, self._own, self._held = threading.Condition(), threading.local(), 0


_budget = _Budget(HELD_PIXELS)
_scope = threading.local()


@contextmanager
def holding_images() -> Iterator[None]:
    """Count the images that this thread decodes within the block as held until its end.

    For work that takes a decoded image further in the same thread: resizing, encoding. It must not wait for other
    threads that decode.
    """
    if getattr(_scope, "open", False):  # the outer block gives back
        yield
        return
    before, _scope.open = _budget.held_here(), True
    try:
        yield
    finally:
        _scope.open = False
        _budget.give_back(_budget.held_here() - before)


@contextmanager
def admit(pixels: int) -> Iterator[None]:
    """Wait until so many pixels may be decoded; they count until the end of the block, or of `holding_images`."""
    _budget.take(pixels)
    try:
        yield
    finally:
        if not getattr(_scope, "open", False):
            _budget.give_back(pixels)


def in_parts(items: Iterable[T], pixels: Callable[[T], int], *, at_most: int | None = None) -> Iterator[list[T]]:
    """Cut items that hold decoded images into parts, so that no more are in memory than the budget allows, or one.

    Args:
        items: decoded as they are taken.
        pixels: of an item.
        at_most: items of a part; None for no limit.

    Example:
        >>> list(in_parts([5, 1, 2, 2], lambda item: item * 2**24))
        [[5], [1, 2, 2]]
    """
    part, size = list[T](), 0
    for item in items:
        part.append(item)
        size += pixels(item)
        if size >= HELD_PIXELS or len(part) == at_most:
            yield part
            part, size = [], 0
    if part:
        yield part
