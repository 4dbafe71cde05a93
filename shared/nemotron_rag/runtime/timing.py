"""Timers for the stages of a long run, across any number of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

__all__ = ["Timer", "timed", "timer"]


class Timer:
    """Adds up the seconds during which at least one thread is inside its ``with`` block.

    Example:
        >>> timer = Timer()
        >>> with timer, timer:
        ...     pass
        >>> 0 < timer.seconds < 1
        True
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = 0
        self._since = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._since = time.perf_counter()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self.seconds += time.perf_counter() - self._since


_timers: ContextVar[Mapping[str, Timer]] = ContextVar("nemotron_rag_timers")


@contextmanager
def timed(timers: Mapping[str, Timer]) -> Iterator[None]:
    """Let code inside the ``with`` block, in this thread or task, count on these timers by stage name."""
    token = _timers.set(timers)
    try:
        yield
    finally:
        _timers.reset(token)


def timer(name: str) -> Timer | nullcontext[None]:
    """Return the current timer of a stage, or a no-op context if nobody is timing it."""
    return _timers.get({}).get(name) or nullcontext()
