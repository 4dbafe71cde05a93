"""A pool of worker processes that render pages, reused between documents.

MuPDF can use one thread only, may crash, and may never return; in a process of its own it cannot harm the caller. The
workers are started with `subprocess`, not `multiprocessing`, so that the caller's program is not imported again.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import io
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import IO, Any, cast

from nemotron_rag.errors import NemotronRagError
from nemotron_rag.runtime.processes.frames import read_frame, write_frame

__all__ = ["InterruptedReadingError", "Interruption", "Seat", "WorkerDiedError", "interruptible"]

_TIME_LIMIT_EXIT = 1  # the exit status of faulthandler's watchdog
_GRACE = 5.0  # seconds
_CLOSE = {"op": "close", "seconds": 60.0}


class InterruptedReadingError(NemotronRagError):
    """The call that this was read for has ended."""


class WorkerDiedError(Exception):
    """A worker ended before it replied; the message says why, in one line."""


class _Local:
    """The renderer in this process: no protection from crashes and hangs."""

    def __init__(self) -> None:
        self._renderer = importlib.import_module("nemotron_rag.documents.pdf._engines").Renderer()
        self._replies: list[tuple[dict[str, Any], bytes]] = []

    def send(self, request: dict[str, Any], body: bytes = b"") -> None:
        with _quiet_mupdf():
            self._replies.append(self._renderer.handle(request, body))

    def receive(self) -> tuple[dict[str, Any], bytes]:
        return self._replies.pop(0)

    def close(self) -> None:
        self.send(_CLOSE)


@contextlib.contextmanager
def _quiet_mupdf() -> Iterator[None]:
    """Without what MuPDF prints, if it is there; a program that uses it too finds it as it was."""
    if importlib.util.find_spec("pymupdf") is None:
        yield
        return
    with warnings.catch_warnings():  # MuPDF's wrappers use what Python 3.12 deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        tools = importlib.import_module("pymupdf").TOOLS
    shown = tools.mupdf_display_errors(), tools.mupdf_display_warnings()
    tools.mupdf_display_errors(False)
    tools.mupdf_display_warnings(False)
    try:
        yield
    finally:
        tools.mupdf_display_errors(shown[0])
        tools.mupdf_display_warnings(shown[1])


class _Process:
    """One worker process."""

    def __init__(self) -> None:
        paths = [path for path in sys.path if path]  # the worker can import whatever this program can
        single = {
            "OMP_THREAD_LIMIT": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }  # one thread each: the processes are parallel already
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
                [sys.executable or "", "-P", "-W", "ignore", "-m", "nemotron_rag.documents.pdf._worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **single},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise _cannot_start(str(error)) from error
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._ready = False

    def send(self, request: dict[str, Any], body: bytes = b"") -> None:
        with contextlib.suppress(OSError):  # a dead worker is noticed when its reply is read
            write_frame(self._requests, request, body)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            if not self._ready:
                read_frame(self._replies)
                self._ready = True
            return read_frame(self._replies)
        except (EOFError, ValueError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)  # it closed its end of the pipe: wait for its exit status
            self.kill()
            raise self._death_error() from error

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self.end()
        self._process.wait()
        self.disown()

    def end(self) -> None:
        """Kill it; whoever waits for its reply then finds it dead."""
        self._process.kill()

    def disown(self) -> None:
        """Close this side of the pipes; the worker then ends, unless another process holds them too."""
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                pipe.close()

    def renounce(self) -> None:
        """In a forked child: release the parent's worker without killing it.

        Buffers are passed over: a thread of the parent may hold their locks.
        """
        for pipe in (self._requests, self._replies):
            cast("io.BufferedRandom", pipe).raw.close()
        self._process.returncode = 0  # not a child of this process: never wait for it or kill it

    def _death_error(self) -> Exception:
        status = self._process.returncode
        if not self._ready and status >= 0:  # it failed to start
            return _cannot_start(f"it ended at its start with status {status}")
        if status == _TIME_LIMIT_EXIT:
            return WorkerDiedError("took longer than PdfBudget.seconds allows")
        return WorkerDiedError(f"crashed the renderer (status {status}), or needs more than PdfBudget.memory_bytes")


def _cannot_start(reason: str) -> NemotronRagError:
    return NemotronRagError(
        f"could not start a render process ({sys.executable!r}): {reason}; "
        "check that 'import pymupdf' or 'import pypdfium2' works in it, or use workers=0"
    )


class Interruption:
    """Ends at once whatever is rendered for one call, from another thread than the one that waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: set[_Process] = set()
        self.came = False

    def watch(self, process: _Process) -> None:
        """A process works for the call; it is ended at once if the call has been."""
        with self._lock:
            self._busy.add(process)
            came = self.came
        if came:
            _POOL.kill(process)

    def forget(self, process: _Process) -> None:
        """The process does not work for the call any more."""
        with self._lock:
            self._busy.discard(process)

    def come(self) -> None:
        """End what is rendered, and what is asked for from now on."""
        with self._lock:
            self.came = True
            busy = list(self._busy)
        for process in busy:
            process.end()


