"""Output of the command line: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nemotron_rag.documents.text import excerpt, printable, split_marked
from nemotron_rag.types import AddReport, CheckReport, Failure, Hit, Region

__all__ = [
    "added_json",
    "added_lines",
    "bare_table",
    "count",
    "hits_table",
    "info_lines",
    "is_wide",
    "plain_table",
    "region_lines",
    "say",
    "say_lines",
    "show",
    "show_checked",
    "show_json",
    "warn",
]

_PIPE_WIDTH = 120  # columns if the output is not a terminal
_NARROW = 72  # columns; narrower tables have no text column
_FAILURES_SHOWN = 20
_ENDINGS_SHOWN = 5


def _console() -> Console:
    sized = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=None if sized else _PIPE_WIDTH, highlight=False, emoji=False)


def is_wide() -> bool:
    """Whether the terminal is wide enough for a text column."""
    return _console().width >= _NARROW


def say(line: str = "", *, style: str = "") -> None:
    """Print one line to stdout; without interpreting markup."""
    _console().print(Text(printable(line), style=style), soft_wrap=True)


def say_lines(lines: Iterable[str]) -> None:
    """Print lines to stdout."""
    for line in lines:
        say(line)


def warn(line: str) -> None:
    """Print one line to stderr."""
    sys.stderr.write(printable(" ".join(line.split())) + "\n")


def show(table: Table) -> None:
    """Print a table to stdout."""
    _console().print(table)


def show_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON document to stdout: ASCII only, for any terminal encoding."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def hits_table(hits: Sequence[Hit], query: str) -> Table:
    """Return a table of rank, score, retrieval score where it differs, source, page and excerpt."""
    two_stages = any(hit.score != hit.retrieval_score and math.isfinite(hit.retrieval_score) for hit in hits)
    with_text = is_wide()
    table = bare_table()
    table.add_column("#", justify="right")
    table.add_column("score", justify="right", no_wrap=True)
    if two_stages:
        table.add_column("retrieval", justify="right", no_wrap=True)
    table.add_column("source", overflow="fold", ratio=2)
    table.add_column("page", justify="right")
    if with_text:
        table.add_column("text", overflow="fold", ratio=5)
    names = _short_names(hit.page.source for hit in hits)
    for hit in hits:
        cells: list[str | Text] = [str(hit.rank), f"{hit.score:.3f}"]
        cells += [f"{hit.retrieval_score:.3f}"] if two_stages else []
        cells += [Text(printable(names[hit.page.source])), _numbers(hit)]
        cells += [_marked(hit.page.text, query)] if with_text else []
        table.add_row(*cells)
    return table


def region_lines(hit: Hit, regions: Sequence[Region]) -> list[str]:
    """Return where on a page a query is answered: a line for the page, and one for each region."""
    lines = [f"{hit.rank}. {hit.page.source} page {hit.page.number}: {count(len(regions), 'region')}"]
    for region in regions:
        box = " ".join(f"{side:.3f}" for side in region.box)
        lines.append(f"  {region.score:.2f}  [{box}]  {' '.join(region.text.split())}")
    return lines


def _numbers(hit: Hit) -> str:
    """The page's number, and in brackets those of its neighbours."""
    near = ", ".join(str(page.number) for page in hit.neighbours)
    return f"{hit.page.number} ({near})" if near else str(hit.page.number)


