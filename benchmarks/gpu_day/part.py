"""One part of the day: what it is given, how it answers, and how it is run in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.results import Results

__all__ = ["Context", "Failed", "Part", "Skipped", "run_in_this_process"]

_WHY = 300  # characters of a reason


class Failed(Exception):  # noqa: N818
    """A part ran, and what it found is not as it should be; its text says what."""


class Skipped(Exception):  # noqa: N818
    """A part cannot run here; its text says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something to be found out.

    Args:
        name: shown in the results.
        function: ``module:function``, called with a `Context`.
        seconds: that it may take at most in a day of 480 s; a longer day gives more in proportion.
        least: seconds under which it is not begun.
        vital: whether the parts after it are pointless without it.
    """

    name: str
    function: str
    seconds: float
    least: float = 5.0
    vital: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What a part is given.

    Args:
        part: its name.
        out: folder of the results.
        work: folder for what need not be kept, the same for all parts.
        deadline: when it is stopped, as `time.time` counts.
        device: ``cuda`` or ``cpu``.
        dry_run: whether everything is done at toy size.
    """

    part: str
    out: Path
    work: Path
    deadline: float
    device: str
    dry_run: bool

    @property
    def left(self) -> float:
        """Seconds until the part is stopped."""
        return self.deadline - time.time()

    @property
    def results(self) -> Results:
        """Where everything goes."""
        return Results(self.out)

    def note(self, **data: Any) -> None:
        """Keep numbers."""
        self.results.add_data(self.part, **data)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Keep a table; one of the same title is replaced."""
        self.results.put_table(self.part, title, columns, rows)


def run_in_this_process(part: Part, context: Context, answer: Path) -> None:
    """Run a part in a process that was started for it: all it prints goes to the log, how it ended to `answer`."""
    os.setsid()  # processes of its own are stopped with it
    log = os.open(context.out / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    state, why = _run(part, context)
    cpu = sum(os.times()[:4])  # of this process and of those that it waited for
    answer.write_text(json.dumps({"state": state, "why": why[:_WHY], "cpu": cpu}), encoding="utf-8")


def _run(part: Part, context: Context) -> tuple[str, str]:
    module, _, function = part.function.partition(":")
    try:
        why = getattr(importlib.import_module(module), function)(context)
    except Skipped as skipped:
        return "skipped", str(skipped)
    except Failed as failed:
        return "failed", str(failed)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return "done", why or ""
