"""Which points of a vector store are returned, by `nemotron_rag.index.selection.Selection`, and their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from langchain_core.documents import Document
from qdrant_client import models

from nemotron_rag.errors import InputError
from nemotron_rag.index.selection import Selection, numbers_around
from nemotron_rag.stores.qdrant import Filter, Shape

__all__ = ["Choice", "neighbours_of"]

NEIGHBOUR = "neighbour_of"
"""Metadata key of a neighbour: the id of the document that it stands beside."""


@dataclass(frozen=True)
class Choice:
    """What of the points found is wanted.

    Args:
        selection: which of them, and how many.
        source: the source of a point; None if it has none.

    Raises:
        InputError: a value cannot be used.
    """

    selection: Selection
    source: Callable[[models.ScoredPoint], str | None]

    def points(
        self, nearest: Callable[[int, bool], list[models.ScoredPoint]], shape: Shape
    ) -> list[models.ScoredPoint]:
        """The points, in their final order.

        Args:
            nearest: gives so many of the nearest points, with vectors if the second argument says so.
            shape: of the collection.
        """
        selection, diverse = self.selection, bool(self.selection.diversity)
        if not selection.chooses:
            return nearest(selection.k, False)
        count = selection.pool if diverse else selection.k
        points = selection.gather(lambda count: nearest(count, diverse), self._document, count)
        scores = [point.score if shape.falls else -point.score for point in points]
        order = selection.choose(
            [*map(self._document, points)],
            scores,
            lambda: [np.array(shape.vector(point), np.float32) for point in points],
        )
        return [points[index] for index in order]

    def _document(self, point: models.ScoredPoint) -> tuple[str | None, models.ExtendedPointId]:
        """What tells the document of a point: its source, or of a point without one itself."""
        source = self.source(point)
        return source, point.id if source is None else ""


def neighbours_of(
    documents: Sequence[Document], reach: int, filter: Filter | None, find: Callable[[Filter], Sequence[Document]]
) -> list[list[Document]]:
    """The pages around each of these documents, in their order; none twice, and none that was found itself.

    Args:
        documents: with ``source`` and ``page_number`` (from 1) or ``page`` (from 0) in their metadata; others have no
            neighbours.
        reach: so many pages before and after each.
        filter: that neighbours must meet.
        find: gives the documents that a filter matches.
    """
    places = [_place(document) for document in documents]
    wanted = [
        {"source": place[0], place[1]: numbers_around(place[2], reach, first=place[3])}
        for place in places
        if place is not None
    ]
    if not wanted:
        return [[] for _ in documents]
    if filter is not None and not isinstance(filter, Mapping):
        raise InputError("neighbours need a filter as a dict; a filter of Qdrant's own cannot be joined with one")
    around = find({"and": [{"or": wanted}, filter or {}]})
    found = {place[:3]: document for document in around if (place := _place(document)) is not None}
    taken = {document.id for document in documents}
    result = []
    for document, place in zip(documents, places, strict=True):
        near = []
        for number in [] if place is None else numbers_around(place[2], reach, first=place[3]):
            other = found.get((*place[:2], number)) if place is not None else None
            if other is not None and other.id not in taken:
                taken.add(other.id)
                metadata = {**other.metadata, NEIGHBOUR: document.id}
                near.append(other.model_copy(update={"metadata": metadata}))
        result.append(near)
    return result


def _place(document: Document) -> tuple[str, str, int, int] | None:
    """Source, the key of the page's number, that number, and the first such number."""
    source = document.metadata.get("source")
    for key, first in (("page_number", 1), ("page", 0)):
        number = document.metadata.get(key)
        if isinstance(source, str) and source and type(number) is int:
            return source, key, number, first
    return None
