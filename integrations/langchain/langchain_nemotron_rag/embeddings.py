"""`NemotronEmbeddings`: LangChain's embeddings over a local Nemotron embedder. It knows no store."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, overload

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from pydantic import Field

from langchain_nemotron_rag._convert import describe, image_source, passage_of
from langchain_nemotron_rag._local import LocalModel
from nemotron_rag import Embedder, Passage, load_embedder
from nemotron_rag.errors import ImageError, InputError

__all__ = ["NemotronEmbeddings"]

T = TypeVar("T")


class NemotronEmbeddings(LocalModel, Embeddings):
    """Embed questions, texts, page pictures, or pictures with their texts into one space, in this process.

    Texts are texts: a string given to `embed_documents` or `embed_query` is never taken for a path. The image methods
    take what the caller hands them: path, data URI, bytes, decoded picture, array, `Blob`, content block, or a URL on
    `image_hosts`. Pictures that *documents* name are opened as `image_roots` and `image_hosts` allow.

    Vectors are lists of Python floats of length 1. Construction loads nothing; the first use does.

    Args:
        model: catalog id, hub repository, local folder, or a loaded `nemotron_rag.Embedder`.
        dimensions: shorter vectors (Matryoshka), for models trained for it; None for all.
        device, dtype, revision, max_input_tiles, max_length: see `nemotron_rag.load_embedder`.
        image_key: where in the metadata of documents the picture is.
        image_roots: folders whose files may be opened because a document names them.
        image_hosts: hosts that may be asked for pictures.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> embeddings = NemotronEmbeddings(model=FakeEmbedder(dimensions=8))
        >>> len(embeddings.embed_query("Where do tornadoes form?"))
        8
    """

    model: str | Path | Embedder = "llama-nemotron-embed-vl-1b-v2"
    dimensions: int | None = Field(default=None, ge=1)

    _load_settings: ClassVar[tuple[str, ...]] = (*LocalModel._load_settings, "dimensions")

    def load(self) -> Embedder:
        """The loaded model; loads it if need be.

        Raises:
            NemotronRagError: as `nemotron_rag.load_embedder`.
        """
        return self._load(load_embedder)

    def embed_query(self, text: str) -> list[float]:
        """Embed a question.

        Raises:
            InputError: it is no text.
        """
        _check_text(text, "query")
        return cast("list[float]", self.load().embed_queries([text])[0].tolist())

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts as passages, one vector each.

        Raises:
            InputError: an item is no text; pictures have methods of their own.
        """
        return self._embed(_text_passages(texts))

    def embed_images(self, images: Sequence[Any]) -> list[list[float]]:
        """Embed pictures, one vector each.

        Args:
            images: paths, data URIs, bytes, decoded pictures, arrays, blobs, content blocks, or URLs on `image_hosts`.

        Raises:
            ImageError: a picture cannot be read; the message names its index.
        """
        return self._embed(_Lazy(_several(images, "images"), self._image_passage))

    @overload
    def embed_image(self, image: list[Any] | tuple[Any, ...]) -> list[list[float]]: ...
    @overload
    def embed_image(self, image: None = None, *, uris: Sequence[Any]) -> list[list[float]]: ...
    @overload
    def embed_image(self, image: Any) -> list[float]: ...
    def embed_image(self, image: Any = None, *, uris: Sequence[Any] | None = None) -> Any:
        """Embed one picture, or several: stores differ in how they call this method.

        Args:
            image: one picture (see `embed_images`), or a list of them.
            uris: a list of them, as Chroma, LanceDB and SingleStoreDB call it.

        Returns:
            One vector for one picture; a list of vectors for a list.

        Raises:
            InputError: neither or both were given.
            ImageError: a picture cannot be read.
        """
        several, images = _one_or_several(image, uris)
        rows = self.embed_images(images)
        return rows if several else rows[0]

    def embed_image_texts(self, pairs: Sequence[tuple[Any, str]]) -> list[list[float]]:
        """Embed pictures together with their texts, one vector for each pair.

        Args:
            pairs: picture (see `embed_images`) and text.

        Raises:
            InputError: an item is no such pair.
            ImageError: a picture cannot be read; the message names its index.
        """
        return self._embed(_Lazy(_several(pairs, "pairs"), self._pair_passage))

    def embed_pages(self, documents: Sequence[Document]) -> list[list[float]]:
        """Embed documents with all they have: text, picture, or both.

        Raises:
            InputError: an item is no document.
            ImageError: a picture may not be opened or cannot be read; the message names the document.
        """
        return self._embed(_Lazy(_several(documents, "documents"), self._document_passage))

    async def aembed_query(self, text: str) -> list[float]:
        """The same as `embed_query`, without blocking the event loop."""
        _check_text(text, "query")
        embedder = await run_in_executor(None, self.load)
        return cast("list[float]", (await embedder.aembed_queries([text]))[0].tolist())

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same as `embed_documents`, without blocking the event loop."""
        return await self._aembed(_text_passages(texts))

    async def aembed_images(self, images: Sequence[Any]) -> list[list[float]]:
        """The same as `embed_images`, without blocking the event loop."""
        return await self._aembed(_Lazy(_several(images, "images"), self._image_passage))

    async def aembed_image(self, image: Any = None, *, uris: Sequence[Any] | None = None) -> Any:
        """The same as `embed_image`, without blocking the event loop."""
        several, images = _one_or_several(image, uris)
        rows = await self.aembed_images(images)
        return rows if several else rows[0]

    async def aembed_image_texts(self, pairs: Sequence[tuple[Any, str]]) -> list[list[float]]:
        """The same as `embed_image_texts`, without blocking the event loop."""
        return await self._aembed(_Lazy(_several(pairs, "pairs"), self._pair_passage))

    async def aembed_pages(self, documents: Sequence[Document]) -> list[list[float]]:
        """The same as `embed_pages`, without blocking the event loop."""
        return await self._aembed(_Lazy(_several(documents, "documents"), self._document_passage))

    def _embed(self, passages: Sequence[Passage]) -> list[list[float]]:
        if len(passages) == 0:
            return []
        return cast("list[list[float]]", self.load().embed_passages(passages).tolist())

    async def _aembed(self, passages: Sequence[Passage]) -> list[list[float]]:
        if len(passages) == 0:
            return []
        embedder = await run_in_executor(None, self.load)
        return cast("list[list[float]]", (await embedder.aembed_passages(passages)).tolist())

    def _image_passage(self, image: Any, index: int, text: str = "") -> Passage:
        if image is None:
            raise InputError(f"image {index} is None, wanted a picture")
        try:
            source = image_source(image)
            # It is the caller who names paths here, not a document: the model's own reader opens them.
            return Passage(text, self._access.open(source) if _is_url(source) else source)
        except ImageError as error:
            raise type(error)(f"image {index}: {error}") from error

    def _pair_passage(self, pair: Any, index: int) -> Passage:
        if not isinstance(pair, Sequence) or isinstance(pair, str | bytes) or len(pair) != 2:
            raise InputError(f"pair {index} is of type {type(pair).__name__}, wanted (picture, text)")
        _check_text(pair[1], f"the text of pair {index}")
        return self._image_passage(pair[0], index, pair[1])

    def _document_passage(self, document: Any, index: int) -> Passage:
        if not isinstance(document, Document):
            raise InputError(f"document {index} is of type {type(document).__name__}, wanted Document")
        try:
            return passage_of(document, image_key=self.image_key, access=self._access)
        except ImageError as error:
            raise type(error)(f"{describe(document, index)}: {error}") from error


class _Lazy(Sequence[Passage]):
    """Passages made when the model asks for them, so that it decodes a window at a time and not all at once."""

    def __init__(self, items: Sequence[Any], make: Callable[[Any, int], Passage]) -> None:
        self._items = items
        self._make = make

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        places = range(len(self._items))[index]
        if isinstance(places, int):
            return self._make(self._items[places], places)
        return [self._make(self._items[place], place) for place in places]


def _is_url(source: object) -> bool:
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{what} is of type {type(value).__name__}, wanted str; pictures have methods of their own")


def _text_passages(texts: Sequence[str]) -> list[Passage]:
    for index, text in enumerate(_several(texts, "texts")):
        _check_text(text, f"text {index}")
    return [Passage(text) for text in texts]


def _several(items: Sequence[T], what: str) -> Sequence[T]:
    """The items, known to be several and not one: a string is a sequence too."""
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Sequence):
        raise InputError(f"wanted a list of {what}, got {type(items).__name__}; put a single one into a list")
    return items


def _one_or_several(image: Any, uris: Sequence[Any] | None) -> tuple[bool, Sequence[Any]]:
    if (image is None) == (uris is None):
        raise InputError("wanted either a picture or uris=, got " + ("neither" if image is None else "both"))
    if uris is not None:
        return True, uris
    if isinstance(image, list | tuple):
        return True, image
    return False, [image]
