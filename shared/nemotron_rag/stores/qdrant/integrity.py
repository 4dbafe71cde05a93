"""Looks for points of an index that cannot be read, or are not whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nemotron_rag.errors import ClosedError, StoreError
from nemotron_rag.stores.qdrant.collection import Collection
from nemotron_rag.stores.qdrant.layout import BASIS_ID, RECORD_ID, from_payload
from nemotron_rag.stores.qdrant.vectors import PROJECTED, TOKENS, VECTOR

__all__ = ["damaged_points"]

_LISTED = 1000  # ids at once
_READ = 32  # points at once, with their vectors


def damaged_points(collection: Collection) -> dict[str, str]:
    """The pages that cannot be read or are not whole: what is wrong, by the id of the point.

    Raises:
        StoreError: their ids cannot be listed.
    """
    names = {VECTOR, *_token_vectors(collection)}
    found: dict[str, str] = {}
    for ids in _ids(collection):
        for start in range(0, len(ids), _READ):
            part = ids[start : start + _READ]
            points = _read(collection, part)
            for id in part:
                reason = _what_is_wrong(collection, id, points.get(id), names)
                if reason:
                    found[id] = reason
    return found


def _token_vectors(collection: Collection) -> set[str]:
    vectors = collection.call("get_collection").config.params.vectors
    return {TOKENS, PROJECTED} if TOKENS in vectors else set()


def _ids(collection: Collection) -> Iterator[list[str]]:
    offset: Any = None
    while True:
        records, offset = collection.call("scroll", limit=_LISTED, with_payload=False, offset=offset)
        yield [str(record.id) for record in records if record.id not in (RECORD_ID, BASIS_ID)]
        if offset is None:
            return


def _read(collection: Collection, ids: Sequence[str]) -> dict[str, Any]:
    """The points that can be read, by id; where several fail together, they are read one by one."""
    if not ids:
        return {}
    try:
        points = collection.qdrant.call(
            "retrieve", collection_name=collection.name, ids=list(ids), with_payload=True, with_vectors=True
        )
    except ClosedError:
        raise
    except StoreError:
        if len(ids) == 1:
            return {}
        return {id: point for each in ids for id, point in _read(collection, [each]).items()}
    return {str(point.id): point for point in points}


def _what_is_wrong(collection: Collection, id: str, point: Any, names: set[str]) -> str:
    """In a few words; empty if nothing is."""
    if point is None:
        return "cannot be read"
    if collection.point_of(from_payload(point.payload).page.id) != id:
        return "has lost its payload, or has that of another page"
    vectors = point.vector if isinstance(point.vector, dict) else {}
    if not names <= vectors.keys():
        return "has lost a vector"
    for name in sorted(names):
        rows = np.asarray(vectors[name], dtype=np.float64)
        if not np.isfinite(rows).all() or not rows.any():
            return "has a vector that is not one of numbers"
    return ""
