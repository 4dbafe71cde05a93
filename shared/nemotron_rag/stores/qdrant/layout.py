"""How a page lies in a collection: point ids, payload, request sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nemotron_rag.types import Page, StoredPage, page_uuid

__all__ = ["BASIS_ID", "MAX_POINTS", "RECORD_ID", "RECORD_KEY", "batches", "from_payload", "read_record", "to_payload"]

RECORD_ID = page_uuid("index record")
"""The point that carries the index record; it has no vector, and so is never found by a search."""

BASIS_ID = page_uuid("directions of sketches")
"""The point that carries the projection basis; like the record, it is not a page."""

RECORD_KEY = "nemotron_rag_index"
"""Payload key of the record."""

MAX_POINTS = 256
"""Points per request; Qdrant advises 64 to 256."""

_MAX_BYTES = 16 * 2**20  # per request, half of a server's default limit of 32 MiB


def read_record(points: Sequence[Any]) -> dict[str, Any] | None:
    """The index record in what was read under `RECORD_ID`; None if there is none."""
    record = (points[0].payload or {}).get(RECORD_KEY) if points else None
    return record if isinstance(record, dict) else None


def to_payload(stored: StoredPage) -> dict[str, Any]:
    """The payload of a page's point: plain JSON."""
    return {
        "id": stored.page.id,
        "source": list(stored.sources),
        "number": stored.page.number,
        "text": stored.page.text.encode("utf-8", "replace").decode(),  # lone surrogates cannot be sent as JSON
        "metadata": dict(stored.page.metadata),
        "content_hash": stored.content_hash,
        "image": stored.image_key,
        "image_size": None if stored.image_size is None else list(stored.image_size),
        "image_hash": stored.image_hash,
    }


def from_payload(payload: Mapping[str, Any] | None) -> StoredPage:
    """Read a payload back; fields that are missing or of another type come back empty."""
    fields = payload or {}
    sources = tuple(source for source in _typed(fields, "source", list, []) if isinstance(source, str))
    page = Page(
        id=_typed(fields, "id", str, ""),
        source=sources[0] if sources else "",
        number=_typed(fields, "number", int, 1),
        text=_typed(fields, "text", str, ""),
        metadata=_typed(fields, "metadata", dict, {}),
    )
    return StoredPage(
        page=page,
        sources=sources,
        content_hash=_typed(fields, "content_hash", str, ""),
        image_key=_typed(fields, "image", str, None),
        image_size=_size(fields.get("image_size")),
        image_hash=_typed(fields, "image_hash", str, None),
    )


def batches(payloads: Sequence[Mapping[str, Any]], vector_bytes: Sequence[int]) -> Iterator[slice]:
    """Cut points into requests of at most `MAX_POINTS` points and about 16 MiB; one large point stands alone."""
    start, size = 0, 0
    for end, (payload, more) in enumerate(zip(payloads, vector_bytes, strict=True)):
        more += len(json.dumps(payload, default=str))
        if end > start and (size + more > _MAX_BYTES or end - start == MAX_POINTS):
            yield slice(start, end)
            start, size = end, 0
        size += more
    if start < len(payloads):
        yield slice(start, len(payloads))


def _typed(fields: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.get(name)
    return value if isinstance(value, kind) else default


def _size(value: Any) -> tuple[int, int] | None:
    is_size = isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    return tuple(value) if is_size else None
