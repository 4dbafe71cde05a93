"""Where a retriever finds documents: an index of pages, or any vector store of LangChain. It knows no reranker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore
from PIL import Image

from langchain_nemotron_rag._convert import ImageFormat, encode_image, image_source, to_data_uri
from langchain_nemotron_rag._pages import bare_document, index_filter
from langchain_nemotron_rag._steps import Step
from nemotron_rag import Embedder, Hit, MultiVectorEmbedder, PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.index import Mode
from nemotron_rag.stores.client import Filter, Qdrant
from nemotron_rag.stores.page_images import PageImages

__all__ = ["RELEVANCE_KEY", "RETRIEVAL_KEY", "IndexSource", "Source", "StoreSource", "open_index", "shown"]

RELEVANCE_KEY = "relevance_score"
RETRIEVAL_KEY = "retrieval_score"


class Source(Protocol):
    """Finds documents, best first, with their scores in the metadata; pictures may be decoded ones."""

    def by_text(self, query: str, k: int, wanted: Filter | None) -> Step:
        """A step that gives the k documents nearest to a question."""

    def by_image(self, image: Any, k: int, wanted: Filter | None) -> Step:
        """A step that gives the k documents that look most like a picture."""


class IndexSource:
    """Pages of an index.

    Args:
        index: open.
        image_key: where in the metadata pictures go.
        mode: how questions are looked for; see `PageIndex.search`.
    """

    def __init__(self, index: PageIndex, *, image_key: str, mode: Mode | None = None) -> None:
        self.index = index
        self._image_key, self._mode = image_key, mode

    def by_text(self, query: str, k: int, wanted: Filter | None) -> Step:
        """See `Source`."""
        options: dict[str, Any] = {"k": k, "rerank": False, "filter": index_filter(wanted), "mode": self._mode}

        async def later() -> list[Document]:
            return self._documents(await self.index.asearch(query, **options))

        return Step(lambda: self._documents(self.index.search(query, **options)), later)

    def by_image(self, image: Any, k: int, wanted: Filter | None) -> Step:
        """See `Source`."""
        source = image_source(image)
        options: dict[str, Any] = {"k": k, "filter": index_filter(wanted)}

        async def later() -> list[Document]:
            return self._documents(await self.index.asearch_image(source, **options))

        return Step(lambda: self._documents(self.index.search_image(source, **options)), later)

    def _documents(self, hits: list[Hit]) -> list[Document]:
        return [self._document(hit) for hit in hits]

    def _document(self, hit: Hit) -> Document:
        document = bare_document(hit.page)
        document.metadata[self._image_key] = hit.page.image
        return _scored(document, hit.retrieval_score)


class StoreSource:
    """Documents of a vector store.

    Args:
        store: any; searching by picture needs one that can.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def by_text(self, query: str, k: int, wanted: Filter | None) -> Step:
        """See `Source`."""
        return self._step("similarity_search_with_score", query, k, wanted)

    def by_image(self, image: Any, k: int, wanted: Filter | None) -> Step:
        """See `Source`."""
        return self._step("similarity_search_by_image_with_score", image, k, wanted)

    def _step(self, method: str, query: Any, k: int, wanted: Filter | None) -> Step:
        now, later = getattr(self._store, method, None), getattr(self._store, f"a{method}", None)
        if now is None or later is None:
            raise InputError(f"{type(self._store).__name__} has no {method}; use NemotronPageVectorStore or an index")
        options = {} if wanted is None else {"filter": wanted}

        async def later_documents() -> list[Document]:
            return [_scored(*found) for found in await later(query, k=k, **options)]

        return Step(lambda: [_scored(*found) for found in now(query, k=k, **options)], later_documents)


def open_index(
    qdrant: Qdrant,
    *,
    collection: str,
    images: str | Path | None,
    embedder: str | Path | Embedder | MultiVectorEmbedder | None,
    device: str | None,
    dtype: str | None,
) -> PageIndex:
    """An index that is there, to be searched.

    Raises:
        InputError: there is no such folder, or it has no such collection and there is no embedder.
        StoreError: the folder is in use, or the collection is not one of nemotron_rag.
        IndexMismatchError: another embedder wrote it.
    """
    folder = qdrant.folder
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"there is no index folder {folder}; make it with nemotron_rag.PageIndex or `nemotron-rag index`"
        )
    if images is None and folder is not None:
        images = folder / "images" / collection  # where PageIndex puts them
    return PageIndex(
        client=qdrant.client,
        collection=collection,
        images=None if images is None else PageImages(images),
        embedder=embedder,
        device=device,
        dtype=dtype,
    )


def shown(document: Document, *, image_key: str, image_format: ImageFormat | None) -> Document:
    """A found document as the caller gets it: its decoded picture as a data URI, or none if there is no format."""
    picture = document.metadata.get(image_key)
    if image_format is not None and picture is not None and not isinstance(picture, Image.Image):
        return document
    metadata = {key: value for key, value in document.metadata.items() if key != image_key}
    if image_format is not None and picture is not None:
        data, mime_type = encode_image(picture, image_format)
        metadata |= {image_key: to_data_uri(data, mime_type), "mime_type": mime_type}
    return document.model_copy(update={"metadata": metadata})


def _scored(document: Document, score: float) -> Document:
    scores = {RELEVANCE_KEY: float(score), RETRIEVAL_KEY: float(score)}
    return document.model_copy(update={"metadata": {**document.metadata, **scores}})
