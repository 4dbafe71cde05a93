"""One Qdrant collection of documents, as steps for sync and async use. It knows no model and no picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from qdrant_client import models

from langchain_nemotron_rag._pages import PageLayout
from langchain_nemotron_rag._points import Layout
from langchain_nemotron_rag._steps import Step, Steps, in_thread
from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.stores.client import Filter, Qdrant
from nemotron_rag.stores.qdrant import VECTOR, QdrantStore

__all__ = ["DocumentCollection", "Identity", "Shape"]

Identity: TypeAlias = Mapping[str, str | int | bool | None]

_IDENTITY_KEY = "nemotron_rag_embedder"  # in the collection's own metadata
_SCROLL = 1000  # points per request of a listing


@dataclass(frozen=True, slots=True)
class Shape:
    """What the vectors of a collection are.

    Args:
        dimensions: their length.
        distance: how Qdrant compares them.
        identity: what the embedder that wrote them computes (see `Embedder.identity`); None if that is not known.
    """

    dimensions: int
    distance: models.Distance
    identity: Identity | None


class DocumentCollection:
    """A collection, made at the first write.

    Args:
        qdrant: where it is.
        name: of the collection.
        layout: of its points.
        distance: for a new collection.
    """

    def __init__(self, qdrant: Qdrant, name: str, *, layout: Layout, distance: models.Distance) -> None:
        self.qdrant, self.name, self.layout = qdrant, name, layout
        self._distance = distance
        self._shape: Shape | None = None

    def __str__(self) -> str:
        """``collection 'documents' at ./store``."""
        return f"collection {self.name!r} at {self.qdrant.name}"

    def shape(self) -> Steps[Shape | None]:
        """What its vectors are; None if there is no collection yet. Once it is there, nothing is asked any more.

        Raises:
            StoreError: it has no vector that can be used.
        """
        if self._shape is None and (yield self._call("collection_exists")):
            info = yield self._call("get_collection")
            if record := (yield from self._index_record(info.config)):
                self.layout = PageLayout()
            self._shape = self._read_shape(info.config, record)
        return self._shape

    def prepare(self, dimensions: int, identity: Identity | None) -> Steps[None]:
        """Make the collection if it is not there.

        Args:
            dimensions: of the vectors.
            identity: of their embedder, if it is known.

        Raises:
            IndexMismatchError: it is there with vectors of another length or embedder.
        """
        shape = yield from self._writable_shape()
        if shape is None:
            params = models.VectorParams(size=dimensions, distance=self._distance)
            name = self.layout.vector_name
            try:
                yield self._call(
                    "create_collection",
                    vectors_config={name: params} if name else params,
                    metadata=None if identity is None else {_IDENTITY_KEY: dict(identity)},
                )
            except StoreError:  # another thread or process may have made it
                if not (yield self._call("collection_exists")):
                    raise
            shape = yield from self.shape()
        if shape is not None:
            self._check(shape, dimensions, identity)

    def upsert(self, points: Sequence[models.PointStruct]) -> Step:
        """Write points and wait until they are stored."""
        return self._call("upsert", points=list(points), wait=True)

    def nearest(
        self, vector: Sequence[float], k: int, wanted: Filter | None, identity: Identity | None, **options: Any
    ) -> Steps[list[models.ScoredPoint]]:
        """The k points nearest to a vector, best first; none if there is no collection.

        Args:
            vector: (dimensions,).
            k: at most so many.
            wanted: see `Layout.filter`.
            identity: of the vector's embedder, if it is known.
            **options: of Qdrant's ``query_points``.

        Raises:
            InputError: `k` or the filter cannot be used.
            IndexMismatchError: the collection's vectors have another length or embedder.
        """
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k must be a whole number from 1 on, got {k!r}")
        shape = yield from self.shape()
        conditions = self.layout.filter(wanted)
        if shape is None:
            return []
        self._check(shape, len(vector), identity)
        answer = yield self._call(
            "query_points",
            query=list(vector),
            using=self.layout.vector_name or None,
            query_filter=conditions,
            limit=k,
            **options,
        )
        return list(answer.points)

    def get(self, ids: Sequence[str]) -> Steps[list[models.Record]]:
        """The points of documents, in the order of their ids; those that are not there are passed over."""
        if (yield from self.shape()) is None or not ids:
            return []
        points = list(dict.fromkeys(self.layout.point_id(id) for id in ids))
        records = yield self._call("retrieve", ids=points)
        found = {record.id: record for record in records}
        return [found[point] for point in points if point in found]

    def matching(self, wanted: Filter | None) -> Steps[list[int | str]]:
        """The ids of all points that a filter matches; see `nearest`."""
        shape = yield from self.shape()
        conditions = self.layout.filter(wanted)
        if shape is None:
            return []
        points: list[int | str] = []
        offset = None
        while True:
            records, offset = yield self._call(
                "scroll", scroll_filter=conditions, limit=_SCROLL, with_payload=False, offset=offset
            )
            points += [record.id for record in records]
            if offset is None:
                return points

    def remove(self, points: Sequence[int | str]) -> Steps[None]:
        """Delete points; those that are not there are passed over."""
        if (yield from self._writable_shape()) is None:
            return
        for start in range(0, len(points), _SCROLL):
            selector = models.PointIdsList(points=list(points[start : start + _SCROLL]))
            yield self._call("delete", points_selector=selector, wait=True)

    def _writable_shape(self) -> Steps[Shape | None]:
        shape = yield from self.shape()
        if not self.layout.writable:
            raise InputError(
                f"{self} belongs to a nemotron_rag.PageIndex; add and remove pages there, search them here"
            )
        return shape

    def _index_record(self, config: models.CollectionConfig) -> Steps[dict[str, Any] | None]:
        """What a `PageIndex` noted in its collection; None if this is none."""
        vectors = config.params.vectors
        if self.layout.vector_name not in ("", VECTOR) or not isinstance(vectors, dict) or VECTOR not in vectors:
            return None
        store = QdrantStore(client=self.qdrant.client, collection=self.name)
        try:
            record: dict[str, Any] | None = yield in_thread(store.read_record)
        except StoreError:  # somebody else's vector of that name
            return None
        return record

    def _call(self, method: str, **arguments: Any) -> Step:
        arguments["collection_name"] = self.name
        return Step(lambda: self.qdrant.call(method, **arguments), lambda: self.qdrant.acall(method, **arguments))

    def _read_shape(self, config: models.CollectionConfig, record: Mapping[str, Any] | None) -> Shape:
        name, vectors = self.layout.vector_name, config.params.vectors
        found = vectors if isinstance(vectors, dict) else {"": vectors}
        params = found.get(name)
        if params is None:
            raise StoreError(f"{self} has no vector {name!r}, it has {', '.join(map(repr, found))}; give vector_name=")
        if params.multivector_config is not None:
            raise StoreError(f"{self} has many vectors a point under {name!r}; give another collection_name=")
        identity = (config.metadata or {}).get(_IDENTITY_KEY) if record is None else record.get("identity")
        return Shape(params.size, params.distance, identity)

    def _check(self, shape: Shape, dimensions: int, identity: Identity | None) -> None:
        has: dict[str, Any] = {"dimensions": shape.dimensions, **(shape.identity or {})}
        given: dict[str, Any] = {"dimensions": dimensions, **(identity or {})}
        known = has.keys() | given.keys() if shape.identity and identity else {"dimensions"}
        if differing := sorted(name for name in known if has.get(name) != given.get(name)):
            theirs, ours = ({name: side.get(name) for name in differing} for side in (has, given))
            raise IndexMismatchError(
                f"{self} was written with {theirs}, but the embedding has {ours}; "
                "open it with the embedding that wrote it, or give another collection_name="
            )
