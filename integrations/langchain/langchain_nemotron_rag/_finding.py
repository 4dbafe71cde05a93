"""Searches of a vector store: its points, chosen and as documents with their images."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from qdrant_client import models

from langchain_nemotron_rag._choosing import Choice, neighbours_of
from langchain_nemotron_rag._stored import DocumentImages, DocumentLayout, page_filter
from nemotron_rag.errors import InputError
from nemotron_rag.index.selection import Selection
from nemotron_rag.stores.qdrant import Filter, ForeignCollection, Identity, Shape

__all__ = ["Finder", "Scored", "documents_of"]

Scored: TypeAlias = list[tuple[Document, float]]

_OWN = {"self", "vector", "k", "identity", "with_vectors", "words", "query", "options"}  # callers do not give these
_SEARCH_OPTIONS = set(inspect.signature(ForeignCollection.nearest).parameters)


@dataclass(frozen=True)
class Finder:
    """Searches a collection for vectors.

    Args:
        collection: of documents, or an index of pages.
        layout: of its points.
        images: puts images into documents.
        new_shape: of a collection that is not there yet.
    """

    collection: ForeignCollection
    layout: DocumentLayout
    images: DocumentImages
    new_shape: Shape

    @property
    def shape(self) -> Shape:
        """Of the collection."""
        return self.collection.shape() or self.new_shape

    def search(
        self,
        vector: Sequence[float],
        k: int,
        identity: Identity | None,
        *,
        query: str = "",
        filter: Filter | None = None,
        mode: Literal["dense", "hybrid"] | None = None,
        min_score: float | None = None,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
        **options: Any,
    ) -> Scored:
        """The nearest documents; the options are those of `NemotronPageVectorStore`, `identity` the embedding's."""
        if mode not in (None, "dense", "hybrid"):
            raise InputError(f"mode must be dense or hybrid, got {mode!r}")
        if mode == "hybrid" and not query:
            raise InputError("mode='hybrid' needs a query in words; leave it out")
        if min_score is not None:
            if options.get("score_threshold") is not None:
                raise InputError("min_score and score_threshold are the same here; leave one of them out")
            options["score_threshold"] = min_score
        words = query if mode == "hybrid" else ""
        selection = Selection(k=k, per_document=per_document, diversity=diversity, neighbours=neighbours)

        def nearest(count: int, with_vectors: bool) -> list[models.ScoredPoint]:
            more = {"with_vectors": with_vectors, "words": words, **options}
            return self._nearest(vector, count, identity, filter=filter, **more)

        points = Choice(selection, self._source).points(nearest, self.shape)
        scored = [(document, float(point.score)) for document, point in zip(self.found(points), points, strict=True)]
        return self._with_neighbours(scored, neighbours, filter) if neighbours and scored else scored

    def diverse(
        self, vector: list[float], identity: Identity | None, k: int, fetch_k: int, lambda_mult: float, **options: Any
    ) -> list[Document]:
        """Documents that are near and unlike each other; see `NemotronPageVectorStore`."""
        if not 0 <= lambda_mult <= 1:
            raise InputError(f"lambda_mult must be from 0 (diverse) to 1 (near), got {lambda_mult!r}")
        points = self._nearest(vector, max(k, fetch_k), identity, with_vectors=True, **options)
        vectors = [self.shape.vector(point) for point in points]
        chosen = maximal_marginal_relevance(np.array(vector, dtype=np.float32), vectors, lambda_mult=lambda_mult, k=k)
        return self.found([points[index] for index in chosen])

    def found(self, points: Sequence[models.Record | models.ScoredPoint]) -> list[Document]:
        """Points as documents with their images."""
        of_index = bool(points) and self._is_index
        return self.images.show([self.layout.document(point, of_index=of_index) for point in points], points)

    @property
    def _is_index(self) -> bool:
        shape = self.collection.shape()
        return shape is not None and shape.is_index

    def _translated(self, filter: Filter | None) -> Filter | None:
        return page_filter(filter) if self._is_index else filter

    def _nearest(
        self,
        vector: Sequence[float],
        k: int,
        identity: Identity | None,
        *,
        filter: Filter | None = None,
        **options: Any,
    ) -> list[models.ScoredPoint]:
        if unknown := ", ".join(sorted(options.keys() - _SEARCH_OPTIONS)):
            known = (_SEARCH_OPTIONS | inspect.signature(self.search).parameters.keys()) - _OWN
            raise TypeError(f"a search has no option {unknown}; it takes {', '.join(sorted(known))}")
        return self.collection.nearest(vector, k, self._translated(filter), identity=identity, **options)

    def _source(self, point: models.ScoredPoint) -> str | None:
        source = self.layout.document(point, of_index=self._is_index).metadata.get("source")
        return source if isinstance(source, str) and source else None

    def _with_neighbours(self, scored: Scored, reach: int, filter: Filter | None) -> Scored:
        def find(wanted: Filter) -> list[Document]:
            return self.found(self.collection.get(self.collection.ids_matching(self._translated(wanted))))

        near = neighbours_of(documents_of(scored), reach, filter, find)
        return [
            pair
            for found, others in zip(scored, near, strict=True)
            for pair in (found, *((other, math.nan) for other in others))
        ]


def documents_of(scored: Scored) -> list[Document]:
    """The documents without their scores."""
    return [document for document, _ in scored]
