"""How a page lies in a collection: point ids, payload, request sizes. It knows no client and no connection."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nemotron_rag.types import Page

__all__ = [
    "DIRECTIONS_ID",
    "MAX_POINTS",
    "RECORD_ID",
    "StoredPage",
    "batches",
    "from_payload",
    "point_id",
    "to_payload",
]

_NAMESPACE = uuid.UUID("5b0f3c0e-6a1d-5c57-9a39-3a4f9f6b1c52")

RECORD_ID = str(uuid.uuid5(_NAMESPACE, "index record"))
DIRECTIONS_ID = str(uuid.uuid5(_NAMESPACE, "directions of sketches"))
"""The one point that is no page: it carries the index record, has no vector, and so is never found by a search."""

MAX_POINTS = 256
"""Points per request; Qdrant advises 64 to 256."""

_MAX_BYTES = 16 * 2**20
"""Bytes per request, half of a server's default limit of 32 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPage:
    """A page as it lies in the collection.

    Args:
        page: the page without its picture; `Page.source` is the first of `sources`.
        sources: every document that holds this page; files of equal content share their pages.
        content_hash: hex digest of the document's bytes, or ``page:`` and the digest of a page that was added alone.
        image_key: where `PageImages` keeps the picture; None if there is none.
    """

    page: Page
    sources: tuple[str, ...]
    content_hash: str
    image_key: str | None = None

    @classmethod
    def of(cls, page: Page, *, content_hash: str, image_key: str | None = None) -> StoredPage:
        """A page as it comes from one document; its picture is left out."""
        sources = (page.source,) if page.source else ()
        return cls(page=replace(page, image=None), sources=sources, content_hash=content_hash, image_key=image_key)

    def with_source(self, source: str, metadata: Mapping[str, Any]) -> StoredPage:
        """The same page, also held by `source`, with `metadata` laid over its own."""
        sources = self.sources if source in ("", *self.sources) else (*self.sources, source)
        return replace(self, page=replace(self.page, metadata={**self.page.metadata, **metadata}), sources=sources)

    def without_source(self, source: str) -> StoredPage | None:
        """The same page without one of its sources; None if no other one is left."""
        rest = tuple(name for name in self.sources if name != source)
        return replace(self, page=replace(self.page, source=rest[0]), sources=rest) if rest else None

    def replacing(self, old: StoredPage | None) -> StoredPage:
        """The same page with the sources of an older one of the same content put before its own."""
        if old is None or old.content_hash != self.content_hash:
            return self
        return replace(self, sources=tuple(dict.fromkeys((*old.sources, *self.sources))))


def point_id(page_id: str) -> str:
    """The Qdrant id of a page: its own id where that is a UUID, else a uuid5 of it."""
    try:
        return str(uuid.UUID(page_id))
    except ValueError:
        return str(uuid.uuid5(_NAMESPACE, page_id))


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
    )


def batches(payloads: Sequence[Mapping[str, Any]], vector_bytes: Sequence[int]) -> Iterator[slice]:
    """Cut points into requests of at most `MAX_POINTS` points and about 16 MiB; one large point stands alone."""
    start, size = 0, 0
    for end, (payload, more) in enumerate(zip(payloads, vector_bytes, strict=True)):
        more += len(json.dumps(payload))
        if end > start and (size + more > _MAX_BYTES or end - start == MAX_POINTS):
            yield slice(start, end)
            start, size = end, 0
        size += more
    if start < len(payloads):
        yield slice(start, len(payloads))


def _typed(fields: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.get(name)
    return value if isinstance(value, kind) else default
