"""From documents to what the model scores, and from scores to an order; the policies for what has no score.

It knows no model and changes no document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from langchain_core.documents import Document

from langchain_nemotron_rag._convert import describe, passage_of, text_of
from nemotron_rag import Passage
from nemotron_rag.access import ImageAccess
from nemotron_rag.errors import ImageError, InputError, NonFiniteError

__all__ = ["Batch", "OnImageError", "OnUnscored", "Transform", "order", "read", "sigmoid"]

OnImageError: TypeAlias = Literal["raise", "text", "skip"]
"""A picture may not be opened or is broken: raise, go on with the document's text, or leave the document out."""

OnUnscored: TypeAlias = Literal["raise", "last", "skip"]
"""A document has no score: raise, put it behind all others, or leave it out."""

Transform: TypeAlias = Literal["sigmoid"] | Callable[[float], float] | None
"""From the raw logit to the score that is reported."""


@dataclass(slots=True)
class Batch:
    """What is to be scored.

    Args:
        passages: what the model reads.
        places: for each passage, the index of its document in the caller's list.
        empty: indices of documents with neither text nor picture.
        skipped: documents left out because of their pictures.
    """

    passages: list[Passage] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    skipped: int = 0


def read(
    documents: Sequence[str | Passage | Document], *, image_key: str, access: ImageAccess, on_image_error: OnImageError
) -> Batch:
    """Open the documents' pictures.

    Raises:
        ImageError: a picture may not be opened or is broken, and the policy is "raise".
        InputError: an item is neither text, passage nor document.
    """
    batch = Batch()
    for place, document in enumerate(documents):
        try:
            passage = _passage(document, place, image_key=image_key, access=access)
        except ImageError:
            if on_image_error == "raise" or not isinstance(document, Document):
                raise
            if on_image_error == "skip":
                batch.skipped += 1
                continue
            passage = Passage(text_of(document))
        if passage.image is None and not passage.text.strip():
            batch.empty.append(place)
        else:
            batch.passages.append(passage)
            batch.places.append(place)
    return batch


def order(
    batch: Batch,
    logits: Sequence[float],
    *,
    transform: Transform,
    threshold: float | None,
    on_unscored: OnUnscored,
) -> list[tuple[int, float | None]]:
    """Places of the documents from best to worst, with the scores to report.

    Equal logits keep the caller's order. Documents without a finite logit have no score and never come first.

    Args:
        batch: what was scored.
        logits: one for each passage.
        transform: of the reported score; the order follows the logits.
        threshold: smallest reported score that is kept; documents without a score do not reach it.
        on_unscored: the policy for those.

    Raises:
        InputError: a document has neither text nor picture, and the policy is "raise".
        NonFiniteError: a logit is NaN or infinite, and the policy is "raise".
    """
    by_place = {place: float(logit) for place, logit in zip(batch.places, logits, strict=True)}
    infinite = [place for place, logit in by_place.items() if not math.isfinite(logit)]
    if on_unscored == "raise":
        _refuse(batch.empty, infinite)
    ranked = sorted(by_place.keys() - set(infinite), key=lambda place: (-by_place[place], place))
    scored: list[tuple[int, float | None]] = []
    for place in ranked:
        score = _report(by_place[place], transform)
        if threshold is None or score >= threshold:
            scored.append((place, score))
    if on_unscored == "last" and threshold is None:
        scored += [(place, None) for place in sorted([*batch.empty, *infinite])]
    return scored


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)) in double precision, for any finite logit."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def _passage(document: str | Passage | Document, place: int, *, image_key: str, access: ImageAccess) -> Passage:
    if isinstance(document, str):
        return Passage(document)
    if isinstance(document, Passage):
        return document
    if not isinstance(document, Document):
        raise InputError(f"document {place} is of type {type(document).__name__}, wanted Document, Passage or str")
    try:
        return passage_of(document, image_key=image_key, access=access)
    except ImageError as error:
        raise type(error)(f"{describe(document, place)}: {error}") from error


def _report(logit: float, transform: Transform) -> float:
    if transform is None:
        return logit
    return sigmoid(logit) if transform == "sigmoid" else float(transform(logit))


def _refuse(empty: Sequence[int], infinite: Sequence[int]) -> None:
    if empty:
        raise InputError(f"documents {list(empty)} have neither text nor picture; set on_unscored to 'last' or 'skip'")
    if infinite:
        raise NonFiniteError(
            f"the scores of documents {list(infinite)} are not finite; load the model in another dtype"
        )
