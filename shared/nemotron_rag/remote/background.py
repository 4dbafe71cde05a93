"""One event loop in a thread of its own, in which every request of this process is made.

So threads and event loops share connections, and none waits for another. A forked child gets a loop of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from nemotron_rag._forking import Lock, renewed_in_child

__all__ = ["BACKGROUND", "Background"]

T = TypeVar("T")
_NAME = "nemotron-rag-http"
_ENDING = 5.0  # seconds that connections have to close when the process ends


class _Closable(Protocol):
    async def aclose(self) -> None: ...


class Background:
    """Runs coroutines for any thread and any event loop.

    Example:
        >>> async def answer() -> int:
        ...     return 42
        >>> Background().run(answer())
        42
    """

    def __init__(self) -> None:
        self._making = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()
        renewed_in_child(self)

    def closes(self, opened: _Closable) -> None:
        """Let its connections be closed when the process ends, if nobody has done so before."""
        self._opened.add(opened)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start it; contexts are the caller's."""
        return asyncio.run_coroutine_threadsafe(work, self._started())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result; an interrupted caller cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def arun(self, work: Coroutine[Any, Any, T]) -> T:
        """`run` for event loops: a cancelled task cancels it."""
        return await asyncio.wrap_future(self.submit(work))

    def end(self) -> None:
        """Cancel what is under way and end the thread; the next call starts another one."""
        with self._making:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            opened = list(self._opened)
            asyncio.run_coroutine_threadsafe(_finish(opened), loop).add_done_callback(lambda _: _stop(loop))
            thread.join(_ENDING)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._making:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=_NAME, daemon=True)
                self._thread.start()
            return self._loop

    def _after_fork(self) -> None:
        self._loop = self._thread = None
        self._opened = weakref.WeakSet()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)


async def _finish(opened: list[_Closable]) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(each.aclose() for each in opened), return_exceptions=True)


BACKGROUND = Background()
"""Of this process."""

atexit.register(BACKGROUND.end)
