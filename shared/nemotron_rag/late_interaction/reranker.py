"""A late-interaction model as a reranker: passages ranked by MaxSim, in the place of a cross-encoder."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from nemotron_rag._ranks import RanksByScore
from nemotron_rag._tracing import traced_rerank
from nemotron_rag.protocols import MultiVectorEmbedder, Reranker
from nemotron_rag.types import FloatArray, Kind, Modality, Passage, Query

__all__ = ["MaxSimReranker", "as_reranker"]


class MaxSimReranker(RanksByScore):
    """A `Reranker` whose score is the MaxSim of a query and a passage, by the vectors of their tokens.

    Passages are embedded anew in each call. The score is a sum over the query's tokens, so scores of two queries cannot
    be compared, and a logit's "sigmoid" says nothing.

    Args:
        embedder: loaded; closing this closes it.

    Example:
        >>> from nemotron_rag.testing import FakeMultiVectorEmbedder
        >>> reranker = MaxSimReranker(FakeMultiVectorEmbedder())
        >>> reranker.rank("red apples", [Passage("blue whales"), Passage("red apples")])[0].index
        1
    """

    kind: Kind = "reranker"

    def __init__(self, embedder: MultiVectorEmbedder) -> None:
        self._embedder = embedder

    @property
    def name(self) -> str:
        """Of the embedder."""
        return self._embedder.name

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Of the embedder."""
        return self._embedder.identity

    @property
    def query_modalities(self) -> tuple[Modality, ...]:
        """Of the embedder."""
        return cast("tuple[Modality, ...]", getattr(self._embedder, "query_modalities", ("text",)))

    @traced_rerank
    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """MaxSim: (n,) float32; higher is more relevant.

        Raises:
            ImageError: an image cannot be read; the message names its index.
        """
        if not passages:
            return np.zeros(0, dtype=np.float32)
        rows = self._embedder.embed_passages(passages)
        return cast("FloatArray", self._embedder.score(self._embedder.embed_queries([query]), rows)[0])

    @traced_rerank
    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """`score` for event loops."""
        if not passages:
            return np.zeros(0, dtype=np.float32)
        rows = await self._embedder.aembed_passages(passages)
        queries = await self._embedder.aembed_queries([query])
        scores = await asyncio.to_thread(self._embedder.score, queries, rows)
        return cast("FloatArray", scores[0])

    def close(self) -> None:
        """Close the embedder."""
        self._embedder.close()


def as_reranker(model: Reranker | MultiVectorEmbedder) -> Reranker:
    """A reranker as it is, a late-interaction model as a `MaxSimReranker`."""
    if model.kind == "multivector_embedder":
        return MaxSimReranker(cast("MultiVectorEmbedder", model))
    return cast("Reranker", model)
