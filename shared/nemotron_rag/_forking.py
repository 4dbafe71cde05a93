"""What a forked child must not inherit as it is: locks that nobody will release, threads that are not there.

A child has only the thread that forked. What it needs besides is made anew: see `renewed_in_child`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

__all__ = ["Lock", "Threads", "renewed_in_child"]

T = TypeVar("T")


class _Renewed(Protocol):
    """An object with something in it that does not survive a fork."""

    def _after_fork(self) -> None:
        """In the child, before anything else runs there: forget the parent's threads, locks, pipes and sockets.

        Nothing may be waited for, closed or loaded here.
        """


_renewed: weakref.WeakSet[Any] = weakref.WeakSet()


def renewed_in_child(item: _Renewed) -> None:
    """Let `item._after_fork()` be called in every forked child, for as long as the object lives."""
    _renewed.add(item)


def _renew() -> None:
    for item in list(_renewed):
        item._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class Lock:
    """A lock that is free in a forked child, whoever held it in the parent.

    Args:
        reentrant: the thread that holds it may take it once more.

    Example:
        >>> lock = Lock()
        >>> with lock:
        ...     pass
    """

    def __init__(self, *, reentrant: bool = False) -> None:
        self._make: Callable[[], Any] = threading.RLock if reentrant else threading.Lock
        self._lock = self._held = self._make()
        renewed_in_child(self)

    def __enter__(self) -> None:
        lock = self._lock
        lock.acquire()
        self._held = lock

    def __exit__(self, *_: object) -> None:
        self._held.release()

    def _after_fork(self) -> None:
        self._lock = self._make()


class Threads:
    """A pool of threads that is made at its first use, in a forked child once more.

    Args:
        count: of threads.
        name: that they begin with.

    Example:
        >>> list(Threads(2, "adding").map(lambda number: number + 1, [1, 2]))
        [2, 3]
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._pool: ThreadPoolExecutor | None = None
        self._making = Lock()
        renewed_in_child(self)

    def map(self, work: Callable[..., T], *items: Iterable[Any]) -> Iterator[T]:
        """As of `ThreadPoolExecutor`."""
        return self._opened().map(work, *items)

    def submit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """As of `ThreadPoolExecutor`."""
        return self._opened().submit(work, *arguments)

    def _opened(self) -> ThreadPoolExecutor:
        with self._making:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._count, thread_name_prefix=self._name)
            return self._pool

    def _after_fork(self) -> None:
        self._pool = None
