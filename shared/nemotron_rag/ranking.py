"""From a reranker's logits to an order: the one policy that `PageIndex` and all adapters follow.

Passages in, places out. What cannot be scored is decided here: images that cannot be read, passages with neither text
nor image, logits that are not finite. So are ties, the reported score, the threshold, and how many are kept.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np

from nemotron_rag._tracing import rerank_span
from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import ImageError, InputError, NemotronRagError, NonFiniteError
from nemotron_rag.protocols import Reranker, reads_image_queries
from nemotron_rag.types import FloatArray, Passage, Query, Ranked

__all__ = [
    "DEFAULT_CANDIDATES",
    "OnImageError",
    "OnUnscored",
    "Place",
    "RankingPolicy",
    "ScoreTransform",
    "arank",
    "check_count",
    "check_top_n",
    "fuse",
    "rank",
    "ranked",
    "sigmoid",
]

OnImageError: TypeAlias = Literal["raise", "text", "skip"]
"""An image cannot be read: raise, go on with the passage's text (and a warning), or leave the passage out."""

OnUnscored: TypeAlias = Literal["raise", "last", "skip"]
"""A passage has neither text nor image, or its logit is not finite: raise, put it behind all others without a score
(and with a warning), or leave it out."""

ScoreTransform: TypeAlias = Literal["raw", "sigmoid"] | Callable[[float], float] | None
"""From the logit to the score that is reported: as it is ("raw" or None), its sigmoid, or a function."""

DEFAULT_CANDIDATES = 20
"""Passages that are fetched for a reranker, unless the caller says otherwise or wants more back."""

_RRF = 60  # Cormack, Clarke, Buettcher: Reciprocal Rank Fusion, SIGIR 2009
_GOES_ON = {"text": "ranked by its text alone", "skip": "left out"}
_log = logging.getLogger("nemotron_rag")

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingPolicy:
    """What is kept of a ranking, and how.

    Args:
        top_n: most places; None for all.
        score_threshold: smallest reported score that is kept; places without a score do not reach it.
        score_transform: of the reported score; the order follows the logits.
        on_image_error: see `OnImageError`.
        on_unscored: see `OnUnscored`.
        fuse: join the reranker's order with the one in which the passages came, that of the search which found them,
            by reciprocal rank fusion: a passage must stand well in both. For rerankers that are not trusted alone. The
            reported score is then the fusion score, which tells an order only; of equal ones, what came first is first.

    Raises:
        InputError: a value is not one of these, or a fusion score is to be transformed or held to a threshold.

    Example:
        >>> RankingPolicy(top_n=3).on_image_error
        'text'
    """

    top_n: int | None = None
    score_threshold: float | None = None
    score_transform: ScoreTransform = None
    on_image_error: OnImageError = "text"
    on_unscored: OnUnscored = "last"
    fuse: bool = False

    def __post_init__(self) -> None:
        if self.fuse and not (self.score_threshold is None and self.score_transform in (None, "raw")):
            raise InputError("fusion scores tell an order only; leave out score_threshold and score_transform, or fuse")
        if self.top_n is not None and (not _is_int(self.top_n) or self.top_n < 0):
            raise InputError(f"top_n must be a non-negative integer or None, got {self.top_n!r}")
        for name, choices in (("on_image_error", OnImageError), ("on_unscored", OnUnscored)):
            if getattr(self, name) not in get_args(choices):
                raise InputError(f"{name} must be one of {', '.join(get_args(choices))}; got {getattr(self, name)!r}")
        if not (self.score_transform in (None, "raw", "sigmoid") or callable(self.score_transform)):
            raise InputError(f"score_transform must be 'raw', 'sigmoid' or a function, got {self.score_transform!r}")
        if self.score_threshold is not None and not math.isfinite(self.score_threshold):
            raise InputError(f"score_threshold must be a finite number or None, got {self.score_threshold!r}")

    @classmethod
    def of(cls, component: object) -> RankingPolicy:
        """The policy of a component that has these settings as attributes."""
        return cls(**{field.name: getattr(component, field.name) for field in fields(cls)})

    def report(self, logit: float) -> float:
        """The score that is reported for a logit."""
        if self.score_transform is None or self.score_transform == "raw":
            return logit
        return sigmoid(logit) if self.score_transform == "sigmoid" else float(self.score_transform(logit))


