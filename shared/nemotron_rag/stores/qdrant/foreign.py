"""Qdrant collections that another library lays out, such as LangChain's or LlamaIndex's: what adapters stand on."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from qdrant_client import models

from nemotron_rag.documents.words import CURRENT_ANALYSIS
from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.ranking import check_count
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.stores.filters import parse_filter
from nemotron_rag.stores.filters.nowhere import KeyCheck
from nemotron_rag.stores.qdrant.bm25 import analysis_of, passage_terms, query_terms
from nemotron_rag.stores.qdrant.collection import check_tenant, new_collection
from nemotron_rag.stores.qdrant.connection import Call, Calls, Qdrant, held_collections
from nemotron_rag.stores.qdrant.filters import PAGE_PAYLOAD, compile_filter, field_path
from nemotron_rag.stores.qdrant.layout import BASIS_ID, FILES, RECORD_ID, batches, layout_of, payload_found, read_record
from nemotron_rag.stores.qdrant.tenancy import TENANT, tenant_index, tenant_path
from nemotron_rag.stores.qdrant.vectors import TERMS, VECTOR, quantization
from nemotron_rag.stores.tenant import Tenant, TenantKey
from nemotron_rag.types import Filter, page_uuid

__all__ = ["PAGE_LAYOUT", "ForeignCollection", "Identity", "Layout", "Shape", "point_id"]

Identity: TypeAlias = Mapping[str, str | int | bool | None]
"""`Embedder.identity` of the embedder that wrote a collection."""

_log = logging.getLogger("nemotron_rag")
_IDENTITY_KEY = "nemotron_rag_embedder"  # in the collection's own metadata
_TENANT_KEY = "nemotron_rag_tenant"  # there too: the metadata key by which the collection is divided
_WORDS_KEY = "nemotron_rag_words"  # likewise: how the words of its texts are found
_FUSED = 50  # points of each order that are fused at least
_SAMPLED = 200  # points whose metadata keys are named where a filter has a wrong one
_IMAGE_FIELD = "image"  # by which the LangChain store looks for those who share an image
_LISTED = 1000  # points per request of a listing or a deletion
_DIGITS = 20  # of the largest id that is a whole number


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in a point its parts are.

    Args:
        vector_name: of the dense vector; empty for the unnamed one; None for the only dense one there is.
        metadata: payload key below which a filter's keys are; empty for the top of the payload.
        fields: keys of filters that are somewhere else, with their places in the payload.
        files: the list in the payload in whose entries all this is; see `compile_filter`.

    Example:
        >>> Layout(metadata="metadata").filter({"year": 2020}).must[0].key
        'metadata.year'
    """

    vector_name: str | None = None
    metadata: str = ""
    fields: Mapping[str, str] | tuple[str, ...] = ()
    files: str = ""

    def filter(self, filter: Filter | None) -> models.Filter | None:
        """A filter in terms of this layout; see `nemotron_rag.stores.filters` for its form.

        Raises:
            InputError: it cannot be translated.
        """
        return compile_filter(filter, fields=self.fields, metadata=self.metadata, files=self.files)


