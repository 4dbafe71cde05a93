"""Qdrant Edge, the engine in this process, behind the calls of qdrant-client that this package makes."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http import models as rest  # its QueryResponse is another than that of `models`

from nemotron_rag._forking import Lock
from nemotron_rag.documents.files import one_line, write_whole
from nemotron_rag.errors import StoreError
from nemotron_rag.stores.qdrant.edge.copies import size_of
from nemotron_rag.stores.qdrant.edge.place import Place
from nemotron_rag.stores.qdrant.edge.translation import (
    edge_config,
    edge_filter,
    edge_payload,
    edge_point,
    edge_prefetch,
    edge_query,
    edge_value,
)

__all__ = ["EdgeClient"]

T = TypeVar("T")

_SPACE = 2**26  # bytes that must be free on the disk to write; the engine's mapped files end the process on a full one
_FLUSH = 5.0  # seconds, as on servers; what is acknowledged outlives the process at once, a power cut after so long
_WATCH = 0.1  # seconds after which a reader sees that somebody wants to write
_LARGE = 2**27  # bytes of a shard
_FEW = 1000  # points
_SEGMENT = re.compile(r"segments/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_log = logging.getLogger("nemotron_rag")
_OPTIMIZE = (
    "import sys, qdrant_edge; shard = qdrant_edge.EdgeShard.load(sys.argv[1]); print(shard.optimize()); shard.close()"
)
_DONE = models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


class EdgeClient:
    """The collections of one folder, by the methods that `qdrant_client.QdrantClient` has, with the same arguments.

    One process writes to a folder: the first that does, until it closes this. Others read, each from a copy that
    follows what is written. Whatever goes wrong is a RuntimeError or ValueError, as from qdrant-client's local mode.
    One thread may call at a time.

    Args:
        folder: of the index; made if it is not there.

    Raises:
        OSError: the folder cannot be made or read.

    Example:
        >>> import tempfile
        >>> client = EdgeClient(Path(tempfile.mkdtemp()))
        >>> client.create_collection("docs", models.VectorParams(size=2, distance=models.Distance.COSINE))
        True
        >>> _ = client.upsert("docs", [models.PointStruct(id=1, vector=[1, 0], payload={"year": 2020})])
        >>> [(point.id, point.score) for point in client.query_points("docs", [1.0, 0.0], limit=3).points]
        [(1, 1.0)]
        >>> client.close()
    """

    def __init__(self, folder: Path) -> None:
        self.init_options = {"path": str(folder)}
        self._folder = folder
        self._alone = Lock(reentrant=True)
        self._ended = threading.Event()
        self._place: Place | None = Place(folder)
        self._shards: dict[str, edge.EdgeShard] = {}
        self._unflushed: set[str] = set()
        self._flushed = time.monotonic()
        self._written: Counter[str] = Counter()  # points, since the last `optimize`
        self._watch()

    # ---- collections

    def collection_exists(self, collection_name: str, **_: Any) -> bool:
        """Whether there is such a collection."""
        return self._open_place().holds(collection_name)

    def get_collections(self, **_: Any) -> models.CollectionsResponse:
        """The names of all."""
        names = self._open_place().names()
        return models.CollectionsResponse(collections=[models.CollectionDescription(name=name) for name in names])

    def create_collection(
        self,
        collection_name: str,
        vectors_config: models.VectorParams | Mapping[str, models.VectorParams] | None = None,
        sparse_vectors_config: Mapping[str, models.SparseVectorParams] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        hnsw_config: models.HnswConfigDiff | None = None,
        quantization_config: models.QuantizationConfig | None = None,
        on_disk_payload: bool | None = None,
        **_: Any,
    ) -> bool:
        """Make a collection; what only a cluster has (shards, replicas) is passed over.

        Raises:
            ValueError: there is one of that name, or Edge cannot store such vectors.
        """
        vectors, sparse = vectors_config or {}, dict(sparse_vectors_config or {})
        options: dict[str, Any] = {
            "hnsw_config": hnsw_config,
            "quantization_config": quantization_config,
            "on_disk_payload": on_disk_payload,
        }
        description = models.CreateCollection(
            vectors=dict(vectors) if isinstance(vectors, Mapping) else vectors,
            sparse_vectors=sparse or None,
            metadata=edge_payload(metadata),
            **options,
        )
        with self._writing() as place, _errors():
            place.check_space(_SPACE)
            if place.holds(collection_name):
                raise ValueError(f"collection {collection_name} already exists")
            config = edge_config(vectors, sparse, **options)
            with place.new(collection_name, description.model_dump_json(exclude_none=True).encode()) as path:
                self._shards[collection_name] = edge.EdgeShard.create(str(path), config)
        return True

    def get_collection(self, collection_name: str, **_: Any) -> models.CollectionInfo:
        """What a collection is, and how full."""
        made = self._description(collection_name)
        info = self._call(collection_name, lambda shard: shard.info())
        return models.CollectionInfo(
            status=models.CollectionStatus.GREEN,
            optimizer_status=models.OptimizersStatusOneOf.OK,
            indexed_vectors_count=info.indexed_vectors_count,
            points_count=info.points_count,
            segments_count=info.segments_count,
            payload_schema={name: _index_info(found) for name, found in info.payload_schema.items()},
            config=models.CollectionConfig(
                params=models.CollectionParams(
                    vectors=made.vectors, sparse_vectors=made.sparse_vectors, on_disk_payload=made.on_disk_payload
                ),
                hnsw_config=models.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
                optimizer_config=models.OptimizersConfig(
                    deleted_threshold=0.2,
                    vacuum_min_vector_number=1000,
                    default_segment_number=0,
                    flush_interval_sec=int(_FLUSH),
                ),
                quantization_config=made.quantization_config,
                metadata=made.metadata or None,
            ),
        )

    def delete_collection(self, collection_name: str, **_: Any) -> bool:
        """Remove a collection; False if there is none."""
        with self._writing() as place:
            if not place.holds(collection_name):
                return False
            shard = self._shards.pop(collection_name, None)
            self._unflushed.discard(collection_name)
            if shard is not None:
                shard.close()
            place.remove(collection_name)
        return True

    def update_collection(self, collection_name: str, *, metadata: Mapping[str, Any], **_: Any) -> bool:
        """Note something about a collection, over what was noted before."""
        made = self._description(collection_name)
        noted = made.model_copy(update={"metadata": {**(made.metadata or {}), **edge_payload(metadata)}})
        with self._writing() as place:
            write_whole(place.description(collection_name), noted.model_dump_json(exclude_none=True).encode())
        return True

    def salvage(self, collection_name: str) -> list[str]:
        """Put aside what keeps a collection from being opened: damaged files, with the points in them.

        Returns:
            What was put aside, as paths below the collection's folder; empty if it can be opened.

        Raises:
            RuntimeError: it cannot be opened for another reason.
        """
        with self._writing() as place, _errors():
            shard, aside = place.shard(collection_name), list[str]()
            if collection_name in self._shards:
                return aside
            while (error := _why_not(shard)) is not None:
                part = _damaged_part(error, shard)
                if part is None or not (shard / part).exists():
                    raise RuntimeError(one_line(error, limit=300))
                target = shard.parent / "damaged" / part
                target.parent.mkdir(parents=True, exist_ok=True)
                (shard / part).rename(target if not target.exists() else target.with_name(uuid.uuid4().hex))
                aside.append(part)
            return aside

    def optimize(self, collection_name: str) -> bool:
        """Merge small parts, drop what was deleted, build graphs; returns whether there was something to do.

        A large collection is put in order by a process of its own: the engine would stop all threads of this one for as
        long as it takes. Little that was written since the last time is left for the next.
        """
        with self._writing() as place, _errors():
            shard = self._shard(collection_name)
            self.flush()
            size = size_of(place.shard(collection_name))
            try:
                place.check_space(_SPACE + 2 * size)  # what is put in order is written anew before the old files go
            except OSError as error:
                _log.warning("the index folder %s is not put in order: %s", self._folder, error.strerror)
                return False
            if size < _LARGE:
                return shard.optimize()
            if self._written.get(collection_name, 0) < max(_FEW, shard.info().points_count // 20):
                return False
            self._written.pop(collection_name)
            self._shards.pop(collection_name).close()
            return _optimize_apart(place.shard(collection_name))

    def flush(self) -> None:
        """Bring to the disk whatever was written: what a power cut must not cost."""
        with _errors():
            for name in sorted(self._unflushed):
                self._shards[name].flush()
            self._unflushed.clear()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Let go of the folder; later calls raise RuntimeError. Closing twice is allowed."""
        self._ended.set()
        with self._alone:
            if self._place is None:
                return
            place, self._place = self._place, None
            try:
                self._close_shards(place)
            finally:
                place.close()

    # ---- writing

    def upsert(
        self,
        collection_name: str,
        points: Sequence[models.PointStruct] | models.Batch,
        *,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
        **_: Any,
    ) -> models.UpdateResult:
        """Write points, over those of the same ids unless a mode or filter forbids it."""
        listed = _unpacked(points) if isinstance(points, models.Batch) else points
        with _errors():
            operation = edge.UpdateOperation.upsert_points(
                [edge_point(point) for point in listed], edge_filter(update_filter), edge_value(update_mode)
            )
        self._open_place().check_space(_SPACE)
        self._written[collection_name] += len(listed)
        return self._apply(collection_name, operation)

    def delete(self, collection_name: str, points_selector: Any, **_: Any) -> models.UpdateResult:
        """Delete points by ids or by a filter."""
        self._written[collection_name] += _FEW
        return self._apply_to(collection_name, "delete_points", points_selector)

    def set_payload(
        self, collection_name: str, payload: Mapping[str, Any], points: Any, key: str | None = None, **_: Any
    ) -> models.UpdateResult:
        """Write some fields of payloads; the others stay."""
        return self._apply_to(collection_name, "set_payload", points, edge_payload(payload), key)

    def overwrite_payload(
        self, collection_name: str, payload: Mapping[str, Any], points: Any, key: str | None = None, **_: Any
    ) -> models.UpdateResult:
        """Write whole payloads."""
        return self._apply_to(collection_name, "overwrite_payload", points, edge_payload(payload), key)

    def delete_payload(self, collection_name: str, keys: Sequence[str], points: Any, **_: Any) -> models.UpdateResult:
        """Delete fields of payloads."""
        return self._apply_to(collection_name, "delete_payload", points, list(keys))

    def create_payload_index(
        self, collection_name: str, field_name: str, field_schema: Any = None, **_: Any
    ) -> models.UpdateResult:
        """Make filters on a field fast; one that is there as it is asked for stays."""
        schema = edge_value(field_schema)
        return self._apply(collection_name, edge.UpdateOperation.create_field_index(field_name, schema))

    def delete_payload_index(self, collection_name: str, field_name: str, **_: Any) -> models.UpdateResult:
        """Undo `create_payload_index`."""
        return self._apply(collection_name, edge.UpdateOperation.delete_field_index(field_name))

    # ---- reading

    def retrieve(
        self, collection_name: str, ids: Sequence[Any], with_payload: Any = True, with_vectors: Any = False, **_: Any
    ) -> list[models.Record]:
        """Points by their ids; unknown ones are passed over."""
        wanted = list(ids)
        payload = _selector(with_payload)
        found = self._call(collection_name, lambda shard: shard.retrieve(wanted, payload, with_vectors))
        by_id = {record.id: record for record in map(_record, found)}
        return [by_id[id] for id in dict.fromkeys(map(_plain_id, wanted)) if id in by_id]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        order_by: str | models.OrderBy | None = None,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        **_: Any,
    ) -> tuple[list[models.Record], int | str | None]:
        """Points that a filter matches, and where to go on; None at the end."""
        with _errors():
            request = edge.ScrollRequest(
                offset=offset,
                limit=limit,
                filter=edge_filter(scroll_filter),
                with_payload=_selector(with_payload),
                with_vector=with_vectors,
                order_by=edge_value(models.OrderBy(key=order_by) if isinstance(order_by, str) else order_by),
            )
        records, following = self._call(collection_name, lambda shard: shard.scroll(request))
        return [_record(record) for record in records], None if following is None else _plain_id(following)

    def count(
        self, collection_name: str, count_filter: models.Filter | None = None, exact: bool = True, **_: Any
    ) -> models.CountResult:
        """How many points a filter matches."""
        with _errors():
            request = edge.CountRequest(exact=exact, filter=edge_filter(count_filter))
        return models.CountResult(count=self._call(collection_name, lambda shard: shard.count(request)))

    def facet(
        self,
        collection_name: str,
        key: str,
        facet_filter: models.Filter | None = None,
        limit: int = 10,
        exact: bool = False,
        **_: Any,
    ) -> models.FacetResponse:
        """The values of an indexed field, and how many points have each."""
        with _errors():
            request = edge.FacetRequest(key, limit=limit, exact=exact, filter=edge_filter(facet_filter))
        found = self._call(collection_name, lambda shard: shard.facet(request))
        return models.FacetResponse(hits=[models.FacetValueHit(value=hit.value, count=hit.count) for hit in found.hits])

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: models.Prefetch | Sequence[models.Prefetch] | None = None,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: Any = True,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        **_: Any,
    ) -> rest.QueryResponse:
        """The best points for a query, in stages if there are any."""
        with _errors():
            request = edge.QueryRequest(
                limit=limit,
                offset=offset,
                query=edge_query(query, using=using, limit=limit),
                prefetches=edge_prefetch(prefetch),
                with_vector=with_vectors,
                with_payload=_selector(with_payload),
                filter=edge_filter(query_filter),
                score_threshold=score_threshold,
                params=edge_value(search_params),
            )
        found = self._call(collection_name, lambda shard: shard.query(request))
        points = [_scored(point) for point in found]
        return rest.QueryResponse(points=points if isinstance(query, _UNSCORED) else _settled(points))

    # ---- the engine

    def _open_place(self) -> Place:
        if self._place is None:
            raise RuntimeError("this client of Qdrant Edge was closed")
        return self._place

    def _description(self, name: str) -> models.CreateCollection:
        place = self._open_place()
        if not place.holds(name):
            raise ValueError(f"Collection {name} not found")
        return models.CreateCollection(**json.loads(place.description(name).read_bytes()))

    def _shard(self, name: str) -> edge.EdgeShard:
        place = self._open_place()
        if name not in self._shards:
            if not place.holds(name):
                raise ValueError(f"Collection {name} not found")
            self._take_files(place)
            with place.turns.writing(changes=False) if place.turns.has_files else nullcontext():
                self._shards[name] = edge.EdgeShard.load(str(place.shard(name)))
        return self._shards[name]

    def _call(self, name: str, work: Callable[[edge.EdgeShard], T]) -> T:
        with self._alone, _errors():
            self._catch_up(name)
            return work(self._shard(name))

    def _catch_up(self, name: str) -> None:
        """Leave a copy for what was written since."""
        place = self._open_place()
        if place.turns.has_files or name not in self._shards or not place.copies.is_behind(name):
            return
        if self._take_files(place):
            return
        old = place.copies.renew(name)
        if old is not None:
            self._shards.pop(name).close()
            shutil.rmtree(old, ignore_errors=True)

    def _take_files(self, place: Place) -> bool:
        """Have the files themselves open, not copies, if no other process has; returns whether that is so."""
        if not place.turns.has_files and place.turns.take():
            self._close_shards(place)
            place.copies.forget()
            self._watch()
        return place.turns.has_files

    def _watch(self) -> None:
        """Let go of the files when somebody wants to write, as long as this process only reads."""
        place = self._open_place()
        if place.turns.has_files and not place.turns.writes:
            arguments = (weakref.ref(self), self._ended)
            threading.Thread(target=_watch, args=arguments, name="nemotron-rag folder", daemon=True).start()

    def give_way(self) -> bool:
        """Let go of the files if somebody wants to write; returns whether this process still only reads them."""
        place = self._place
        if place is not None and place.turns.has_files and not place.turns.writes and not place.turns.is_wanted():
            return True
        with self._alone:
            place = self._place
            if place is not None and place.turns.has_files and not place.turns.writes:
                try:
                    self._close_shards(place)
                finally:
                    place.turns.let_go()
        return False

    def _update(self, name: str, work: Callable[[edge.EdgeShard], T]) -> T:
        with self._writing(), _errors():
            shard = self._shard(name)
            self._unflushed.add(name)
            done = work(shard)
            if time.monotonic() - self._flushed > _FLUSH:
                self.flush()
            return done

    def _apply(self, name: str, operation: edge.UpdateOperation) -> models.UpdateResult:
        self._update(name, lambda shard: shard.update(operation))
        return _DONE

    def _apply_to(self, name: str, operation: str, points: Any, *arguments: Any) -> models.UpdateResult:
        """Apply an operation to points that are named, or that a filter matches."""
        chosen = points.filter if isinstance(points, models.FilterSelector) else points
        by_filter = isinstance(chosen, models.Filter)
        make = getattr(edge.UpdateOperation, f"{operation}_by_filter" if by_filter else operation)
        ids = chosen.points if isinstance(chosen, models.PointIdsList) else chosen
        with _errors():
            translated = make(edge_filter(chosen) if by_filter else list(ids), *arguments)
        return self._apply(name, translated)

    @contextmanager
    def _writing(self) -> Generator[Place, None, None]:
        """Become the one that writes, if nobody else is."""
        with self._alone:
            place = self._open_place()
            had_files = place.turns.has_files
            if not place.turns.take_to_write():
                raise StoreError(
                    f"the index folder {self._folder} cannot be written to: its disk or its rights forbid it"
                    if place.turns.read_only
                    else f"the index folder {self._folder} is in use by another process, which alone may write; "
                    "close that one, or run a Qdrant server and give its url"
                )
            if not had_files:
                self._close_shards(place)
                place.copies.forget()
            with place.turns.writing():
                yield place

    def _close_shards(self, place: Place) -> None:
        shards, self._shards = self._shards, {}
        self._unflushed.clear()
        if not shards:
            return
        has_files = place.turns.has_files and not place.is_gone()
        with place.turns.writing(changes=False) if has_files else nullcontext(), _errors():
            for shard in shards.values():
                shard.close()