@dataclass(frozen=True, slots=True)
class Place:
    """One passage in its order.

    Args:
        index: of the passage in the caller's list, starting at 0.
        score: reported score; None if the passage has none.
        image_lost: the image could not be read, and the text alone was scored.
    """

    index: int
    score: float | None
    image_lost: bool = False


def rank(
    reranker: Reranker,
    query: Query,
    passages: Sequence[Passage],
    *,
    policy: RankingPolicy,
    describe: Callable[[int], str] = "passage {}".format,
) -> list[Place]:
    """Put passages in order, best first.

    Images are opened by the model, as it needs them: give them as `ImageReference` to have few decoded at once, and
    none at all where their vision features are cached. Equal logits keep the caller's order.

    Args:
        reranker: scores the passages.
        query: what to judge by.
        passages: n passages.
        policy: what is kept.
        describe: what to call the passage of an index in messages.

    Raises:
        ImageError: an image cannot be read, and the policy is "raise"; the message names the passage.
        InputError: the query is neither a str nor a passage, or has an image and the reranker reads none there; or a
            passage is empty, and the policy is "raise".
        NonFiniteError: a logit is NaN or infinite, and the policy is "raise".
        NemotronRagError: the model failed.

    Example:
        >>> from nemotron_rag.testing import FakeReranker
        >>> passages = [Passage("blue whales"), Passage(), Passage("red apples")]
        >>> rank(FakeReranker(), "red apples", passages, policy=RankingPolicy())[0]
        Place(index=2, score=5.0, image_lost=False)
    """
    _check_query(query, reranker)
    batch = _Batch.of(passages, policy, describe)
    while batch.indices:
        try:
            with rerank_span(reranker, batch.passages, top_n=policy.top_n) as span:
                logits = span.scored(reranker.score(query, batch.passages))
            return batch.places(logits)
        except ImageError as error:
            batch = batch.without_unreadable(error)
    return batch.places([])


async def arank(
    reranker: Reranker,
    query: Query,
    passages: Sequence[Passage],
    *,
    policy: RankingPolicy,
    describe: Callable[[int], str] = "passage {}".format,
) -> list[Place]:
    """`rank` for event loops, which it does not block."""
    _check_query(query, reranker)
    batch = _Batch.of(passages, policy, describe)
    while batch.indices:
        try:
            with rerank_span(reranker, batch.passages, top_n=policy.top_n) as span:
                logits = span.scored(await reranker.ascore(query, batch.passages))
            return batch.places(logits)
        except ImageError as error:
            batch = await asyncio.to_thread(batch.without_unreadable, error)
    return batch.places([])