def added_lines(report: AddReport) -> list[str]:
    """Return what was indexed as text: a line of counts and rate, then one for each failure."""
    seconds = report.seconds.get("total", 0.0)
    rate = f" in {seconds:.1f} s ({report.added / seconds:.1f} pages/s)" if seconds and report.added else ""
    counts = f"{count(report.added, 'page')} added{rate}, {report.unchanged} unchanged, {report.removed} removed"
    lines = [counts]
    if report.optimized:
        lines.append(f"put in order for faster searches in {report.seconds['optimize']:.1f} s")
    if report.failures:
        lines.append(f"skipped {len(report.failures)}:")
        lines += [f"  {failure}" for failure in report.failures[:_FAILURES_SHOWN]]
    if len(report.failures) > _FAILURES_SHOWN:
        lines.append(f"  and {len(report.failures) - _FAILURES_SHOWN} more; --json lists all")
    if report.left_out:
        endings = Counter(PurePath(name).suffix.lower() or "no ending" for name in report.left_out)
        kinds = ", ".join(f"{ending} ({number})" for ending, number in endings.most_common(_ENDINGS_SHOWN))
        lines.append(f"left out {count(len(report.left_out), 'file')} that are no documents: {kinds}; --json lists all")
    return lines


def added_json(report: AddReport) -> dict[str, Any]:
    """Return the stable keys.

    They are added, unchanged, removed, optimized, failures (source, page_number, reason), seconds; and left_out, if
    there are files that are no documents.
    """
    return {
        "added": report.added,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "optimized": report.optimized,
        "failures": [failure_json(failure) for failure in report.failures],
        **({"left_out": list(report.left_out)} if report.left_out else {}),
        "seconds": dict(report.seconds),
    }


def show_checked(report: CheckReport, aside: Sequence[str] = (), *, as_json: bool) -> None:
    """Show what was checked or repaired, and which files of the engine were put aside."""
    if as_json:
        show_json(
            {
                "pages": report.pages,
                "faults": [failure_json(fault) for fault in report.faults],
                "leftovers": list(report.leftovers),
                "put_aside": list(aside),
                "repaired": report.repaired,
            }
        )
        return
    done = "removed" if report.repaired else "found"
    lines = [f"{count(report.pages, 'page')} read, {count(len(report.faults), 'fault')}"]
    lines += [f"  {fault}" for fault in report.faults[:_FAILURES_SHOWN]]
    if len(report.faults) > _FAILURES_SHOWN:
        lines.append(f"  and {len(report.faults) - _FAILURES_SHOWN} more; --json lists all")
    lines += [f"  put aside, with the pages in it: {name}" for name in aside]
    if report.leftovers:
        lines.append(f"{count(len(report.leftovers), 'image file')} without a page {done}")
    if report.faults or aside:
        lines.append(
            "index the same files again: what was removed is read anew"
            if report.repaired
            else "`nemotron-rag repair` removes these pages, so that indexing the same files again reads them anew"
        )
    say_lines(lines)


def failure_json(failure: Failure) -> dict[str, Any]:
    """Return the stable keys: source, page_number (null for a whole document), reason."""
    return {"source": failure.source, "page_number": failure.number, "reason": failure.reason}


def info_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return the contents of an index as text: page count, the model that wrote it, documents."""
    tokens = {f"token {key}": value for key, value in (facts["record"].get("token_vectors") or {}).items()}
    record = {**facts["record"], **facts["record"].get("identity", {}), **tokens}
    settings = [f"{key} {value}" for key, value in record.items() if isinstance(value, str | int | float)]
    return [
        f"{count(facts['pages'], 'page')} of {count(len(facts['sources']), 'document')}",
        f"written with {', '.join(settings)}",
        f"engine {facts['engine']}",
        *(f"  {source}" for source in facts["sources"]),
    ]


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of plain text."""
    table = bare_table()
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def bare_table() -> Table:
    """Return an empty table without a frame."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)


def _marked(text: str, query: str) -> Text:
    shown = Text()
    for piece, found in split_marked(excerpt(text, query, words=24), query):
        shown.append(piece, style="bold" if found else "")
    return shown


def _short_names(sources: Iterable[str]) -> dict[str, str]:
    """Return file names, or full paths if file names are ambiguous."""
    distinct = set(sources)
    names = {source: Path(source).name or source for source in distinct}
    return names if len(set(names.values())) == len(distinct) else {source: source for source in distinct}


def count(number: int, noun: str) -> str:
    """Return ``1 page``, ``2 pages``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
