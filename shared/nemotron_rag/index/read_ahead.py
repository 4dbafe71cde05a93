"""Runs an iterator in a thread of its own, a bounded number of items ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from contextvars import copy_context
from typing import Any, TypeVar

__all__ = ["read_ahead"]

_T = TypeVar("_T")
_POLL = 0.1  # seconds; how often a waiting thread looks whether its reader has left


def read_ahead(
    items: Generator[_T, None, None], *, depth: int, leave: Callable[[], None] | None = None
) -> Generator[_T, None, None]:
    """Yield the items of a generator that runs at most `depth` + 1 items ahead.

    Closing what is returned stops the thread at its next item and closes `items` there; so does Ctrl-C while one is
    waited for.

    Args:
        items: runs in a new thread from its first item to its last; its error comes out here.
        depth: items that wait in between.
        leave: called where the items are left before the last one, to end at once the work on the next.
    """
    run = _Run(items, depth)
    run.start()
    is_done = False
    try:
        while True:
            more, value = run.ready.get()
            if more:
                yield value
                continue
            is_done = True
            if value is None:
                return
            raise value
    finally:
        run.left.set()
        if leave is not None and not is_done:
            leave()
        run.join()


class _Run(threading.Thread):
    """Puts (True, item) for each item, then (False, the error or None)."""

    def __init__(self, items: Generator[Any, None, None], depth: int) -> None:
        super().__init__(name="nemotron-rag read-ahead", daemon=True)
        self._context = copy_context()
        self.ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=depth)
        self.left = threading.Event()
        self._items = items

    def run(self) -> None:
        self._context.run(self._read)

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            with closing(self._items):
                for item in self._items:
                    self._put((True, item))
                    if self.left.is_set():
                        break
        except BaseException as raised:  # raised again where the items are read
            error = raised
        self._put((False, error))

    def _put(self, entry: tuple[bool, Any]) -> None:
        while not self.left.is_set():
            try:
                self.ready.put(entry, timeout=_POLL)
            except queue.Full:
                continue
            break
