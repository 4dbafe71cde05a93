"""Runs the parts one after the other, each in a process of its own, each within what is left of the clock."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.part import Context, Part, run_in_this_process
from benchmarks.gpu_day.results import Results

__all__ = ["Day"]

_WHOLE = 480.0  # seconds, of which `Part.seconds` are shares
_RESERVE = 3.0  # seconds kept for ending
_POLL = 0.1  # seconds between two looks at a running part
_GRACE = 2.0  # seconds between asking a process to end and ending it


@dataclass(frozen=True, slots=True)
class _Ended:
    state: str
    why: str = ""
    cpu: float = 0.0


@dataclass(slots=True)
class Day:
    """One run of all parts.

    Args:
        parts: in order of worth.
        out: folder of the results.
        work: folder for what need not be kept.
        seconds: that everything may take.
        device: ``cuda`` or ``cpu``.
        dry_run: whether everything is done at toy size, and nothing may be left out.
        preload: modules that are imported once, before the parts' processes are forked from one that has them; none
            to start every process anew.
        after: called after each part.
    """

    parts: Sequence[Part]
    out: Path
    work: Path
    seconds: float
    device: str
    dry_run: bool
    preload: Sequence[str] = ()
    after: Callable[[], None] = lambda: None
    _begun: float = field(default_factory=time.time)
    _shown: int = 0

    def run(self) -> int:
        """Run what fits; the exit status: 0 if no part failed or was late, and in a dry run none was skipped."""
        results = Results(self.out)
        for part in self.parts:
            results.set_state(part.name, "waiting")
        self._shown = self._log.stat().st_size if self._log.exists() else 0
        pointless = ""
        for part in self.parts:
            state = self._one(part, pointless)
            if part.vital and state != "done":
                pointless = f"without {part.name}"
        states = [part["state"] for part in results.read()["parts"].values()]
        good = {"done"} if self.dry_run else {"done", "skipped"}
        return 0 if set(states) <= good else 1

    @property
    def left(self) -> float:
        """Seconds for parts."""
        return self._begun + self.seconds - _RESERVE - time.time()

    @property
    def _log(self) -> Path:
        return self.out / "output.log"

    def _one(self, part: Part, pointless: str) -> str:
        results, left = Results(self.out), self.left
        limit = min(part.seconds * max(1.0, self.seconds / _WHOLE), left)
        ended, took = _Ended("skipped", pointless), 0.0
        if not pointless and limit < part.least:
            ended = _Ended("skipped", f"{max(0.0, left):.0f} s are left, it needs {part.least:.0f} s")
        elif not pointless:
            results.set_state(part.name, "running")
            self._say(f"\n== {part.name}, at most {limit:.0f} s, {left:.0f} s are left")
            begun = time.time()
            ended = self._attempts(part, limit)
            took = time.time() - begun
        results.set_state(part.name, ended.state, why=ended.why, seconds=took, cpu=ended.cpu)
        self.after()
        self._say(f"== {part.name}: {ended.state}{f', {ended.why}' if ended.why else ''} ({took:.1f} s)")
        return ended.state

    def _attempts(self, part: Part, limit: float) -> _Ended:
        """A vital part is tried again in a process that is started anew: drivers may not survive being forked."""
        deadline = time.time() + limit
        ended = self._process(part, deadline)
        if part.vital and ended.state == "failed" and self.preload and deadline - time.time() > part.least:
            self._say(f"== {part.name} failed ({ended.why}); from now on every process is started anew")
            self.preload = ()
            ended = self._process(part, deadline)
        return ended

    def _process(self, part: Part, deadline: float) -> _Ended:
        answer = self.work / f"{part.name}.answer"
        answer.unlink(missing_ok=True)
        context = Context(part.name, self.out, self.work, deadline, self.device, self.dry_run)
        process = self._multiprocessing().Process(target=run_in_this_process, args=(part, context, answer))
        process.start()
        try:
            while process.is_alive() and time.time() < deadline:
                process.join(_POLL)
                self._show_log()
            late = process.is_alive()
        finally:
            _end(process)
            self._show_log()
        if answer.exists():  # also if only what it had left behind was still running
            return _Ended(**json.loads(answer.read_text(encoding="utf-8")))
        if late:
            return _Ended("late", "stopped; what it had found by then is kept")
        return _Ended("failed", f"its process ended with status {process.exitcode}")

    def _multiprocessing(self) -> Any:
        if not self.preload:
            return multiprocessing.get_context("spawn")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(self.preload))
        return context

    def _say(self, line: str) -> None:
        """Into the log, and out of it to whoever watches."""
        self.out.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")
        self._show_log()

    def _show_log(self) -> None:
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._shown)
            new = log.read()
        self._shown += len(new)
        sys.stdout.write(new.decode("utf-8", errors="replace"))
        sys.stdout.flush()


def _end(process: Any) -> None:
    """End a process and all that it started."""
    for wanted, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        if process.is_alive():
            _signal(process.pid, wanted)
            process.join(patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it had started may run on without it


def _signal(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it had no time to begin a session of its own
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
