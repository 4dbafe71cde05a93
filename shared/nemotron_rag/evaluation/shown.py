"""How figures of an evaluation are written, in a table for a README and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from nemotron_rag.evaluation.metrics import Interval
from nemotron_rag.evaluation.results import Evaluation, SystemResult

__all__ = [
    "all_notes",
    "bytes_text",
    "difference_text",
    "facts_text",
    "interval_text",
    "markdown",
    "metric_text",
    "seconds_text",
    "shown_metrics",
]

_LABELS = {"ndcg": "NDCG", "recall": "Recall", "hit": "Hit", "precision": "Precision", "mrr": "MRR", "map": "MAP"}
_UNITS = ("B", "kB", "MB", "GB")
_STEP = 1000


def metric_text(name: str) -> str:
    """``NDCG@10``."""
    kind, at, k = name.partition("@")
    return f"{_LABELS[kind]}{at}{k}"


def interval_text(interval: Interval) -> str:
    """``0.71 (0.62 to 0.80)``."""
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def difference_text(interval: Interval) -> str:
    """``+0.06 (-0.01 to +0.13)``."""
    return f"{interval.mean:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"


def seconds_text(seconds: float | None) -> str:
    """``38 ms`` or ``1.2 s``; a dash for what is not known."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def bytes_text(size: float | None) -> str:
    """``8.2 kB``; a dash for what is not known."""
    if size is None:
        return "-"
    unit = 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size, unit = size / _STEP, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"


def facts_text(evaluation: Evaluation) -> str:
    """What was asked, in one line."""
    queries = len(evaluation.dataset.queries)
    pages = "" if evaluation.dataset.corpus is None else f" over {len(evaluation.dataset.corpus.ids())} pages"
    return (
        f"{queries} queries of {evaluation.dataset.name}{pages}; intervals of 95 % by the bootstrap over the queries "
        f"({evaluation.samples} samples, seed {evaluation.seed})"
    )


def shown_metrics(evaluation: Evaluation) -> list[str]:
    """The metrics of a table, the main one first: NDCG once, and no hit rate where it is the recall."""

    def is_recall(name: str) -> bool:
        twin = name.replace("hit@", "recall@")
        return twin != name and all(each.values[name] == each.values.get(twin) for each in evaluation.systems)

    rest = [name for name in evaluation.metrics if name != evaluation.main and not name.startswith("ndcg")]
    return [evaluation.main, *(name for name in rest if not is_recall(name))]


def markdown(evaluation: Evaluation) -> str:
    """A table for a README, a row for each system; then the main metric by language and category, and notes."""
    metrics, main = shown_metrics(evaluation), metric_text(evaluation.main)
    against = [f"against {evaluation.baseline}"] if evaluation.differences else []
    columns = ["system", main, *against, *map(metric_text, metrics[1:]), "a query", "a page", "vectors of a page"]
    parts = [
        f"{facts_text(evaluation)}.",
        _table(columns, [_row(system, evaluation, metrics) for system in evaluation.systems]),
    ]
    for name in dict.fromkeys(group.name for group in evaluation.groups):
        groups = [group for group in evaluation.groups if group.name == name]
        heads = [f"{group.value} ({group.queries})" for group in groups]
        cells = [
            [system.name, *(f"{group.means[system.name][evaluation.main]:.2f}" for group in groups)]
            for system in evaluation.systems
        ]
        parts += [f"{main} by {name.replace('_', ' ')}, and how many queries:", _table(["system", *heads], cells)]
    notes = [f"- {_cell(note)}" for note in all_notes(evaluation)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def all_notes(evaluation: Evaluation) -> list[str]:
    """What was left out or was odd, each once."""
    return list(dict.fromkeys([*evaluation.notes, *(note for each in evaluation.systems for note in each.notes)]))


def _row(system: SystemResult, evaluation: Evaluation, metrics: Sequence[str]) -> list[str]:
    costs = system.costs
    against = []
    if evaluation.differences:
        difference = evaluation.differences.get(system.name, {}).get(evaluation.main)
        text = "" if difference is None else difference_text(difference)
        against = [f"**{text}**" if difference is not None and difference.excludes_zero else text]
    return [
        system.name,
        interval_text(system.intervals[evaluation.main]),
        *against,
        *(f"{system.intervals[name].mean:.2f}" for name in metrics[1:]),
        seconds_text(costs.seconds_per_query),
        seconds_text(costs.seconds_per_page),
        bytes_text(costs.vector_bytes_per_page),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *("---:" for _ in columns[1:])], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Names of models and categories are data: they end no cell and make no markup of their own."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
