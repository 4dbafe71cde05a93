"""Parts of a day that end in every way a part can."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.gpu_day.part import Context, Failed, Skipped


def good(context: Context) -> str:
    context.note(answer=42)
    context.table("A table", ["a", "b"], [["1", "2"]])
    sys.stdout.write(f"{context.part} prints\n")
    return "all found"


def wrong(context: Context) -> None:
    context.table("Half", ["a"], [["kept"]])
    raise Failed("3 of 4 rows are not ok")


def raising(context: Context) -> None:
    raise RuntimeError("CUDA error: an illegal memory access\nand much more")


def crashing(context: Context) -> None:
    os._exit(7)


def endless(context: Context) -> None:
    """Leaves a process of its own behind, and does not end when it is told to."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    context.note(child=child.pid, own=os.getpid())
    context.table("Half", ["a"], [["kept"]])
    while True:
        time.sleep(1)


def impossible(context: Context) -> None:
    raise Skipped("there is no such thing here")


def only_anew(context: Context) -> str:
    """As a driver that does not survive being forked."""
    if "multiprocessing.forkserver" in sys.modules and "support.gpu_day_preloaded" in sys.modules:
        raise RuntimeError("cannot be initialised in a forked process")
    return "started anew"
