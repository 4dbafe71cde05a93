"""Retrieval metrics with the definitions of trec_eval, and their uncertainty by the bootstrap."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.errors import InputError

__all__ = ["Interval", "Metric", "bootstrap", "bootstrap_difference", "measure", "ranked"]

_AT_K = ("ndcg", "recall", "hit", "precision")
_WHOLE = ("mrr", "map")
_NAME = re.compile(r"([a-z]+)(?:@([0-9]{1,6}))?")
_AT_ONCE = 2**22  # numbers drawn at a time by the bootstrap


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of one ranking.

    The definitions are those of trec_eval: ``ndcg@k`` is its ndcg_cut with the judgements as gains and log2 discounts
    (Jarvelin and Kekalainen, 2002), ``recall@k`` the share of the relevant pages that are among the first k, ``hit@k``
    (its success) whether one is, ``precision@k`` the share of k that are, ``mrr`` its recip_rank and ``map`` its map;
    the last two count all pages of the ranking, or with ``@k`` the first k. A page is relevant if it was judged with 1
    or more; what is not judged is not relevant.

    Args:
        kind: "ndcg", "recall", "hit", "precision", "mrr" or "map".
        k: how many pages count; None for all.

    Example:
        >>> Metric.of("ndcg@2")(["a", "b"], {"b": 1})
        0.6309297535714575
    """

    kind: str
    k: int | None = None

    @classmethod
    def of(cls, name: str | Metric) -> Self:
        """The metric of a name, such as ``ndcg@10`` or ``mrr``.

        Raises:
            InputError: there is no such metric.
        """
        if isinstance(name, Metric):
            return cls(name.kind, name.k)
        parts = _NAME.fullmatch(name) if isinstance(name, str) else None
        kind, k = (parts[1], parts[2]) if parts else (None, None)
        if kind not in (*_AT_K, *_WHOLE) or (kind in _AT_K and k is None) or (k is not None and int(k) < 1):
            known = ", ".join([*(f"{each}@k" for each in _AT_K), *_WHOLE])
            raise InputError(f"metric must be one of {known}, as in ndcg@10; got {name!r}")
        return cls(kind, None if k is None else int(k))

    def __str__(self) -> str:
        """``ndcg@10``."""
        return self.kind if self.k is None else f"{self.kind}@{self.k}"

    def __call__(self, pages: Sequence[str], judgements: Mapping[str, int]) -> float:
        """The value, from 0 to 1; 0 if no page was judged relevant.

        Args:
            pages: ids of the pages found, best first, each once.
            judgements: by page id: 0 for not relevant, 1 or more for how relevant.
        """
        relevant = sum(grade >= 1 for grade in judgements.values())
        if not relevant:
            return 0.0
        grades = [judgements.get(page, 0) for page in pages[: self.k]]
        if self.kind == "ndcg":
            return _ndcg(grades, judgements.values(), len(pages) if self.k is None else self.k)
        ranks = [rank for rank, grade in enumerate(grades, 1) if grade >= 1]
        if self.kind == "recall":
            return len(ranks) / relevant
        if self.kind == "precision":
            return len(ranks) / (self.k or 1)
        if self.kind == "hit":
            return float(bool(ranks))
        if self.kind == "mrr":
            return 1 / ranks[0] if ranks else 0.0
        return sum(found / rank for found, rank in enumerate(ranks, 1)) / relevant


def ranked(scores: Mapping[str, float]) -> list[str]:
    """The pages in the order in which trec_eval puts them: by score, equal ones by their ids, descending.

    Scores are equal if they are as float32, which is how trec_eval and our models hold them.

    Raises:
        InputError: a score is not a number.

    Example:
        >>> ranked({"a": 1.0, "b": 1.0, "c": 2.0})
        ['c', 'b', 'a']
    """
    exact = {page: float(np.float32(score)) for page, score in scores.items()}
    if wrong := next((page for page, score in exact.items() if math.isnan(score)), None):
        raise InputError(f"scores must be numbers, page {wrong!r} has NaN")
    return sorted(sorted(exact, key=_bytes, reverse=True), key=lambda page: -exact[page])


