"""Nemotron embeddings of queries, texts, images and pages, and the step of a pipeline that embeds nodes by them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, Unpack, cast

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_validator
from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding
from llama_index.core.indices.utils import async_embed_nodes, embed_nodes
from llama_index.core.schema import BaseNode, MetadataMode, TransformComponent
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index.core.utils import get_tqdm_iterable

from llama_index_nemotron_rag.documents import stored_nodes
from llama_index_nemotron_rag.events import dispatcher, embedding_events
from llama_index_nemotron_rag.nodes import image_of
from llama_index_nemotron_rag.reading import NodeReading
from llama_index_nemotron_rag.settings import ModelFields, ModelSettings
from nemotron_rag.errors import InputError
from nemotron_rag.models.arguments import without_hosted
from nemotron_rag.models.cached import CachedEmbedder
from nemotron_rag.models.lazy import LazyModel, lazy_embedder
from nemotron_rag.models.load import ModelName, options_of
from nemotron_rag.protocols import Embedder
from nemotron_rag.types import FloatArray, ImageSource, Passage

__all__ = ["COLLECTION", "NemotronEmbedding", "NemotronPageEmbedder"]

COLLECTION = "nemotron_rag_embeddings"
"""Where vectors are in a key-value store that is given as `cache`."""

T = TypeVar("T")
_EMBED_NODES = (embed_nodes.__code__, async_embed_nodes.__code__)
_CALLERS = 12  # how far up they are looked for: LlamaIndex wraps every method in spans


class _EmbeddingSettings(ModelSettings, total=False):
    model_name: str
    embed_batch_size: int
    image_batch_size: int
    cache: BaseKVStore | None
    num_workers: int | None
    rate_limiter: Any
    embeddings_cache: None


class NemotronEmbedding(ModelFields, MultiModalEmbedding):
    """Embeds queries, texts and page images into one space, in your own process.

    Queries and passages have prompts of their own; the method says which is meant (`get_query_embedding`,
    `get_text_embedding`, ...). A text is never taken for a path. An image may be any that
    `nemotron_rag.documents.images.load_image` reads; a path given here is the caller's own and is opened. As a step of
    an `IngestionPipeline`, and as the `embed_model` of an index, it embeds the image and text of each node, as
    `NemotronPageEmbedder` does with its defaults.
    It serialises without its weights.

    Args:
        model: a catalog id, its hub repository, a local folder, or a loaded `nemotron_rag.Embedder`.
        dimensions: shorter vectors (Matryoshka), for models trained for it.
        embed_batch_size: texts that LlamaIndex embeds at a time.
        image_batch_size: images embedded at a time; on the device, the model cuts its own batches by tokens.
        cache: a LlamaIndex key-value store for vectors, keyed by model, role and content. LlamaIndex's own
            `embeddings_cache` is refused: it would answer a query with the vector of an equal passage.
        num_workers: batches of texts that LlamaIndex's async method runs at once; None for all.
        callback_manager: for callbacks.
        rate_limiter: of LlamaIndex.
        **settings: all of these, and the arguments of `ModelFields` (``device``, ``dtype``, ``max_input_tiles``, ...).

    Raises:
        InputError: `embeddings_cache` was given, or two models.
        ImageError: an image cannot be read.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> embedding = NemotronEmbedding(FakeEmbedder(dimensions=8))
        >>> len(embedding.get_query_embedding("red apples"))
        8
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model_name: str = Field(frozen=True)
    dimensions: int | None = Field(default=None, ge=1, frozen=True)
    embed_batch_size: int = Field(default=64, gt=0, le=2048)
    image_batch_size: int = Field(default=32, gt=0)
    cache: BaseKVStore | None = Field(default=None, exclude=True)
    embeddings_cache: None = Field(default=None, frozen=True)
    _model: LazyModel[Embedder] = PrivateAttr()

    def __init__(self, model: ModelName | Embedder | None = None, **settings: Unpack[_EmbeddingSettings]) -> None:
        if settings.get("embeddings_cache") is not None:
            raise InputError("embeddings_cache mixes up queries and passages; pass the same store as cache=")
        named = settings.get("model_name")  # what LlamaIndex calls it, and stores
        if model is not None and named is not None:
            raise InputError(f"got model and model_name={named!r}, which mean the same; leave one out")
        given = model if model is not None else named or "llama-nemotron-embed-vl-1b-v2"
        settings = cast("_EmbeddingSettings", without_hosted(type(self).__name__, settings, model=given))
        lazy = lazy_embedder(given, identity=settings.get("identity"), **options_of(settings))
        fields: dict[str, Any] = {**settings, "model_name": lazy.name, "identity": lazy.identity}
        super().__init__(**fields)
        self._model = lazy

    @dispatcher.span
    def get_passage_embeddings(self, passages: Sequence[Passage], *, show_progress: bool = False) -> list[Embedding]:
        """Embed texts, images, or both: one vector for each passage, in their order."""
        vectors: list[Embedding] = []
        for _, batch in self._batches(passages, show_progress):
            with embedding_events(self.callback_manager, payload=self.to_payload(), passages=batch) as result:
                if self.rate_limiter is not None:
                    self.rate_limiter.acquire()
                result += self._embed(batch)
            vectors += result
        return vectors

    @dispatcher.span
    async def aget_passage_embeddings(
        self, passages: Sequence[Passage], *, show_progress: bool = False
    ) -> list[Embedding]:
        """`get_passage_embeddings` for event loops."""
        vectors: list[Embedding] = []
        for _, batch in self._batches(passages, show_progress):
            with embedding_events(self.callback_manager, payload=self.to_payload(), passages=batch) as result:
                if self.rate_limiter is not None:
                    await self.rate_limiter.async_acquire()
                result += await self._aembed(batch)
            vectors += result
        return vectors

    def get_image_embedding(self, img_file_path: ImageSource) -> Embedding:
        """Embed an image."""
        return self.get_image_embedding_batch([img_file_path])[0]

    async def aget_image_embedding(self, img_file_path: ImageSource) -> Embedding:
        """`get_image_embedding` for event loops."""
        return (await self.aget_image_embedding_batch([img_file_path]))[0]

    def get_image_embedding_batch(
        self, img_file_paths: Sequence[ImageSource], show_progress: bool = False
    ) -> list[Embedding]:
        """Embed images."""
        return self.get_passage_embeddings(_images(img_file_paths), show_progress=show_progress)

    async def aget_image_embedding_batch(
        self, img_file_paths: Sequence[ImageSource], show_progress: bool = False
    ) -> list[Embedding]:
        """`get_image_embedding_batch` for event loops."""
        return await self.aget_passage_embeddings(_images(img_file_paths), show_progress=show_progress)

    def get_image_text_embedding(self, image: ImageSource, text: str) -> Embedding:
        """Embed an image and its text as one."""
        return self.get_image_text_embeddings([image], [text])[0]

    async def aget_image_text_embedding(self, image: ImageSource, text: str) -> Embedding:
        """`get_image_text_embedding` for event loops."""
        return (await self.aget_image_text_embeddings([image], [text]))[0]

    def get_image_text_embeddings(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, show_progress: bool = False
    ) -> list[Embedding]:
        """Embed each image with its text as one."""
        return self.get_passage_embeddings(_pages(images, texts), show_progress=show_progress)

    async def aget_image_text_embeddings(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, show_progress: bool = False
    ) -> list[Embedding]:
        """`get_image_text_embeddings` for event loops."""
        return await self.aget_passage_embeddings(_pages(images, texts), show_progress=show_progress)

    def embed_nodes(
        self, nodes: Sequence[BaseNode], reading: NodeReading, *, show_progress: bool = False
    ) -> list[BaseNode]:
        """Set the embedding of every node from its image and text, on the node itself, as LlamaIndex's embeddings do.

        A document stays as it is: it comes back as a node of its own, whose source it is, so that pipelines and indexes
        can replace and delete it.

        Args:
            nodes: of any form; `image_batch_size` of them are decoded at a time.
            reading: how nodes become passages.
            show_progress: show a bar.

        Returns:
            The nodes, less those that the policy for unreadable images leaves out.
        """
        nodes = stored_nodes(nodes)
        found = list(self._node_vectors(nodes, reading, show_progress))
        return _embedded(nodes, found)

    async def aembed_nodes(
        self, nodes: Sequence[BaseNode], reading: NodeReading, *, show_progress: bool = False
    ) -> list[BaseNode]:
        """`embed_nodes` for event loops."""
        nodes = stored_nodes(nodes)
        found = [item async for item in self._anode_vectors(nodes, reading, show_progress)]
        return _embedded(nodes, found)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Set `node.embedding` from each node's image and text."""
        return self.embed_nodes(nodes, NodeReading(), show_progress=kwargs.get("show_progress", False))

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__` for event loops."""
        return await self.aembed_nodes(nodes, NodeReading(), show_progress=kwargs.get("show_progress", False))

    def get_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **kwargs: Any) -> list[Embedding]:
        """Embed texts; nodes of an index that have images, and whose texts these are, by their images too."""
        nodes = _nodes_of(texts)
        if nodes is None:
            return super().get_text_embedding_batch(texts, show_progress, **kwargs)
        return [vector for _, vector in self._node_vectors(nodes, NodeReading(), show_progress)]

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """`get_text_embedding_batch` for event loops."""
        nodes = _nodes_of(texts)
        if nodes is None:
            return await super().aget_text_embedding_batch(texts, show_progress, **kwargs)
        return [vector async for _, vector in self._anode_vectors(nodes, NodeReading(), show_progress)]

    def _get_query_embedding(self, query: str) -> Embedding:
        return _lists(self._cached(self._model.get()).embed_queries([query]))[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return _lists(await self._cached(await self._model.aget()).aembed_queries([query]))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._embed([Passage(text)])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aembed([Passage(text)]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed([Passage(text) for text in texts])

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await self._aembed([Passage(text) for text in texts])

    def _get_image_embedding(self, img_file_path: ImageSource) -> Embedding:
        return self._embed(_images([img_file_path]))[0]

    async def _aget_image_embedding(self, img_file_path: ImageSource) -> Embedding:
        return (await self._aembed(_images([img_file_path])))[0]

    def _embed(self, passages: Sequence[Passage]) -> list[Embedding]:
        return _lists(self._cached(self._model.get()).embed_passages(passages))

    async def _aembed(self, passages: Sequence[Passage]) -> list[Embedding]:
        return _lists(await self._cached(await self._model.aget()).aembed_passages(passages))

    def _cached(self, model: Embedder) -> Embedder:
        return model if self.cache is None else CachedEmbedder(model, _Vectors(self.cache))

    def _node_vectors(
        self, nodes: Sequence[BaseNode], reading: NodeReading, show_progress: bool
    ) -> Iterator[tuple[int, Embedding]]:
        """The index and vector of each node that can be read."""
        for start, batch in self._batches(nodes, show_progress):
            for readings in reading.read_in_parts(batch, start=start):
                vectors = self.get_passage_embeddings([r.passage for r in readings])
                yield from zip([r.index for r in readings], vectors, strict=True)

    async def _anode_vectors(
        self, nodes: Sequence[BaseNode], reading: NodeReading, show_progress: bool
    ) -> AsyncIterator[tuple[int, Embedding]]:
        for start, batch in self._batches(nodes, show_progress):
            parts = reading.read_in_parts(batch, start=start)
            while readings := await asyncio.to_thread(next, parts, None):
                vectors = await self.aget_passage_embeddings([r.passage for r in readings])
                for found in zip([r.index for r in readings], vectors, strict=True):
                    yield found

    def _batches(self, items: Sequence[T], show_progress: bool) -> Iterator[tuple[int, Sequence[T]]]:
        """The index of the first item of each batch, and the batch."""
        starts = range(0, len(items), self.image_batch_size)
        for start in get_tqdm_iterable(starts, show_progress, "Embedding pages"):
            yield start, items[start : start + self.image_batch_size]


class NemotronPageEmbedder(NodeReading, TransformComponent):
    """Sets `node.embedding` from each node's image and text, where LlamaIndex would embed its metadata and text.

    Put it last among the transformations of an `IngestionPipeline`, or call it on nodes before a `VectorStoreIndex` is
    built of them: LlamaIndex keeps an embedding that is set. It is set on the node that was given, as by every
    embedding of LlamaIndex; of a document, on a node of its own, whose source the document is.

    The cache of an `IngestionPipeline` knows nodes by metadata and text alone: put a hash of the image into the
    metadata of pages without text, or set ``disable_cache=True``.

    Args:
        embed_model: computes the vectors, `image_batch_size` nodes at a time; that bounds the decoded images. Or the
            name of its model.

    The other arguments are those of `NodeReading`.

    Raises:
        ImageError: an image cannot be read and `on_image_error` is ``raise``; the message names the node.

    Example:
        >>> from llama_index.core.schema import ImageNode
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> embedder = NemotronPageEmbedder(embed_model=NemotronEmbedding(FakeEmbedder(dimensions=8)))
        >>> image = "R0lGODdhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
        >>> page, = embedder([ImageNode(text="Revenue rose.", image=image)])
        >>> len(page.embedding)
        8
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True)

    embed_model: NemotronEmbedding

    @field_validator("embed_model", mode="before")
    @classmethod
    def _restored(cls, value: Any) -> Any:
        if isinstance(value, str | os.PathLike):
            return NemotronEmbedding(value)
        return NemotronEmbedding.from_dict(value) if isinstance(value, dict) else value

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed the nodes; `show_progress` shows a bar, other arguments are for other transformations."""
        return self.embed_model.embed_nodes(nodes, self, show_progress=kwargs.get("show_progress", False))

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__` for event loops."""
        return await self.embed_model.aembed_nodes(nodes, self, show_progress=kwargs.get("show_progress", False))


class _Vectors:
    """A key-value store of LlamaIndex as a `VectorCache`."""

    def __init__(self, store: BaseKVStore) -> None:
        self._store = store

    def get(self, key: str) -> Embedding | None:
        return (self._store.get(key, collection=COLLECTION) or {}).get("embedding")

    def put(self, key: str, vector: Embedding) -> None:
        self._store.put(key, {"embedding": vector}, collection=COLLECTION)

    async def aget(self, key: str) -> Embedding | None:
        return (await self._store.aget(key, collection=COLLECTION) or {}).get("embedding")

    async def aput(self, key: str, vector: Embedding) -> None:
        await self._store.aput(key, {"embedding": vector}, collection=COLLECTION)


def _lists(rows: FloatArray) -> list[Embedding]:
    return cast("list[Embedding]", rows.tolist())


def _images(images: Sequence[ImageSource]) -> list[Passage]:
    missing = [i for i, image in enumerate(images) if image is None]
    if missing:
        raise InputError(f"wanted an image, got None at index {missing[0]}; leave it out")
    return [Passage(image=image) for image in images]


def _pages(images: Sequence[ImageSource], texts: Sequence[str]) -> list[Passage]:
    if len(images) != len(texts):
        raise InputError(f"wanted a text for each image, got {len(images)} images and {len(texts)} texts")
    return [replace(image, text=text) for image, text in zip(_images(images), texts, strict=True)]


def _embedded(nodes: Sequence[BaseNode], found: Sequence[tuple[int, Embedding]]) -> list[BaseNode]:
    for index, vector in found:
        nodes[index].embedding = vector
    return [nodes[index] for index, _ in found]


def _nodes_of(texts: Sequence[str]) -> list[BaseNode] | None:
    """The nodes whose texts an index of LlamaIndex asks for, if there is an image among them; else None.

    `VectorStoreIndex` hands over the texts of nodes alone, and their images would be lost without a word. The nodes are
    in the function of LlamaIndex that calls; where it is not found, the texts are all there is.
    """
    frame = sys._getframe(1)
    for _ in range(_CALLERS):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        if frame.f_code in _EMBED_NODES:
            nodes = [node for node in frame.f_locals["nodes"] if node.embedding is None]
            matches = [node.get_content(MetadataMode.EMBED) for node in nodes] == list(texts)
            return nodes if matches and any(image_of(node) for node in nodes) else None
    return None
