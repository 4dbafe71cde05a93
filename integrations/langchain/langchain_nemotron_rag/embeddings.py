"""`NemotronEmbeddings`: LangChain's embeddings over a local Nemotron embedder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_nemotron_rag._documents import describe, is_label, of_label, passage_of, readable
from langchain_nemotron_rag._settings import ModelFields, Unchecked
from nemotron_rag import Embedder, Passage
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.protocols import reads_image_queries
from nemotron_rag.types import Kind

__all__ = ["NemotronEmbeddings"]

T = TypeVar("T")
_log = logging.getLogger("nemotron_rag")


class NemotronEmbeddings(ModelFields, Embeddings):
    """Embed queries, texts, page images, or images with their texts into one space, in this process.

    Texts are texts: a string given to `embed_documents` or `embed_query` is never taken for a path. The image methods
    take what the caller hands them: path, data URI, bytes, decoded image, array, `Blob`, content block, or a URL on
    `image_hosts`. Images that *documents* name are opened as `image_roots` and `image_hosts` allow.

    Vectors are lists of Python floats of length 1. Construction loads nothing; the first use does. The ``a...`` methods
    do not block the event loop.

    Args:
        model: catalog id, hub repository, local folder, or a loaded `nemotron_rag.Embedder`.
        dimensions: shorter vectors (Matryoshka), for models trained for it; None for all.
        device, dtype, revision, max_input_tiles, use_thumbnail, max_length, max_image_tokens, instruction, compile: see
            `nemotron_rag.LoadOptions`.
        base_url, dialect, endpoint: for a model at a server, see there too.
        image_key: where in the metadata of documents the image is.
        image_roots: folders whose files may be opened because a document names them.
        image_hosts: hosts that images may be fetched from.

    Raises:
        UnknownModelError: there is no such model.
        InputError: it does not give one vector a passage, or cannot be loaded with these options.
        pydantic.ValidationError: another field has an impossible value.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> embeddings = NemotronEmbeddings(model=FakeEmbedder(dimensions=8))
        >>> len(embeddings.embed_query("Where do tornadoes form?"))
        8
    """

    model: Unchecked[str | Path | Embedder] = "llama-nemotron-embed-vl-1b-v2"
    dimensions: Unchecked[int | None] = None

    _kinds: ClassVar[tuple[Kind, ...]] = ("embedder",)

    def load(self) -> Embedder:
        """The loaded model; loads it if need be.

        Raises:
            NemotronRagError: as `nemotron_rag.load_embedder`.
        """
        return cast("Embedder", self._lazy().get())

    def embed_query(self, text: str) -> list[float]:
        """Embed a query.

        Raises:
            InputError: it is not a str.
        """
        _check_text(text, "query")
        return cast("list[float]", self.load().embed_queries([text])[0].tolist())

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` for event loops."""
        _check_text(text, "query")
        embedder = await self._lazy().aget()
        return cast("list[float]", (await embedder.aembed_queries([text]))[0].tolist())

    def embed_image_query(self, image: Any) -> list[float]:
        """Embed an image that is a query: as one where the model reads such queries, else as an image of a page.

        Args:
            image: see `embed_images`.

        Raises:
            ImageError: it cannot be read.
            InputError: the model reads no images.
        """
        passage, embedder = self._image(image, 0), self.load()
        with _naming([image]):
            if reads_image_queries(embedder):
                return cast("list[float]", embedder.embed_queries([passage])[0].tolist())
            return cast("list[float]", embedder.embed_passages([passage])[0].tolist())

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts as passages, one vector each.

        The label of a page without text, which stores and filters pass on in the place of one, is no text: the page's
        image is embedded for it, while a document in this process holds that; else nothing is, with a warning.

        Raises:
            InputError: an item is not a str; images have methods of their own.
        """
        seen = _labels(texts)
        try:
            return self._embed(texts, "texts", _text)
        except InputError:
            if not seen:
                raise
            return self._embed(texts, "texts", _text_alone)  # the model reads no images

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` for event loops."""
        seen = _labels(texts)
        try:
            return await self._aembed(texts, "texts", _text)
        except InputError:
            if not seen:
                raise
            return await self._aembed(texts, "texts", _text_alone)

    def embed_images(self, images: Sequence[Any]) -> list[list[float]]:
        """Embed images, one vector each.

        Args:
            images: paths, data URIs, bytes, decoded images, arrays, blobs, content blocks, or URLs on `image_hosts`.

        Raises:
            ImageError: an image cannot be read; the message names its index.
        """
        return self._embed(images, "images", self._image)

    async def aembed_images(self, images: Sequence[Any]) -> list[list[float]]:
        """`embed_images` for event loops."""
        return await self._aembed(images, "images", self._image)

    def embed_image(self, image: Any = None, *, uris: Sequence[Any] | None = None) -> Any:
        """Embed one image, or several: stores differ in how they call this method.

        Args:
            image: one image (see `embed_images`), or a list of them.
            uris: a list of them, as Chroma, LanceDB and SingleStoreDB call it.

        Returns:
            One vector for one image; a list of vectors for a list.

        Raises:
            InputError: neither or both were given.
            ImageError: an image cannot be read.
        """
        several, images = _one_or_several(image, uris)
        rows = self.embed_images(images)
        return rows if several else rows[0]

    async def aembed_image(self, image: Any = None, *, uris: Sequence[Any] | None = None) -> Any:
        """`embed_image` for event loops."""
        several, images = _one_or_several(image, uris)
        rows = await self.aembed_images(images)
        return rows if several else rows[0]

    def embed_image_texts(self, pairs: Sequence[tuple[Any, str]]) -> list[list[float]]:
        """Embed images together with their texts, one vector for each pair.

        Args:
            pairs: image (see `embed_images`) and text.

        Raises:
            InputError: an item is no such pair.
            ImageError: an image cannot be read; the message names its index.
        """
        return self._embed(pairs, "pairs", self._pair)

    async def aembed_image_texts(self, pairs: Sequence[tuple[Any, str]]) -> list[list[float]]:
        """`embed_image_texts` for event loops."""
        return await self._aembed(pairs, "pairs", self._pair)

    def embed_pages(self, documents: Sequence[Document]) -> list[list[float]]:
        """Embed documents with all they have: text, image, or both.

        Raises:
            InputError: an item is no document.
            ImageError: an image may not be opened or cannot be read; the message names the document.
        """
        return self._embed(documents, "documents", self._page)

    async def aembed_pages(self, documents: Sequence[Document]) -> list[list[float]]:
        """`embed_pages` for event loops."""
        return await self._aembed(documents, "documents", self._page)

    # Images are opened by the model, a window of them at a time: a thousand pages are never decoded at once.

    def _embed(self, items: Sequence[T], what: str, read: Callable[[T, int], Passage]) -> list[list[float]]:
        passages = [read(item, index) for index, item in enumerate(_several(items, what))]
        if not passages:
            return []
        with _naming(items):
            return cast("list[list[float]]", self.load().embed_passages(passages).tolist())

    async def _aembed(self, items: Sequence[T], what: str, read: Callable[[T, int], Passage]) -> list[list[float]]:
        passages = [read(item, index) for index, item in enumerate(_several(items, what))]
        if not passages:
            return []
        embedder = await self._lazy().aget()
        with _naming(items):
            return cast("list[list[float]]", (await embedder.aembed_passages(passages)).tolist())

    def _image(self, image: Any, index: int, text: str = "") -> Passage:
        if image is None:
            raise InputError(f"image {index} is None; leave it out")
        return Passage(text, readable(image, self._access.of_caller))

    def _pair(self, pair: tuple[Any, str], index: int) -> Passage:
        if not isinstance(pair, Sequence) or isinstance(pair, str | bytes) or len(pair) != 2:
            raise InputError(f"pair {index} must be an image and a text, got {type(pair).__name__}")
        _check_text(pair[1], f"the text of pair {index}")
        return self._image(pair[0], index, pair[1])

    def _page(self, document: Document, index: int) -> Passage:
        if not isinstance(document, Document):
            raise InputError(f"document {index} must be a Document, got {type(document).__name__}")
        return passage_of(document, image_key=self.image_key, access=self._access)


