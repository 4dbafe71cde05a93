"""A Qdrant collection that LlamaIndex wrote, searched with one of our embedders. It knows no reranker."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.schema import BaseNode, Document, ImageDocument, ImageNode, NodeWithScore
from llama_index.core.vector_stores import MetadataFilters
from llama_index.core.vector_stores.utils import metadata_dict_to_node
from qdrant_client import models

from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.embeddings.nemotron_rag.nodes import for_llm, without_picture
from llama_index.retrievers.nemotron_rag._filters import Filters, compile_metadata_filters
from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.protocols import Embedder
from nemotron_rag.stores.client import Qdrant, compile_filter
from nemotron_rag.types import Passage

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

__all__ = ["NodeCollection"]

_log = logging.getLogger("nemotron_rag")


class NodeCollection:
    """Nodes that LlamaIndex's `QdrantVectorStore` keeps, for a `NemotronPageRetriever`.

    The collection does not say which model wrote it: `embedder` must be that model. Nothing is opened before the first
    search.

    Args:
        location: a folder, or the ``http(s)://`` url of a server.
        client: an open client instead; it stays open.
        async_client: for async searches of a server; by default one like `client`.
        collection: its name.
        embedder: a `NemotronEmbedding`, a catalog id, a local folder, or a loaded `Embedder`.
        vector_name: which vector, where a collection has several dense ones.

    Raises:
        InputError: not exactly one of `location` and `client` was given.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index.vector_stores.qdrant import QdrantVectorStore
        >>> from llama_index.retrievers.nemotron_rag import NemotronPageRetriever
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> from qdrant_client import QdrantClient
        >>> client, embedding = QdrantClient(":memory:"), NemotronEmbedding(FakeEmbedder())
        >>> nodes = [TextNode(text="red apples"), TextNode(text="blue whales")]
        >>> store = QdrantVectorStore("docs", client=client, index_doc_id=False)
        >>> ids = store.add(embedding(nodes))
        >>> collection = NodeCollection(client=client, collection="docs", embedder=embedding)
        >>> [found.text for found in NemotronPageRetriever(collection, similarity_top_k=1).retrieve("whales")]
        ['blue whales']
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        collection: str,
        embedder: NemotronEmbedding | Embedder | str | os.PathLike[str],
        client: QdrantClient | None = None,
        async_client: AsyncQdrantClient | None = None,
        vector_name: str | None = None,
    ) -> None:
        if (location is None) == (client is None):
            raise InputError("a NodeCollection needs either a location or a client; pass one of them")
        self._qdrant = Qdrant(location, client=client, async_client=async_client)
        self._name, self._vector_name = collection, vector_name
        self._own = not isinstance(embedder, NemotronEmbedding)
        self._embedding = embedder if isinstance(embedder, NemotronEmbedding) else NemotronEmbedding(embedder)
        self._shape: tuple[str, int] | None = None

    def search(self, question: Passage, *, k: int, filters: Filters | None) -> list[NodeWithScore]:
        """The k nodes nearest to a text or a picture, best first.

        Args:
            question: one of the two.
            k: at most so many.
            filters: see `NemotronPageRetriever`.

        Raises:
            IndexMismatchError: the embedder's vectors have another length than the collection's.
            StoreError: Qdrant refused, could not be reached, or holds what LlamaIndex did not write.
        """
        if question.image is not None:
            vector = self._embedding.get_image_embedding(question.image)
        else:
            vector = self._embedding.get_query_embedding(question.text)
        request = self._request(vector, k, filters)
        return self._nodes(self._qdrant.call("query_points", **request))

    async def asearch(self, question: Passage, *, k: int, filters: Filters | None) -> list[NodeWithScore]:
        """The same as `search`, without blocking the event loop."""
        if question.image is not None:
            vector = await self._embedding.aget_image_embedding(question.image)
        else:
            vector = await self._embedding.aget_query_embedding(question.text)
        request = await asyncio.to_thread(self._request, vector, k, filters)  # the first one asks for the vectors' size
        answer = await self._qdrant.acall("query_points", **request)
        return await asyncio.to_thread(self._nodes, answer)

    def close(self) -> None:
        """Let go of the client and of what was loaded here; later searches raise `ClosedError`."""
        self._qdrant.close()
        if self._own:
            self._embedding.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        """``collection 'docs' at ./store``."""
        return f"collection {self._name!r} at {self._qdrant.name}"

    def _request(self, vector: list[float], k: int, filters: Filters | None) -> dict[str, Any]:
        if self._shape is None:
            self._shape = self._find_shape()
        name, size = self._shape
        if len(vector) != size:
            raise IndexMismatchError(
                f"{self} has vectors of {size} numbers, {self._embedding.model_name} gives {len(vector)}; "
                "pass the embedder that wrote it"
            )
        return {
            "collection_name": self._name,
            "query": vector,
            "using": name or None,
            "limit": k,
            "query_filter": _flat_filter(filters),
        }

    def _find_shape(self) -> tuple[str, int]:
        """Name and length of the dense vector."""
        found = self._qdrant.call("get_collection", collection_name=self._name).config.params.vectors or {}
        vectors: dict[str, models.VectorParams] = found if isinstance(found, dict) else {"": found}
        dense = {name: params.size for name, params in vectors.items() if params.multivector_config is None}
        if self._vector_name is not None:
            dense = {name: size for name, size in dense.items() if name == self._vector_name}
        if len(dense) != 1:
            raise InputError(f"wanted one dense vector in {self}, it has {sorted(vectors)}; pass vector_name=")
        return next(iter(dense.items()))

    def _nodes(self, answer: models.QueryResponse) -> list[NodeWithScore]:
        return [NodeWithScore(node=self._node(point), score=float(point.score)) for point in answer.points]

    def _node(self, point: models.ScoredPoint) -> BaseNode:
        try:
            node = _restored(dict(point.payload or {}))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"point {point.id} of {self} is no node of LlamaIndex; for an index of nemotron_rag pass its location"
            ) from error
        if isinstance(node, ImageNode) and not node.image and node.image_path and not Path(node.image_path).is_file():
            _log.warning("node %s of %s comes without its picture: %s is gone", node.id_, self, node.image_path)
            return without_picture(node)
        return for_llm(node)


def _restored(payload: dict[str, Any]) -> BaseNode:
    """The node of a payload; unlike by LlamaIndex, with its picture if it was stored as a document."""
    if payload.get("_node_type") in (Document.class_name(), ImageDocument.class_name()):
        fields = json.loads(payload["_node_content"])
        if fields.get("image_resource"):
            return ImageNode.from_dict(fields)
    return metadata_dict_to_node(payload)


def _flat_filter(filters: Filters | None) -> models.Filter | None:
    """Filters over payloads whose metadata lie at the top."""
    if isinstance(filters, MetadataFilters):
        return compile_metadata_filters(filters, _leaf)
    return compile_filter(filters, fields=list(filters) if isinstance(filters, Mapping) else ())


def _leaf(key: str, value: Any) -> models.Filter:
    return compile_filter({key: value}, fields=[key]) or models.Filter()
