"""The collection of an index itself: whether it is there and ours, its vectors, its payload indexes, its record."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.stores.qdrant.connection import Qdrant
from nemotron_rag.stores.qdrant.layout import (
    LAYOUT_KEY,
    RECORD_ID,
    RECORD_KEY,
    STATE,
    PageLayout,
    layout_of,
    read_record,
)
from nemotron_rag.stores.qdrant.tenancy import TENANT, TenantScope, tenant_index, tenant_path
from nemotron_rag.stores.qdrant.vectors import TERMS, TOKENS, VECTOR, vectors_config
from nemotron_rag.stores.tenant import Tenant
from nemotron_rag.types import IndexedType, TokenStorage, page_uuid

__all__ = ["Collection", "check_tenant", "new_collection"]

_STATE_INDEX = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=False)
_INDEXED: dict[str, IndexedType] = {
    "id": "keyword",
    "source": "keyword",
    "page_number": "integer",
    "content_hash": "keyword",
}
_DEFERRED = "deferred_indexing_threshold"  # payload key beside the record: what is to be set when all is loaded
_THRESHOLD = 10_000  # KiB of a segment from which on Qdrant builds its graph, where it does not say
_TENANT_LINKS = 16  # of each point in its tenant's graph; what Qdrant advises
_log = logging.getLogger("nemotron_rag")


class Collection:
    """One named collection; its record is a point without a vector, which no search finds.

    Args:
        qdrant: where it is.
        name: of the collection.
        tenant: whose points every call sees and changes; None for a collection that is not divided.
        options: of a new collection.
    """

    def __init__(
        self,
        qdrant: Qdrant,
        name: str,
        *,
        tenant: Tenant | None = None,
        options: CollectionOptions | None = None,
    ) -> None:
        self.qdrant = qdrant
        self.name = name
        self._scope = None if tenant is None else TenantScope(tenant)
        self._options = options or CollectionOptions()
        self._unapplied = options is not None
        self._layout: PageLayout | None = None

    def __str__(self) -> str:
        """``collection 'pages' at ./index``."""
        return f"collection {self.name!r} at {self.qdrant.name}"

    @property
    def layout(self) -> PageLayout:
        """How its pages lie in it; its record says so, and never changes.

        Raises:
            StoreError: there is no collection, or it could not be read.
        """
        if self._layout is None:
            self._stored_record()
        return self._layout or PageLayout()

    @property
    def tenant(self) -> Tenant | None:
        """Whose points calls see; None for those of all."""
        return None if self._scope is None else self._scope.tenant

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the client for this collection, of the tenant if there is one; see `Qdrant.call`."""
        if self._scope is not None:
            arguments = self._scope.narrowed(method, arguments)
        return self.qdrant.call(method, collection_name=self.name, **arguments)

    def point_of(self, page_id: str) -> str:
        """The id of a page's point."""
        id = page_uuid(page_id)
        return id if self._scope is None else str(self._scope.id(id))

    def only(self, filter: models.Filter | None) -> models.Filter | None:
        """A filter as `call` narrows it, for those who call the client themselves."""
        return filter if self._scope is None else self._scope.filter(filter)

    @property
    def has_tokens(self) -> bool:
        """Whether its pages have token vectors."""
        shape = self._shape()
        return shape is not None and shape[1]

    def count_all(self) -> int:
        """How many points there are, of all tenants, those of the collection itself among them."""
        return int(self.qdrant.call("count", collection_name=self.name).count)

    def delete_points(self, ids: Sequence[str]) -> None:
        """Delete points by their own ids, which are not those that callers of `call` know; of the tenant alone."""
        selector: Any = models.PointIdsList(points=list(ids))
        if self._scope is not None:
            mine = self._scope.filter(None)
            only = models.Filter(must=[mine, models.HasIdCondition(has_id=list(ids))])
            selector = models.FilterSelector(filter=only)
        self.qdrant.call("delete", collection_name=self.name, points_selector=selector, wait=True)

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

    def create(
        self,
        *,
        dimensions: int,
        record: Mapping[str, Any],
        token_storage: TokenStorage | None,
        deferred: bool = False,
    ) -> None:
        """Make the collection, its payload indexes, and the record; whatever of these is there stays as it is.

        Args:
            dimensions: of a vector.
            record: plain JSON.
            token_storage: see `vectors_config`.
            deferred: a new one on a server gets its indexes by `finish_indexes`, except those that writes need.

        Raises:
            StoreError: there is a collection with other vectors, or Qdrant refused.
        """
        deferred = deferred and self.qdrant.engine == "server" and not self.exists()
        if not self.exists():
            self._make(dimensions, token_storage)
            self._unapplied = False
        if self._shape() != (dimensions, token_storage is not None):
            named = "" if token_storage is None else f" and {TOKENS!r}"
            raise StoreError(f"{self} has other vectors than {dimensions}-d {VECTOR!r}{named}; give another collection")
        payload: dict[str, Any] = {RECORD_KEY: dict(record), LAYOUT_KEY: PageLayout.number}
        if deferred:
            payload[_DEFERRED] = self._stop_indexing()
        if not deferred or self._options.strict:
            self.index_fields()
        if not self.qdrant.embedded:
            self._index(STATE, _STATE_INDEX)
        if self._scope is not None:
            self._index_tenant(self._scope.tenant)
            payload[TENANT] = self._scope.tenant.key
        self.insert(models.PointStruct(id=RECORD_ID, vector={}, payload=payload))
        if self.qdrant.engine == "edge":  # a second time, should the point be lost
            (written,) = self.call("retrieve", ids=[RECORD_ID])
            self.call("update_collection", metadata=written.payload)
        self._stored_record()  # another process may have been the first, and of another version

    def finish_indexes(self) -> bool:
        """Make what `create` has deferred; returns whether all vectors are indexed now, as a server tells.

        Raises:
            StoreError: the server refused.
        """
        if self.qdrant.engine != "server":
            return True
        points = self.qdrant.call("retrieve", collection_name=self.name, ids=[RECORD_ID])
        deferred = (points[0].payload or {}).get(_DEFERRED) if points else None
        if deferred is not None:
            self.index_fields()
            self._set_threshold(int(deferred))
            self.qdrant.call(
                "delete_payload", collection_name=self.name, keys=[_DEFERRED], points=[RECORD_ID], wait=True
            )
        return bool(self.call("get_collection").status == models.CollectionStatus.GREEN)

    def point_alias(self, alias: str) -> None:
        """Make another name lead to this collection; see `QdrantStore.point_alias`."""
        if self.qdrant.engine == "edge":
            raise InputError(f"{self} is in a folder, which has no aliases; open it as collection={self.name!r}")
        make = models.CreateAlias(collection_name=self.name, alias_name=alias)
        operations: list[Any] = [models.CreateAliasOperation(create_alias=make)]
        if any(each.alias_name == alias for each in self.qdrant.call("get_aliases").aliases):
            operations.insert(0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        self.qdrant.call("update_collection_aliases", change_aliases_operations=operations)

    def _stop_indexing(self) -> int:
        """Have the server build no graph; returns from how many KiB on it did before."""
        before = self.call("get_collection").config.optimizer_config.indexing_threshold
        self._set_threshold(0)
        return _THRESHOLD if before is None else int(before)

    def _set_threshold(self, kib: int) -> None:
        self.qdrant.call(
            "update_collection",
            collection_name=self.name,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=kib),
        )

    def apply_options(self) -> None:
        """Give a collection that was there before the metadata indexes of the options, and say what else differs."""
        if not self._unapplied or self.qdrant.engine == "local":
            return
        self._unapplied = False
        for field, kind in self._options.metadata_indexes.items():
            self.index_field(field, kind)
        if differing := _differing(self._options, self.call("get_collection").config):
            _log.warning("%s was there before and keeps its settings: %s", self, "; ".join(differing))

    def index_fields(self) -> None:
        """Make filters on the fields of pages fast, and on those that the options name."""
        for field, kind in {**_INDEXED, **self._options.metadata_indexes}.items():
            self._index(*self.layout.index(field, kind))

    def index_field(self, key: str, kind: IndexedType) -> None:
        """Make filters on a field fast, where payload indexes exist.

        Raises:
            InputError: `key` cannot be a filter's key.
            StoreError: the server refused.
        """
        self.qdrant.check_open()
        self._index(*self.layout.index(key, kind))

    def _index(self, field: str, schema: Any) -> None:
        if self.qdrant.engine == "local":  # which has no such indexes, and warns
            return
        try:
            self.call("create_payload_index", field_name=field, field_schema=schema, wait=True)
        except StoreError:  # before version 1.20, a server has no index that tells the entries of a list apart
            if not getattr(schema, "nested", None):
                raise
            plain = models.PayloadSchemaType(schema.type)
            self.call("create_payload_index", field_name=field, field_schema=plain, wait=True)

    def salvage(self) -> list[str]:
        """Put aside what keeps the collection from being opened, in an engine whose files are here.

        Returns:
            What was put aside.

        Raises:
            StoreError: it cannot be opened all the same.
        """
        if self.qdrant.engine != "edge" or not self.exists():
            return []
        aside: list[str] = self.call("salvage")
        if aside:
            noted = self.call("get_collection").config.metadata or {}
            if RECORD_KEY in noted:
                self.insert(models.PointStruct(id=RECORD_ID, vector={}, payload=noted))
            self.index_fields()
        return aside

    def optimize(self) -> bool:
        """Merge and index what was written, in an engine that waits to be told so."""
        self.qdrant.check_open()
        return self.qdrant.engine == "edge" and bool(self.call("optimize"))

    def _make(self, dimensions: int, token_storage: TokenStorage | None) -> None:
        try:
            self.call(
                "create_collection",
                vectors_config=vectors_config(dimensions, token_storage, self._options),
                sparse_vectors_config={TERMS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                **new_collection(self._options, divided=self._scope is not None),
            )
        except StoreError:  # another thread or process may have made it
            if not self.exists():
                raise

    def _index_tenant(self, tenant: Tenant) -> None:
        if self.qdrant.engine != "local":
            path = tenant_path(tenant.key)
            self.call("create_payload_index", field_name=path, field_schema=tenant_index(), wait=True)

    def _stored_record(self) -> dict[str, Any] | None:
        points = self.call("retrieve", ids=[RECORD_ID])
        if points:
            self._layout = layout_of(points)
        record = read_record(points)
        if record is not None:
            tenant = None if self._scope is None else self._scope.tenant
            check_tenant(str(self), (points[0].payload or {}).get(TENANT), tenant)
        return record

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
        return self.count_all() == 0


def check_tenant(where: str, divided_by: Any, tenant: Tenant | None) -> None:
    """Refuse to open a collection of tenants without one, and any other with one.

    Args:
        where: the collection, for the message.
        divided_by: the metadata key that its record names; None for none.
        tenant: as which it is opened.

    Raises:
        IndexMismatchError: they do not fit.
    """
    given = None if tenant is None else tenant.key
    if divided_by == given:
        return
    if divided_by is None:
        raise IndexMismatchError(
            f"{where} was written without tenants, but tenant={given!r} was given; leave it out, or use another one"
        )
    raise IndexMismatchError(
        f"{where} is divided by {divided_by!r}, but tenant={given!r} was given; open it with "
        f"tenant=({divided_by!r}, ...)"
    )


def new_collection(options: CollectionOptions, *, divided: bool = False) -> dict[str, Any]:
    """What ``create_collection`` is told besides the vectors.

    Args:
        options: of the new collection.
        divided: among tenants: each gets a graph of its own, since nobody searches all of it.
    """
    given: dict[str, Any] = {
        "shard_number": options.shards,
        "replication_factor": options.replicas,
        "write_consistency_factor": options.write_consistency,
        "on_disk_payload": options.payload_on_disk,
    }
    if divided:
        given["hnsw_config"] = models.HnswConfigDiff(m=0, payload_m=_TENANT_LINKS)
    if options.strict is not None:
        given["strict_mode_config"] = models.StrictModeConfig(
            enabled=options.strict,
            unindexed_filtering_retrieve=not options.strict,
            unindexed_filtering_update=not options.strict,
        )
    return {name: value for name, value in given.items() if value is not None}


def _differing(options: CollectionOptions, config: models.CollectionConfig) -> list[str]:
    """What a collection has, where it was asked for something else."""
    params, strict = config.params, config.strict_mode_config
    vectors = params.vectors.get(VECTOR) if isinstance(params.vectors, dict) else None
    has = {
        "shards": params.shard_number,
        "replicas": params.replication_factor,
        "write_consistency": params.write_consistency_factor,
        "payload_on_disk": params.on_disk_payload,
        "vectors_on_disk": bool(vectors and vectors.on_disk),
        "strict": bool(strict and strict.enabled),
    }
    wanted = {name: getattr(options, name) for name in has}
    found = [
        f"{name}={has[name]!r}, not {value!r}"
        for name, value in wanted.items()
        if value is not None and has[name] is not None and has[name] != value
    ]
    if options.quantization is not None and (vectors is None or vectors.quantization_config is None):
        found.append(f"no quantization, not {options.quantization!r}")
    return found