@contextmanager
def _naming(items: Sequence[Any]) -> Iterator[None]:
    """Call in image errors by name what the model knows by index."""
    try:
        yield
    except ImageError as error:
        if error.index is None:
            raise
        item = items[error.index]
        name = describe(item, error.index) if isinstance(item, Document) else f"image {error.index}"
        raise error.named(name) from error


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{what} must be a str, got {type(value).__name__}; images have methods of their own")


def _text(text: str, index: int) -> Passage:
    _check_text(text, f"text {index}")
    return of_label(text) if is_label(text) else Passage(text)


def _text_alone(text: str, index: int) -> Passage:
    return Passage("" if is_label(text) else text)


def _labels(texts: object) -> bool:
    """Whether labels are among the texts that stand for images; those that stand for nothing are said."""
    labels = [text for text in texts if isinstance(text, str) and is_label(text)] if isinstance(texts, list) else []
    lost = [text for text in labels if of_label(text).image is None]
    if lost:
        _log.warning(
            "%d pages without text are embedded as nothing, the first is %r; to embed their images, use embed_pages or "
            "NemotronPageVectorStore",
            len(lost),
            lost[0][:200],
        )
    return len(lost) < len(labels)


def _several(items: Sequence[T], what: str) -> Sequence[T]:
    """The items, if they are several and not one: a str is a sequence too."""
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Sequence):
        raise InputError(f"{what} must be a list, got {type(items).__name__}; put a single one into a list")
    return items


def _one_or_several(image: Any, uris: Sequence[Any] | None) -> tuple[bool, Sequence[Any]]:
    if (image is None) == (uris is None):
        raise InputError("give either an image or uris=, got " + ("neither" if image is None else "both"))
    if uris is not None:
        return True, uris
    if isinstance(image, list | tuple):
        return True, image
    return False, [image]
