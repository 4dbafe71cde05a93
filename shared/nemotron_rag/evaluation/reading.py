"""Models that see the text, the image or both of every page, and count what they compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from nemotron_rag._ranks import RanksByScore
from nemotron_rag.protocols import AnyEmbedder, Embedder, MultiVectorEmbedder, Reranker
from nemotron_rag.types import FloatArray, Kind, Modality, Passage, Query

__all__ = ["ReadingEmbedder", "ReadingManyVectors", "ReadingReranker", "reading_embedder", "seen_as"]


def seen_as(passage: Passage, modality: Modality) -> Passage:
    """What is left of a passage: its text, its image, or both; an empty text if it has not got that.

    Example:
        >>> seen_as(Passage("Sales", image="chart.png"), "text")
        Passage(text='Sales', image=None)
    """
    if modality == "image_text":
        return passage
    return Passage(passage.text) if modality == "text" else Passage(image=passage.image)


def reading_embedder(model: AnyEmbedder, modality: Modality) -> ReadingEmbedder | ReadingManyVectors:
    """An embedder that sees one modality of every passage."""
    if model.kind == "multivector_embedder":
        return ReadingManyVectors(cast("MultiVectorEmbedder", model), modality)
    return ReadingEmbedder(cast("Embedder", model), modality)


class _Reading:
    """What both kinds share.

    Args:
        model: loaded; it stays open.
        modality: what it sees of a passage.
    """

    def __init__(self, model: AnyEmbedder, modality: Modality) -> None:
        self._model, self._modality = model, modality
        self.passages = self.passage_bytes = self.queries = self.query_bytes = 0

    @property
    def name(self) -> str:
        """Of the model."""
        return self._model.name

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Of the model, and what it sees if that is not all."""
        seen = {} if self._modality == "image_text" else {"sees": self._modality}
        return {**self._model.identity, **seen}

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return self._model.dimensions

    def close(self) -> None:
        """Nothing: the model is its owner's."""

    def _seen(self, passages: Iterable[Passage]) -> list[Passage]:
        return [seen_as(passage, self._modality) for passage in passages]

    def _count(self, rows: Sequence[FloatArray] | FloatArray, *, queries: bool) -> None:
        size = rows.nbytes if isinstance(rows, np.ndarray) else sum(row.nbytes for row in rows)
        if queries:
            self.queries, self.query_bytes = self.queries + len(rows), self.query_bytes + size
        else:
            self.passages, self.passage_bytes = self.passages + len(rows), self.passage_bytes + size


class ReadingEmbedder(_Reading):
    """An `Embedder` that sees one modality."""

    kind: Kind = "embedder"

    def __init__(self, model: Embedder, modality: Modality) -> None:
        super().__init__(model, modality)
        self._one = model

    def embed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """Embed queries: (n, dimensions) float32."""
        rows = self._one.embed_queries(queries)
        self._count(rows, queries=True)
        return rows

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Embed what is seen of passages: (n, dimensions) float32."""
        rows = self._one.embed_passages(self._seen(passages))
        self._count(rows, queries=False)
        return rows

    async def aembed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """`embed_queries` for event loops."""
        return await self._one.aembed_queries(queries)

    async def aembed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """`embed_passages` for event loops."""
        return await self._one.aembed_passages(self._seen(passages))


class ReadingManyVectors(_Reading):
    """A `MultiVectorEmbedder` that sees one modality."""

    kind: Kind = "multivector_embedder"

    def __init__(self, model: MultiVectorEmbedder, modality: Modality) -> None:
        super().__init__(model, modality)
        self._many = model

    def embed_queries(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Embed queries: one (tokens, dimensions) float32 array each."""
        rows = self._many.embed_queries(queries)
        self._count(rows, queries=True)
        return rows

    def embed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Embed what is seen of passages: one (tokens, dimensions) float32 array each."""
        rows = self._many.embed_passages(self._seen(passages))
        self._count(rows, queries=False)
        return rows

    def score(self, queries: Sequence[FloatArray], passages: Sequence[FloatArray]) -> FloatArray:
        """Of the model."""
        return self._many.score(queries, passages)

    async def aembed_queries(self, queries: Sequence[Query]) -> list[FloatArray]:
        """`embed_queries` for event loops."""
        return await self._many.aembed_queries(queries)

    async def aembed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """`embed_passages` for event loops."""
        return await self._many.aembed_passages(self._seen(passages))


class ReadingReranker(RanksByScore):
    """A `Reranker` that sees one modality of every passage.

    Args:
        model: loaded; it stays open.
        modality: what it sees.
    """

    kind: Kind = "reranker"

    def __init__(self, model: Reranker, modality: Modality) -> None:
        self._model, self._modality = model, modality

    @property
    def name(self) -> str:
        """Of the model."""
        return self._model.name

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Of the model."""
        return self._model.identity

    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Raw logits: (n,) float32."""
        return self._model.score(query, [seen_as(passage, self._modality) for passage in passages])

    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """`score` for event loops."""
        return await self._model.ascore(query, [seen_as(passage, self._modality) for passage in passages])

    def close(self) -> None:
        """Nothing: the model is its owner's."""
