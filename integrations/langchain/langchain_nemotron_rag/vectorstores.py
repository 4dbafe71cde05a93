"""`NemotronPageVectorStore`: LangChain's vector store over Qdrant, for texts and page pictures. It ranks nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from langchain_nemotron_rag._collection import DocumentCollection
from langchain_nemotron_rag._convert import IMAGE_KEY
from langchain_nemotron_rag._pictures import ImageForm, Images, Pictures, open_images
from langchain_nemotron_rag._points import Layout
from langchain_nemotron_rag._searching import SearchableStore
from langchain_nemotron_rag._steps import Steps, arun, run
from langchain_nemotron_rag._writing import BATCH, Writer, text_documents
from nemotron_rag.access import ImageAccess
from nemotron_rag.errors import InputError
from nemotron_rag.stores.client import Filter, Qdrant

__all__ = ["NemotronPageVectorStore"]


class NemotronPageVectorStore(SearchableStore):
    """Keep documents, their page pictures and their vectors in Qdrant, and search them by text or picture.

    A document's picture is read from ``metadata["image"]`` when the document is added, embedded together with its
    text if the embedding reads pictures (`NemotronEmbeddings` does), kept as a PNG file outside the payload, and put
    back when the document is found. Ids are any texts. Opening embeds nothing; the first write makes the collection.

    Collections that langchain-qdrant wrote are read and extended, and it can read what is written here. An index of
    `nemotron_rag.PageIndex` or ``nemotron-rag index`` (``collection_name="pages"``) is searched, not changed.

    Methods may be called from any thread or event loop. With a server, async methods use an async client; an embedded
    Qdrant does one thing at a time, in threads. Copies share the connection; a pickle holds the settings and connects
    again. In one process, all stores in one folder share a client.

    Args:
        embedding: of questions and documents.
        location: None for memory, a folder, or the ``http(s)://`` url of a server.
        client: an open `QdrantClient` instead, for example with an API key; it is never closed here.
        async_client: for the async methods with a server; None makes one like `client`.
        collection_name: one location may hold several.
        vector_name: of the vector; empty for the unnamed one.
        distance: of a new collection.
        content_payload_key: where texts are in the payload.
        metadata_payload_key: where metadata are in the payload.
        images: where pictures are kept: a folder, an fsspec URL, or a `PageImages`. True is beside an embedded
            collection (``<location>/images/<collection_name>``) or in memory; with a server it must be said.
        image_form: how found documents carry pictures: "data_uri" works everywhere; "path" is a file's path, small
            in traces, and wants ``image_roots`` where it is opened; "none" leaves them out.
        image_key: where in the metadata the picture is.
        image_roots: folders whose files may be opened because a document names them.
        image_hosts: hosts that may be asked for pictures because a document names them.

    Raises:
        InputError: both `location` and `client` are given, or `images` is no place.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_nemotron_rag import NemotronEmbeddings
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
        >>> store.add_documents([Document("red apples"), Document("blue whales")], ids=["a", "w"])
        ['a', 'w']
        >>> store.similarity_search("apples", k=1)
        [Document(id='a', metadata={}, page_content='red apples')]
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        location: str | os.PathLike[str] | None = None,
        client: QdrantClient | None = None,
        async_client: AsyncQdrantClient | None = None,
        collection_name: str = "documents",
        vector_name: str = "",
        distance: models.Distance = models.Distance.COSINE,
        content_payload_key: str = "page_content",
        metadata_payload_key: str = "metadata",
        images: Images = True,
        image_form: ImageForm = "data_uri",
        image_key: str = IMAGE_KEY,
        image_roots: Sequence[str | os.PathLike[str]] = (),
        image_hosts: Sequence[str] = (),
    ) -> None:
        qdrant = Qdrant(location, client=client, async_client=async_client)
        layout = Layout(content_payload_key, metadata_payload_key, vector_name)
        access = ImageAccess(roots=tuple(Path(root) for root in image_roots), hosts=tuple(image_hosts))
        kept = open_images(images, qdrant, collection_name)
        self._embedding = embedding
        self._qdrant = qdrant
        self._collection = DocumentCollection(qdrant, collection_name, layout=layout, distance=distance)
        self._pictures = Pictures(kept, access=access, image_key=image_key, form=image_form)
        self._writer = Writer(embedding, self._collection, self._pictures)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **options: Any,
    ) -> Self:
        """A store with these texts in it; `options` are those of the class. `from_documents` is its sibling."""
        store = cls(embedding, **options)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **options: Any,
    ) -> Self:
        """The same as `from_texts`, without blocking the event loop."""
        store = cls(embedding, **options)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_existing_collection(cls, collection_name: str, embedding: Embeddings, **options: Any) -> Self:
        """Open a collection that must be there, written by this class, langchain-qdrant or PageIndex.

        Args:
            collection_name: its name.
            embedding: the one that wrote it.
            **options: those of the class.

        Raises:
            InputError, StoreError: there is no such collection, or it has no such vector.
        """
        store = cls(embedding, collection_name=collection_name, **options)
        if run(store._collection.shape()) is None:
            raise InputError(f"there is no {store._collection}; give its name and location, or make it by adding to it")
        return store

    @property
    def embeddings(self) -> Embeddings:
        """What embeds questions and documents."""
        return self._embedding

    @property
    def client(self) -> QdrantClient:
        """Qdrant's own client; an embedded one is not safe among threads."""
        return self._qdrant.client

    @property
    def collection_name(self) -> str:
        """Name of the collection."""
        return self._collection.name

    def add_documents(  # type: ignore[override]  # an unknown option raises
        self,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = BATCH,
    ) -> list[str]:
        """Add documents with their pictures; one whose id is there already is replaced.

        Args:
            documents: unchanged by this.
            ids: one for each, instead of the documents' own; where both are None, a new one is made.
            batch_size: documents that are read, embedded and written together.

        Returns:
            The ids.

        Raises:
            InputError: not one id for each, or a document that the embedding cannot read.
            ImageError: a picture may not be opened or cannot be read; earlier batches are stored.
            StoreError: a write was not acknowledged.
        """
        return run(self._writer.add(documents, ids, batch_size))

    async def aadd_documents(  # type: ignore[override]  # an unknown option raises
        self,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = BATCH,
    ) -> list[str]:
        """The same as `add_documents`, without blocking the event loop."""
        return await arun(self._writer.add(documents, ids, batch_size))

    def add_texts(  # type: ignore[override]  # an unknown option raises
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = BATCH,
    ) -> list[str]:
        """Add texts, with one of `metadatas` and `ids` for each if they are given; see `add_documents`."""
        return self.add_documents(text_documents(texts, metadatas), ids=ids, batch_size=batch_size)

    async def aadd_texts(  # type: ignore[override]  # an unknown option raises
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = BATCH,
    ) -> list[str]:
        """The same as `add_texts`, without blocking the event loop."""
        return await self.aadd_documents(text_documents(texts, metadatas), ids=ids, batch_size=batch_size)

    def add_images(
        self,
        uris: Iterable[Any],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = BATCH,
    ) -> list[str]:
        """Add pictures without texts; see `add_documents`.

        Args:
            uris: paths, data URIs, bytes, decoded pictures, blobs, content blocks, or URLs on `image_hosts`. Paths
                are the caller's own and need no `image_roots`. A path becomes the ``source`` if there is none.
            metadatas: one for each.
            ids: one for each.
            batch_size: pictures that are read, embedded and written together.

        Raises:
            InputError: not one of `metadatas` and `ids` for each picture, or the embedding reads no pictures.
            ImageError: a picture cannot be read; earlier batches are stored.
        """
        return run(self._writer.add_images(uris, metadatas, ids, batch_size))

    async def aadd_images(
        self,
        uris: Iterable[Any],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = BATCH,
    ) -> list[str]:
        """The same as `add_images`, without blocking the event loop."""
        return await arun(self._writer.add_images(uris, metadatas, ids, batch_size))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents that are there, in the order of their ids."""
        return run(self._get(ids))

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The same as `get_by_ids`, without blocking the event loop."""
        return await arun(self._get(ids))

    def delete(  # type: ignore[override]  # an unknown option raises
        self, ids: Sequence[str] | None = None, *, filter: Filter | None = None
    ) -> bool:
        """Remove documents and their pictures.

        Args:
            ids: of documents; those that are not there are passed over. None, without a filter, removes all.
            filter: instead: over metadata keys, as in `similarity_search`.

        Returns:
            True: they are gone.

        Raises:
            InputError: both `ids` and `filter` were given.
            StoreError: a write was not acknowledged.
        """
        return run(self._writer.remove(ids, filter))

    async def adelete(  # type: ignore[override]  # an unknown option raises
        self, ids: Sequence[str] | None = None, *, filter: Filter | None = None
    ) -> bool:
        """The same as `delete`, without blocking the event loop."""
        return await arun(self._writer.remove(ids, filter))

    def close(self) -> None:
        """Let go of the connection; later calls raise `ClosedError`. A client that was handed in stays open."""
        self._qdrant.close()

    async def aclose(self) -> None:
        """The same as `close`, for the async client too."""
        await self._qdrant.aclose()

    def _get(self, ids: Sequence[str]) -> Steps[list[Document]]:
        points = yield from self._collection.get(ids)
        documents: list[Document] = yield self._show(points)
        return documents
