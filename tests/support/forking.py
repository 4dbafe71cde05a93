"""Run a function in a forked child of the test's process, as gunicorn, Celery and multiprocessing do."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def collect_garbage() -> None:
    """Collect what earlier tests left, such as open event loops: now, and not in the midst of an import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def in_child(work: Callable[[], T], *, seconds: float = 60.0) -> T:
    """What `work` returns in a forked child, or the error that it raises there; fails if the child hangs."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def run() -> None:
        try:
            there.send((work(), None))
        except BaseException as error:  # also pytest's own
            there.send((None, error))

    process = context.Process(target=run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on: "this process is multi-threaded"
        process.start()
    there.close()
    try:
        assert here.poll(seconds), f"the child still hangs after {seconds} s"
        result, error = here.recv()
        process.join(seconds)
        assert process.exitcode == 0, f"the child ended with {process.exitcode}, or not at all"
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result


def exit_code(program: str, *, seconds: float = 120.0) -> tuple[int, str]:
    """The exit code of a Python program, and what it wrote to stderr."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=seconds, check=False
    )
    return ended.returncode, ended.stderr
