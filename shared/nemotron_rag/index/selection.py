"""Which of ranked pages are returned: at most so many of a document, unlike each other, with their neighbours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nemotron_rag.errors import InputError
from nemotron_rag.ranking import DEFAULT_CANDIDATES, check_count
from nemotron_rag.types import FloatArray

__all__ = ["Selection", "check_min_score", "numbers_around"]

P = TypeVar("P")
_FARTHEST = 100  # pages before and after a hit
_CHOSEN_FROM = 4  # pages for each that is kept, where diverse ones are chosen
_DEEPER = 4  # times as many pages are asked for where too few documents were found


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is kept of pages that are in order, best first.

    Diversity is maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): page after page, the one with the
    largest ``(1 - diversity) * relevance - diversity * similarity``. Relevance is the score on a scale from 0, the
    worst page at hand, to 1, the best, so that cosines, MaxSim, fusion scores and logits mean the same; similarity is
    the cosine to the most alike page that was taken before.

    Args:
        k: pages kept at most.
        per_document: of one document at most; None for any number.
        diversity: from 0, by the scores alone, to 1, as unlike each other as can be; None for 0.
        neighbours: pages before and after each that come with it.

    Raises:
        InputError: a value cannot be used.

    Example:
        >>> Selection(k=2, per_document=1).choose(["a", "a", "b"], [3.0, 2.0, 1.0])
        [0, 2]
    """

    k: int
    per_document: int | None = None
    diversity: float | None = None
    neighbours: int = 0

    def __post_init__(self) -> None:
        if self.k is None:
            raise InputError("k must be a positive integer, got None")
        check_count("k", self.k)
        check_count("per_document", self.per_document)
        is_number = isinstance(self.diversity, int | float) and not isinstance(self.diversity, bool)
        if self.diversity is not None and not (is_number and 0 <= self.diversity <= 1):
            raise InputError(f"diversity must be from 0 (by the scores) to 1 (unlike), got {self.diversity!r}")
        if type(self.neighbours) is not int or not 0 <= self.neighbours <= _FARTHEST:
            raise InputError(f"neighbours must be a whole number from 0 to {_FARTHEST}, got {self.neighbours!r}")

    @property
    def chooses(self) -> bool:
        """Whether it keeps others than the first k."""
        return self.per_document is not None or bool(self.diversity)

    @property
    def pool(self) -> int:
        """How many pages to choose diverse ones from, where no reranker says it."""
        return max(_CHOSEN_FROM * self.k, DEFAULT_CANDIDATES)

    def gather(self, find: Callable[[int], Sequence[P]], document: Callable[[P], Hashable], count: int) -> Sequence[P]:
        """The nearest pages, and more of them until k can be kept or no more are found.

        Args:
            find: gives so many of the nearest pages, best first.
            document: of a page.
            count: to begin with.
        """
        while True:
            pages = find(count)
            if self._suffice(pages, document, count):
                return pages
            count *= _DEEPER

    async def agather(
        self, find: Callable[[int], Awaitable[Sequence[P]]], document: Callable[[P], Hashable], count: int
    ) -> Sequence[P]:
        """`gather` for event loops."""
        while True:
            pages = await find(count)
            if self._suffice(pages, document, count):
                return pages
            count *= _DEEPER

    def is_filled(self, documents: Sequence[Hashable]) -> bool:
        """Whether k pages can be kept of pages of these documents."""
        return self.per_document is None or len(self._within(documents, range(len(documents)))) >= self.k

    def candidates(self, documents: Sequence[Hashable], count: int) -> list[int]:
        """Which pages a reranker is given, so that k are left of them; in their order.

        Args:
            documents: of each page.
            count: of candidates.
        """
        if self.per_document is None:
            return list(range(min(count, len(documents))))
        needed = self._within(documents, range(len(documents)))[: self.k]
        others = [index for index in range(len(documents)) if index not in set(needed)]
        return sorted([*needed, *others[: max(0, count - len(needed))]])

    def choose(
        self,
        documents: Sequence[Hashable],
        scores: Sequence[float],
        vectors: Callable[[], Sequence[FloatArray | None]] = list,
    ) -> list[int]:
        """Which pages are kept, best first.

        Args:
            documents: of each page, in the order of the pages.
            scores: of each, falling; minus infinity for none, which puts a page behind all others.
            vectors: gives the vector of each, (dimensions,), or None; asked for only where diversity is wanted.
        """
        scored = [index for index, score in enumerate(scores) if math.isfinite(score)]
        rest = [index for index in range(len(scores)) if index not in set(scored)]
        if self.diversity and len(scored) > 1:
            return self._within(documents, [*self._spread(documents, scores, scored, vectors()), *rest])[: self.k]
        return self._within(documents, [*scored, *rest])[: self.k]

    def _suffice(self, pages: Sequence[P], document: Callable[[P], Hashable], count: int) -> bool:
        """Whether k pages can be kept of these, or there are no more."""
        return self.per_document is None or len(pages) < count or self.is_filled([*map(document, pages)])

    def _spread(
        self,
        documents: Sequence[Hashable],
        scores: Sequence[float],
        pages: Sequence[int],
        vectors: Sequence[FloatArray | None],
    ) -> list[int]:
        """The first k of these pages by maximal marginal relevance, within the limit of each document."""
        assert self.diversity is not None
        similarity = _cosines([vectors[index] for index in pages])
        known = np.array([scores[index] for index in pages], np.float64)
        span = known.max() - known.min()
        worth = (1 - self.diversity) * ((known - known.min()) / span if span else np.ones_like(known))
        alike = np.zeros(len(pages))
        chosen: list[int] = []
        counts: Counter[Hashable] = Counter()
        open_ = np.ones(len(pages), bool)
        while len(chosen) < self.k and open_.any():
            best = int(np.argmax(np.where(open_, worth - self.diversity * alike, -np.inf)))
            alike = similarity[best] if not chosen else np.maximum(alike, similarity[best])
            chosen.append(pages[best])
            open_[best] = False
            document = documents[pages[best]]
            counts[document] += 1
            if counts[document] == self.per_document:
                open_ &= np.array([documents[index] != document for index in pages])
        return chosen

    def _within(self, documents: Sequence[Hashable], pages: Sequence[int]) -> list[int]:
        """Those of these pages that are within the limit of their document."""
        if self.per_document is None:
            return list(pages)
        counts: Counter[Hashable] = Counter()
        kept = []
        for index in pages:
            counts[documents[index]] += 1
            if counts[documents[index]] <= self.per_document:
                kept.append(index)
        return kept


def check_min_score(score: object) -> None:
    """Refuse a smallest score that is neither a finite number nor None.

    Raises:
        InputError: it is none.
    """
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    if score is not None and not (is_number and math.isfinite(score)):  # type: ignore[arg-type]
        raise InputError(f"min_score must be a finite number or None, got {score!r}")


def numbers_around(number: int, reach: int, *, first: int = 1) -> list[int]:
    """The page numbers around one, without itself; `first` is that of a first page."""
    return [near for near in range(max(first, number - reach), number + reach + 1) if near != number]


def _cosines(vectors: Sequence[FloatArray | None]) -> FloatArray:
    """Of each with each: (n, n); 0 where there is no vector."""
    size = next((len(vector) for vector in vectors if vector is not None), 1)
    rows = np.stack([np.zeros(size, np.float32) if vector is None else vector for vector in vectors])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    cosines: FloatArray = rows @ rows.T
    return cosines
