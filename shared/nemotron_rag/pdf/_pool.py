"""Worker processes that render pages, kept alive between documents. It knows frames and processes, no PDF.

MuPDF may run in one thread only, may crash, and may never return; a process can do no harm to its parent. The
workers are started with `subprocess`, not `multiprocessing`: nothing of the caller's program is imported again.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import subprocess
import sys
import threading
import warnings
from typing import IO, Any, cast

from nemotron_rag._frames import read_frame, write_frame
from nemotron_rag.errors import NemotronRagError

__all__ = ["Seat", "WorkerDiedError"]

_TIME_LIMIT_EXIT = 1  # the exit status of faulthandler's watchdog
_GRACE = 5.0  # seconds
_CLOSE = {"op": "close", "seconds": 60.0}


class WorkerDiedError(Exception):
    """A worker ended before it answered; the text says why, in one line."""


class _Local:
    """The renderer in this very process: no protection from crashes or endless pages."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # MuPDF's wrappers use what Python 3.12 deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            self._renderer = importlib.import_module("nemotron_rag.pdf._render").Renderer()
            self._tools = importlib.import_module("pymupdf").TOOLS
        self._replies: list[tuple[dict[str, Any], bytes]] = []

    def send(self, request: dict[str, Any], body: bytes = b"") -> None:
        shown = self._tools.mupdf_display_errors(), self._tools.mupdf_display_warnings()
        self._tools.mupdf_display_errors(False)
        self._tools.mupdf_display_warnings(False)
        try:
            self._replies.append(self._renderer.handle(request, body))
        finally:
            self._tools.mupdf_display_errors(shown[0])
            self._tools.mupdf_display_warnings(shown[1])

    def receive(self) -> tuple[dict[str, Any], bytes]:
        return self._replies.pop(0)

    def close(self) -> None:
        self.send(_CLOSE)


class _Process:
    """One worker process."""

    def __init__(self) -> None:
        paths = [path for path in sys.path if path]  # what this program can import, the worker can
        single = {"OMP_THREAD_LIMIT": "1", "OPENBLAS_NUM_THREADS": "1"}  # there are processes enough
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
                [sys.executable or "", "-P", "-W", "ignore", "-m", "nemotron_rag.pdf._worker"],
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
        with contextlib.suppress(OSError):  # a dead worker shows when it is asked for its answer
            write_frame(self._requests, request, body)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            if not self._ready:
                read_frame(self._replies)
                self._ready = True
            return read_frame(self._replies)
        except (EOFError, ValueError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)  # it closed its end: let it leave its own exit status
            self.kill()
            raise self._obituary() from error

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.disown()

    def disown(self) -> None:
        """Close this side's ends of the pipes; a worker that nobody else holds then ends by itself."""
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                pipe.close()

    def renounce(self) -> None:
        """In a forked child: let go of the parent's worker."""
        self.disown()
        self._process.returncode = 0  # it is no child of this process, neither to be waited for nor killed

    def _obituary(self) -> Exception:
        status = self._process.returncode
        if not self._ready and status >= 0:  # not killed, but unable
            return _cannot_start(f"it ended at its start with status {status}")
        if status == _TIME_LIMIT_EXIT:
            return WorkerDiedError("took longer than PdfBudget.seconds allows")
        return WorkerDiedError(f"crashed the renderer (status {status}), or needs more than PdfBudget.memory_bytes")


def _cannot_start(reason: str) -> NemotronRagError:
    return NemotronRagError(
        f"wanted a render process of {sys.executable!r}, but {reason}; "
        "check that 'import pymupdf' works there, or use workers=0"
    )


class _Pool:
    """The worker processes of this program: those at work and those waiting for it."""

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
        """In a forked child: the workers are the parent's, so let go of the pipes and start anew."""
        for process in self._living:
            process.renounce()
        self._lock, self._idle, self._living = threading.Lock(), [], set()


_POOL = _Pool()
atexit.register(_POOL.kill_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget_all)


class Seat:
    """One document, open in one worker; a worker that died is replaced at the next request.

    Args:
        opening: the request that opens the document.
        body: the document's bytes, if `opening` names no path.
        local: render in this process instead.
    """

    def __init__(self, opening: dict[str, Any], body: bytes, *, local: bool) -> None:
        self._opening, self._body, self._local = opening, body, local
        self._channel: _Process | _Local | None = self._take()  # at once, so that several start side by side
        self._opened = False
        self._due = 0  # answers that the worker still owes

    def open(self) -> dict[str, Any]:
        """Open the document and wait for the answer's header."""
        self._opened_channel()
        return self.answer()[0]

    def ask(self, request: dict[str, Any]) -> None:
        """Hand over one request without waiting; `answer` must be called before the next."""
        channel = self._opened_channel()
        self._due += 1
        channel.send(request)

    def answer(self) -> tuple[dict[str, Any], bytes]:
        """The answer to the last request, or the error of the opening before it.

        Raises:
            WorkerDiedError: the worker crashed or ran into a limit.
            NemotronRagError: no worker can be started here.
        """
        channel = self._opened_channel()
        failed = None
        try:
            while self._due:
                header, body = channel.receive()
                self._due -= 1
                failed = failed or (header if "error" in header else None)
        except Exception:
            self._drop()
            raise
        return (failed, b"") if failed else (header, body)

    def close(self) -> None:
        """Close the document; the worker waits for the next one, or is killed if it is still at work."""
        channel = self._channel
        if isinstance(channel, _Process) and not self._due:
            channel.send(_CLOSE)
            with contextlib.suppress(WorkerDiedError, NemotronRagError):
                channel.receive()
                _POOL.give(channel)
                self._channel = None
        self._drop()

    def _take(self) -> _Process | _Local:
        return _Local() if self._local else _POOL.take()

    def _opened_channel(self) -> _Process | _Local:
        if self._channel is None:
            self._channel = self._take()
        if not self._opened:
            self._opened = True
            self._due = 1
            self._channel.send(self._opening, self._body)
        return self._channel

    def _drop(self) -> None:
        if isinstance(self._channel, _Process):
            _POOL.kill(self._channel)
        elif self._channel is not None:
            self._channel.close()
        self._channel, self._opened, self._due = None, False, 0
