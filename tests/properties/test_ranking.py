"""Rankings of any passages and logits, beside a naive model of the policy."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nemotron_rag.errors import ImageError, InputError, NonFiniteError
from nemotron_rag.ranking import Place, RankingPolicy, arank, fuse, rank, sigmoid
from nemotron_rag.types import FloatArray, Passage

logits = st.sampled_from([-2.0, -1.0, 0.0, 0.25, 3.0] * 2 + [math.nan, math.inf, -math.inf])  # few, so that many tie


@dataclass(frozen=True)
class Reference:
    """An image that knows its passage, and that may be unreadable."""

    passage: int
    broken: bool
    size: tuple[int, int] | None = None
    pixel_hash: str | None = None

    def open(self) -> Image.Image:
        if self.broken:
            raise ImageError("broken image")
        return Image.new("RGB", (1, 1))


@dataclass(frozen=True)
class Case:
    """What a passage holds, and the logits that the model gives for it."""

    text: bool
    image: bool
    broken: bool
    with_image: float
    text_alone: float

    def passage(self, index: int) -> Passage:
        return Passage(f"text {index}" if self.text else "", Reference(index, self.broken) if self.image else None)


class Model:
    """Gives the logits of the cases; it may or may not say which image was unreadable."""

    name = "property"
    kind = "reranker"
    identity: dict[str, str] = {}  # noqa: RUF012  # of the protocol

    def __init__(self, cases: Sequence[Case], *, says_index: bool) -> None:
        self._cases = cases
        self._says_index = says_index

    def score(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        assert all(passage.text or passage.image is not None for passage in passages)
        return np.array([self._score(place, passage) for place, passage in enumerate(passages)], dtype=np.float32)

    async def ascore(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        return self.score(query, passages)

    def close(self) -> None:
        pass

    def _score(self, place: int, passage: Passage) -> float:
        if passage.image is None:
            return self._cases[int(passage.text.removeprefix("text "))].text_alone
        assert isinstance(passage.image, Reference)
        try:
            passage.image.open()
        except ImageError as error:
            if self._says_index:
                error = ImageError(f"passage {place}: {error}")
                error.index = place
            raise error from None
        return self._cases[passage.image.passage].with_image


cases = st.builds(
    Case,
    text=st.sampled_from([True, True, False]),
    image=st.booleans(),
    broken=st.sampled_from([False, False, True]),
    with_image=logits,
    text_alone=logits,
)
lists_of_cases = st.lists(cases, max_size=3) | st.lists(cases, min_size=4, max_size=8)
policies = st.builds(
    RankingPolicy,
    top_n=st.none() | st.integers(0, 4),
    score_threshold=st.none() | st.sampled_from([-2.0, 0.0, 0.5, 3.0]),
    score_transform=st.sampled_from([None, "raw", "sigmoid", lambda logit: 2 * logit]),
    on_image_error=st.sampled_from(["text"] * 3 + ["skip"] * 2 + ["raise"]),
    on_unscored=st.sampled_from(["last"] * 3 + ["skip"] * 2 + ["raise"]),
)


def _expected(found: Sequence[Case], policy: RankingPolicy) -> list[Place] | set[type[Exception]]:
    """The places, or the errors of which one is raised."""
    scored: list[tuple[float, int, bool]] = []
    unscored: list[tuple[int, bool]] = []
    errors: set[type[Exception]] = set()
    for index, case in enumerate(found):
        lost = case.image and case.broken
        if lost and policy.on_image_error == "raise":
            errors.add(ImageError)
        if lost and policy.on_image_error != "text":
            continue
        has_image = case.image and not lost
        if not case.text and not has_image:
            unscored.append((index, lost))
            errors |= {InputError} if policy.on_unscored == "raise" else set()
            continue
        logit = case.with_image if has_image else case.text_alone
        if math.isfinite(logit):
            scored.append((logit, index, lost))
        else:
            unscored.append((index, lost))
            errors |= {NonFiniteError} if policy.on_unscored == "raise" else set()
    if errors:
        return errors
    reported = {None: lambda x: x, "raw": lambda x: x, "sigmoid": lambda x: 1 / (1 + math.exp(-x))}.get(
        policy.score_transform, policy.score_transform
    )
    places = [Place(index, reported(logit), lost) for logit, index, lost in sorted(scored, key=lambda s: (-s[0], s[1]))]
    threshold = policy.score_threshold
    places = [place for place in places if threshold is None or place.score >= threshold]
    if policy.on_unscored == "last" and threshold is None:
        places += [Place(index, None, lost) for index, lost in unscored]
    return places if policy.top_n is None else places[: policy.top_n]


@given(lists_of_cases, policies, st.booleans(), st.booleans())
@settings(max_examples=300)
def test_places_are_those_of_a_naive_model(found, policy, says_index, in_event_loop):
    model = Model(found, says_index=says_index)
    passages = [case.passage(index) for index, case in enumerate(found)]

    def ranked() -> list[Place]:
        if in_event_loop:
            return asyncio.run(arank(model, "query", passages, policy=policy))
        return rank(model, "query", passages, policy=policy)

    expected = _expected(found, policy)
    if isinstance(expected, set):
        with pytest.raises(tuple(expected)):
            ranked()
        return
    places = ranked()
    assert [(place.index, place.image_lost) for place in places] == [(p.index, p.image_lost) for p in expected]
    for place, wanted in zip(places, expected, strict=True):
        assert place.score == (None if wanted.score is None else pytest.approx(wanted.score, rel=1e-12))


@given(lists_of_cases)
def test_with_everything_kept_the_places_are_a_permutation(found):
    passages = [case.passage(index) for index, case in enumerate(found)]
    places = rank(Model(found, says_index=True), "query", passages, policy=RankingPolicy())
    assert sorted(place.index for place in places) == list(range(len(found)))
    scores = [place.score for place in places if place.score is not None]
    assert scores == sorted(scores, reverse=True)


@given(st.lists(st.lists(st.integers(0, 9), unique=True, max_size=8), max_size=4))
def test_fusion_is_the_sum_of_reciprocal_ranks(rankings):
    keys = list(dict.fromkeys(key for ranking in rankings for key in ranking))
    sums = {key: sum(1 / (60 + r.index(key) + 1) for r in rankings if key in r) for key in keys}
    fused = fuse(rankings)
    assert sorted(key for key, _ in fused) == sorted(keys)
    assert dict(fused) == pytest.approx(sums)
    assert [key for key, _ in fused] == [
        key for key, _ in sorted(dict(fused).items(), key=lambda item: (-item[1], keys.index(item[0])))
    ]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_sigmoid_is_symmetric_and_keeps_the_order(one, other):
    assert 0 <= sigmoid(one) <= 1
    assert sigmoid(-one) == pytest.approx(1 - sigmoid(one), abs=1e-15)
    if one < other:
        assert sigmoid(one) <= sigmoid(other)
