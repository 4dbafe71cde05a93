"""The collection of an index itself: whether it is there and ours, its vectors, its payload indexes, its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from nemotron_rag.errors import StoreError
from nemotron_rag.stores.qdrant.connection import Qdrant
from nemotron_rag.stores.qdrant.filters import field_path
from nemotron_rag.stores.qdrant.layout import RECORD_ID, RECORD_KEY, read_record
from nemotron_rag.stores.qdrant.vectors import TERMS, TOKENS, VECTOR, vectors_config
from nemotron_rag.types import IndexedType, TokenStorage

__all__ = ["Collection"]

_INDEXED: dict[str, IndexedType] = {"source": "keyword", "page_number": "integer", "content_hash": "keyword"}


class Collection:
    """One named collection; its record is a point without a vector, which no search finds.

    Args:
        qdrant: where it is.
        name: of the collection.
    """

    def __init__(self, qdrant: Qdrant, name: str) -> None:
        self.qdrant = qdrant
        self.name = name

    def __str__(self) -> str:
        """``collection 'pages' at ./index``."""
        return f"collection {self.name!r} at {self.qdrant.name}"

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client for this collection; see `Qdrant.call`."""
        return self.qdrant.call(method, collection_name=self.name, **arguments)

    def insert(self, point: models.PointStruct) -> None:
        """Write a point, unless one of its id is there: another process may have been the first, just now."""
        self.call("upsert", points=[point], wait=True, update_mode=models.UpdateMode.INSERT_ONLY)

    def exists(self) -> bool:
        """Whether it is there."""
        return bool(self.call("collection_exists"))

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
                raise StoreError(
                    f"{self} has no record of nemotron-rag as an index of pages and is not touched; give another "
                    "collection, or search it through what wrote it: a vector store, or a NodeCollection of LlamaIndex"
                )
        return record  # None for an empty one: ours, interrupted between its making and that of its record

    def create(self, *, dimensions: int, record: Mapping[str, Any], token_storage: TokenStorage | None) -> None:
        """Make the collection, its payload indexes, and the record; whatever of these is there stays as it is.

        Args:
            dimensions: of a vector.
            record: plain JSON.
            token_storage: see `vectors_config`.

        Raises:
            StoreError: there is a collection with other vectors, or Qdrant refused.
        """
        if not self.exists():
            self._make(dimensions, token_storage)
        if self._shape() != (dimensions, token_storage is not None):
            named = "" if token_storage is None else f" and {TOKENS!r}"
            raise StoreError(f"{self} has other vectors than {dimensions}-d {VECTOR!r}{named}; give another collection")
        for field, kind in _INDEXED.items():
            self.index_field(field, kind)
        self.insert(models.PointStruct(id=RECORD_ID, vector={}, payload={RECORD_KEY: dict(record)}))

    def index_field(self, key: str, kind: IndexedType) -> None:
        """Make filters on a field fast, where payload indexes exist.

        Raises:
            InputError: `key` cannot be a filter's key.
            StoreError: the server refused.
        """
        self.qdrant.check_open()
        path = field_path(key)
        if self.qdrant.engine != "local":  # which has no such indexes, and warns
            self.call("create_payload_index", field_name=path, field_schema=models.PayloadSchemaType(kind), wait=True)

    def optimize(self) -> bool:
        """Merge and index what was written, in an engine that waits to be told so."""
        self.qdrant.check_open()
        return self.qdrant.engine == "edge" and bool(self.call("optimize"))

    def _make(self, dimensions: int, token_storage: TokenStorage | None) -> None:
        try:
            self.call(
                "create_collection",
                vectors_config=vectors_config(dimensions, token_storage),
                sparse_vectors_config={TERMS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            )
        except StoreError:  # another thread or process may have made it
            if not self.exists():
                raise

    def _stored_record(self) -> dict[str, Any] | None:
        return read_record(self.call("retrieve", ids=[RECORD_ID]))

    def _shape(self) -> tuple[int, bool] | None:
        """Length of our vectors, and whether there are token vectors; None if we could not have made them."""
        vectors = self.call("get_collection").config.params.vectors
        if not isinstance(vectors, dict):
            return None
        params = vectors.get(VECTOR)
        if params is None or params.distance != models.Distance.COSINE or params.multivector_config is not None:
            return None
        return params.size, TOKENS in vectors

    def _is_empty(self) -> bool:
        return bool(self.call("count").count == 0)
