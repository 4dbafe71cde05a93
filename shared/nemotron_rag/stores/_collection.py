"""The collection itself: whether it is there and ours, its vectors, its indexes, its record. It knows no pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from nemotron_rag.errors import MissingExtraError, StoreError
from nemotron_rag.stores._connection import Connection
from nemotron_rag.stores._filters import field_path
from nemotron_rag.stores._points import RECORD_ID
from nemotron_rag.stores._vectors import TERMS, TOKENS, VECTOR, vectors_config
from nemotron_rag.token_vectors import TokenVectors

try:
    from qdrant_client import models
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = ["Collection", "IndexedType"]

IndexedType: TypeAlias = Literal["keyword", "integer", "float", "bool", "datetime"]
"""What a field holds, for a server's payload index."""

_RECORD_KEY = "nemotron_rag_index"
_FIELDS: dict[str, IndexedType] = {"source": "keyword", "number": "integer", "content_hash": "keyword"}


class Collection:
    """One named collection behind a connection; its record is a point without a vector, which no search finds.

    Args:
        connection: to Qdrant.
        name: of the collection.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.name = name
        self._client = connection.client

    def __str__(self) -> str:
        """``collection 'pages' at ./index``."""
        return f"collection {self.name!r} at {self.connection.name}"

    def exists(self) -> bool:
        """Whether it is there."""
        return self.connection.read("look for a collection", self._client.collection_exists, self.name)

    def read_record(self) -> dict[str, Any] | None:
        """The record given to `create`; None if there is no collection yet.

        Raises:
            StoreError: the collection was not written by this package.
        """
        if not self.exists():
            return None
        record = self._stored_record()
        if record is None and not (self._shape() is not None and self._is_empty()):
            record = self._stored_record()  # another thread or process may have written it, and pages, just now
            if record is None:
                raise StoreError(f"{self} has no record of nemotron-rag and is not touched; give another collection")
        return record  # None for an empty one: ours, interrupted between its making and that of its record

    def create(self, *, dimensions: int, record: Mapping[str, Any], tokens: TokenVectors | None) -> None:
        """Make the collection, its payload indexes, and the record; pages that are there already stay.

        Args:
            dimensions: of a vector.
            record: plain JSON.
            tokens: see `vectors_config`.

        Raises:
            StoreError: there is a collection with other vectors, or Qdrant refused.
        """
        if not self.exists():
            self.connection.read(
                "make a collection",
                self._client.create_collection,
                self.name,
                vectors_config=vectors_config(dimensions, tokens),
                sparse_vectors_config={TERMS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            )
        if self._shape() != (dimensions, tokens is not None):
            many = "" if tokens is None else f" and {TOKENS!r}"
            raise StoreError(f"{self} has other vectors than {dimensions}-d {VECTOR!r}{many}; give another collection")
        for field, kind in _FIELDS.items():
            self.index_field(field, kind)
        point = models.PointStruct(id=RECORD_ID, vector={}, payload={_RECORD_KEY: dict(record)})
        self.connection.write(self._client.upsert, self.name, points=[point], wait=True)

    def index_field(self, key: str, kind: IndexedType) -> None:
        """Make filters on a field fast, where payload indexes exist.

        Raises:
            InputError: `key` cannot be a filter's key.
            StoreError: the server refused.
        """
        path = field_path(key)
        if not self.connection.embedded:  # the embedded Qdrant has no such indexes, and warns
            schema = models.PayloadSchemaType(kind)
            self.connection.write(self._client.create_payload_index, self.name, path, schema, wait=True)

    def _stored_record(self) -> dict[str, Any] | None:
        points = self.connection.read("read a record", self._client.retrieve, self.name, ids=[RECORD_ID])
        record = (points[0].payload or {}).get(_RECORD_KEY) if points else None
        return record if isinstance(record, dict) else None

    def _shape(self) -> tuple[int, bool] | None:
        """Length of our vectors, and whether a page has many; None if there are none that we could have made."""
        info = self.connection.read("describe a collection", self._client.get_collection, self.name)
        vectors = info.config.params.vectors
        if not isinstance(vectors, dict):
            return None
        params = vectors.get(VECTOR)
        if params is None or params.distance != models.Distance.COSINE or params.multivector_config is not None:
            return None
        return params.size, TOKENS in vectors

    def _is_empty(self) -> bool:
        return self.connection.read("count", self._client.count, self.name).count == 0
