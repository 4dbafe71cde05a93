"""An evaluation as notebooks show it: who found which page, and the figures of each system."""

from __future__ import annotations

import html
from collections.abc import Sequence

from nemotron_rag.documents.text import printable
from nemotron_rag.evaluation.results import Evaluation
from nemotron_rag.evaluation.shown import difference_text, interval_text, metric_text, seconds_text
from nemotron_rag.report import Shown

__all__ = ["show_metrics", "show_ranks"]

_MISSED = "not found"
_CELL = "padding:3px 10px;text-align:{align};vertical-align:top;border-bottom:1px solid #8884"


def show_metrics(evaluation: Evaluation) -> Shown:
    """A row for each system: the main metric with its interval, the difference from the baseline, MRR, time.

    Args:
        evaluation: of `evaluate`.

    Example:
        >>> from nemotron_rag.evaluation import evaluate
        >>> found = evaluate([{"query": "apples", "file": "a.pdf", "page": 1}], retrievers={"mine": lambda q: []}, k=3)
        >>> print(show_metrics(found).text.splitlines()[0])
        system | NDCG@3 | MRR | a query
    """
    against = [f"against {evaluation.baseline}"] if evaluation.differences else []
    rows = [["system", metric_text(evaluation.main), *against, "MRR", "a query"]]
    for system in evaluation.systems:
        difference = evaluation.differences.get(system.name, {}).get(evaluation.main)
        compared = [] if not against else ["" if difference is None else difference_text(difference)]
        mrr, seconds = f"{system.intervals['mrr'].mean:.2f}", seconds_text(system.costs.seconds_per_query)
        rows.append([system.name, interval_text(system.intervals[evaluation.main]), *compared, mrr, seconds])
    return _table(rows)


def show_ranks(evaluation: Evaluation) -> Shown:
    """A row for each query: at which rank each system found the first page that answers it.

    Args:
        evaluation: of `evaluate`.

    Example:
        >>> from nemotron_rag.evaluation import evaluate
        >>> found = evaluate([{"query": "apples", "file": "a.pdf", "page": 1}], retrievers={"mine": lambda q: []}, k=3)
        >>> show_ranks(found)
        query | mine
        apples | not found
    """
    grouped = any(query.groups.get("category") for query in evaluation.dataset.queries)
    rows = [["query", *(["category"] if grouped else []), *(system.name for system in evaluation.systems)]]
    for query in evaluation.dataset.queries:
        ranks = [evaluation.rank_of_first(system, query) for system in evaluation.systems]
        category = [", ".join(query.groups.get("category", ()))] if grouped else []
        rows.append([query.text, *category, *(_MISSED if rank is None else str(rank) for rank in ranks)])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> Shown:
    lines = [_line(row, "th" if place == 0 else "td") for place, row in enumerate(rows)]
    table = f'<table style="border-collapse:collapse;font-size:14px">{"".join(lines)}</table>'
    text = "\n".join(" | ".join(map(printable, row)) for row in rows)
    return Shown(f'<div style="overflow-x:auto">{table}</div>', text)


def _line(row: Sequence[str], tag: str) -> str:
    cells = []
    for place, value in enumerate(row):
        shown = html.escape(printable(value))
        shown = f"<b>{shown}</b>" if value == _MISSED else shown
        cells.append(f'<{tag} style="{_CELL.format(align="right" if place else "left")}">{shown}</{tag}>')
    return f"<tr>{''.join(cells)}</tr>"
