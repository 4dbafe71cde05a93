"""Pages and their vectors in one Qdrant collection, embedded or on a server. It knows no model and no picture.

Embedded collections are read by qdrant-client with pickle: open only index folders that you trust.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron_rag.errors import InputError, MissingExtraError
from nemotron_rag.stores._collection import Collection, IndexedType
from nemotron_rag.stores._connection import Connection
from nemotron_rag.stores._directions import Directions
from nemotron_rag.stores._filters import Filter, compile_filter
from nemotron_rag.stores._points import MAX_POINTS, StoredPage, batches, from_payload, point_id, to_payload
from nemotron_rag.stores._reading import StoredPages
from nemotron_rag.stores._requests import Search
from nemotron_rag.stores._two_stages import search_in_stages
from nemotron_rag.stores._vectors import VECTOR, PageVectors, check_size, named_vectors, number_count
from nemotron_rag.token_vectors import TokenVectors
from nemotron_rag.token_vectors.sketch import sketch

try:
    from qdrant_client import QdrantClient, models
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = [
    "CANDIDATES",
    "VECTOR",
    "Filter",
    "IndexedType",
    "PageVectors",
    "QdrantStore",
    "StoredPage",
    "from_payload",
    "point_id",
]

CANDIDATES = 200
"""Pages that the first stage of a search by many vectors hands to the second, unless the caller says otherwise."""

_EMBEDDED_STORAGE = ("float16", "float32")


class QdrantStore(StoredPages):
    """One collection: a vector or many for each page, page payloads, and the record of what wrote them.

    Every method may be called from any thread. Several processes may share a server; an embedded folder has one user.

    Args:
        location: None for memory, a folder, or the ``http(s)://`` url of a server.
        client: an open `qdrant_client.QdrantClient` to use instead; never closed here.
        collection: its name.

    Raises:
        InputError: both `location` and `client` are given.
        StoreError: the folder is in use or unreadable.

    Example:
        >>> import numpy as np
        >>> from nemotron_rag.types import Page
        >>> store = QdrantStore()
        >>> store.create(dimensions=2, record={"model": "m"})
        >>> page = Page(id="p1", source="a.pdf", number=1, text="apples")
        >>> store.put([StoredPage.of(page, content_hash="")], np.eye(1, 2, dtype=np.float32))
        >>> [(found.page.text, round(score, 3)) for found, score in store.query(np.array([1, 0], np.float32), k=3)]
        [('apples', 1.0)]
        >>> store.count({"source": "a.pdf"}), store.read_record()
        (1, {'model': 'm'})
    """

    def __init__(
        self,
        location: str | Path | None = None,
        *,
        client: QdrantClient | None = None,
        collection: str = "pages",
    ) -> None:
        if location is not None and client is not None:
            raise InputError("give a location or an open client, not both; a client brings its own location")
        super().__init__(Collection(Connection(location, client=client, prefer_grpc=True), collection))
        self._directions = Directions(self._collection)
        self._writing = threading.RLock()  # reading a page's sources and writing them back must not interleave

    def __str__(self) -> str:
        """``collection 'pages' at ./index``."""
        return str(self._collection)

    def exists(self) -> bool:
        """Whether the collection is there.

        Raises:
            StoreError: the server could not be reached.
        """
        return self._collection.exists()

    def read_record(self) -> dict[str, Any] | None:
        """The record given to `create`; None if there is no collection yet.

        Raises:
            StoreError: the collection was not written by this package, or the server could not be reached.
        """
        return self._collection.read_record()

    def create(self, *, dimensions: int, record: Mapping[str, Any], tokens: TokenVectors | None = None) -> None:
        """Make the collection, its payload indexes, and the record; pages that are there already stay.

        Args:
            dimensions: length of the vectors.
            record: plain JSON, given back by `read_record`.
            tokens: how many vectors a page are stored; None for one.

        Raises:
            InputError: an embedded Qdrant has no such number format.
            StoreError: there is a collection with other vectors, or the server refused.
        """
        if tokens is not None and self._connection.embedded and tokens.storage not in (None, *_EMBEDDED_STORAGE):
            raise InputError(
                f"an embedded Qdrant stores {' or '.join(_EMBEDDED_STORAGE)}, not {tokens.storage}; "
                "choose one of these, or run a Qdrant server and give its url"
            )
        with self._writing:
            self._collection.create(dimensions=dimensions, record=record, tokens=tokens)

    def index_metadata(self, key: str, kind: IndexedType) -> None:
        """Make filters on a metadata key fast on a server; embedded collections have no such index and need none.

        Raises:
            InputError: `key` cannot be a filter's key.
            StoreError: the server refused.
        """
        self._collection.index_field(key, kind)

    def put(self, pages: Sequence[StoredPage], vectors: Sequence[PageVectors] | PageVectors) -> None:
        """Write pages and wait until they are stored; a page of the same id and content keeps its other sources.

        Args:
            pages: n pages.
            vectors: n arrays of (dimensions,) or of (tokens, dimensions), as the collection was made for; the i-th
                belongs to page i.

        Raises:
            InputError: not one array for each page, or a page has more vectors than Qdrant takes; nothing is written.
            StoreError: a write was not acknowledged.
        """
        if len(pages) != len(vectors):
            raise InputError(f"{len(pages)} pages need as many vectors or arrays of them, got {len(vectors)}")
        for stored, rows in zip(pages, vectors, strict=True):
            check_size(stored.page, rows)
        with self._writing:
            known = self.get([stored.page.id for stored in pages])
            merged = [stored.replacing(known.get(stored.page.id)) for stored in pages]
            payloads = [to_payload(stored) for stored in merged]
            directions = self._directions.fit(list(vectors)) if len(vectors) and vectors[0].ndim == 2 else None
            sizes = [number_count(rows) * self._connection.bytes_per_number for rows in vectors]
            for part in batches(payloads, sizes):
                points = [
                    # not validated: a page may have a million numbers, and embedded ones come as arrays
                    models.PointStruct.model_construct(
                        id=point_id(stored.page.id),
                        vector=named_vectors(stored.page, rows, directions, arrays=self._connection.embedded),
                        payload=payload,
                    )
                    for stored, rows, payload in zip(merged[part], vectors[part], payloads[part], strict=True)
                ]
                self._connection.write(self._client.upsert, self._name, points=points, wait=True)

    def attach(self, ids: Sequence[str], *, source: str, metadata: Mapping[str, Any]) -> int:
        """Note that pages already stored belong to `source` too, and lay `metadata` over theirs; no change, no write.

        Returns:
            How many of the ids are stored.

        Raises:
            StoreError: a write was not acknowledged.
        """
        with self._writing:
            known = self.get(ids)
            for stored in known.values():
                changed = stored.with_source(source, metadata)
                if changed.sources != stored.sources or changed.page.metadata != stored.page.metadata:
                    self._update(changed)
            return len(known)

    def remove(
        self,
        ids: Sequence[str],
        *,
        source: str | None = None,
        before: Callable[[Sequence[StoredPage]], None] = lambda gone: None,
    ) -> int:
        """Delete pages; given a source, those that other sources hold as well only lose that source.

        Args:
            ids: of pages; those that are not there are passed over.
            source: a document; None to delete whatever the sources.
            before: called with the pages that will be gone, before they are.

        Returns:
            How many pages are gone from the collection.

        Raises:
            StoreError: a write was not acknowledged.
        """
        with self._writing:
            gone = []
            for stored in self.get(ids).values():
                rest = None if source is None else stored.without_source(source)
                if rest is None:
                    gone.append(stored)
                else:
                    self._update(rest)
            before(gone)
            for start in range(0, len(gone), MAX_POINTS):
                points: list[Any] = [point_id(stored.page.id) for stored in gone[start : start + MAX_POINTS]]
                self._connection.write(self._client.delete, self._name, models.PointIdsList(points=points), wait=True)
            return len(gone)

    def query(
        self,
        vectors: PageVectors,
        *,
        k: int,
        candidates: int = CANDIDATES,
        words: str = "",
        wanted: Filter | None = None,
    ) -> list[tuple[StoredPage, float]]:
        """The k pages nearest to a question's vector or vectors, best first.

        Args:
            vectors: (dimensions,); or (tokens, dimensions), where pages have many: sketches of the vectors find
                candidates, and exact MaxSim puts these in order, in one request.
            k: at most so many.
            candidates: of the first stage of a search by many vectors; `k` if that is more.
            words: a question whose words are looked for in the pages' texts too (BM25); the two orders are joined by
                reciprocal rank fusion, in the same request.
            wanted: see `compile_filter`.

        Returns:
            Each page with its cosine similarity, or MaxSim, or with words its fusion score, which only tells an order.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached, or refused.
        """
        embedded = self._connection.embedded
        conditions = compile_filter(wanted)
        directions = self._directions.read() if vectors.ndim == 2 else None
        if vectors.ndim == 2 and directions is None:
            return []
        search = Search(
            vectors=vectors,
            sketches=None if directions is None else sketch(vectors, directions),
            k=k,
            candidates=candidates,
            arrays=embedded,
            words=words,
            conditions=conditions,
        )
        if search.by_tokens and embedded:
            points = self._connection.read("search", search_in_stages, self._client, self._name, search)
        else:
            points = self._connection.read("search", self._client.query_points, self._name, **search.request()).points
        return [(from_payload(point.payload), float(point.score)) for point in points]

    def close(self) -> None:
        """Close the client, unless it was handed in."""
        self._connection.close()

    def _update(self, stored: StoredPage) -> None:
        """Write sources and metadata; the other fields of a stored page never change."""
        points: list[Any] = [point_id(stored.page.id)]
        payload = {"source": list(stored.sources), "metadata": dict(stored.page.metadata)}
        self._connection.write(self._client.set_payload, self._name, payload, points=points, wait=True)