def _watch(client: weakref.ref[EdgeClient], ended: threading.Event) -> None:
    while not ended.wait(_WATCH):
        found = client()
        if found is None or not found.give_way():
            return
        del found


def _why_not(shard: Path) -> str | None:
    """Why a shard cannot be opened; None if it can."""
    try:
        with _errors():
            edge.EdgeShard.load(str(shard)).close()
    except RuntimeError as error:
        return str(error.__cause__ or error)
    return None


def _damaged_part(error: str, shard: Path) -> str | None:
    """Which part of a shard an error of opening it names."""
    segment = _SEGMENT.search(error)
    if segment is not None:
        index = f"{segment.group()}/payload_index"  # can be made anew
        return index if "payload_index" in error and (shard / index).exists() else segment.group()
    return next((part for part, name in (("wal", "WAL"), ("edge_config.json", "edge_config")) if name in error), None)


def _optimize_apart(shard: Path) -> bool:
    """Optimize a shard that nobody has open, in a process of its own."""
    ran = subprocess.run(  # noqa: S603  # our interpreter, our code
        [sys.executable, "-c", _OPTIMIZE, str(shard)], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise RuntimeError(one_line((ran.stderr or f"ended by {ran.returncode}").splitlines()[-1], limit=300))
    return ran.stdout.strip() == "True"


@contextmanager
def _errors() -> Generator[None, None, None]:
    """Edge raises bare exceptions: say that they are errors of the engine."""
    try:
        yield
    except (StoreError, ValueError, RuntimeError, OSError):
        raise
    except Exception as error:
        raise RuntimeError(one_line(str(error), limit=300) or type(error).__name__) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(f"Qdrant Edge failed: {one_line(str(error), limit=300)}") from error


def _record(found: edge.Record) -> models.Record:
    return models.Record.model_construct(
        id=_plain_id(found.id), payload=found.payload, vector=_plain_vector(found.vector), shard_key=None
    )


def _scored(found: edge.ScoredPoint) -> models.ScoredPoint:
    return models.ScoredPoint.model_construct(
        id=_plain_id(found.id),
        version=found.version,
        score=found.score,
        payload=found.payload,
        vector=_plain_vector(found.vector),
    )


def _settled(points: list[models.ScoredPoint]) -> list[models.ScoredPoint]:
    """Equal scores in one order, which Edge leaves open; that of MMR, which is not by score, as it is."""
    scores = [point.score for point in points]
    if scores != sorted(scores, reverse=True):
        return points
    return sorted(points, key=lambda point: (-point.score, str(point.id)))


_UNSCORED = (models.OrderByQuery, models.SampleQuery)


def _plain_id(id: Any) -> int | str:
    return id if isinstance(id, int) else str(id)


def _plain_vector(vector: Any) -> Any:
    if isinstance(vector, edge.SparseVector):
        return models.SparseVector(indices=vector.indices, values=vector.values)
    return {name: _plain_vector(rows) for name, rows in vector.items()} if isinstance(vector, dict) else vector


def _selector(wanted: Any) -> Any:
    """Which fields of payloads are read."""
    if isinstance(wanted, models.PayloadSelectorExclude):
        return edge.PayloadSelector.Exclude(wanted.exclude)
    if isinstance(wanted, models.PayloadSelectorInclude):
        return edge.PayloadSelector.Include(wanted.include)
    return list(wanted) if isinstance(wanted, tuple) else wanted


def _unpacked(batch: models.Batch) -> list[models.PointStruct]:
    """A batch as points."""
    vectors: Any = batch.vectors
    rows = (
        [dict(zip(vectors, row, strict=True)) for row in zip(*vectors.values(), strict=True)]
        if isinstance(vectors, Mapping)
        else vectors
    )
    payloads: Sequence[Any] = batch.payloads or [None] * len(batch.ids)
    return [
        models.PointStruct(id=id, vector=row, payload=payload)
        for id, row, payload in zip(batch.ids, rows, payloads, strict=True)
    ]


def _index_info(found: edge.PayloadIndexInfo) -> models.PayloadIndexInfo:
    kind = str(found.data_type).rpartition(".")[2].lower()
    return models.PayloadIndexInfo(data_type=models.PayloadSchemaType(kind), points=found.points)