def fuse(rankings: Sequence[Sequence[K]]) -> list[tuple[K, float]]:
    """Join several orders by reciprocal rank fusion: the sum of ``1 / (60 + rank)``, best first.

    Equal sums keep the order in which the keys come first.

    Example:
        >>> [key for key, _ in fuse([["a", "b"], ["b", "c"]])]
        ['b', 'a', 'c']
    """
    scores: dict[K, float] = {}
    for ranking in rankings:
        for place, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1.0 / (_RRF + place)
    return sorted(scores.items(), key=lambda item: -item[1])


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)) in double precision, for any finite logit."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def ranked(scores: FloatArray, passages: Sequence[Passage], top_n: int | None) -> list[Ranked]:
    """The passages of a reranker from best to worst, at most `top_n`; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable").tolist()[:top_n]
    return [Ranked(index=place, score=float(scores[place]), passage=passages[place]) for place in order]


def check_top_n(top_n: int | None) -> None:
    """Raise if it is negative.

    Raises:
        InputError: it is.
    """
    if top_n is not None and top_n < 0:
        raise InputError(f"top_n must be a non-negative integer or None, got {top_n!r}")


def check_count(name: str, value: object) -> None:
    """Raise unless the value is None or a positive integer.

    Raises:
        InputError: it is something else.
    """
    if value is not None and (not _is_int(value) or value < 1):  # type: ignore[operator]
        raise InputError(f"{name} must be a positive integer, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What is scored, what is not, and by which policy.

    Args:
        passages: what the model reads.
        indices: for each of them its index in the caller's list.
        empty: indices of passages with neither text nor image.
        lost: indices of passages whose image could not be read.
    """

    policy: RankingPolicy
    describe: Callable[[int], str]
    passages: Sequence[Passage]
    indices: Sequence[int]
    empty: Sequence[int]
    lost: frozenset[int] = field(default_factory=frozenset)

    @classmethod
    def of(cls, passages: Sequence[Passage], policy: RankingPolicy, describe: Callable[[int], str]) -> _Batch:
        empty = [i for i, passage in enumerate(passages) if _is_empty(passage)]
        indices = [i for i in range(len(passages)) if i not in set(empty)]
        batch = cls(
            policy=policy,
            describe=describe,
            passages=[passages[i] for i in indices],
            indices=indices,
            empty=empty,
        )
        batch.check_empty()
        return batch

    def check_empty(self) -> None:
        if self.empty and self.policy.on_unscored == "raise":
            named = ", ".join(self.describe(i) for i in self.empty)
            raise InputError(f"neither text nor image in {named}; set on_unscored to 'last' or 'skip'")

    def without_unreadable(self, error: ImageError) -> _Batch:
        """The same after the policy was applied to the images that cannot be read."""
        broken = {i: reason for i, passage in enumerate(self.passages) if (reason := _unreadable(passage))}
        if error.index is not None:  # of a model that says which one
            broken.setdefault(error.index, error)
        if not broken:
            raise error
        if self.policy.on_image_error == "raise":
            place, reason = next(iter(broken.items()))
            raise reason.named(self.describe(self.indices[place])) from error
        for place, reason in broken.items():
            named = reason.named(self.describe(self.indices[place]))
            _log.warning("%s; %s", named, _GOES_ON[self.policy.on_image_error])
        left_out = broken.keys() if self.policy.on_image_error == "skip" else set[int]()
        rest = [
            (index, replace(passage, image=None) if place in broken else passage)
            for place, (index, passage) in enumerate(zip(self.indices, self.passages, strict=True))
            if place not in left_out
        ]
        emptied = [index for index, passage in rest if _is_empty(passage)]
        batch = replace(
            self,
            passages=[passage for _, passage in rest if not _is_empty(passage)],
            indices=[index for index, passage in rest if not _is_empty(passage)],
            empty=[*self.empty, *emptied],
            lost=self.lost | {self.indices[place] for place in broken},
        )
        batch.check_empty()
        return batch

    def places(self, logits: Sequence[float] | FloatArray) -> list[Place]:
        """The order."""
        if len(logits) != len(self.indices):
            raise NemotronRagError(f"wanted {len(self.indices)} scores from the reranker, got {len(logits)}")
        by_index = {index: float(logit) for index, logit in zip(self.indices, logits, strict=True)}
        unscored = [index for index, logit in by_index.items() if not math.isfinite(logit)]
        if unscored:
            named = ", ".join(self.describe(i) for i in unscored)
            if self.policy.on_unscored == "raise":
                raise NonFiniteError(f"the score is not finite for {named}; load the model in another dtype")
            _log.warning("the score is not finite for %s; load the model in another dtype", named)
        best = sorted(by_index.keys() - set(unscored), key=lambda index: (-by_index[index], index))
        threshold = self.policy.score_threshold
        reported = [(index, self.policy.report(by_index[index])) for index in best]
        scores = fuse([sorted(best), best]) if self.policy.fuse else reported
        scored = [Place(index, score, index in self.lost) for index, score in scores]
        kept = [
            place for place in scored if threshold is None or (place.score is not None and place.score >= threshold)
        ]
        if self.policy.on_unscored == "last" and threshold is None:
            kept += [Place(index, None, index in self.lost) for index in sorted([*self.empty, *unscored])]
        return kept[: self.policy.top_n]


def _check_query(query: object, reranker: Reranker) -> None:
    if not isinstance(query, str | Passage):
        raise InputError(f"query must be a str, got {type(query).__name__}")
    if isinstance(query, Passage) and query.image is not None and not reads_image_queries(reranker):
        raise InputError(f"{reranker.name} reads queries as words alone; give words, or do not rerank (rerank=False)")


def _is_empty(passage: Passage) -> bool:
    return passage.image is None and not passage.text.strip()


def _unreadable(passage: Passage) -> ImageError | None:
    if passage.image is None:
        return None
    try:
        load_image(passage.image)
    except ImageError as error:
        return error
    return None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
