"""What was hoped for beside what was measured: the aims of the design, and the physical limits of this card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu_day.results import Results

__all__ = ["note_aims"]

_COLUMNS = ["", "aim", "measured", "reached", "of this card's limit"]
_SHARE = 0.6  # of the limit, wanted for embedding and reranking
_OURS = "nemotron-rag"


def note_aims(results: Results, *, dry_run: bool) -> None:
    """Put what there is into the report; in a dry run the figures mean nothing, and the table says so.

    Args:
        results: of the parts.
        dry_run: at toy size.
    """
    parts = results.read()["parts"]
    rows = [*_embedding(parts), *_reranking(parts), *_waiting(parts)]
    if rows:
        title = "Aims (toy size on a CPU: the figures mean nothing)" if dry_run else "Aims"
        results.put_aims(title, _COLUMNS, rows)


def _embedding(parts: dict[str, Any]) -> Iterator[list[str]]:
    for row in _rows(parts, "embed", "page images"):
        if row["name"] == _OURS:
            yield ["embedding", ">= 44 pages/s", f"{row['rate']:.1f} pages/s", _yes(row["rate"] >= 44), _limit(row)]


def _reranking(parts: dict[str, Any]) -> Iterator[list[str]]:
    for row in _rows(parts, "rerank", "page images"):
        for which, seconds in (("first query", 0.6), ("second query", 0.25)):
            if row["name"] == f"{_OURS}, {which}":
                took = row["p50"]
                aim = f"<= {seconds} s for 25 pages"
                yield [f"reranking, {which}", aim, f"{took:.3f} s", _yes(took <= seconds), _limit(row)]


def _waiting(parts: dict[str, Any]) -> Iterator[list[str]]:
    for name, found in parts.get("profile", {}).get("data", {}).items():
        share = found["share without kernel"]
        yield [f"{name}: the device waits", "never", f"{share:.1%} of the time", _yes(share < 0.05), "-"]


def _rows(parts: dict[str, Any], part: str, title: str) -> list[dict[str, Any]]:
    data = parts.get(part, {}).get("data", {})
    return [row for name, section in data.items() if title in name for row in section["rows"]]


def _limit(row: dict[str, Any]) -> str:
    if row["share"] is None:
        return "-"
    return f"{row['share']:.0%}, {'at' if row['share'] >= _SHARE else 'below'} {_SHARE:.0%}"


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"
