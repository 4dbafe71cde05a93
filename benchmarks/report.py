"""Results as Markdown tables for BENCHMARKS.md, and as one line of JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Timing

__all__ = ["Row", "Section", "cells", "compare", "plain", "print_table", "show"]


@dataclass(frozen=True, slots=True)
class Row:
    """Results of one contender on one workload.

    Args:
        name: the contender.
        runs: number of timed runs.
        p50: median seconds of a run.
        p95: seconds that 95 % of the runs stayed within.
        rate: items in a second, by the median.
        times_as_long: the median over the rounds of its seconds divided by those of the first row.
        cpu_p50: median seconds of processor time, of all threads together.
        cpu_times_as_long: the same ratio of the processor time.
        difference: largest difference of a number from the same number in the first row's result.
        memory: peak bytes while running, without the weights; None if unknown.
        share: of the measured matrix-product peak, counting the operations that the workload needs at least.
    """

    name: str
    runs: int
    p50: float
    p95: float
    rate: float
    times_as_long: float
    cpu_p50: float
    cpu_times_as_long: float
    difference: float
    memory: int | None
    share: float | None


@dataclass(frozen=True, slots=True)
class Section:
    """Results of all contenders on one workload.

    Args:
        title: of the workload.
        unit: of its items.
        rows: one for each contender.
    """

    title: str
    unit: str
    rows: Sequence[Row]


def compare(title: str, timings: Sequence[Timing], *, items: int, unit: str, peak: float) -> Section:
    """Compare contenders with the first one.

    Args:
        title: of the workload.
        timings: of the contenders.
        items: number of inputs that each computed.
        unit: of the items.
        peak: operations per second of the device.
    """
    return Section(title, unit, [_row(timing, timings[0], items, peak) for timing in timings])


def show(sections: Sequence[Section], console: Console) -> None:
    """Print tables."""
    for section in sections:
        print_table(console, section.title, *cells(section))


def cells(section: Section) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of its table."""
    columns = ["", "p50", "p95", f"{section.unit}/s", "time", "CPU", "CPU time", "difference", "memory", "of peak"]
    return columns, [_cells(row) for row in section.rows]


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A heading and a table; the first column is text, the others are numbers."""
    table = Table(box=MARKDOWN)
    for n, column in enumerate(columns):
        table.add_column(column, justify="right" if n else "left")
    for row in rows:
        table.add_row(*row)
    console.print(f"\n**{title}**", table, sep="\n", highlight=False)


def plain(sections: Sequence[Section]) -> list[dict[str, object]]:
    """Convert sections to plain JSON values."""
    return [asdict(section) for section in sections]


def _row(timing: Timing, first: Timing, items: int, peak: float) -> Row:
    operations = timing.contender.operations
    return Row(
        name=timing.contender.name,
        runs=len(timing.seconds),
        p50=timing.median,
        p95=timing.quantile(0.95),
        rate=items / timing.median,
        times_as_long=timing.ratio(first),
        cpu_p50=statistics.median(timing.cpu_seconds),
        cpu_times_as_long=timing.cpu_ratio(first),
        difference=timing.difference(first),
        memory=timing.memory,
        share=None if operations is None else operations / timing.median / peak,
    )


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        _seconds(row.p50),
        _seconds(row.p95),
        f"{row.rate:.3g}",
        f"{row.times_as_long:.2f} x",
        _seconds(row.cpu_p50),
        f"{row.cpu_times_as_long:.2f} x",
        f"{row.difference:.0e}",
        "-" if row.memory is None else f"{row.memory / 1e6:.0f} MB",
        "-" if row.share is None else f"{row.share:.0%}",
    ]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
