"""What an evaluation found: rankings, metrics with their uncertainty, differences, and the costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.dataset import Dataset, JudgedQuery
from nemotron_rag.evaluation.documents import JudgedFiles
from nemotron_rag.evaluation.metrics import Interval, Metric, bootstrap, bootstrap_difference, measure
from nemotron_rag.index import PageIndex
from nemotron_rag.report import HeatmapOf

__all__ = ["Answered", "Costs", "Evaluation", "Group", "SystemResult", "WantedPage", "metric_names"]

_KINDS = ("ndcg", "recall", "hit")


def metric_names(k: Sequence[int]) -> tuple[str, ...]:
    """The metrics that are shown: NDCG, recall and hit rate at each k, and MRR and MAP over the pages found."""
    return (*(f"{kind}@{each}" for kind in _KINDS for each in k), "mrr", "map")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPage:
    """A page that answers a query and was not found.

    Args:
        page: its id in the judgements.
        score: what the system scores it with; None where that cannot be compared, or is not known.
        id: of the page in the index.
        text: of the page, for people.
    """

    page: str
    score: float | None = None
    id: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a system found for a query.

    Args:
        query: its id.
        pages: ids of the pages found, best first, each once.
        scores: theirs, where the system gives any.
        seconds: that the search took.
        ids: of the pages in the index, if they are of one.
        texts: of the pages, for people.
        wanted: of the pages that answer the query those that were not found, three at most.
    """

    query: str
    pages: tuple[str, ...]
    scores: tuple[float | None, ...] = ()
    seconds: float = 0.0
    ids: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    wanted: tuple[WantedPage, ...] = ()

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Answered:
        """Read what `asdict` wrote."""
        wanted = tuple(WantedPage(**each) for each in row["wanted"])
        lists = {name: tuple(row[name]) for name in ("pages", "scores", "ids", "texts")}
        return cls(query=row["query"], seconds=row["seconds"], wanted=wanted, **lists)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What pages and queries cost; None for what is not known, as of a retriever of yours.

    Args:
        seconds_per_query: mean.
        slowest_seconds: that 95 % of the queries do not take.
        seconds_per_page: reading, embedding and writing.
        vector_bytes_per_page: as the model computes them.
        vector_bytes_per_query: likewise.
        stored_bytes_per_page: of the index's files, without images.
    """

    seconds_per_query: float | None = None
    slowest_seconds: float | None = None
    seconds_per_page: float | None = None
    vector_bytes_per_page: float | None = None
    vector_bytes_per_query: float | None = None
    stored_bytes_per_page: float | None = None


@dataclass(frozen=True, kw_only=True)
class SystemResult:
    """One way to find pages, measured: a row of the table.

    Args:
        name: of the system.
        settings: what it is made of.
        answers: one for each query, in the data set's order.
        values: by metric, by query id.
        intervals: by metric: mean and 95 % interval.
        costs: what it takes.
        notes: what was odd, a line each.
        index: its index, or the folder of it, if there is one that is still there.
        heatmap: computes where on a page a query matches, for late interaction over an index that was made here.
    """

    name: str
    settings: Mapping[str, Any]
    answers: tuple[Answered, ...]
    values: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Interval]
    costs: Costs = field(default_factory=Costs)
    notes: tuple[str, ...] = ()
    index: PageIndex | Path | None = None
    heatmap: HeatmapOf | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Some of the queries: those of a language, or of a category."""

    name: str
    value: str
    queries: int
    means: Mapping[str, Mapping[str, float]]
    """By system: by metric the mean over the queries of this group."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of `evaluate`.

    Args:
        dataset: what was asked.
        systems: in the order in which they were given.
        metrics: names, in the order of the table.
        main: the metric by which systems are compared.
        baseline: the system that the others are compared with.
        seed: of the bootstrap.
        samples: of the bootstrap.
        notes: what was left out and why.
        files: the documents, if they were given, for images of their pages.
    """

    dataset: Dataset
    systems: tuple[SystemResult, ...]
    metrics: tuple[str, ...]
    main: str
    baseline: str
    seed: int = 0
    samples: int = 10_000
    notes: tuple[str, ...] = ()
    files: JudgedFiles | None = None

    def __getitem__(self, name: str) -> SystemResult:
        """A system by its name.

        Raises:
            InputError: there is none.
        """
        found = next((system for system in self.systems if system.name == name), None)
        if found is None:
            raise InputError(f"there is no system {name!r}, but: {', '.join(each.name for each in self.systems)}")
        return found

    @property
    def best(self) -> SystemResult:
        """The system with the highest mean of the main metric; the first of equal ones."""
        return max(self.systems, key=lambda system: system.intervals[self.main].mean)

    @cached_property
    def differences(self) -> Mapping[str, Mapping[str, Interval]]:
        """By system, the baseline not among them: by metric how much better it is than the baseline, paired."""
        base = self[self.baseline]
        options = {"samples": self.samples, "seed": self.seed}
        return {
            system.name: {
                metric: bootstrap_difference(system.values[metric], base.values[metric], **options)
                for metric in self.metrics
            }
            for system in self.systems
            if system is not base
        }

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The means by language and category, where queries have such; a query may be in several."""
        found: dict[tuple[str, str], list[str]] = {}
        for query in self.dataset.queries:
            for name, values in query.groups.items():
                for value in values:
                    found.setdefault((name, value), []).append(query.id)
        names = list(dict.fromkeys(name for name, _ in found))
        ordered = sorted(found, key=lambda key: (names.index(key[0]), key[1]))
        return tuple(
            Group(name, value, len(found[name, value]), self._means(found[name, value])) for name, value in ordered
        )

    def rank_of_first(self, system: SystemResult, query: JudgedQuery) -> int | None:
        """Rank of the first page that answers a query, from 1; None if none was found."""
        answer = next(each for each in system.answers if each.query == query.id)
        wanted = {*query.relevant}
        return next((rank for rank, page in enumerate(answer.pages, 1) if page in wanted), None)

    def misses(self, system: SystemResult | None = None) -> list[tuple[JudgedQuery, Answered]]:
        """Queries whose first page is not relevant, those first for which no page was found at all.

        Args:
            system: None for the best one.
        """
        system = system or self.best
        ranks = {query.id: self.rank_of_first(system, query) for query in self.dataset.queries}
        by_id = {query.id: query for query in self.dataset.queries}
        missed = [answer for answer in system.answers if ranks[answer.query] != 1]
        missed.sort(key=lambda answer: -(ranks[answer.query] or math.inf))
        return [(by_id[answer.query], answer) for answer in missed]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: all that was found, query by query too."""
        return {
            "dataset": {
                "name": self.dataset.name,
                "digest": self.dataset.digest,
                "queries": [asdict(query) for query in self.dataset.queries],
                "notes": list(self.dataset.notes),
            },
            "metrics": list(self.metrics),
            "main": self.main,
            "baseline": self.baseline,
            "bootstrap": {"samples": self.samples, "seed": self.seed, "confidence": 0.95},
            "notes": list(self.notes),
            "systems": [self._system_json(system) for system in self.systems],
            "groups": [asdict(group) for group in self.groups],
        }

    def _system_json(self, system: SystemResult) -> dict[str, Any]:
        differences = self.differences.get(system.name, {})
        return {
            "name": system.name,
            "settings": dict(system.settings),
            "metrics": {name: asdict(interval) for name, interval in system.intervals.items()},
            "minus_baseline": {name: asdict(interval) for name, interval in differences.items()},
            "costs": asdict(system.costs),
            "notes": list(system.notes),
            "queries": [
                {**asdict(answer), "metrics": {name: system.values[name][answer.query] for name in self.metrics}}
                for answer in system.answers
            ],
        }

    def _means(self, queries: Sequence[str]) -> dict[str, dict[str, float]]:
        return {
            system.name: {
                name: sum(system.values[name][query] for query in queries) / len(queries) for name in self.metrics
            }
            for system in self.systems
        }


def measured(
    dataset: Dataset,
    answers: Sequence[Answered],
    metrics: Sequence[str],
    *,
    samples: int,
    seed: int,
) -> tuple[dict[str, dict[str, float]], dict[str, Interval]]:
    """The metrics of a system by query, and their means with intervals."""
    run = {answer.query: answer.pages for answer in answers}
    values = measure(run, {query.id: query.judgements for query in dataset.queries}, [Metric.of(n) for n in metrics])
    intervals = {name: bootstrap([*found.values()], samples=samples, seed=seed) for name, found in values.items()}
    return values, intervals
