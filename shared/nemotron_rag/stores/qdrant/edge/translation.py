"""qdrant-client's models in the words of Qdrant Edge: vectors, filters, queries, parameters of collections."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from qdrant_client import models

__all__ = ["edge_config", "edge_filter", "edge_payload", "edge_point", "edge_prefetch", "edge_query", "edge_value"]

_Handler: TypeAlias = Callable[[Any], Any]

_HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}  # Qdrant's own
_INDEXED_KB = 100_000  # of vectors in a part of a collection; smaller parts are compared exactly, in a few milliseconds
_RRF_K = 2  # as a server has it
_MMR_DIVERSITY = 0.5  # as a server has it


def edge_value(value: Any) -> Any:
    """A model of qdrant-client as Edge's own: most have the same name there, and the same fields.

    Raises:
        ValueError: Edge has nothing like it.
    """
    if isinstance(value, Enum):
        kind = getattr(edge, _NAMES.get(type(value).__name__, type(value).__name__))
        return getattr(kind, _NAMES.get(value.value) or _camel(value.value))
    if isinstance(value, BaseModel):
        handler = _HANDLERS.get(type(value))
        return _same(value) if handler is None else handler(value)
    if isinstance(value, list | tuple):
        return [edge_value(each) for each in value]
    if isinstance(value, datetime.date):  # a datetime is one, too
        return value.isoformat()
    return value


def edge_filter(filter: models.Filter | None) -> edge.Filter | None:
    """A filter; a clause of one condition may come without its list."""
    if filter is None:
        return None
    clauses = {name: getattr(filter, name) for name in ("must", "should", "must_not")}
    lists = {
        name: edge_value(clause if isinstance(clause, list) else [clause])
        for name, clause in clauses.items()
        if clause is not None
    }
    return edge.Filter(**lists, min_should=edge_value(filter.min_should))


def edge_payload(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    """A payload as plain JSON, as a server would be sent it: dates and UUIDs are texts."""
    plain: dict[str, Any] = to_jsonable_python(dict(payload or {}))
    return plain


def edge_point(point: models.PointStruct) -> edge.Point:
    """A point with its vectors, as lists or arrays, by name or one that has none."""
    vector: Any = point.vector
    named = {name: _vector(rows) for name, rows in vector.items()} if isinstance(vector, Mapping) else _vector(vector)
    return edge.Point(point.id, named, edge_payload(point.payload))


def edge_query(query: Any, *, using: str | None, limit: int) -> Any:
    """A query: a vector, token vectors, or one of qdrant-client's.

    Args:
        query: as `QdrantClient.query_points` takes it; None for none.
        using: name of the vector that is compared.
        limit: of results, which is the default of some parameters.

    Raises:
        ValueError: Edge knows no such query.
    """
    if query is None:
        return None
    if isinstance(query, models.FusionQuery):
        return edge.Fusion.Rrf(k=_RRF_K) if query.fusion == models.Fusion.RRF else edge.Fusion.Dbsf()
    if isinstance(query, models.RrfQuery):
        return edge.Fusion.Rrf(k=query.rrf.k or _RRF_K, weights=query.rrf.weights)
    if isinstance(query, models.OrderByQuery):
        return edge_value(models.OrderBy(key=query.order_by) if isinstance(query.order_by, str) else query.order_by)
    if isinstance(query, models.SampleQuery):
        return edge_value(query.sample)
    nearest = query.nearest if isinstance(query, models.NearestQuery) else query
    mmr = getattr(query, "mmr", None) if isinstance(query, models.NearestQuery) else None
    if mmr is not None:
        diversity = _MMR_DIVERSITY if mmr.diversity is None else mmr.diversity
        return edge.Mmr(_vector(nearest), 1.0 - diversity, mmr.candidates_limit or limit, using)
    return edge.Query.Nearest(_vector(nearest), using)


def edge_prefetch(prefetch: models.Prefetch | Sequence[models.Prefetch] | None) -> list[edge.Prefetch]:
    """The stages before a query."""
    stages = [prefetch] if isinstance(prefetch, models.Prefetch) else prefetch or []
    return [_prefetch(stage, stage.limit or 10) for stage in stages]


def edge_config(
    vectors: models.VectorParams | Mapping[str, models.VectorParams],
    sparse_vectors: Mapping[str, models.SparseVectorParams],
    **options: Any,
) -> edge.EdgeConfig:
    """The parameters of a new collection.

    Args:
        vectors: by name, or of the one that has none.
        sparse_vectors: by name.
        **options: ``hnsw_config``, ``quantization_config`` and ``on_disk_payload`` of the collection.
    """
    named = vectors if isinstance(vectors, Mapping) else {"": vectors}
    return edge.EdgeConfig(
        vectors={name: _dense(params) for name, params in named.items()},
        sparse_vectors={name: _sparse(params) for name, params in sparse_vectors.items()},
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=_INDEXED_KB),
        **{name: edge_value(option) for name, option in options.items() if option is not None},
    )


def _prefetch(stage: models.Prefetch, limit: int) -> edge.Prefetch:
    return edge.Prefetch(
        limit=limit,
        query=edge_query(stage.query, using=stage.using, limit=limit),
        prefetches=edge_prefetch(stage.prefetch),
        params=edge_value(stage.params),
        filter=edge_filter(stage.filter),
        score_threshold=stage.score_threshold,
    )


def _vector(rows: Any) -> Any:
    """Views of memory or lists, which Edge reads several times as fast as arrays; or a sparse vector."""
    if isinstance(rows, np.ndarray):
        numbers = np.ascontiguousarray(rows, np.float32)
        return numbers.data if numbers.ndim == 1 else [row.data for row in numbers]
    if isinstance(rows, models.SparseVector):
        return edge.SparseVector(rows.indices, rows.values)
    if isinstance(rows, list):
        return rows
    if isinstance(rows, tuple):
        return list(rows)
    raise ValueError(f"Qdrant Edge compares vectors, got {type(rows).__name__}")


def _dense(params: models.VectorParams) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(**_fields(params))


def _sparse(params: models.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    fields = {} if params.index is None else _fields(params.index)
    return edge.EdgeSparseVectorParams(**fields, modifier=edge_value(params.modifier))


def _hnsw(params: models.HnswConfigDiff | models.HnswConfig) -> edge.HnswIndexConfig:
    return edge.HnswIndexConfig(**{**_HNSW, **_fields(params)})


def _search_params(params: models.SearchParams) -> edge.SearchParams:
    fields = _fields(params)
    fields.pop("idf", None)  # its scope is the collection
    return edge.SearchParams(**fields)


def _match_value(match: models.MatchValue) -> edge.MatchValue:
    value: Any = match.value  # Edge takes a bool for a number, but not one of numpy
    if isinstance(value, bool):
        value = np.bool_(value)
    return edge.MatchValue(value)


def _field_condition(condition: models.FieldCondition) -> edge.FieldCondition:
    return edge.FieldCondition(**_fields(condition))


def _same(model: BaseModel) -> Any:
    kind = getattr(edge, type(model).__name__, None)
    if kind is None:
        raise ValueError(f"Qdrant Edge has no {type(model).__name__}")
    return kind(**_fields(model))


def _fields(model: BaseModel) -> dict[str, Any]:
    """The fields that are set, translated; index parameters carry their type in their name."""
    leave = {"type"} if type(model).__name__.endswith("IndexParams") else set()
    values = {name: getattr(model, name) for name in type(model).model_fields if name not in leave}
    return {name: edge_value(value) for name, value in values.items() if value is not None}


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _id(id: int | str | UUID) -> int | str:
    return str(id) if isinstance(id, UUID) else id


_NAMES = {"bits1_5": "Bits1_5", "Datatype": "VectorStorageDatatype"}
_HANDLERS: dict[type[BaseModel], _Handler] = {
    models.Filter: edge_filter,
    models.FieldCondition: _field_condition,
    models.MatchValue: _match_value,
    models.Range: lambda range: edge.RangeFloat(**_fields(range)),
    models.DatetimeRange: lambda range: edge.RangeDateTime(**_fields(range)),
    models.IsEmptyCondition: lambda condition: edge.IsEmptyCondition(condition.is_empty.key),
    models.IsNullCondition: lambda condition: edge.IsNullCondition(condition.is_null.key),
    models.HasIdCondition: lambda condition: edge.HasIdCondition({_id(each) for each in condition.has_id}),
    models.HasVectorCondition: lambda condition: edge.HasVectorCondition(condition.has_vector),
    models.NestedCondition: lambda condition: edge.NestedCondition(
        condition.nested.key, edge_value(condition.nested.filter)
    ),
    models.GeoPolygon: lambda polygon: edge.GeoPolygon(
        edge_value(polygon.exterior.points), [edge_value(line.points) for line in polygon.interiors or []]
    ),
    models.HnswConfigDiff: _hnsw,
    models.HnswConfig: _hnsw,
    models.SearchParams: _search_params,
    models.ScalarQuantization: lambda quantization: edge_value(quantization.scalar),
    models.BinaryQuantization: lambda quantization: edge_value(quantization.binary),
    models.ProductQuantization: lambda quantization: edge_value(quantization.product),
    models.TurboQuantization: lambda quantization: edge_value(quantization.turbo),
}
