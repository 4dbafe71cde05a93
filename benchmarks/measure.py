"""Time contenders in turns, so that other load on the machine affects all of them alike."""

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

__all__ = ["Contender", "Timing", "matmul_peak", "measure", "peak_bytes", "reset_peak"]

_STATUS = Path("/proc/self/status")


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to be timed.

    Args:
        name: shown in the table.
        run: the work; returns its result.
        before: restores the initial state, untimed.
        operations: that the work needs at least; None if they are not counted.
    """

    name: str
    run: Callable[[], NDArray[Any]]
    before: Callable[[], object] = _nothing
    operations: int | None = None


@dataclass(slots=True)
class Timing:
    """Measurements of a contender.

    Args:
        contender: that was measured.
        result: of its first run.
        memory: peak bytes of this run above those in use before; None if unknown.
        seconds: of each timed run.
        cpu_seconds: of each timed run, summed over all threads: on a busy machine steadier than wall-clock time.
    """

    contender: Contender
    result: NDArray[Any]
    memory: int | None
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    def quantile(self, share: float) -> float:
        """Return the quantile of the seconds, interpolated between runs."""
        return float(np.quantile(self.seconds, share))

    def ratio(self, other: Timing) -> float:
        """Return the median over the rounds of this time divided by the other's in the same round."""
        return _ratio(self.seconds, other.seconds)

    def cpu_ratio(self, other: Timing) -> float:
        """Return `ratio` of the processor times."""
        return _ratio(self.cpu_seconds, other.cpu_seconds)

    def difference(self, other: Timing) -> float:
        """Return the largest difference between the numbers of both results."""
        return float(np.abs(self.result.astype(np.float64) - other.result).max())


def measure(
    contenders: Sequence[Contender], *, rounds: int, device: torch.device, seconds: float | None = None
) -> list[Timing]:
    """Run every contender once to warm up and to see its memory, then all in turns, `rounds` times.

    Args:
        contenders: at least one.
        rounds: how many.
        device: whose memory is looked at.
        seconds: after these, counted from the first warm-up, no further round starts; one is always timed.
    """
    begun = time.perf_counter()
    timings = [_first_run(contender, device) for contender in contenders]
    for n in range(rounds):
        if n and seconds is not None and time.perf_counter() - begun > seconds:
            break
        for contender, timing in zip(contenders, timings, strict=True):
            contender.before()
            start, cpu_start = time.perf_counter(), time.process_time()
            contender.run()
            timing.seconds.append(time.perf_counter() - start)
            timing.cpu_seconds.append(time.process_time() - cpu_start)
    return timings


def matmul_peak(
    device: torch.device, dtype: torch.dtype, *, rows: int, inner: int | None = None, columns: int | None = None
) -> float:
    """Operations per second of the best of 20 matrix products: what the device can do at all, if they are large.

    Args:
        device: where it runs.
        dtype: number format.
        rows: of the first matrix; 8192 keep a GPU busy.
        inner: columns of the first and rows of the second; `rows` without it.
        columns: of the second; `rows` without it.
    """
    inner, columns = inner or rows, columns or rows
    a, b = (torch.randn(*shape, device=device).to(dtype) for shape in ((rows, inner), (inner, columns)))
    best = float("inf")
    for _ in range(20):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best


def _ratio(these: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, others, strict=True))


def _first_run(contender: Contender, device: torch.device) -> Timing:
    contender.before()
    gc.collect()
    held = reset_peak(device)
    result = contender.run()
    peak = peak_bytes(device)
    return Timing(contender, result, None if held is None or peak is None else max(0, peak - held))


def reset_peak(device: torch.device) -> int | None:
    """Bytes in use now, None where it cannot be told; the highest mark of `peak_bytes` starts from here."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not _STATUS.exists():
        return None
    ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)  # else freed memory of earlier runs counts as in use
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_bytes(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes in use at once since `reset_peak`; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _STATUS.exists():
        return None
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
