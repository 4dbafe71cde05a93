"""The reading half of `NemotronPageVectorStore`: every way to search, sync and async. It writes nothing."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from qdrant_client import models

from langchain_nemotron_rag._collection import DocumentCollection, Identity
from langchain_nemotron_rag._embedding import identity_of, image_step, query_step
from langchain_nemotron_rag._pictures import Pictures
from langchain_nemotron_rag._steps import Step, Steps, arun, in_thread, run
from nemotron_rag.errors import InputError
from nemotron_rag.stores.client import Filter

__all__ = ["SearchableStore"]

Scored = list[tuple[Document, float]]


class SearchableStore(VectorStore, ABC):
    """Searches a collection. All methods that search take these options by name.

    * `filter`: ``{"source": "a.pdf", "page": [0, 1], "year": {"gte": 2020}}`` over metadata keys, or a
      `qdrant_client.models.Filter`; see `nemotron_rag.PageIndex.search` for the values;
    * `score_threshold`: worst score that is kept, in the collection's own measure;
    * `offset`: how many of the best to pass over;
    * `search_params`: a `qdrant_client.models.SearchParams`.

    They raise `InputError` for options that cannot be used, `IndexMismatchError` if the embedding does not fit the
    collection, and `StoreError` if Qdrant refuses. A collection that is not there yet gives no documents.
    """

    _embedding: Embeddings
    _collection: DocumentCollection
    _pictures: Pictures

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """The k documents nearest to a question; see the class for the options."""
        return _documents(self.similarity_search_with_score(query, k, **options))

    async def asimilarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """The same as `similarity_search`, without blocking the event loop."""
        return _documents(await self.asimilarity_search_with_score(query, k, **options))

    def similarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> Scored:
        """The same as `similarity_search`, with scores in the collection's own measure (cosine: from -1 to 1)."""
        return run(self._search(query_step(self._embedding, query), k, **options))

    async def asimilarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> Scored:
        """The same as `similarity_search_with_score`, without blocking the event loop."""
        return await arun(self._search(query_step(self._embedding, query), k, **options))

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **options: Any) -> list[Document]:
        """The k documents nearest to a vector; see the class for the options."""
        return _documents(self.similarity_search_with_score_by_vector(embedding, k, **options))

    async def asimilarity_search_by_vector(self, embedding: list[float], k: int = 4, **options: Any) -> list[Document]:
        """The same as `similarity_search_by_vector`, without blocking the event loop."""
        return _documents(await self.asimilarity_search_with_score_by_vector(embedding, k, **options))

    def similarity_search_with_score_by_vector(self, embedding: Sequence[float], k: int = 4, **options: Any) -> Scored:
        """The same as `similarity_search_by_vector`, with scores."""
        return run(self._search(list(embedding), k, **options))

    async def asimilarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, **options: Any
    ) -> Scored:
        """The same as `similarity_search_with_score_by_vector`, without blocking the event loop."""
        return await arun(self._search(list(embedding), k, **options))

    def similarity_search_by_image(self, uri: Any, k: int = 4, **options: Any) -> list[Document]:
        """The k documents that look most like a picture; see the class for the options.

        Args:
            uri: path, data URI, bytes, decoded picture, `Blob` or content block, as the embedding reads them.
            k: at most so many.
            **options: see the class.

        Raises:
            ImageError: the picture cannot be read.
            InputError: the embedding reads no pictures.
        """
        return _documents(self.similarity_search_by_image_with_score(uri, k, **options))

    async def asimilarity_search_by_image(self, uri: Any, k: int = 4, **options: Any) -> list[Document]:
        """The same as `similarity_search_by_image`, without blocking the event loop."""
        return _documents(await self.asimilarity_search_by_image_with_score(uri, k, **options))

    def similarity_search_by_image_with_score(self, uri: Any, k: int = 4, **options: Any) -> Scored:
        """The same as `similarity_search_by_image`, with scores."""
        return run(self._search(image_step(self._embedding, uri), k, **options))

    async def asimilarity_search_by_image_with_score(self, uri: Any, k: int = 4, **options: Any) -> Scored:
        """The same as `similarity_search_by_image_with_score`, without blocking the event loop."""
        return await arun(self._search(image_step(self._embedding, uri), k, **options))

    def similarity_search_image(self, image_uri: Any, k: int = 4, **options: Any) -> list[Document]:
        """`similarity_search_by_image` under the name that some stores have for it."""
        return self.similarity_search_by_image(image_uri, k, **options)

    async def asimilarity_search_image(self, image_uri: Any, k: int = 4, **options: Any) -> list[Document]:
        """The same as `similarity_search_image`, without blocking the event loop."""
        return await self.asimilarity_search_by_image(image_uri, k, **options)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """Documents that are near to a question and unlike each other.

        Args:
            query: the question.
            k: at most so many.
            fetch_k: of the nearest so many.
            lambda_mult: 0 for as unlike each other as can be, 1 for the nearest.
            **options: see the class.
        """
        return run(self._diverse(query_step(self._embedding, query), k, fetch_k, lambda_mult, **options))

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """The same as `max_marginal_relevance_search`, without blocking the event loop."""
        return await arun(self._diverse(query_step(self._embedding, query), k, fetch_k, lambda_mult, **options))

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """The same as `max_marginal_relevance_search`, by vector."""
        return run(self._diverse(embedding, k, fetch_k, lambda_mult, **options))

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """The same as `max_marginal_relevance_search_by_vector`, without blocking the event loop."""
        return await arun(self._diverse(embedding, k, fetch_k, lambda_mult, **options))

    def _similarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        return run(self._relevant(query, k, **kwargs))

    async def _asimilarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        return await arun(self._relevant(query, k, **kwargs))

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        shape = run(self._collection.shape())
        return _relevance(models.Distance.COSINE if shape is None else shape.distance)

    def _relevant(self, query: str, k: int, **options: Any) -> Steps[Scored]:
        found = yield from self._search(query_step(self._embedding, query), k, **options)
        shape = yield from self._collection.shape()
        return [(document, _relevance(shape.distance)(score)) for document, score in found] if shape else []

    def _search(
        self,
        vector: Sequence[float] | Step,
        k: int,
        *,
        filter: Filter | None = None,
        score_threshold: float | None = None,
        offset: int = 0,
        search_params: models.SearchParams | None = None,
    ) -> Steps[Scored]:
        row, identity = yield from self._row(vector)
        points = yield from self._collection.nearest(
            row, k, filter, identity, score_threshold=score_threshold, offset=offset, search_params=search_params
        )
        documents = yield self._show(points)
        return [(document, float(point.score)) for document, point in zip(documents, points, strict=True)]

    def _diverse(
        self,
        vector: Sequence[float] | Step,
        k: int,
        fetch_k: int,
        lambda_mult: float,
        *,
        filter: Filter | None = None,
        score_threshold: float | None = None,
        search_params: models.SearchParams | None = None,
    ) -> Steps[list[Document]]:
        if not 0 <= lambda_mult <= 1:
            raise InputError(f"lambda_mult must be from 0 (diverse) to 1 (near), got {lambda_mult!r}")
        row, identity = yield from self._row(vector)
        points = yield from self._collection.nearest(
            row,
            max(k, fetch_k),
            filter,
            identity,
            with_vectors=True,
            score_threshold=score_threshold,
            search_params=search_params,
        )
        rows = [self._collection.layout.vector(point) for point in points]
        chosen = maximal_marginal_relevance(np.array(row, dtype=np.float32), rows, lambda_mult=lambda_mult, k=k)
        documents: list[Document] = yield self._show([points[index] for index in chosen])
        return documents

    def _row(self, vector: Sequence[float] | Step) -> Steps[tuple[Sequence[float], Identity | None]]:
        """A vector, and what computed it, if that was our embedding and it tells."""
        if isinstance(vector, Step):
            row = yield vector
            return row, identity_of(self._embedding)
        return vector, None

    def _show(self, points: Sequence[models.Record | models.ScoredPoint]) -> Step:
        """The points as documents with their pictures."""
        found = [self._collection.layout.document(point) for point in points]
        return in_thread(self._pictures.show, found)


def _relevance(distance: models.Distance) -> Callable[[float], float]:
    """From a score in a collection's measure to 0 (unlike) .. 1 (alike), in the same order."""
    if distance == models.Distance.COSINE:
        return lambda score: min(1.0, max(0.0, (1 + score) / 2))
    if distance == models.Distance.DOT:
        return lambda score: (1 + math.tanh(score / 2)) / 2  # the logistic function, without overflow
    return lambda score: 1 / (1 + score)  # euclidean and Manhattan distances


def _documents(scored: Scored) -> list[Document]:
    return [document for document, _ in scored]
