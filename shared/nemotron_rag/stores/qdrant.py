"""Pages and their vectors in one Qdrant collection, embedded or on a server. It knows no model and no picture.

Embedded collections are read by qdrant-client with pickle: open only index folders that you trust.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nemotron_rag.errors import InputError, MissingExtraError, StoreError
from nemotron_rag.protocols import FloatArray
from nemotron_rag.stores._connection import Connection
from nemotron_rag.stores._filters import Filter, compile_filter, field_path
from nemotron_rag.stores._points import (
    MAX_POINTS,
    RECORD_ID,
    StoredPage,
    batches,
    from_payload,
    point_id,
    to_payload,
)

try:
    from qdrant_client import QdrantClient, models
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = ["Filter", "IndexedType", "QdrantStore", "StoredPage", "point_id"]

IndexedType: TypeAlias = Literal["keyword", "integer", "float", "bool", "datetime"]
"""What a metadata field holds, for a server's payload index."""

_VECTOR = "dense"
_RECORD_KEY = "nemotron_rag_index"
_INDEXED: tuple[tuple[str, IndexedType], ...] = (
    ("source", "keyword"),
    ("number", "integer"),
    ("content_hash", "keyword"),
)
_SCROLL = 1000  # points per request of a listing
_SCROLL_EMBEDDED = 100_000  # an embedded Qdrant looks at all its points at every request


