"""Where the time of a long run goes, stage by stage, however many threads are at it. It knows no stage by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

__all__ = ["Clock", "stage", "watched"]


class Clock:
    """Adds up the time during which at least one thread is inside.

    Example:
        >>> clock = Clock()
        >>> with clock, clock:
        ...     pass
        >>> 0 < clock.seconds < 1
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


_clocks: ContextVar[Mapping[str, Clock]] = ContextVar("nemotron_rag_clocks")


@contextmanager
def watched(clocks: Mapping[str, Clock]) -> Iterator[None]:
    """Let the stages that are run inside, in this thread or task, count on these clocks by their names."""
    token = _clocks.set(clocks)
    try:
        yield
    finally:
        _clocks.reset(token)


def stage(name: str) -> Clock | nullcontext[None]:
    """A clock to run a stage under: that of whoever watches this thread or task, or one that nobody reads."""
    return _clocks.get({}).get(name) or nullcontext()
