"""A process that computes batches for its parent: messages in on stdin, answers out on stdout. It knows no model.

Run as ``python -m nemotron_rag.runtime._replica_process`` by `nemotron_rag.runtime.replica`; ends when stdin does.
"""

from __future__ import annotations

import os
import signal
from typing import IO, Any

import torch

from nemotron_rag._frames import read_frame, write_frame
from nemotron_rag.runtime.features import vision_features
from nemotron_rag.runtime.replica import dump, load


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
            torch.cuda.empty_cache()  # the parent will ask for half of it, if it did not fit


def _portable(error: Exception) -> Exception:
    """The error without what its frames keep alive; one of another kind if it cannot be sent."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        load(dump(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        _serve(requests, replies)
    except (EOFError, BrokenPipeError):
        vision_features.flush()


if __name__ == "__main__":
    _main()
