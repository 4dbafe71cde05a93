"""One worker thread per loaded model, so that any number of threads can share it. It knows no model."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from nemotron_rag.errors import ClosedError

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Runs calls one after the other on a thread of its own, in the order in which they arrive.

    Args:
        name: shown as the thread's name and in errors.

    Example:
        >>> worker = Worker("demo")
        >>> worker.submit(lambda: 1 + 1).result()
        2
        >>> worker.close()
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"nemotron-rag {name}")

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Queue a call.

        Raises:
            ClosedError: the worker was closed.
        """
        try:
            return self._executor.submit(function)
        except RuntimeError as error:
            raise ClosedError(f"{self._name} was closed; load it again") from error

    def close(self) -> None:
        """Finish what is running, drop what waits, refuse what comes later."""
        self._executor.shutdown(wait=False, cancel_futures=True)