PAGE_LAYOUT = Layout(vector_name=VECTOR, metadata="metadata", fields=PAGE_PAYLOAD, files=FILES)
"""Of the pages of a `nemotron_rag.PageIndex`; those of earlier versions have no `files`.

Their ids are `nemotron_rag.types.page_uuid` of the page ids; read their payloads with `from_payload`: what `nearest`
returns is read as the first file has it that meets the filter."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the dense vectors of a collection are.

    Args:
        vector_name: their name; empty for unnamed ones.
        dimensions: their length.
        distance: how Qdrant compares them.
        identity: of the embedder that wrote them; None if it is not known.
        is_index: whether the collection belongs to a `nemotron_rag.PageIndex`.
        analysis: how the words of its texts are found, see `nemotron_rag.documents.words`; None if they are not.
    """

    vector_name: str
    dimensions: int
    distance: models.Distance
    identity: Identity | None = None
    is_index: bool = False
    analysis: int | None = None

    @property
    def falls(self) -> bool:
        """Whether a larger score is a better one; distances are better if they are small."""
        return self.distance in (models.Distance.COSINE, models.Distance.DOT)

    def vector(self, point: models.Record | models.ScoredPoint) -> list[float]:
        """The dense vector of a point that came with its vectors: (dimensions,)."""
        row: Any = point.vector
        return list(row[self.vector_name] if isinstance(row, Mapping) else row)

    def relevance(self, score: float) -> float:
        """A score of the collection's own measure on a scale from 0 (unlike) to 1 (alike), in the same order."""
        if self.distance == models.Distance.COSINE:
            return min(1.0, max(0.0, (1 + score) / 2))
        if self.distance == models.Distance.DOT:
            return (1 + math.tanh(score / 2)) / 2  # the logistic function, without overflow
        return 1 / (1 + score)  # Euclidean and Manhattan distances


