"""Entry point of a process that renders pages for its parent: requests on stdin, replies on stdout.

Run as ``python -m nemotron_rag.documents.pdf._worker`` by `nemotron_rag.documents.pdf._pool`; ends when stdin does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

from nemotron_rag.runtime.processes.frames import read_frame, write_frame

_CRASHED = 70
_LONGEST = 30 * 86_400.0  # seconds; more than that overflows the watchdog's clock


def _limit(memory_bytes: int) -> None:
    """Cap this process's address space, where the system can (not on Windows), and forbid core dumps."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        resource = importlib.import_module("resource")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    # PyMuPDF 2 imports its layout analysis if installed: a second and 100 MB for each worker, and not needed here.
    sys.modules["pymupdf.layout"] = None  # type: ignore[assignment]
    renderer = importlib.import_module("nemotron_rag.documents.pdf._engines").Renderer()
    write_frame(replies, {"ready": True})
    with Path(os.devnull).open("wb") as nowhere:
        while True:
            request, body = read_frame(requests)
            if "memory_bytes" in request:
                _limit(request["memory_bytes"])
            # A C thread that needs no GIL: it ends the process even while MuPDF is busy or after the parent has died.
            seconds = min(request["seconds"], _LONGEST)
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            begun = time.monotonic()
            header, reply_body = renderer.handle(request, body)
            faulthandler.cancel_dump_traceback_later()
            write_frame(replies, {**header, "seconds": time.monotonic() - begun}, reply_body)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # discard what MuPDF and Tesseract print
        os.dup2(nowhere, descriptor)
    try:
        _serve(requests, replies)
    except (EOFError, BrokenPipeError):
        status = 0
    except BaseException:  # anything else is a crash, whose status must differ from the watchdog's
        status = _CRASHED
    os._exit(status)  # without destructors: MuPDF may be in any state


if __name__ == "__main__":
    _main()