def measure(
    run: Mapping[str, Sequence[str] | Mapping[str, float]],
    judgements: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str | Metric] = ("ndcg@10",),
) -> dict[str, dict[str, float]]:
    """Measure a run: what a system found for each query.

    Args:
        run: by query id: ids of pages, best first; or scores by page id, see `ranked`. A query without an entry found
            nothing, and counts.
        judgements: by query id: by page id how relevant it is, 0 for not relevant.
        metrics: names, see `Metric`.

    Returns:
        By metric name: by query id the value, from 0 to 1, for every query that was judged.

    Raises:
        InputError: there is no such metric, or a ranking has a page twice.

    Example:
        >>> measure({"q": ["a", "b"]}, {"q": {"b": 1}}, ["mrr", "recall@1"])
        {'mrr': {'q': 0.5}, 'recall@1': {'q': 0.0}}
    """
    wanted = [Metric.of(name) for name in metrics]
    orders = {query: _order(query, run.get(query, ())) for query in judgements}
    return {
        str(metric): {query: metric(orders[query], judged) for query, judged in judgements.items()} for metric in wanted
    }


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the interval in which it lies with 95 % confidence, for queries drawn like these.

    Args:
        mean: over the queries.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is more than chance at this confidence."""
        return self.low > 0 or self.high < 0


def bootstrap(values: Sequence[float], *, samples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of a metric over queries, with the 95 % interval of the percentile bootstrap (Efron, 1979).

    Args:
        values: one for each query.
        samples: how often as many queries are drawn with replacement.
        seed: of the draws: the same one gives the same interval.

    Raises:
        InputError: there are no values, or `samples` is not positive.
    """
    numbers = np.asarray(values, dtype=np.float64)  # (queries,)
    if not len(numbers) or samples < 1:
        raise InputError(f"the bootstrap needs values and samples, got {len(numbers)} and {samples}")
    means = _means_of_samples(numbers, samples, np.random.default_rng(seed))
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(numbers.mean()), float(low), float(high))


def bootstrap_difference(
    values: Mapping[str, float], others: Mapping[str, float], *, samples: int = 10_000, seed: int = 0
) -> Interval:
    """By how much `values` are above `others`, paired by query, with the 95 % interval of the bootstrap.

    Args:
        values: of one system, by query id.
        others: of the other, by the same query ids.
        samples: see `bootstrap`.
        seed: see `bootstrap`.

    Raises:
        InputError: the two are not of the same queries, or see `bootstrap`.
    """
    if values.keys() != others.keys():
        raise InputError(f"paired differences need the same queries, got {len(values)} and {len(others)} that differ")
    return bootstrap([value - others[query] for query, value in values.items()], samples=samples, seed=seed)


def _ndcg(grades: Sequence[int], judged: Iterable[int], k: int) -> float:
    best = sorted((grade for grade in judged if grade > 0), reverse=True)[:k]
    return _gain(grades) / _gain(best)


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1) if grade > 0)


def _bytes(page: str) -> bytes:
    return page.encode("utf-8", "surrogatepass")  # trec_eval compares bytes


def _order(query: str, found: Sequence[str] | Mapping[str, float]) -> Sequence[str]:
    if isinstance(found, Mapping):
        return ranked(found)
    if isinstance(found, str) or len(set(found)) < len(found):
        raise InputError(f"query {query!r} must have a list of page ids, each once")
    return found


def _means_of_samples(numbers: NDArray[np.float64], samples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """The mean of each sample: (samples,)."""
    rows = max(1, _AT_ONCE // len(numbers))
    means = [
        numbers[random.integers(len(numbers), size=(min(rows, samples - start), len(numbers)))].mean(axis=1)
        for start in range(0, samples, rows)
    ]
    return np.concatenate(means)