_interruption: ContextVar[Interruption | None] = ContextVar("nemotron_rag_interruption", default=None)


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """What is rendered in this context, or in a copy of it, ends when the interruption comes."""
    interruption = Interruption()
    token = _interruption.set(interruption)
    try:
        yield interruption
    finally:
        _interruption.reset(token)


class _Pool:
    """The worker processes of this program, busy and idle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._living: set[_Process] = set()

    def take(self) -> _Process:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.alive():
                    return process
                self._living.discard(process)
                process.kill()
            process = _Process()
            self._living.add(process)
            return process

    def give(self, process: _Process) -> None:
        with self._lock:
            if len(self._idle) < (os.cpu_count() or 1):
                self._idle.append(process)
                return
        self.kill(process)

    def kill(self, process: _Process) -> None:
        with self._lock:
            self._living.discard(process)
        process.kill()

    def kill_all(self) -> None:
        for process in list(self._living):
            self.kill(process)

    def forget_all(self) -> None:
        """In a forked child: release the parent's workers and start with an empty pool."""
        for process in self._living:
            process.renounce()
        self._lock, self._idle, self._living = threading.Lock(), [], set()


_POOL = _Pool()
atexit.register(_POOL.kill_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget_all)


class Seat:
    """One document open in one worker; a worker that died is replaced at the next request.

    Args:
        opening: the request that opens the document.
        body: the document's bytes, if `opening` names no path.
        local: render in this process instead.
    """

    def __init__(self, opening: dict[str, Any], body: bytes, *, local: bool) -> None:
        self._opening, self._body, self._local = opening, body, local
        self._interruption = _interruption.get()
        self._channel: _Process | _Local | None = self._take()  # at once, so that several workers start in parallel
        self._opened = False
        self._pending = 0  # replies not read yet

    def open(self) -> dict[str, Any]:
        """Open the document and wait for the reply's header."""
        self._opened_channel()
        return self.answer()[0]

    def ask(self, request: dict[str, Any]) -> None:
        """Send one request without waiting; `answer` must be called before the next."""
        channel = self._opened_channel()
        self._pending += 1
        channel.send(request)

    def answer(self) -> tuple[dict[str, Any], bytes]:
        """Wait for the reply to the last request, or the error of opening the document.

        Raises:
            WorkerDiedError: the worker crashed or ran into a limit.
            NemotronRagError: no worker can be started.
        """
        channel = self._opened_channel()
        failed = None
        try:
            while self._pending:
                header, body = channel.receive()
                self._pending -= 1
                failed = failed or (header if "error" in header else None)
        except Exception:
            self._drop()
            raise
        return (failed, b"") if failed else (header, body)

    def close(self) -> None:
        """Close the document; the worker goes back to the pool, or is killed if it is busy."""
        channel = self._channel
        if isinstance(channel, _Process) and not self._pending:
            channel.send(_CLOSE)
            with contextlib.suppress(WorkerDiedError, NemotronRagError):
                channel.receive()
                self._unwatch(channel)
                _POOL.give(channel)
                self._channel = None
        self._drop()

    def _take(self) -> _Process | _Local:
        if self._local:
            return _Local()
        if self._interruption is not None and self._interruption.came:
            raise InterruptedReadingError("reading was interrupted")
        process = _POOL.take()
        if self._interruption is not None:
            self._interruption.watch(process)
        return process

    def _unwatch(self, process: _Process) -> None:
        if self._interruption is not None:
            self._interruption.forget(process)

    def _opened_channel(self) -> _Process | _Local:
        if self._channel is None:
            self._channel = self._take()
        if not self._opened:
            self._opened = True
            self._pending = 1
            self._channel.send(self._opening, self._body)
        return self._channel

    def _drop(self) -> None:
        if isinstance(self._channel, _Process):
            self._unwatch(self._channel)
            _POOL.kill(self._channel)
        elif self._channel is not None:
            self._channel.close()
        self._channel, self._opened, self._pending = None, False, 0
