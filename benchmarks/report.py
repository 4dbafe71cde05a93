"""What was measured, as Markdown tables, to be kept in BENCHMARKS.md, and as one line of JSON for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Timing

__all__ = ["Row", "Section", "compare", "plain", "print_table", "show"]


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one load.

    Args:
        name: the contender.
        runs: how many were timed.
        p50: median seconds of a run.
        p95: seconds that 95 % of the runs stayed within.
        rate: items in a second, by the median.
        times_as_long: the median over the rounds of its seconds divided by those of the first row.
        cpu_p50: median seconds of processor time, of all threads together.
        cpu_times_as_long: as above, of the processor time.
        difference: largest distance of a result from its counterpart in the first row.
        memory: most bytes taken while running, beside the weights; None where it cannot be told.
        share: of the measured matrix-product peak, for the operations that the load needs at least.
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
    """The contenders on one load.

    Args:
        title: the load in words.
        unit: what is counted in it.
        rows: the contenders.
    """

    title: str
    unit: str
    rows: Sequence[Row]


def compare(title: str, timings: Sequence[Timing], *, items: int, unit: str, peak: float) -> Section:
    """Hold contenders against the first one.

    Args:
        title: what they did.
        timings: of the contenders.
        items: how many inputs each computed.
        unit: what these are.
        peak: operations per second of the device.
    """
    return Section(title, unit, [_row(timing, timings[0], items, peak) for timing in timings])


def show(sections: Sequence[Section], console: Console) -> None:
    """Print tables."""
    for section in sections:
        columns = ("", "p50", "p95", f"{section.unit}/s", "time", "CPU", "CPU time", "difference", "memory", "of peak")
        print_table(console, section.title, columns, [_cells(row) for row in section.rows])


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A heading and a table; the first column holds words, the others numbers."""
    table = Table(box=MARKDOWN)
    for n, column in enumerate(columns):
        table.add_column(column, justify="right" if n else "left")
    for row in rows:
        table.add_row(*row)
    console.print(f"\n**{title}**", table, sep="\n", highlight=False)


def plain(sections: Sequence[Section]) -> list[dict[str, object]]:
    """The same as plain values."""
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