class ForeignCollection:
    """One Qdrant collection, searched by dense vectors, whatever the layout of its points.

    Points go in and come out as qdrant-client's own; which text, metadata and image a payload holds is the caller's
    business, and so are embedders. Each method has a twin for event loops, which it does not block: native calls of a
    server, threads for embedded Qdrants. A collection that a `nemotron_rag.PageIndex` wrote is recognised: `layout`
    becomes `PAGE_LAYOUT` with the first answer of `shape`, and nothing can be written. Nothing is opened or made before
    the first call; closing is left to whoever made `qdrant`.

    Args:
        qdrant: where the collection is.
        name: of the collection.
        layout: of its points.
        distance: for a new collection.
        tenant: whose points are seen, changed and deleted; see `nemotron_rag.PageIndex`. Their ids are those of
            `point_id`.
        collection_options: of a new collection, or a mapping of them.
        must_exist: raise where the collection is not there, instead of finding nothing.

    Example:
        >>> collection = ForeignCollection(Qdrant(), "docs", layout=Layout(vector_name="", metadata="metadata"))
        >>> collection.ensure(2, identity={"model": "m"})
        >>> collection.upsert([models.PointStruct(id=1, vector=[1, 0], payload={"metadata": {"year": 2020}})])
        >>> [point.id for point in collection.nearest([1, 0], 3, {"year": {"gte": 2020}})]
        [1]
        >>> collection.ids_matching({"year": 2021}), str(collection)
        ([], "collection 'docs' at memory")
    """

    def __init__(
        self,
        qdrant: Qdrant,
        name: str,
        *,
        layout: Layout,
        distance: models.Distance = models.Distance.COSINE,
        tenant: TenantKey | Tenant | None = None,
        collection_options: CollectionOptions | Mapping[str, Any] | None = None,
        must_exist: bool = False,
    ) -> None:
        self.qdrant, self.name, self.layout = qdrant, name, layout
        self.tenant = Tenant.of(tenant)
        self._new = CollectionOptions.of(collection_options) or CollectionOptions()
        self._distance, self._must_exist = distance, must_exist
        self._shape: Shape | None = None
        self._key_check: KeyCheck | None = None
        self._said = False

    def __str__(self) -> str:
        """``collection 'docs' at ./store``."""
        return f"collection {self.name!r} at {self.qdrant.name}"

    def missing(self) -> str:
        """What to call it in messages where it is not there: what else is.

        Raises:
            StoreError: the server could not be reached.
        """
        return f"{self}{self.qdrant.run(held_collections())}"

    def point_id(self, id: str) -> int | str:
        """The Qdrant id of a document: see `point_id`; with a tenant one that no other tenant's documents have."""
        return point_id(id) if self.tenant is None else self.tenant.uuid(str(point_id(id)))

    def shape(self) -> Shape | None:
        """What its vectors are; None if there is no collection yet. Read once, when it exists.

        Raises:
            InputError: it has not one dense vector, and the layout names none.
            StoreError: the layout's vector is not there, or is a multi-vector; or with `must_exist` no collection is.
        """
        return self.qdrant.run(self._read_shape())

    async def ashape(self) -> Shape | None:
        """The same as `shape`, without blocking the event loop."""
        return await self.qdrant.arun(self._read_shape())

    def ensure(self, dimensions: int, identity: Identity | None = None) -> None:
        """Make the collection if it is not there, and note in it which embedder writes it.

        Args:
            dimensions: of the vectors.
            identity: of their embedder, if it is known.

        Raises:
            IndexMismatchError: it is there, with vectors of another length or embedder.
            InputError: it belongs to a `PageIndex`.
            StoreError: as from `shape`; or Qdrant refused.
        """
        self.qdrant.run(self._ensure(dimensions, identity))

    async def aensure(self, dimensions: int, identity: Identity | None = None) -> None:
        """The same as `ensure`, without blocking the event loop."""
        await self.qdrant.arun(self._ensure(dimensions, identity))

    def nearest(
        self,
        vector: Sequence[float],
        k: int,
        filter: Filter | None = None,
        *,
        identity: Identity | None = None,
        with_vectors: bool = False,
        score_threshold: float | None = None,
        offset: int = 0,
        search_params: models.SearchParams | None = None,
        words: str = "",
    ) -> list[models.ScoredPoint]:
        """The k points nearest to a vector, best first, with payloads; none if there is no collection.

        Args:
            vector: (dimensions,).
            k: at most so many.
            filter: in terms of the layout; see `Layout.filter`.
            identity: of the vector's embedder, if it is known.
            with_vectors: return the points' vectors as well; see `Shape.vector`.
            score_threshold: worst score of a result, in the collection's own measure.
            offset: how many of the best to pass over.
            words: a query whose words are looked for in the texts as well; the two orders are joined by reciprocal rank
                fusion, whose scores only tell an order. Empty for none.
            search_params: Qdrant's own; an embedded Qdrant compares all points exactly, and takes none.

        Raises:
            InputError: `k` or the filter cannot be used.
            IndexMismatchError: the collection's vectors have another length or embedder.
            StoreError: as from `shape`; or Qdrant refused.
        """
        options = self._options(with_vectors, score_threshold, offset, search_params)
        return self.qdrant.run(self._nearest(vector, k, filter, identity, options, words))

    async def anearest(
        self,
        vector: Sequence[float],
        k: int,
        filter: Filter | None = None,
        *,
        identity: Identity | None = None,
        with_vectors: bool = False,
        score_threshold: float | None = None,
        offset: int = 0,
        search_params: models.SearchParams | None = None,
        words: str = "",
    ) -> list[models.ScoredPoint]:
        """The same as `nearest`, without blocking the event loop."""
        options = self._options(with_vectors, score_threshold, offset, search_params)
        return await self.qdrant.arun(self._nearest(vector, k, filter, identity, options, words))

    def get(self, ids: Sequence[int | str]) -> list[models.Record]:
        """Points by their Qdrant ids, with payloads and in this order, each once; unknown ones are passed over.

        Args:
            ids: unsigned integers or UUIDs; see `point_id`.
        """
        return self.qdrant.run(self._get(ids))

    async def aget(self, ids: Sequence[int | str]) -> list[models.Record]:
        """The same as `get`, without blocking the event loop."""
        return await self.qdrant.arun(self._get(ids))

    def ids_matching(self, filter: Filter | None = None) -> list[int | str]:
        """The Qdrant ids of all points that a filter matches; see `nearest`."""
        return self.qdrant.run(self._ids_matching(filter))

    async def aids_matching(self, filter: Filter | None = None) -> list[int | str]:
        """The same as `ids_matching`, without blocking the event loop."""
        return await self.qdrant.arun(self._ids_matching(filter))

    def upsert(self, points: Sequence[models.PointStruct], texts: Sequence[str] | None = None) -> None:
        """Write points, in requests of a size that servers take, and wait until they are stored; see `ensure`.

        Args:
            points: with their dense vectors.
            texts: one for each, by whose words they are found besides, where the collection has words.

        Raises:
            InputError: the collection belongs to a `PageIndex`.
            StoreError: Qdrant refused, or could not be reached.
        """
        self.qdrant.run(self._upsert(points, texts))

    async def aupsert(self, points: Sequence[models.PointStruct], texts: Sequence[str] | None = None) -> None:
        """The same as `upsert`, without blocking the event loop."""
        await self.qdrant.arun(self._upsert(points, texts))

    def delete(self, ids: Sequence[int | str]) -> None:
        """Delete points by their Qdrant ids; unknown ones are passed over.

        Raises:
            InputError: the collection belongs to a `PageIndex`.
            StoreError: Qdrant refused, or could not be reached.
        """
        self.qdrant.run(self._delete(ids))

    async def adelete(self, ids: Sequence[int | str]) -> None:
        """The same as `delete`, without blocking the event loop."""
        await self.qdrant.arun(self._delete(ids))

    # ---- the logic, once for both forms

    def _read_shape(self) -> Calls[Shape | None]:
        if self._shape is None and (yield self._call("collection_exists")):
            config = (yield self._call("get_collection")).config
            record, divided_by = yield from self._index_record(config)
            noted = (config.metadata or {}).get(_TENANT_KEY) if record is None else divided_by
            if record is not None or noted is not None:  # what others wrote says nothing about tenants
                check_tenant(str(self), noted, self.tenant)
            name, params = self._dense_vector(config)
            identity = (config.metadata or {}).get(_IDENTITY_KEY) if record is None else record.get("identity")
            analysis = _analysis(config, record)
            self._shape = Shape(name, params.size, params.distance, identity, record is not None, analysis)
        if self._shape is None and self._must_exist:
            held = yield from held_collections()
            raise StoreError(f"there is no {self}{held}; check its name, or write it first")
        return self._shape

    def _index_record(self, config: models.CollectionConfig) -> Calls[tuple[Mapping[str, Any] | None, Any]]:
        """What a `PageIndex` noted in its collection, None if this is not one; and by which key it is divided."""
        vectors = config.params.vectors
        if self.layout.vector_name not in (None, "", VECTOR) or not isinstance(vectors, dict) or VECTOR not in vectors:
            return None, None
        points = yield self._call("retrieve", ids=[RECORD_ID])
        record = read_record(points)
        if record is not None:
            self.layout = replace(PAGE_LAYOUT, files="") if layout_of(points).number == 1 else PAGE_LAYOUT
        return record, (points[0].payload or {}).get(TENANT) if points else None

    def _dense_vector(self, config: models.CollectionConfig) -> tuple[str, models.VectorParams]:
        vectors = config.params.vectors or {}
        found = vectors if isinstance(vectors, dict) else {"": vectors}
        name = self.layout.vector_name
        if name is None:
            dense = [each for each, params in found.items() if params.multivector_config is None]
            if len(dense) != 1:
                raise InputError(f"wanted one dense vector in {self}, it has {sorted(found)}; pass vector_name=")
            name = dense[0]
        if name not in found:
            raise StoreError(f"{self} has no vector {name!r}, it has {', '.join(map(repr, found))}; give vector_name=")
        if found[name].multivector_config is not None:
            raise StoreError(f"{self} has a multi-vector under {name!r}, wanted one vector a point; give another one")
        return name, found[name]

    def _writable_shape(self) -> Calls[Shape | None]:
        shape = yield from self._read_shape()
        if shape is not None and shape.is_index:
            raise InputError(
                f"{self} belongs to a nemotron_rag.PageIndex; add and remove pages there, search them here"
            )
        return shape

    def _ensure(self, dimensions: int, identity: Identity | None) -> Calls[None]:
        shape = yield from self._writable_shape()
        if shape is None:
            yield from self._make(dimensions, identity)
            shape = yield from self._writable_shape()
        if shape is not None:
            self._check(shape, dimensions, identity)

    def _make(self, dimensions: int, identity: Identity | None) -> Calls[None]:
        params = models.VectorParams(
            size=dimensions,
            distance=self._distance,
            on_disk=self._new.vectors_on_disk,
            quantization_config=quantization(self._new.quantization),
        )
        notes: dict[str, Any] = {} if identity is None else {_IDENTITY_KEY: dict(identity)}
        notes[_WORDS_KEY] = CURRENT_ANALYSIS
        if self.tenant is not None:
            notes[_TENANT_KEY] = self.tenant.key
        try:
            yield self._call(
                "create_collection",
                vectors_config={self.layout.vector_name: params} if self.layout.vector_name else params,
                sparse_vectors_config={TERMS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                metadata=notes,
                **new_collection(self._new, divided=self.tenant is not None),
            )
        except StoreError:  # another thread or process may have made it
            if not (yield self._call("collection_exists")):
                raise
        if self.qdrant.engine == "local":  # which has no payload indexes, and warns
            return
        if self._new.strict:
            yield self._index(_IMAGE_FIELD, models.PayloadSchemaType.KEYWORD)
        for key, kind in self._new.metadata_indexes.items():
            yield self._index(self._path(key), models.PayloadSchemaType(kind))
        if self.tenant is not None:
            yield self._index(self._path(self.tenant.key), tenant_index())

    def _index(self, path: str, schema: Any) -> Call:
        return self._call("create_payload_index", field_name=path, field_schema=schema, wait=True)

    def _path(self, key: str) -> str:
        return field_path(key, fields=self.layout.fields, metadata=self.layout.metadata)

    def _only(self, filter: models.Filter | None) -> models.Filter | None:
        """A filter that matches the tenant's points alone."""
        if self.tenant is None:
            return filter
        is_index = self._shape is not None and self._shape.is_index
        path = tenant_path(self.tenant.key) if is_index else self._path(self.tenant.key)
        mine = models.FieldCondition(key=path, match=models.MatchValue(value=self.tenant.value))
        return models.Filter(must=[mine] if filter is None else [mine, filter])

    def _stamped(self, point: models.PointStruct) -> models.PointStruct:
        """A point that says whose it is."""
        if self.tenant is None:
            return point
        payload, below = dict(point.payload or {}), self.layout.metadata
        held: Mapping[str, Any] = payload.get(below) or {} if below else payload
        self.tenant.check(held)
        payload = {**payload, **({below: {**held, **self.tenant.metadata}} if below else self.tenant.metadata)}
        return point.model_copy(update={"payload": payload})

    def _nearest(
        self,
        vector: Sequence[float],
        k: int,
        filter: Filter | None,
        identity: Identity | None,
        options: Mapping[str, Any],
        words: str,
    ) -> Calls[list[models.ScoredPoint]]:
        check_count("k", k)
        shape = yield from self._read_shape()
        conditions = self._only(self.layout.filter(filter))
        if shape is None:
            yield from self._say_that_it_is_missing()
            return []
        self._check(shape, len(vector), identity)
        terms = self._terms(words, shape)
        dense = {"query": list(vector), "using": shape.vector_name or None}
        asked: dict[str, Any] = {**dense, "query_filter": conditions, **options}
        if terms is not None:
            asked = self._joined(dense, terms, conditions, max(_FUSED, 2 * k) + options["offset"], options)
        answer = yield self._call("query_points", limit=k, **asked)
        yield from self._check_keys(filter, shape, found=bool(answer.points))
        if shape.distance == models.Distance.COSINE and terms is None:
            for point in answer.points:
                point.score = min(1.0, max(-1.0, point.score))  # Qdrant's may lie a rounding error beyond
        if shape.is_index:
            for point in answer.points:
                point.payload = payload_found(point.payload or {}, filter)
        return list(answer.points)

    def _check_keys(self, filter: Filter | None, shape: Shape, *, found: bool) -> Calls[None]:
        """Say which keys of a filter nothing has, where the answer may be wrong for it."""
        if not filter or not isinstance(filter, Mapping):
            return
        for key in self._keys(shape).doubtful(parse_filter(filter), found=found):
            there = self._only(self.layout.filter({key: {"exists": True}}))
            if (yield self._call("count", count_filter=there)).count:
                self._keys(shape).found(key)
            elif (yield self._call("count", count_filter=self._only(None))).count:
                records, _ = yield self._call("scroll", scroll_filter=self._only(None), limit=_SAMPLED)
                some = [self._metadata(record.payload or {}) for record in records]
                _log.warning("%s", self._keys(shape).message(key, some))

    def _keys(self, shape: Shape) -> KeyCheck:
        if self._key_check is None:
            self._key_check = KeyCheck(self, fields=PAGE_PAYLOAD if shape.is_index else ())
        return self._key_check

    def _metadata(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """What filters can ask for in a payload; keys that begin with a line are a framework's own."""
        found = payload.get(self.layout.metadata) if self.layout.metadata else payload
        return {} if not isinstance(found, Mapping) else {k: v for k, v in found.items() if not k.startswith("_")}

    def _terms(self, words: str, shape: Shape) -> models.SparseVector | None:
        """What is looked for in texts; None if nothing is."""
        if not words:
            return None
        if shape.analysis is None:
            raise InputError(
                f"{self} has no words to search, since an earlier version or another library made it; add its "
                "documents to a new collection for mode='hybrid'"
            )
        terms = query_terms(words, shape.analysis)
        return terms if terms.indices else None

    def _joined(
        self,
        dense: Mapping[str, Any],
        terms: models.SparseVector,
        conditions: models.Filter | None,
        depth: int,
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Arguments of ``query_points`` for the vectors' order and the words', joined."""
        if options["score_threshold"] is not None:
            raise InputError(
                "a smallest score is one of vectors, those of mode='hybrid' tell an order only; leave one of them out"
            )
        by_vector = models.Prefetch(**dense, params=options["search_params"], filter=conditions, limit=depth)
        by_words = models.Prefetch(query=terms, using=TERMS, filter=conditions, limit=depth)
        rest = {name: value for name, value in options.items() if name not in ("search_params", "score_threshold")}
        fusion = models.FusionQuery(fusion=models.Fusion.RRF)
        return {"query": fusion, "prefetch": [by_vector, by_words], "query_filter": conditions, **rest}

    def _say_that_it_is_missing(self) -> Calls[None]:
        held = yield from held_collections()
        if not self._said:
            self._said = True
            _log.warning("nothing is found: there is no %s%s; check its name and place, or add to it", self, held)

    def _options(
        self, with_vectors: bool, score_threshold: float | None, offset: int, search_params: models.SearchParams | None
    ) -> dict[str, Any]:
        return {
            "with_vectors": with_vectors,
            "score_threshold": score_threshold,
            "offset": offset,
            "search_params": None if self.qdrant.engine == "local" else search_params,
        }

    def _get(self, ids: Sequence[int | str]) -> Calls[list[models.Record]]:
        if (yield from self._read_shape()) is None or not ids:
            return []
        unique: list[Any] = list(dict.fromkeys(ids))
        if self.tenant is None:
            records = yield self._call("retrieve", ids=unique)
        else:
            wanted = self._only(models.Filter(must=[models.HasIdCondition(has_id=unique)]))
            records, _ = yield self._call("scroll", scroll_filter=wanted, limit=len(unique), with_payload=True)
        found = {record.id: record for record in records}
        return [found[id] for id in unique if id in found]

    def _ids_matching(self, filter: Filter | None) -> Calls[list[int | str]]:
        shape = yield from self._read_shape()
        conditions = self._only(self.layout.filter(filter))
        if shape is None:
            return []
        ids: list[int | str] = []
        offset = None
        while True:
            records, offset = yield self._call(
                "scroll", scroll_filter=conditions, limit=_LISTED, with_payload=False, offset=offset
            )
            ids += [record.id for record in records if not (shape.is_index and record.id in (RECORD_ID, BASIS_ID))]
            if offset is None:
                return ids

    def _upsert(self, points: Sequence[models.PointStruct], texts: Sequence[str] | None) -> Calls[None]:
        shape = yield from self._writable_shape()
        points = [self._stamped(point) for point in points]
        if texts is not None and shape is not None and shape.analysis is not None:
            points = [_with_terms(each, text, shape) for each, text in zip(points, texts, strict=True)]
        payloads = [point.payload or {} for point in points]
        sizes = [_number_count(point) * self.qdrant.bytes_per_number for point in points]
        for part in batches(payloads, sizes):
            yield self._call("upsert", points=list(points[part]), wait=True)

    def _delete(self, ids: Sequence[int | str]) -> Calls[None]:
        if (yield from self._writable_shape()) is None:
            return
        for start in range(0, len(ids), _LISTED):
            part: list[Any] = list(ids[start : start + _LISTED])
            mine = self._only(None)
            if mine is None:
                selector: Any = models.PointIdsList(points=part)
            else:
                only = models.Filter(must=[mine, models.HasIdCondition(has_id=part)])
                selector = models.FilterSelector(filter=only)
            yield self._call("delete", points_selector=selector, wait=True)

    def _call(self, method: str, **arguments: Any) -> Call:
        return Call(method, {"collection_name": self.name, **arguments})

    def _check(self, shape: Shape, dimensions: int, identity: Identity | None) -> None:
        has: dict[str, Any] = {"dimensions": shape.dimensions, **(shape.identity or {})}
        given: dict[str, Any] = {"dimensions": dimensions, **(identity or {})}
        names = has.keys() | given.keys() if shape.identity and identity else {"dimensions"}
        if differing := sorted(name for name in names if has.get(name) != given.get(name)):
            theirs, ours = ({name: side.get(name) for name in differing} for side in (has, given))
            raise IndexMismatchError(
                f"{self} was written with {theirs}, but the embedding has {ours}; "
                "open it with the embedding that wrote it, or use another collection"
            )


def point_id(id: str) -> int | str:
    """The Qdrant id of a document: a whole number or UUID as it is, a uuid5 of every other text.

    Example:
        >>> point_id("17"), point_id("a.pdf/1")
        (17, '4dddd91e-e9ce-5061-8fba-716339c62c7d')
    """
    if id.isascii() and id.isdigit() and len(id) <= _DIGITS and str(int(id)) == id and int(id) < 2**64:
        return int(id)
    return page_uuid(id)


def _analysis(config: models.CollectionConfig, record: Mapping[str, Any] | None) -> int | None:
    """How the words of a collection are found; None if nobody of ours noted it."""
    if TERMS not in (config.params.sparse_vectors or {}):
        return None
    if record is not None:
        return analysis_of(record)
    noted = (config.metadata or {}).get(_WORDS_KEY)
    return None if noted is None else analysis_of({"words": noted})


def _with_terms(point: models.PointStruct, text: str, shape: Shape) -> models.PointStruct:
    """A point with the words of its text beside its dense vector."""
    dense = point.vector if isinstance(point.vector, Mapping) else {shape.vector_name: point.vector}
    terms = passage_terms(text, shape.analysis or CURRENT_ANALYSIS)
    return point.model_copy(update={"vector": {**dense, TERMS: terms}})


def _number_count(point: models.PointStruct) -> int:
    """How many numbers a point's vectors have, for the size of requests."""
    rows = point.vector.values() if isinstance(point.vector, Mapping) else [point.vector]
    return sum(len(row) for row in rows if isinstance(row, list))
