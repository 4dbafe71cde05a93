"""Pages and their vectors in one Qdrant collection, embedded or on a server.

Folders are written by Qdrant Edge. Those of qdrant-client's local mode are read by it with pickle: open only such that
you trust.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from qdrant_client import QdrantClient, models

from nemotron_rag.documents.words import CURRENT_ANALYSIS
from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.projection import project
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.stores.qdrant.basis import ProjectionBasis
from nemotron_rag.stores.qdrant.bm25 import analysis_of
from nemotron_rag.stores.qdrant.collection import Collection
from nemotron_rag.stores.qdrant.connection import Qdrant, held_collections
from nemotron_rag.stores.qdrant.integrity import damaged_points
from nemotron_rag.stores.qdrant.layout import BASIS_ID, MAX_POINTS, RECORD_ID, from_payload
from nemotron_rag.stores.qdrant.opening import Engine
from nemotron_rag.stores.qdrant.search import Search
from nemotron_rag.stores.qdrant.two_stages import search_in_stages
from nemotron_rag.stores.qdrant.vectors import VECTOR, check_size
from nemotron_rag.stores.qdrant.writes import LISTED, NO_TEXT, PageWriter
from nemotron_rag.stores.server import ConnectionOptions
from nemotron_rag.stores.tenant import Tenant, TenantKey
from nemotron_rag.types import Filter, FloatArray, IndexedType, PageVectors, StoredPage, TokenStorage, page_uuid

__all__ = ["DEFAULT_PREFETCH", "QdrantStore"]

DEFAULT_PREFETCH = 200
"""Pages whose token vectors are compared exactly, unless the caller says otherwise."""

_LOCAL_STORAGE = ("float16", "float32")
_LISTED_LOCAL = 100_000  # qdrant-client's local mode looks at all its points at every request


class QdrantStore:
    """A `PageStore` in one Qdrant collection: vectors and payload of each page, and the record of what wrote them.

    All stores for a folder in one process share its client, which is closed with the last of them. Other processes may
    read meanwhile and follow what is written (in the local mode they are refused). Any number of processes
    may read and write on a server.

    Args:
        location: None for memory, a folder, or the ``http(s)://`` url of a server. A folder is made by the first write.
        client: an open `qdrant_client.QdrantClient` to use instead; never closed here.
        collection: its name.
        tenant: whose pages this store reads and writes, such as ``("customer", "acme")``; see `PageIndex`.
        collection_options: of a new collection, or a mapping of them.
        **options: of the connection to a url: ``api_key``, ``headers``, ``timeout``; see `ConnectionOptions`.

    Raises:
        InputError: both `location` and `client` are given, the location is a url of another kind or holds
            credentials, or `options` cannot be used.

    Example:
        >>> import numpy as np
        >>> from nemotron_rag.types import Page, TokenStorage
        >>> store = QdrantStore()
        >>> store.create(dimensions=2, record={"model": "m"})
        >>> page = Page(id="p1", source="a.pdf", number=1, text="apples")
        >>> store.put([StoredPage.of(page, content_hash="")], np.eye(1, 2, dtype=np.float32))
        >>> [(found.page.text, score) for found, score in store.query(np.array([1, 0], np.float32), k=3)]
        [('apples', 1.0)]
        >>> store.count({"source": "a.pdf"}), store.read_record()
        (1, {'model': 'm'})
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        client: QdrantClient | None = None,
        collection: str = "pages",
        tenant: TenantKey | Tenant | None = None,
        collection_options: CollectionOptions | Mapping[str, Any] | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        whose, new = Tenant.of(tenant), CollectionOptions.of(collection_options)
        self._qdrant = Qdrant(location, client=client, prefer_grpc=True, **options)
        self._collection = Collection(self._qdrant, collection, tenant=whose, options=new)
        self._basis = ProjectionBasis(self._collection)
        self._known_analysis: int | None = None
        self._writer = PageWriter(self._collection, self._basis, self._analysis)
        in_memory = client is None and self._qdrant.in_memory
        self._memory = f"memory://nemotron-rag-{uuid.uuid4().hex}" if in_memory else None

    def __str__(self) -> str:
        """``collection 'pages' at ./index``."""
        return str(self._collection)

    @property
    def engine(self) -> Engine:
        """What computes: Qdrant Edge or qdrant-client's local mode in this process, or a server."""
        return self._qdrant.engine

    @property
    def tenant(self) -> Tenant | None:
        """Whose pages this store reads and writes; None if it is not divided."""
        return self._collection.tenant

    @property
    def image_root(self) -> str | None:
        """Where page images can lie: in the folder beside the pages, or in memory; None with a server.

        Also None with a client in memory that was handed in: its pages may outlive this store.
        """
        if self._qdrant.folder is not None:
            return str(self._qdrant.folder.absolute() / "images" / self._collection.name)
        return self._memory

    def exists(self) -> bool:
        """Whether the collection is there.

        Raises:
            StoreError: the server could not be reached.
        """
        return self._collection.exists()

    def missing(self) -> str:
        """What to call the collection where it is not there: what else is.

        Raises:
            StoreError: the server could not be reached.
        """
        return f"{self}{self._qdrant.run(held_collections())}"

    def read_record(self) -> dict[str, Any] | None:
        """The record given to `create`; None if there is no collection yet.

        Raises:
            StoreError: the collection was not written by this package, or the server could not be reached.
        """
        record = self._collection.read_record()
        if record is not None:
            self._known_analysis = analysis_of(record)
        return record

    def create(
        self,
        *,
        dimensions: int,
        record: Mapping[str, Any],
        token_storage: TokenStorage | None = None,
        deferred: bool = False,
    ) -> None:
        """Make the collection, its payload indexes, and the record; whatever of these is there already stays.

        Args:
            dimensions: length of the vectors.
            record: plain JSON, given back by `read_record`.
            token_storage: number format of token vectors; None for one vector a page.
            deferred: for a large load into a new collection of a server, which builds its indexes with
                `finish_indexes`.

        Raises:
            InputError: Qdrant's local mode has no such number format.
            StoreError: there is a collection with other vectors, or the server refused.
        """
        if token_storage is not None and self._qdrant.engine == "local" and token_storage not in _LOCAL_STORAGE:
            raise InputError(
                f"Qdrant in memory or in its local mode stores {' or '.join(_LOCAL_STORAGE)}, not {token_storage}; "
                "choose one of these, or run a Qdrant server and give its url"
            )
        with self._qdrant.writing:
            self._collection.create(
                dimensions=dimensions, record=record, token_storage=token_storage, deferred=deferred
            )
        self.read_record()

    def finish_indexes(self) -> bool:
        """Build the indexes that `create` has deferred; returns whether the server has done so.

        Raises:
            StoreError: the server could not be reached, or refused.
        """
        return self._collection.finish_indexes()

    def point_alias(self, alias: str) -> None:
        """Make another name lead to this collection, at once for all who use it.

        Args:
            alias: a name that no collection has; one that leads elsewhere leads here from now on.

        Raises:
            InputError: there are no such names in a folder of Qdrant Edge.
            StoreError: the collection is not there, or the server refused.
        """
        self._collection.point_alias(alias)

    def index_metadata(self, key: str, kind: IndexedType) -> None:
        """Make filters on a metadata key fast; qdrant-client's local mode has no such indexes.

        Raises:
            InputError: `key` cannot be a filter's key.
            StoreError: the server refused.
        """
        self._collection.index_field(key, kind)

    def put(self, pages: Sequence[StoredPage], vectors: Sequence[PageVectors] | PageVectors) -> None:
        """Write pages and wait until they are stored; one of the same id and content stays with its other files too.

        Args:
            pages: n pages.
            vectors: n arrays of (dimensions,) or of (tokens, dimensions), as the collection was made for; row i
                belongs to page i.

        Raises:
            InputError: not one array for each page, or a page has more vectors than Qdrant takes; nothing is written.
            StoreError: a write was not acknowledged.
        """
        if len(pages) != len(vectors):
            raise InputError(f"{len(pages)} pages need as many vectors or arrays of them, got {len(vectors)}")
        for stored, rows in zip(pages, vectors, strict=True):
            check_size(stored.page, rows)
        self._collection.apply_options()
        self._writer.put(pages, vectors)

    def attach(self, ids: Sequence[str], *, source: str, metadata: Mapping[str, Any]) -> int:
        """Note that `source` holds stored pages too; what others say of them stays as it is. No change, no write.

        Args:
            ids: of pages; unknown ones are passed over.
            source: a document.
            metadata: of the pages in this document: laid over what they have there, or over that of their content.

        Returns:
            How many of the ids are stored.

        Raises:
            StoreError: a write was not acknowledged.
        """
        return self._writer.attach(ids, source, metadata)

    def remove(
        self,
        ids: Sequence[str],
        *,
        filter: Filter | None = None,
        after: Callable[[Sequence[StoredPage]], None] = lambda removed: None,
    ) -> int:
        """Take pages away from the files that hold them; pages that no file holds any more are deleted.

        Args:
            ids: of pages; unknown ones are passed over.
            filter: a dict, which of the files lose their pages: ``{"source": "a.pdf"}``; None for all.
            after: called with pages that were deleted.

        Returns:
            How many pages were deleted.

        Raises:
            InputError: `filter` is no such dict.
            StoreError: a write was not acknowledged.
        """
        removed = 0
        for start in range(0, len(ids), LISTED):
            gone = self._writer.remove(ids[start : start + LISTED], filter)
            after(gone)
            removed += len(gone)
        return removed

    def get(self, ids: Sequence[str]) -> dict[str, StoredPage]:
        """The stored ones of these pages by id, without their texts.

        Raises:
            StoreError: the server could not be reached.
        """
        return {page_id: known.page for page_id, known in self._writer.read(ids).items()}

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Of the stored ones of these pages the vector, or the mean of the token vectors, by id: (dimensions,).

        Raises:
            StoreError: the server could not be reached.
        """
        found: dict[str, FloatArray] = {}
        points = [page_uuid(page_id) for page_id in ids]
        for start in range(0, len(points), LISTED):
            part = points[start : start + LISTED]
            records = self._collection.call("retrieve", ids=part, with_payload=["id"], with_vectors=[VECTOR])
            rows = {from_payload(each.payload).page.id: (each.vector or {}).get(VECTOR) for each in records}
            found |= {page_id: np.asarray(row, np.float32) for page_id, row in rows.items() if row is not None}
        return found

    def pages(self, filter: Filter | None = None, *, texts: bool = False) -> Iterator[StoredPage]:
        """The pages that a filter matches, in no particular order, read as they are consumed.

        Args:
            filter: see `nemotron_rag.stores.filters`; or a `qdrant_client.models.Filter`; or a tuple of filters, all of
                which must hold.
            texts: with their texts.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached.
        """
        conditions = self._only_pages(filter)
        limit = _LISTED_LOCAL if self._qdrant.engine == "local" else LISTED
        offset: Any = None
        while True:
            records, offset = self._collection.call(
                "scroll", scroll_filter=conditions, limit=limit, with_payload=texts or NO_TEXT, offset=offset
            )
            yield from (from_payload(record.payload) for record in records)
            if offset is None:
                return

    def sources(self) -> list[str]:
        """The documents that have pages here, sorted.

        Raises:
            StoreError: the server could not be reached.
        """
        return sorted({source for stored in self.pages() for source in stored.sources})

    def count(self, filter: Filter | None = None) -> int:
        """How many pages a filter matches; see `pages`.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached.
        """
        return int(self._collection.call("count", count_filter=self._only_pages(filter)).count)

    def query(
        self,
        vectors: PageVectors,
        *,
        k: int,
        prefetch: int | None = None,
        words: str = "",
        filter: Filter | None = None,
    ) -> list[tuple[StoredPage, float]]:
        """The k pages nearest to a query's vector or vectors, best first, in one request.

        Args:
            vectors: (dimensions,); or (tokens, dimensions) in a collection of token vectors.
            k: at most so many.
            prefetch: pages whose token vectors are compared exactly, found by their projected vectors; `k` if that is
                more, None for `DEFAULT_PREFETCH`.
            words: a query whose words are looked for in the pages' texts too (BM25); the two orders are joined by
                reciprocal rank fusion.
            filter: which pages to look at; see `pages`.

        Returns:
            Each page with its cosine similarity, from -1 to 1, or MaxSim, or with words its fusion score, which only
            tells an order.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached, or refused.
        """
        conditions = self._collection.only(self._collection.layout.filter(filter))
        basis = self._basis.read() if vectors.ndim == 2 else None
        if vectors.ndim == 2 and basis is None:
            return []
        search = Search(
            vectors=vectors,
            projected=None if basis is None else project(vectors, basis),
            k=k,
            prefetch=DEFAULT_PREFETCH if prefetch is None else prefetch,
            arrays=self._qdrant.embedded,
            words=words,
            analysis=self._analysis() if words else CURRENT_ANALYSIS,
            conditions=conditions,
        )
        found = [(from_payload(point.payload), float(point.score)) for point in self._points(search)]
        if search.by_cosine:  # Qdrant's may lie a rounding error beyond
            return [(stored, min(1.0, max(-1.0, score))) for stored, score in found]
        return found

    def salvage(self) -> list[str]:
        """Put aside damaged files that keep the index from being opened, with the pages in them; only in a folder.

        Returns:
            What was put aside, as paths below the collection's folder; empty if it can be opened.

        Raises:
            StoreError: it cannot be opened all the same, or another process may write.
        """
        return self._collection.salvage()

    def damaged(self) -> dict[str, str]:
        """The pages that cannot be read, or are not whole: what is wrong, by a key for `discard`.

        Raises:
            StoreError: the store cannot be reached.
        """
        found = damaged_points(self._collection)
        if self._collection.has_tokens and (fault := self._basis.fault()):
            found[BASIS_ID] = fault
        return found

    def discard(self, keys: Sequence[str]) -> None:
        """Delete what `damaged` found, so that the next `add` writes it anew; a projection basis is computed anew.

        Raises:
            StoreError: a write was not acknowledged, or the pages do not tell the projection basis.
        """
        points = [key for key in keys if key != BASIS_ID]
        for start in range(0, len(points), MAX_POINTS):
            self._collection.delete_points(points[start : start + MAX_POINTS])
        if len(points) < len(keys):
            self._basis.rebuild()

    def optimize(self) -> bool:
        """Bring all writes to the disk, and merge and index what Qdrant Edge has written; servers do so by themselves.

        Returns:
            Whether there was something to merge or index.

        Raises:
            StoreError: the disk is full, or another process may write.
        """
        return self._collection.optimize()

    def close(self) -> None:
        """Let go of the client; later calls raise `ClosedError`. A client that was handed in stays open."""
        self._qdrant.close()

    def _points(self, search: Search) -> list[models.ScoredPoint]:
        if search.by_tokens and self._qdrant.engine == "local":
            name = self._collection.name
            return self._qdrant.use("search", lambda client: search_in_stages(client, name, search))
        return list(self._collection.call("query_points", **search.request()).points)

    def _analysis(self) -> int:
        """How the words of this collection are found."""
        if self._known_analysis is None:
            self.read_record()
        return self._known_analysis or analysis_of({})

    def _only_pages(self, filter: Filter | None) -> models.Filter:
        conditions = self._collection.layout.filter(filter)
        return models.Filter(
            must=[] if conditions is None else [conditions],
            must_not=[models.HasIdCondition(has_id=[RECORD_ID, BASIS_ID])],
        )
