"""`NemotronPageVectorStore`: LangChain's vector store over Qdrant, for texts and page images."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, Unpack

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore
from qdrant_client import QdrantClient, models

from langchain_nemotron_rag._adding import Adding, AddOptions, Entry, Reader, entries_of
from langchain_nemotron_rag._batches import abatches, apaired, batches, length_of, paired
from langchain_nemotron_rag._documents import IMAGE_KEY, Ids, Metadatas, image_documents, text_documents
from langchain_nemotron_rag._finding import Finder, Scored, documents_of
from langchain_nemotron_rag._page_embedding import PageEmbedding
from langchain_nemotron_rag._stored import DocumentImages, DocumentLayout
from langchain_nemotron_rag.embeddings import NemotronEmbeddings
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.errors import InputError
from nemotron_rag.index.state import Images, images_of
from nemotron_rag.ranking import check_count
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.stores.filters import is_empty
from nemotron_rag.stores.page_images import ImageForm
from nemotron_rag.stores.qdrant import Filter, ForeignCollection, Identity, Qdrant, QdrantStore, Shape
from nemotron_rag.stores.server import ConnectionOptions
from nemotron_rag.stores.tenant import TenantKey

__all__ = ["NemotronPageVectorStore"]

_DELETED = 1000  # points whose images are looked up at once
BATCH = 32
"""Documents whose images are in memory at the same time, unless the caller says otherwise."""


class NemotronPageVectorStore(VectorStore):
    """Store documents, their page images and their vectors in Qdrant, and search them by text or image.

    A document's image is read from ``metadata["image"]`` when the document is added, embedded together with its
    text if the embedding reads images (`NemotronEmbeddings` does), stored as a PNG file outside the payload, and put
    back when the document is found. Ids are any texts. Opening embeds nothing; the first write makes the collection.

    Collections that langchain-qdrant wrote are read and extended, and it can read what is written here. An index of
    `nemotron_rag.PageIndex` or ``nemotron-rag index`` (``collection_name="pages"``) is searched, not changed.

    Methods may be called from any thread or event loop; the ``a...`` methods run in threads and do not block it.
    Copies share the connection; a pickle holds the settings and connects again. All who open a folder in one process
    share it, a `PageIndex` among them.

    All methods that search take these options by name:

    * `filter`: ``{"source": "a.pdf", "page": [0, 1], "year": {"gte": 2020}}`` over metadata keys, see
      `nemotron_rag.stores.filters` for the values; or a `qdrant_client.models.Filter`;
    * `mode`: "hybrid" also finds by the words of the texts (BM25), in searches for a query in words; the scores then
      only tell an order. Collections of earlier versions and other libraries have no words;
    * `score_threshold`, or `min_score`: worst score that is kept, in the collection's own measure;
    * `per_document`, `diversity`: at most so many documents of one ``source``; documents that are unlike each other;
    * `neighbours`: so many pages before and after each document found come behind it, if the filter matches them, with
      its id as ``neighbour_of`` in their metadata, and NaN for a score. These three are those of `PageIndex.search`;
    * `offset`: how many of the best to pass over;
    * `search_params`: a `qdrant_client.models.SearchParams`.

    They raise `InputError` for options that cannot be used, `IndexMismatchError` if the embedding does not fit the
    collection, and `StoreError` if Qdrant refuses. A collection that is not there yet gives no documents.

    Args:
        embedding: of queries and documents.
        location: None for memory, a folder, or the ``http(s)://`` url of a server.
        client: an open `QdrantClient` instead; it is never closed here.
        collection_name: one location may hold several.
        vector_name: of the vector; empty for the unnamed one.
        distance: of a new collection.
        content_payload_key: where texts are in the payload.
        metadata_payload_key: where metadata are in the payload.
        images: where images are stored: a folder, an fsspec URL, or a `PageImages`. True is beside the collection
            (``<location>/images/<collection_name>``, or in memory); with a server or a `client`, name a folder or URL,
            or None to store no images.
        image_form: how found documents carry images: as a "data_uri", which works everywhere; as the "path" of the
            file, small in traces, which needs ``image_roots`` where it is opened; as a "reference", the `StoredImage`
            itself, which `NemotronRerank` ranks without decoding it again, but which is no JSON; or "none".
        image_key: where in the metadata the image is.
        image_roots: folders whose files may be opened because a document names them.
        image_hosts: hosts that images may be fetched from because a document names them.
        tenant: a metadata key and its value, such as ``("customer", "acme")``: the collection is shared by many, and
            this store sees, changes and deletes the documents of this one alone, whatever filters and ids it is given.
            They have it in their metadata. Equal ids of two tenants are two documents.
        collection_options: of a new collection: a `nemotron_rag.stores.collection_options.CollectionOptions`, or a
            mapping of them.
        **connection: to a server that is given by its url: ``api_key`` (by default the environment variable
            ``QDRANT_API_KEY``), ``headers`` and ``timeout``; see `nemotron_rag.stores.server.ConnectionOptions`. No
            message, repr or pickle shows key or headers.

    Raises:
        InputError: both `location` and `client` are given, the url of a server holds credentials, or `images` is no
            place or missing for a server.

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
        tenant: TenantKey | None = None,
        collection_options: CollectionOptions | Mapping[str, Any] | None = None,
        **connection: Unpack[ConnectionOptions],
    ) -> None:
        place = None if location in (None, ":memory:") else location
        beside = QdrantStore(place, client=client, collection=collection_name, **connection)  # opens nothing
        stored = images_of(images, beside)
        access = ImageAccess(roots=image_roots, hosts=image_hosts)
        self._embedding, self._pages = embedding, PageEmbedding(embedding)
        self._layout = DocumentLayout(content_payload_key, metadata_payload_key, vector_name)
        self._images = DocumentImages(stored, access=access, image_key=image_key, form=image_form)
        self._qdrant = Qdrant(place, client=client, **connection)
        layout = self._layout.layout
        self._new_shape = Shape(vector_name, 0, distance)
        self._collection = ForeignCollection(
            self._qdrant,
            collection_name,
            layout=layout,
            distance=distance,
            tenant=tenant,
            collection_options=collection_options,
        )
        self._layout = replace(self._layout, point_id=self._collection.point_id)
        if images is True and stored is not None and self._qdrant.in_memory:
            weakref.finalize(self._qdrant, stored.clear)

    def giving(self, image_form: ImageForm) -> Self:
        """The same store, whose documents carry images in another form; the two share the connection."""
        other = copy.copy(self)
        other._images = self._images.giving(image_form)
        return other

    @property
    def image_form(self) -> ImageForm:
        """How found documents carry images."""
        return self._images.form

    def __repr__(self) -> str:
        """``NemotronPageVectorStore(collection 'documents' at ./store, embedding='starter-embed-vl')``."""
        embedding = self._embedding
        name = embedding.model_name if isinstance(embedding, NemotronEmbeddings) else type(embedding).__name__
        return f"{type(self).__name__}({self._collection}, embedding={name!r})"

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: Metadatas = None,
        *,
        ids: Ids = None,
        **options: Any,
    ) -> Self:
        """A store with these texts in it; `options` are those of the class and of `add_texts`."""
        return cls.from_documents(text_documents(texts, metadatas), embedding, ids=ids, **options)

    @classmethod
    def from_documents(cls, documents: Iterable[Document], embedding: Embeddings, **options: Any) -> Self:
        """A store with these documents in it; `options` are those of the class and of `add_documents`."""
        names = {"ids", "batch_size", *AddOptions.__annotations__} & options.keys()
        adding = {name: options.pop(name) for name in names}
        store = cls(embedding, **options)
        try:
            store.add_documents(documents, **adding)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def from_existing_collection(cls, collection_name: str, embedding: Embeddings, **options: Any) -> Self:
        """Open a collection that must exist, written by this class, langchain-qdrant or PageIndex.

        Args:
            collection_name: its name.
            embedding: the one that wrote it.
            **options: those of the class.

        Raises:
            InputError, StoreError: there is no such collection, or it has no such vector.
        """
        store = cls(embedding, collection_name=collection_name, **options)
        try:
            if store._collection.shape() is None:
                missing = store._collection.missing()
                raise InputError(f"there is no {missing}; check its name and location, or make it by adding to it")
        except BaseException:
            store.close()
            raise
        return store

    @property
    def embeddings(self) -> Embeddings:
        """What embeds queries and documents."""
        return self._embedding

    @property
    def client(self) -> QdrantClient:
        """Qdrant's own client; an embedded one is not safe among threads."""
        return self._qdrant.client

    @property
    def collection_name(self) -> str:
        """Name of the collection."""
        return self._collection.name

    # ---- adding and removing

    def add_documents(  # type: ignore[override]  # an unknown option raises
        self,
        documents: Iterable[Document],
        *,
        ids: Ids = None,
        batch_size: int = BATCH,
        **options: Unpack[AddOptions],
    ) -> list[str]:
        """Add documents with their images; one whose id is stored already is replaced.

        Documents are read as they are needed, so a loader's ``lazy_load()`` takes the memory of one batch. A document
        that is stored as it is, by the same model, is not embedded again: after an interruption, add all once more.
        Chunks of one page (equal ``page_id`` and image, one after the other) share its image, which is embedded with
        the first of them.

        Args:
            documents: unchanged by this.
            ids: one for each, instead of the documents' own; where both are None, a new one is made.
            batch_size: documents that are read, embedded and written together.
            **options: ``on_error`` for documents that cannot be added: "raise" at the end, when all others are stored,
                or "skip"; ``report``, called with the `Failure` of each one skipped, by default a warning of the
                logger ``nemotron_rag``; ``progress``, True for a bar on stderr.

        Returns:
            The ids of the documents that are stored.

        Raises:
            InputError: not one id for each, or no document; or a document cannot be stored, or not be embedded.
            ImageError: an image may not be opened or cannot be read.
            StoreError: a write was not acknowledged.
        """
        if isinstance(documents, AsyncIterable):
            raise InputError("add_documents reads no async iterator; use aadd_documents")
        check_count("batch_size", batch_size)
        read = entries_of(documents, ids, self._images)
        return self._add(batches(paired(documents, ids), batch_size), read, length_of(documents), **options)

    async def aadd_documents(  # type: ignore[override]  # an unknown option raises
        self,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        ids: Ids = None,
        batch_size: int = BATCH,
        **options: Unpack[AddOptions],
    ) -> list[str]:
        """`add_documents` for event loops, which are not blocked by loaders either; takes async iterators too."""
        check_count("batch_size", batch_size)
        read = entries_of(documents, ids, self._images)
        adding = self._adding(length_of(documents), **options)
        pairs = apaired(documents, ids) if isinstance(documents, AsyncIterable) else paired(documents, ids)
        try:
            async for part in abatches(pairs, batch_size):
                await run_in_executor(None, adding.add_part, read, part)
        except BaseException:
            adding.give_up()
            raise
        return adding.finish()

    def add_texts(  # type: ignore[override]  # an unknown option raises
        self,
        texts: Iterable[str],
        metadatas: Metadatas = None,
        *,
        ids: Ids = None,
        batch_size: int = BATCH,
        **options: Unpack[AddOptions],
    ) -> list[str]:
        """Add texts, with one of `metadatas` and `ids` for each if they are given; see `add_documents`."""
        documents = text_documents(texts, metadatas)
        return self.add_documents(documents, ids=ids, batch_size=batch_size, **options)

    async def aadd_texts(self, texts: Iterable[str], metadatas: Metadatas = None, **options: Any) -> list[str]:
        """`add_texts` for event loops."""
        return await run_in_executor(None, self.add_texts, texts, metadatas, **options)

    def add_images(
        self,
        uris: Iterable[Any],
        metadatas: Metadatas = None,
        *,
        ids: Ids = None,
        batch_size: int = BATCH,
        **options: Unpack[AddOptions],
    ) -> list[str]:
        """Add images without texts; see `add_documents`.

        Args:
            uris: paths, data URIs, bytes, decoded images, blobs, content blocks, or URLs on `image_hosts`. Paths
                are the caller's own and need no `image_roots`. A path becomes the ``source`` if there is none.
            metadatas: one for each.
            ids: one for each.
            batch_size: images that are read, embedded and written together.
            **options: see `add_documents`.

        Raises:
            InputError: not one of `metadatas` and `ids` for each image, or the embedding reads no images.
            ImageError: an image cannot be read.
        """
        check_count("batch_size", batch_size)
        given = list(uris)
        documents, chosen = image_documents(given, metadatas, ids)
        named = self._images.of_caller(given)
        entries = [
            Entry(index, document, id, *image)
            for index, (document, id, image) in enumerate(zip(documents, chosen, named, strict=True))
        ]
        return self._add(batches(entries, batch_size), lambda part, _: part, len(entries), **options)

    async def aadd_images(self, uris: Iterable[Any], metadatas: Metadatas = None, **options: Any) -> list[str]:
        """`add_images` for event loops."""
        return await run_in_executor(None, self.add_images, uris, metadatas, **options)

    def delete(  # type: ignore[override]  # an unknown option raises
        self, ids: Sequence[str] | None = None, *, filter: Filter | None = None
    ) -> bool:
        """Remove documents and their images.

        Args:
            ids: of documents; unknown ones are passed over. None, without a filter, removes all.
            filter: instead: over metadata keys, as in `similarity_search`.

        Returns:
            True: they are gone.

        Raises:
            InputError: both `ids` and `filter` were given, or a filter that is empty.
            StoreError: a write was not acknowledged.
        """
        if isinstance(ids, str):
            raise InputError("delete wants ids as a list, got a single str; put it into a list")
        if ids is not None and filter is not None:
            raise InputError("delete wants ids or filter=, got both")
        if filter is not None and is_empty(filter):
            raise InputError(f"every document meets the filter {filter!r}; to remove all, call delete()")
        points = self._collection.ids_matching(filter) if ids is None else [self._collection.point_id(id) for id in ids]
        for start in range(0, len(points), _DELETED):
            self._delete(points[start : start + _DELETED])
        return True

    # ---- searching

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The stored ones of these documents, in the order of their ids."""
        return self._finder.found(self._collection.get([self._collection.point_id(id) for id in ids]))

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """The k documents nearest to a query; see the class for the options."""
        return documents_of(self.similarity_search_with_score(query, k, **options))

    def similarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> Scored:
        """`similarity_search` with scores in the collection's own measure (cosine: from -1 to 1)."""
        return self._finder.search(self._embedding.embed_query(query), k, self._identity(), query=query, **options)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **options: Any) -> list[Document]:
        """The k documents nearest to a vector; see the class for the options."""
        return documents_of(self.similarity_search_with_score_by_vector(embedding, k, **options))

    def similarity_search_with_score_by_vector(self, embedding: Sequence[float], k: int = 4, **options: Any) -> Scored:
        """`similarity_search_by_vector` with scores."""
        return self._finder.search(embedding, k, None, **options)

    async def asimilarity_search_with_score_by_vector(self, *args: Any, **options: Any) -> Scored:
        """`similarity_search_with_score_by_vector` for event loops."""
        return await run_in_executor(None, self.similarity_search_with_score_by_vector, *args, **options)

    def similarity_search_by_image(self, uri: Any, k: int = 4, **options: Any) -> list[Document]:
        """The k documents that look most like an image; see the class for the options.

        Args:
            uri: path, data URI, bytes, decoded image, `Blob` or content block, as the embedding reads them.
            k: at most so many.
            **options: see the class.

        Raises:
            ImageError: the image cannot be read.
            InputError: the embedding reads no images.
        """
        return documents_of(self.similarity_search_by_image_with_score(uri, k, **options))

    async def asimilarity_search_by_image(self, *args: Any, **options: Any) -> list[Document]:
        """`similarity_search_by_image` for event loops."""
        return await run_in_executor(None, self.similarity_search_by_image, *args, **options)

    def similarity_search_by_image_with_score(self, uri: Any, k: int = 4, **options: Any) -> Scored:
        """`similarity_search_by_image` with scores."""
        embedding: Any = self._embedding
        if isinstance(embedding, NemotronEmbeddings):
            vector = embedding.embed_image_query(uri)
        elif hasattr(embedding, "embed_images"):
            vector = embedding.embed_images([uri])[0]
        else:
            raise InputError(f"{type(embedding).__name__} reads no images; open the store with NemotronEmbeddings")
        return self._finder.search(vector, k, self._identity(), **options)

    async def asimilarity_search_by_image_with_score(self, *args: Any, **options: Any) -> Scored:
        """`similarity_search_by_image_with_score` for event loops."""
        return await run_in_executor(None, self.similarity_search_by_image_with_score, *args, **options)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """Documents that are near to a query and unlike each other.

        Args:
            query: the query.
            k: at most so many.
            fetch_k: of the nearest so many.
            lambda_mult: 0 for as unlike each other as can be, 1 for the nearest.
            **options: see the class.
        """
        vector = self._embedding.embed_query(query)
        return self._finder.diverse(vector, self._identity(), k, fetch_k, lambda_mult, **options)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """`max_marginal_relevance_search` by vector."""
        return self._finder.diverse(embedding, None, k, fetch_k, lambda_mult, **options)

    def close(self) -> None:
        """Let go of the connection; later calls raise `ClosedError`. A client that was handed in stays open."""
        self._qdrant.close()

    async def aclose(self) -> None:
        """`close` for event loops."""
        await run_in_executor(None, self.close)

    # ---- what VectorStore calls

    async def _asimilarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        # VectorStore's own would ask for the collection's measure on the event loop.
        return await run_in_executor(None, self._similarity_search_with_relevance_scores, query, k, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._finder.shape.relevance

    # ---- adding and finding

    def _add(
        self, parts: Iterable[Sequence[Any]], read: Reader, total: int | None, **options: Unpack[AddOptions]
    ) -> list[str]:
        adding = self._adding(total, **options)
        try:
            for part in parts:
                adding.add_part(read, part)
        except BaseException:
            adding.give_up()
            raise
        return adding.finish()

    def _adding(self, total: int | None, **options: Unpack[AddOptions]) -> Adding:
        return Adding(self._pages, self._collection, self._layout, self._images, total=total, **options)

    def _delete(self, points: Sequence[int | str]) -> None:
        """Remove points, and of their images those that no other point has."""
        keys = self._images.keys_of(self._collection.get(points))
        self._collection.delete(points)
        shared = models.Filter(must=[models.FieldCondition(key="image", match=models.MatchAny(any=sorted(keys)))])
        others = self._collection.get(self._collection.ids_matching(shared)) if keys else []
        self._images.delete(points, keys, used=self._images.keys_of(others))

    @property
    def _finder(self) -> Finder:
        return Finder(self._collection, self._layout, self._images, self._new_shape)

    def _identity(self) -> Identity | None:
        """What the embedding computes, if it says; to be called after it was used, when its model is loaded."""
        return self._pages.identity
