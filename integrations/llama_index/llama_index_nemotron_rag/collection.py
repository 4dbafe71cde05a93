"""A Qdrant collection that LlamaIndex wrote, searched with one of our embedders."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from llama_index.core.schema import BaseNode, Document, ImageDocument, ImageNode, NodeWithScore
from llama_index.core.vector_stores.utils import metadata_dict_to_node
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from llama_index_nemotron_rag.documents import default_image_folder
from llama_index_nemotron_rag.embedding import NemotronEmbedding
from llama_index_nemotron_rag.filters import Filters, plain_filter
from llama_index_nemotron_rag.nodes import named_files
from llama_index_nemotron_rag.shown import for_llm, without_image
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.errors import ImageError, InputError, StoreError
from nemotron_rag.models.load import ModelName
from nemotron_rag.protocols import Embedder
from nemotron_rag.stores.qdrant import ForeignCollection, Layout, Qdrant
from nemotron_rag.stores.server import ConnectionOptions
from nemotron_rag.stores.tenant import TenantKey
from nemotron_rag.types import Passage

__all__ = ["NodeCollection"]

_log = logging.getLogger("nemotron_rag")


class _NotAllowedError(ImageError):
    """What a payload names may not be opened."""


class _SearchOptions(TypedDict, total=False):
    min_score: float | None
    with_vectors: bool


class NodeCollection:
    """Nodes that LlamaIndex's `QdrantVectorStore` stored, for a `NemotronPageRetriever`.

    The collection does not say which model wrote it: `embedder` must be that model. Nothing is opened before the first
    search.

    Args:
        location: a folder, or the ``http(s)://`` url of a server.
        client: an open client instead; it stays open.
        async_client: for async searches of a server; by default one like `client`.
        collection: its name.
        embedder: a `NemotronEmbedding`, a catalog id, a local folder, or a loaded `Embedder`.
        vector_name: which vector, where a collection has several dense ones.
        image_roots: folders below which image files may be that a node's payload names; None for the default folder of
            `PDFPageReader`. Whoever writes to the collection could name any file of this machine.
        image_hosts: hosts of images that a node's payload may name; they are not fetched here.
        tenant: a metadata key and its value, such as ``("customer", "acme")``: nodes of others are never seen.
        **connection: to a server that is given by its url: ``api_key`` (by default the environment variable
            ``QDRANT_API_KEY``), ``headers`` and ``timeout``; see `nemotron_rag.stores.server.ConnectionOptions`.

    Raises:
        InputError: not exactly one of `location` and `client` was given, or the url of a server holds credentials.

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
        embedder: NemotronEmbedding | Embedder | ModelName,
        client: QdrantClient | None = None,
        async_client: AsyncQdrantClient | None = None,
        vector_name: str | None = None,
        image_roots: Sequence[str | os.PathLike[str]] | None = None,
        image_hosts: Sequence[str] = (),
        tenant: TenantKey | None = None,
        **connection: Unpack[ConnectionOptions],
    ) -> None:
        if (location is None) == (client is None):
            raise InputError("a NodeCollection needs either a location or a client; pass one of them")
        self._own = not isinstance(embedder, NemotronEmbedding)
        self._embedding = embedder if isinstance(embedder, NemotronEmbedding) else NemotronEmbedding(embedder)
        qdrant = Qdrant(location, client=client, async_client=async_client, **connection)
        self._said: set[str] = set()
        roots = [default_image_folder()] if image_roots is None else image_roots
        self._access = ImageAccess(roots=roots, hosts=image_hosts)
        self._points = ForeignCollection(qdrant, collection, layout=Layout(vector_name), tenant=tenant, must_exist=True)

    def search(
        self, query: Passage, *, k: int, filters: Filters | None, **options: Unpack[_SearchOptions]
    ) -> list[NodeWithScore]:
        """The k nodes nearest to a text or an image, best first.

        Args:
            query: one of the two.
            k: at most so many.
            filters: see `NemotronPageRetriever`.
            **options: ``min_score``, the worst score of a node, in the collection's own measure; ``with_vectors`` gives
                the nodes their vectors, as ``embedding``.

        Raises:
            IndexMismatchError: the embedder's vectors have another length than the collection's.
            StoreError: Qdrant refused, could not be reached, or holds points that LlamaIndex did not write.
        """
        model, image = self._embedding, query.image
        vector = model.get_query_embedding(query.text) if image is None else model.get_image_embedding(image)
        return self._nodes(self._points.nearest(vector, k, plain_filter(filters), **_of_qdrant(options)))

    async def asearch(
        self, query: Passage, *, k: int, filters: Filters | None, **options: Unpack[_SearchOptions]
    ) -> list[NodeWithScore]:
        """`search` for event loops."""
        model, image = self._embedding, query.image
        vector = await (model.aget_query_embedding(query.text) if image is None else model.aget_image_embedding(image))
        points = await self._points.anearest(vector, k, plain_filter(filters), **_of_qdrant(options))
        return await asyncio.to_thread(self._nodes, points)

    def matching(self, filters: Filters | None) -> list[BaseNode]:
        """All nodes that filters match; see `NemotronPageRetriever`.

        Raises:
            StoreError: as from `search`.
        """
        points = self._points.get(self._points.ids_matching(plain_filter(filters)))
        return [self._node(point) for point in points]

    def load(self) -> None:
        """Load the embedder now, where the first search would wait for it."""
        self._embedding.load()

    def close(self) -> None:
        """Let go of the client and of an embedder loaded here; later searches raise `ClosedError`."""
        self._points.qdrant.close()
        if self._own:
            self._embedding.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        """``collection 'docs' at ./store``."""
        return str(self._points)

    def __repr__(self) -> str:
        """``NodeCollection(collection 'docs' at ./store, embedder='starter-embed-vl')``."""
        return f"NodeCollection({self}, embedder={self._embedding.model_name!r})"

    def _nodes(self, points: Sequence[models.ScoredPoint]) -> list[NodeWithScore]:
        nodes = [self._node(point) for point in points]
        for node, point in zip(nodes, points, strict=True):
            if point.vector is not None and (shape := self._points.shape()) is not None:
                node.embedding = shape.vector(point)
        return [NodeWithScore(node=node, score=float(point.score)) for node, point in zip(nodes, points, strict=True)]

    def _node(self, point: models.ScoredPoint | models.Record) -> BaseNode:
        try:
            node = _restored(dict(point.payload or {}))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"point {point.id} of {self} is no node of LlamaIndex; for an index of nemotron_rag pass its location"
            ) from error
        try:
            self._check_images(node)
        except ImageError as error:
            if isinstance(node, ImageNode) and node.image:  # which it holds itself, whatever else it names
                return for_llm(node.model_copy(update={"image_path": None, "image_url": None}))
            self._say_once("access" if isinstance(error, _NotAllowedError) else "file", node, error)
            return without_image(node)
        return for_llm(node)

    def _say_once(self, cause: str, node: BaseNode, error: ImageError) -> None:
        """Of the first node: all others of a folder that may not be opened, or has moved, would say the same."""
        if cause not in self._said:
            self._said.add(cause)
            _log.warning("node %s of %s comes without its image, and maybe others: %s", node.id_, self, error)

    def _check_images(self, node: BaseNode) -> None:
        """Raise if the payload names a file or URL that it may not, or a file that is not there."""
        for named in named_files(node):
            try:
                self._access.check(named)
            except ImageError as error:
                raise _NotAllowedError(f"{error} (NodeCollection takes image_roots= and image_hosts=)") from error
            if isinstance(named, Path) and not named.is_file():
                raise ImageError(f"there is no {named}")


def _of_qdrant(options: _SearchOptions) -> dict[str, Any]:
    return {"score_threshold": options.get("min_score"), "with_vectors": options.get("with_vectors", False)}


def _restored(payload: dict[str, Any]) -> BaseNode:
    """The node of a payload; unlike by LlamaIndex, with its image if it was stored as a document."""
    if payload.get("_node_type") in (Document.class_name(), ImageDocument.class_name()):
        fields = json.loads(payload["_node_content"])
        if fields.get("image_resource"):
            return ImageNode.from_dict(fields)
    return metadata_dict_to_node(payload)
