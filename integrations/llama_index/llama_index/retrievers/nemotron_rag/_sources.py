"""Where a retriever finds nodes: what a source is, and the one over a `PageIndex`. It knows no reranker."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

from llama_index.core.schema import BaseNode, NodeWithScore, TextNode
from llama_index.core.vector_stores import MetadataFilters
from qdrant_client import models

from llama_index.embeddings.nemotron_rag.nodes import PageNode
from llama_index.readers.nemotron_rag.documents import FILE_PATH, IMAGE_PATH, PAGE_NUMBER, TOTAL_PAGES, page_fields
from llama_index.readers.nemotron_rag.pictures import encoded
from llama_index.retrievers.nemotron_rag._filters import Filters, compile_metadata_filters
from nemotron_rag.errors import InputError
from nemotron_rag.index import Mode, PageIndex
from nemotron_rag.protocols import Embedder, MultiVectorEmbedder
from nemotron_rag.stores.client import Filter, Qdrant, compile_filter
from nemotron_rag.types import Hit, Passage

__all__ = ["IndexOptions", "IndexSource", "Source"]

# What nodes call a page's fields -> what the index calls them; and what nodes have that the index does not store.
_FIELDS = {FILE_PATH: "source", PAGE_NUMBER: "number", TOTAL_PAGES: "page_count"}
_DERIVED = ("file_name", "page_label", IMAGE_PATH)


class Source(Protocol):
    """Finds nodes for a question, best first; each call may come from any thread."""

    def search(self, question: Passage, *, k: int, filters: Filters | None) -> list[NodeWithScore]:
        """The k nodes nearest to a text, or to a picture."""

    async def asearch(self, question: Passage, *, k: int, filters: Filters | None) -> list[NodeWithScore]:
        """The same, without blocking the event loop."""


class IndexOptions(TypedDict, total=False):
    """Arguments of `PageIndex` for one that is opened by its location."""

    embedder: str | os.PathLike[str] | Embedder | MultiVectorEmbedder | None
    collection: str
    images: str | os.PathLike[str] | None
    device: str | None
    dtype: str | None
    max_input_tiles: int | None


class IndexSource:
    """Pages of an index, which is opened by the first search if it is named.

    Args:
        index: open; or the folder or url of one.
        mode: how questions in words are looked for; see `PageIndex.search`.
        inline_images: give nodes their pictures as base64, not as paths.
        options: for an index by location.

    Raises:
        InputError: options came with an open index.
    """

    def __init__(
        self,
        index: PageIndex | str | os.PathLike[str],
        *,
        mode: Mode | None,
        inline_images: bool,
        options: IndexOptions,
    ) -> None:
        if isinstance(index, PageIndex) and options:
            raise InputError(f"{', '.join(options)} belong to an index by location; set them where it is opened")
        self._index, self._mode, self._inline, self._options = index, mode, inline_images, options
        self._opened: tuple[Qdrant, PageIndex] | None = None
        self._opening = threading.Lock()

    def search(self, question: Passage, *, k: int, filters: Filters | None) -> list[NodeWithScore]:
        """See `Source`."""
        index, wanted = self._open(), _index_filter(filters)
        if question.image is not None:
            return self._nodes(index.search_image(question.image, k=k, filter=wanted))
        return self._nodes(index.search(question.text, k=k, filter=wanted, mode=self._mode))

    async def asearch(self, question: Passage, *, k: int, filters: Filters | None) -> list[NodeWithScore]:
        """See `Source`."""
        index, wanted = await asyncio.to_thread(self._open), _index_filter(filters)
        if question.image is not None:
            hits = await index.asearch_image(question.image, k=k, filter=wanted)
        else:
            hits = await index.asearch(question.text, k=k, filter=wanted, mode=self._mode)
        return await asyncio.to_thread(self._nodes, hits)

    def close(self) -> None:
        """Close the index if it was opened here; the next search opens it again."""
        with self._opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].close()
            opened[0].close()

    def _open(self) -> PageIndex:
        if isinstance(self._index, PageIndex):
            return self._index
        with self._opening:
            if self._opened is None:
                self._opened = _opened(self._index, self._options)
            return self._opened[1]

    def _nodes(self, hits: Sequence[Hit]) -> list[NodeWithScore]:
        return [NodeWithScore(node=self._node(hit), score=float(hit.score)) for hit in hits]

    def _node(self, hit: Hit) -> BaseNode:
        picture = hit.page.image
        if picture is None:
            return TextNode(**page_fields(hit.page))
        if hit.image_path is not None and "://" not in hit.image_path and not self._inline:
            path = str(Path(hit.image_path).absolute())
            return PageNode(**page_fields(hit.page, image_path=path), image_path=path)
        image = base64.b64encode(encoded(picture, "png")).decode("ascii")
        return PageNode(**page_fields(hit.page), image=image, image_mimetype="image/png")


def _opened(location: str | os.PathLike[str], options: IndexOptions) -> tuple[Qdrant, PageIndex]:
    """An index that is there, over a client that all who name its folder in this process share."""
    qdrant = Qdrant(location)
    folder = qdrant.folder
    if folder is not None and not folder.is_dir():
        raise InputError(f"there is no index folder {folder}; make it with PageIndex or `nemotron-rag index`")
    given: dict[str, Any] = {"images": None, **options}
    if given["images"] is None and folder is not None:
        given["images"] = folder / "images" / options.get("collection", "pages")  # where PageIndex puts them
    try:
        return qdrant, PageIndex(client=qdrant.client, **given)
    except BaseException:
        qdrant.close()
        raise


def _index_filter(filters: Filters | None) -> Filter | None:
    """Filters in the words of nodes, in the words of the index."""
    if isinstance(filters, MetadataFilters):
        return compile_metadata_filters(filters, _leaf)
    if isinstance(filters, Mapping):
        return {_field(key): value for key, value in filters.items()}
    return filters


def _leaf(key: str, value: Any) -> models.Filter:
    return compile_filter({_field(key): value}) or models.Filter()


def _field(key: str) -> str:
    if key in _DERIVED:
        raise InputError(f"an index does not store {key}; filter on {FILE_PATH}, {PAGE_NUMBER} or your own metadata")
    return _FIELDS.get(key, key)
