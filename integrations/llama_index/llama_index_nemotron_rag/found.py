"""Nodes that an index or retriever of LlamaIndex finds, in whatever store they are."""

from __future__ import annotations

from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_nemotron_rag.filters import Filters, metadata_filters
from nemotron_rag.errors import InputError
from nemotron_rag.types import Passage

__all__ = ["FoundNodes"]


class FoundNodes:
    """A source of a `NemotronPageRetriever`.

    Args:
        index: a retriever, as it is; or an index, whose retriever is made for each search.
    """

    def __init__(self, index: BaseIndex[Any] | BaseRetriever) -> None:
        self._index = index

    @property
    def is_retriever(self) -> bool:
        """Whether its own settings say how many nodes it gives."""
        return isinstance(self._index, BaseRetriever)

    def search(
        self, query: Passage, *, k: int, filters: Filters | None, min_score: float | None = None
    ) -> list[NodeWithScore]:
        """The k nodes nearest to a text or an image, best first.

        Raises:
            InputError: it is an image and the index does not embed images, or filters cannot be handed over; or nodes
                that have no score are asked for their smallest.
        """
        bundle = QueryBundle(query.text)
        if query.image is not None:
            bundle.embedding = self._model().get_image_embedding(query.image)  # type: ignore[arg-type]  # ours reads any
        return self._above(self._retriever(k, filters).retrieve(bundle), min_score)[:k]

    async def asearch(
        self, query: Passage, *, k: int, filters: Filters | None, min_score: float | None = None
    ) -> list[NodeWithScore]:
        """`search` for event loops."""
        bundle = QueryBundle(query.text)
        if query.image is not None:
            bundle.embedding = await self._model().aget_image_embedding(query.image)  # type: ignore[arg-type]
        return self._above(await self._retriever(k, filters).aretrieve(bundle), min_score)[:k]

    def __repr__(self) -> str:
        """The class of the index."""
        return type(self._index).__name__

    def _above(self, nodes: list[NodeWithScore], least: float | None) -> list[NodeWithScore]:
        if least is None:
            return nodes
        if any(item.score is None for item in nodes):
            raise InputError(f"min_score needs scores, and {self!r} gives nodes without; leave it out")
        return [item for item in nodes if item.score is not None and item.score >= least]

    def _retriever(self, k: int, filters: Filters | None) -> BaseRetriever:
        if isinstance(self._index, BaseRetriever):
            if filters is not None:
                raise InputError(f"filters belong to {type(self._index).__name__}; set them where it is made")
            return self._index
        return self._index.as_retriever(similarity_top_k=k, filters=metadata_filters(filters))

    def _model(self) -> MultiModalEmbedding:
        model = self._index._embed_model if isinstance(self._index, VectorStoreIndex) else None
        if isinstance(model, MultiModalEmbedding):
            return model
        raise InputError(f"{type(self._index).__name__} finds nothing by an image; pass a query in words")