class QdrantStore:
    """One collection: a named cosine vector, page payloads, and the record of what wrote them.

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
        self.collection = collection
        self._connection = Connection(location, client=client)
        self._client = self._connection.client
        self._scroll = _SCROLL_EMBEDDED if self._connection.embedded else _SCROLL
        self._writing = threading.RLock()  # reading a page's sources and writing them back must not interleave

    def __str__(self) -> str:
        """``collection 'pages' at ./index``."""
        return f"collection {self.collection!r} at {self._connection.name}"

    def exists(self) -> bool:
        """Whether the collection is there.

        Raises:
            StoreError: the server could not be reached.
        """
        return self._connection.read("look for a collection", self._client.collection_exists, self.collection)

    def read_record(self) -> dict[str, Any] | None:
        """The record given to `create`; None if there is no collection yet.

        Raises:
            StoreError: the collection was not written by this package, or the server could not be reached.
        """
        if not self.exists():
            return None
        points = self._connection.read("read a record", self._client.retrieve, self.collection, ids=[RECORD_ID])
        record = (points[0].payload or {}).get(_RECORD_KEY) if points else None
        if isinstance(record, dict):
            return record
        if self.count() == 0 and self._vector_size() is not None:
            return None  # ours, interrupted between the making of the collection and of its record
        raise StoreError(f"{self} has no record of nemotron-rag, so it is not touched; give another collection name")

    def create(self, *, dimensions: int, record: Mapping[str, Any]) -> None:
        """Make the collection, its payload indexes, and the record; what is there already stays.

        Args:
            dimensions: length of the vectors.
            record: plain JSON, given back by `read_record`.

        Raises:
            StoreError: there is a collection with other vectors, or the server refused.
        """
        with self._writing:
            if not self.exists():
                params = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
                self._connection.read(
                    "make a collection",
                    self._client.create_collection,
                    self.collection,
                    vectors_config={_VECTOR: params},
                )
            if self._vector_size() != dimensions:
                raise StoreError(f"{self} has no {dimensions}-d vector {_VECTOR!r}; give another collection name")
            for path, kind in _INDEXED:
                self._index(path, kind)
            point = models.PointStruct(id=RECORD_ID, vector={}, payload={_RECORD_KEY: dict(record)})
            self._connection.write(self._client.upsert, self.collection, points=[point], wait=True)

    def index_metadata(self, key: str, kind: IndexedType) -> None:
        """Make filters on a metadata key fast on a server; embedded collections have no such index and need none.

        Raises:
            InputError: `key` cannot be a filter's key.
            StoreError: the server refused.
        """
        self._index(field_path(key), kind)

    def put(self, pages: Sequence[StoredPage], vectors: FloatArray) -> None:
        """Write pages and wait until they are stored; a page of the same id and content keeps its other sources.

        Args:
            pages: n pages.
            vectors: (n, dimensions) float32; row i belongs to page i.

        Raises:
            InputError: not one vector for each page.
            StoreError: a write was not acknowledged.
        """
        if vectors.ndim != 2 or len(pages) != len(vectors):
            raise InputError(f"{len(pages)} pages need as many vectors, got an array of shape {vectors.shape}")
        with self._writing:
            known = self.get([stored.page.id for stored in pages])
            merged = [stored.replacing(known.get(stored.page.id)) for stored in pages]
            payloads = [to_payload(stored) for stored in merged]
            for part in batches(payloads, dimensions=vectors.shape[1]):
                batch = models.Batch(
                    ids=[point_id(stored.page.id) for stored in merged[part]],
                    vectors={_VECTOR: vectors[part].tolist()},
                    payloads=payloads[part],
                )
                self._connection.write(self._client.upsert, self.collection, points=batch, wait=True)

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
                if to_payload(changed) != to_payload(stored):
                    self._overwrite(changed)
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
                    self._overwrite(rest)
            before(gone)
            for start in range(0, len(gone), MAX_POINTS):
                points: list[Any] = [point_id(stored.page.id) for stored in gone[start : start + MAX_POINTS]]
                self._connection.write(
                    self._client.delete, self.collection, models.PointIdsList(points=points), wait=True
                )
            return len(gone)

    def get(self, ids: Sequence[str]) -> dict[str, StoredPage]:
        """The pages that are there, by page id.

        Raises:
            StoreError: the server could not be reached.
        """
        found: dict[str, StoredPage] = {}
        points = [point_id(page_id) for page_id in ids]
        for start in range(0, len(points), _SCROLL):
            part: list[Any] = points[start : start + _SCROLL]
            records = self._connection.read("read pages", self._client.retrieve, self.collection, ids=part)
            stored = [from_payload(record.payload) for record in records]
            found |= {known.page.id: known for known in stored}
        return found

    def pages(self, wanted: Filter | None = None) -> Iterator[StoredPage]:
        """All pages that a filter matches, in no particular order, read as they are consumed.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached.
        """
        conditions = _only_pages(wanted)
        offset: Any = None
        while True:
            records, offset = self._connection.read(
                "list pages",
                self._client.scroll,
                self.collection,
                scroll_filter=conditions,
                limit=self._scroll,
                offset=offset,
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

    def query(self, vector: FloatArray, *, k: int, wanted: Filter | None = None) -> list[tuple[StoredPage, float]]:
        """The k pages nearest to a vector, with their cosine similarity, best first.

        Args:
            vector: (dimensions,) float32.
            k: at most so many.
            wanted: see `compile_filter`.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached, or refused.
        """
        answer = self._connection.read(
            "search",
            self._client.query_points,
            self.collection,
            query=vector.tolist(),
            using=_VECTOR,
            query_filter=compile_filter(wanted),
            limit=k,
        )
        return [(from_payload(point.payload), float(point.score)) for point in answer.points]

    def count(self, wanted: Filter | None = None) -> int:
        """How many pages a filter matches.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached.
        """
        conditions = _only_pages(wanted)
        return self._connection.read("count", self._client.count, self.collection, count_filter=conditions).count

    def close(self) -> None:
        """Close the client, unless it was handed in."""
        self._connection.close()

    def _vector_size(self) -> int | None:
        info = self._connection.read("describe a collection", self._client.get_collection, self.collection)
        vectors = info.config.params.vectors
        params = vectors.get(_VECTOR) if isinstance(vectors, dict) else None
        if params is None or params.distance != models.Distance.COSINE or params.multivector_config is not None:
            return None
        return params.size

    def _index(self, path: str, kind: IndexedType) -> None:
        if self._connection.embedded:
            return  # the embedded Qdrant has no payload indexes, and warns
        schema = models.PayloadSchemaType(kind)
        self._connection.write(self._client.create_payload_index, self.collection, path, schema, wait=True)

    def _overwrite(self, stored: StoredPage) -> None:
        points: list[Any] = [point_id(stored.page.id)]
        payload = to_payload(stored)
        self._connection.write(self._client.overwrite_payload, self.collection, payload, points=points, wait=True)


def _only_pages(wanted: Filter | None) -> models.Filter:
    conditions = compile_filter(wanted)
    return models.Filter(
        must=[] if conditions is None else [conditions],
        must_not=[models.HasIdCondition(has_id=[RECORD_ID])],
    )
