"""Contenders timed in turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Contender", "Timing", "matmul_peak", "measure"]

_MATRIX = {"cuda": 8192, "cpu": 2048}  # rows of a matrix that keeps the device busy
_STATUS = Path("/proc/self/status")


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to be timed.

    Args:
        name: shown in the table.
        run: the work; returns its result.
        before: brings back the starting state, untimed.
        operations: that the work takes at least; None if they are not counted.
    """

    name: str
    run: Callable[[], NDArray[Any]]
    before: Callable[[], object] = _nothing
    operations: int | None = None


@dataclass(slots=True)
class Timing:
    """What came of a contender.

    Args:
        contender: itself.
        result: of its first run.
        memory: most bytes that this run took beside what was there before; None where it cannot be told.
        seconds: of each timed run.
        cpu_seconds: of each, summed over this process's threads: on a busy machine steadier than the clock.
    """

    contender: Contender
    result: NDArray[Any]
    memory: int | None
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def quantile(self, share: float) -> float:
        """Seconds that `share` of the runs stayed within, interpolated between runs."""
        return float(np.quantile(self.seconds, share))

    def ratio(self, other: Timing) -> float:
        """Median over the rounds of this one's time divided by the other's in the same round."""
        return _ratio(self.seconds, other.seconds)

    def cpu_ratio(self, other: Timing) -> float:
        """The same of the processor's time."""
        return _ratio(self.cpu_seconds, other.cpu_seconds)

    def difference(self, other: Timing) -> float:
        """Largest distance of a number from its counterpart."""
        return float(np.abs(self.result.astype(np.float64) - other.result).max())


def measure(contenders: Sequence[Contender], *, rounds: int, device: torch.device) -> list[Timing]:
    """Run every contender once to warm up and to see its memory, then all in turns, `rounds` times."""
    timings = [_first_run(contender, device) for contender in contenders]
    for _ in range(rounds):
        for contender, timing in zip(contenders, timings, strict=True):
            contender.before()
            start, cpu_start = time.perf_counter(), time.process_time()
            contender.run()
            timing.seconds.append(time.perf_counter() - start)
            timing.cpu_seconds.append(time.process_time() - cpu_start)
    return timings


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of 20 products of large square matrices: what the device can do at all."""
    n = _MATRIX["cuda" if device.type == "cuda" else "cpu"]
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def _ratio(these: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, others, strict=True))


def _first_run(contender: Contender, device: torch.device) -> Timing:
    contender.before()
    gc.collect()
    held = _reset_peak(device)
    result = contender.run()
    peak = _peak(device)
    return Timing(contender, result, None if held is None or peak is None else max(0, peak - held))


def _reset_peak(device: torch.device) -> int | None:
    """Bytes in use now; the highest mark starts from here."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not _STATUS.exists():
        return None
    ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)  # else freed memory of earlier runs counts as held
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak(device)


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _STATUS.exists():
        return None
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
