"""Nemotron embeddings of questions, texts, pictures, and pictures with their texts. It knows no tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Unpack

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding
from llama_index.core.schema import BaseNode
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index.core.utils import get_tqdm_iterable

from llama_index.embeddings.nemotron_rag._cache import Role, aembed, embed
from llama_index.embeddings.nemotron_rag._events import dispatcher, embedding_events
from llama_index.embeddings.nemotron_rag.components import ModelFields, ModelSettings, NodeReading, load_options
from llama_index.embeddings.nemotron_rag.pages import aembed_pages, embed_pages
from nemotron_rag.errors import InputError
from nemotron_rag.lazy import LazyModel, lazy_embedder
from nemotron_rag.protocols import Embedder
from nemotron_rag.types import ImageSource, Passage

__all__ = ["NemotronEmbedding"]

_DEFAULT = "llama-nemotron-embed-vl-1b-v2"


class _EmbeddingSettings(ModelSettings, total=False):
    model_name: str
    dimensions: int | None
    embed_batch_size: int
    image_batch_size: int
    cache: BaseKVStore | None
    num_workers: int | None
    callback_manager: CallbackManager
    rate_limiter: Any
    embeddings_cache: None


class NemotronEmbedding(ModelFields, MultiModalEmbedding):
    """Embeds questions, texts and page pictures into one space, in your own process.

    Questions and passages have prompts of their own; the method says which is meant (`get_query_embedding`,
    `get_text_embedding`, ...). A text is never taken for a path. A picture may be a path, bytes, a binary file, a PIL
    image, an array or a data URI; a path given here is the caller's own and is opened. As a step of an
    `IngestionPipeline` it embeds the picture and text of each node, as `NemotronPageEmbedder` does with its defaults.
    It serialises without its weights.

    Args:
        model: a catalog id, its hub repository, a local folder, or a loaded `nemotron_rag.Embedder`.
        dimensions: shorter vectors (Matryoshka), for models trained for it.
        embed_batch_size: texts that LlamaIndex hands over at a time.
        image_batch_size: pictures handed over at a time; on the device, the model cuts its own batches by tokens.
        cache: a LlamaIndex key-value store for vectors, keyed by model, role and content. LlamaIndex's own
            `embeddings_cache` is refused: it would answer a question with the vector of an equal passage.
        num_workers: batches of texts that LlamaIndex's async method has under way; None for all.
        callback_manager: for callbacks.
        rate_limiter: of LlamaIndex.
        settings: all of these, and the arguments of `ModelFields` (``device``, ``dtype``, ``max_input_tiles``, ...).

    Raises:
        InputError: `embeddings_cache` was given, or two models.
        ImageError: a picture cannot be read.

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

    def __init__(
        self, model: str | os.PathLike[str] | Embedder | None = None, **settings: Unpack[_EmbeddingSettings]
    ) -> None:
        if settings.get("embeddings_cache") is not None:
            raise InputError("embeddings_cache mixes up questions and passages; pass the same store as cache=")
        named = settings.get("model_name")  # what LlamaIndex calls it, and stores
        if model is not None and named is not None:
            raise InputError(f"got model and model_name={named!r}, which mean the same; leave one out")
        options = {**load_options(settings), "dimensions": settings.get("dimensions")}
        lazy = lazy_embedder(model if model is not None else named or _DEFAULT, **options)
        fields: dict[str, Any] = {**settings, "model_name": lazy.name, "identity": lazy.identity}
        super().__init__(**fields)
        self._model = lazy

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "NemotronEmbedding"

    def to_payload(self) -> dict[str, Any]:
        """What events say of it."""
        return {
            "class_name": self.class_name(),
            "model_name": self.model_name,
            "embed_batch_size": self.embed_batch_size,
        }

    def close(self) -> None:
        """Free the weights loaded here; the next use loads them again. A model that was given stays open."""
        self._model.close()

    @dispatcher.span
    def get_passage_embeddings(self, passages: Sequence[Passage], *, show_progress: bool = False) -> list[Embedding]:
        """Embed texts, pictures, or both: one vector for each passage, in their order."""
        vectors: list[Embedding] = []
        for batch in self._batches(passages, show_progress):
            with self._events(batch) as result:
                if self.rate_limiter is not None:
                    self.rate_limiter.acquire()
                result += self._embed(batch, "passage")
            vectors += result
        return vectors

    @dispatcher.span
    async def aget_passage_embeddings(
        self, passages: Sequence[Passage], *, show_progress: bool = False
    ) -> list[Embedding]:
        """The same as `get_passage_embeddings`, without blocking the event loop."""
        vectors: list[Embedding] = []
        for batch in self._batches(passages, show_progress):
            with self._events(batch) as result:
                if self.rate_limiter is not None:
                    await self.rate_limiter.async_acquire()
                result += await self._aembed(batch, "passage")
            vectors += result
        return vectors

    def get_image_embedding(self, img_file_path: ImageSource) -> Embedding:
        """Embed a picture."""
        return self.get_image_embedding_batch([img_file_path])[0]

    async def aget_image_embedding(self, img_file_path: ImageSource) -> Embedding:
        """Embed a picture without blocking the event loop."""
        return (await self.aget_image_embedding_batch([img_file_path]))[0]

    def get_image_embedding_batch(
        self, img_file_paths: Sequence[ImageSource], show_progress: bool = False
    ) -> list[Embedding]:
        """Embed pictures."""
        return self.get_passage_embeddings(_pictures(img_file_paths), show_progress=show_progress)

    async def aget_image_embedding_batch(
        self, img_file_paths: Sequence[ImageSource], show_progress: bool = False
    ) -> list[Embedding]:
        """Embed pictures without blocking the event loop."""
        return await self.aget_passage_embeddings(_pictures(img_file_paths), show_progress=show_progress)

    def get_image_text_embedding(self, image: ImageSource, text: str) -> Embedding:
        """Embed a picture and its text as one."""
        return self.get_image_text_embeddings([image], [text])[0]

    async def aget_image_text_embedding(self, image: ImageSource, text: str) -> Embedding:
        """Embed a picture and its text as one, without blocking the event loop."""
        return (await self.aget_image_text_embeddings([image], [text]))[0]

    def get_image_text_embeddings(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, show_progress: bool = False
    ) -> list[Embedding]:
        """Embed each picture with its text as one."""
        return self.get_passage_embeddings(_pages(images, texts), show_progress=show_progress)

    async def aget_image_text_embeddings(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, show_progress: bool = False
    ) -> list[Embedding]:
        """Embed each picture with its text as one, without blocking the event loop."""
        return await self.aget_passage_embeddings(_pages(images, texts), show_progress=show_progress)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Set `node.embedding` from each node's picture and text."""
        return embed_pages(self, NodeReading(), nodes, show_progress=kwargs.get("show_progress", False))

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Set `node.embedding` from each node's picture and text, without blocking the event loop."""
        return await aembed_pages(self, NodeReading(), nodes, show_progress=kwargs.get("show_progress", False))

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed([Passage(query)], "query")[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await self._aembed([Passage(query)], "query"))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed([Passage(text) for text in texts], "passage")

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await self._aembed([Passage(text) for text in texts], "passage")

    def _get_image_embedding(self, img_file_path: ImageSource) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_image_embedding(self, img_file_path: ImageSource) -> Embedding:
        return (await self._aget_image_embeddings([img_file_path]))[0]

    def _get_image_embeddings(self, img_file_paths: Sequence[ImageSource]) -> list[Embedding]:
        return self._embed(_pictures(img_file_paths), "passage")

    async def _aget_image_embeddings(self, img_file_paths: Sequence[ImageSource]) -> list[Embedding]:
        return await self._aembed(_pictures(img_file_paths), "passage")

    def _embed(self, passages: Sequence[Passage], role: Role) -> list[Embedding]:
        return embed(self._model.get(), passages, role, self.cache)

    async def _aembed(self, passages: Sequence[Passage], role: Role) -> list[Embedding]:
        return await aembed(await self._model.aget(), passages, role, self.cache)

    def _batches(self, passages: Sequence[Passage], show_progress: bool) -> Iterator[Sequence[Passage]]:
        starts = range(0, len(passages), self.image_batch_size)
        for start in get_tqdm_iterable(starts, show_progress, "Embedding pages"):
            yield passages[start : start + self.image_batch_size]

    def _events(self, passages: Sequence[Passage]) -> AbstractContextManager[list[Embedding]]:
        return embedding_events(self.callback_manager, payload=self.to_payload(), passages=passages)


def _pictures(images: Sequence[ImageSource]) -> list[Passage]:
    missing = [i for i, image in enumerate(images) if image is None]
    if missing:
        raise InputError(f"wanted a picture, got None at index {missing[0]}; leave it out")
    return [Passage(image=image) for image in images]


def _pages(images: Sequence[ImageSource], texts: Sequence[str]) -> list[Passage]:
    if len(images) != len(texts):
        raise InputError(f"wanted a text for each picture, got {len(images)} pictures and {len(texts)} texts")
    return [replace(picture, text=text) for picture, text in zip(_pictures(images), texts, strict=True)]
