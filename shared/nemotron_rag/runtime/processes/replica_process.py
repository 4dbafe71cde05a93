"""Entry point of a process that computes batches for its parent: requests on stdin, replies on stdout.

Run as ``python -m nemotron_rag.runtime.processes.replica_process`` by `replica`; ends when stdin does.
"""

from __future__ import annotations

import os
import signal
from typing import IO, Any

import torch

from nemotron_rag.runtime.features import vision_features
from nemotron_rag.runtime.processes.frames import read_frame, write_frame
from nemotron_rag.runtime.processes.replica import dump, load


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    compute = None
    while True:
        message: Any = load(read_frame(requests)[1])
        try:
            if compute is None:
                make, settings = message
                vision_features.configure(**settings)
                compute = make()
                answer: object = "ready"
            else:
                answer = list(compute(message))
        except Exception as error:
            answer = _portable(error)
        write_frame(replies, {}, dump(answer))
        if isinstance(answer, Exception):
            del message, answer
            torch.cuda.empty_cache()  # if it was out of memory, the parent retries with half the batch


def _portable(error: Exception) -> Exception:
    """The error without traceback and causes; a RuntimeError in its place if it cannot be pickled."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        load(dump(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print to stdout goes to stderr
    try:
        _serve(requests, replies)
    except (EOFError, BrokenPipeError):
        vision_features.flush()


if __name__ == "__main__":
    _main()
