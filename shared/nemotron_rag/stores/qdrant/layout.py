"""How a page lies in a collection: point ids, payload, payload indexes, request sizes.

A page is one point, however many files hold it. Under `FILES` is a list with an entry for each of them, which says all
that a filter can ask for: a filter is met by one entry as a whole. `STATE` stands for that list: who has read a page
changes it on the condition that its state is still the same, and so never undoes what somebody else wrote meanwhile.

Layout 1, of earlier versions, has one set of metadata for all files of a page, and just a list of their names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from nemotron_rag.stores.filters import matching_files, parse_filter
from nemotron_rag.stores.qdrant.filters import compile_filter, field_path
from nemotron_rag.types import Filter, IndexedType, Page, PageFile, StoredPage, page_uuid

__all__ = [
    "BASIS_ID",
    "FILES",
    "LAYOUT_KEY",
    "MAX_POINTS",
    "RECORD_ID",
    "RECORD_KEY",
    "STATE",
    "PageLayout",
    "SharedLayout",
    "batches",
    "from_payload",
    "layout_of",
    "payload_found",
    "point_uuid",
    "read_record",
    "state_of",
]

RECORD_ID = page_uuid("index record")
"""The point that carries the index record; it has no vector, and so is never found by a search."""

BASIS_ID = page_uuid("directions of sketches")
"""The point that carries the projection basis; like the record, it is not a page."""

RECORD_KEY = "nemotron_rag_index"
"""Payload key of the record."""

LAYOUT_KEY = "layout"
"""Payload key beside the record: which layout the pages have."""

FILES = "files"
"""Payload key of the files that hold a page."""

STATE = "state"
"""Payload key of a number that stands for these files and the content: 63 bits of a hash."""

MAX_POINTS = 256
"""Points per request; Qdrant advises 64 to 256."""

_MAX_BYTES = 16 * 2**20  # per request, half of a server's default limit of 32 MiB


def read_record(points: Sequence[Any]) -> dict[str, Any] | None:
    """The index record in what was read under `RECORD_ID`; None if there is none."""
    record = (points[0].payload or {}).get(RECORD_KEY) if points else None
    return record if isinstance(record, dict) else None


class PageLayout:
    """Layout 2: each file has metadata of its own."""

    number = 2

    def payload(self, stored: StoredPage) -> dict[str, Any]:
        """The payload of a page's point: plain JSON."""
        return {
            "id": stored.page.id,
            "number": stored.page.number,
            "text": stored.page.text.encode("utf-8", "replace").decode(),  # lone surrogates cannot be sent as JSON
            "content_hash": stored.content_hash,
            "content_metadata": dict(stored.content_metadata),
            "image": stored.image_key,
            "image_size": None if stored.image_size is None else list(stored.image_size),
            "image_hash": stored.image_hash,
            **self.held(stored),
        }

    def held(self, stored: StoredPage) -> dict[str, Any]:
        """The part of the payload that says which files hold the page.

        Names and metadata stand at the top as well, the latter those of the first file: for people, and for programs
        that know of no files.
        """
        page = {"id": stored.page.id, "number": stored.page.number, "content_hash": stored.content_hash}
        return {
            "source": list(stored.sources),
            "metadata": dict(stored.page.metadata),
            FILES: [{"source": file.source or None, "metadata": dict(file.metadata), **page} for file in stored.files],
            STATE: state_of(stored),
        }

    def filter(self, filter: Filter | None) -> models.Filter | None:
        """A filter in terms of this layout; see `compile_filter`."""
        return compile_filter(filter, files=FILES)

    def index(self, key: str, kind: IndexedType) -> tuple[str, Any]:
        """Where a filter's key is, and which payload index makes it fast: one that knows the files apart."""
        return f"{FILES}[].{field_path(key)}", _INDEXES[kind](type=kind, nested=FILES)

    def attached(self, stored: StoredPage, source: str, metadata: Mapping[str, Any]) -> StoredPage:
        """A page that one more file holds; see `StoredPage.with_source`."""
        return stored.with_source(source, metadata)

    def merged(self, new: StoredPage, old: StoredPage | None) -> StoredPage:
        """A page as it is written over another one of its id; see `StoredPage.replacing`."""
        return new.replacing(old)

    def holds(self, stored: StoredPage, wanted: StoredPage) -> bool:
        """Whether a stored page says all that another one of its id says."""
        return state_of(self.merged(wanted, stored)) == state_of(stored)


class SharedLayout(PageLayout):
    """Layout 1: one set of metadata for all files of a page; files in the order in which they were added."""

    number = 1

    def held(self, stored: StoredPage) -> dict[str, Any]:
        """Names and metadata at the top, nothing else."""
        sources, metadata = list(stored.sources), dict(stored.page.metadata)
        return {"source": sources, "metadata": metadata, STATE: state_of(stored)}

    def filter(self, filter: Filter | None) -> models.Filter | None:
        """A filter in terms of this layout; see `compile_filter`."""
        return compile_filter(filter)

    def index(self, key: str, kind: IndexedType) -> tuple[str, Any]:
        """Where a filter's key is, and which payload index makes it fast."""
        return field_path(key), models.PayloadSchemaType(kind)

    def attached(self, stored: StoredPage, source: str, metadata: Mapping[str, Any]) -> StoredPage:
        """A page that one more file holds, with `metadata` over those of all."""
        return _shared(stored, (*stored.sources, source), {**stored.page.metadata, **metadata})

    def merged(self, new: StoredPage, old: StoredPage | None) -> StoredPage:
        """A page as it is written over another one of its id: of the same content, its files stay."""
        same = old is not None and old.content_hash == new.content_hash
        return _shared(new, (*(old.sources if old and same else ()), *new.sources), new.page.metadata)

    def holds(self, stored: StoredPage, wanted: StoredPage) -> bool:
        """Whether a stored page has the content and the files of another one; who wrote last chose the metadata."""
        return stored.content_hash == wanted.content_hash and set(wanted.sources) <= set(stored.sources)


_INDEXES: Mapping[IndexedType, Any] = {
    "keyword": models.KeywordIndexParams,
    "integer": models.IntegerIndexParams,
    "float": models.FloatIndexParams,
    "bool": models.BoolIndexParams,
    "datetime": models.DatetimeIndexParams,
}


def point_uuid(page_id: str) -> str:
    """The id of a page's point: `page_uuid`, but never that of a point that is no page."""
    point = page_uuid(page_id)
    return page_uuid(f"page {point}") if point in (RECORD_ID, BASIS_ID) else point


def layout_of(points: Sequence[Any]) -> PageLayout:
    """The layout of pages, by what was read under `RECORD_ID`: the first one where none is noted."""
    payload = (points[0].payload or {}) if points else {LAYOUT_KEY: PageLayout.number}
    return SharedLayout() if payload.get(LAYOUT_KEY, 1) == SharedLayout.number else PageLayout()


def state_of(stored: StoredPage) -> int:
    """What stands for the content and the files of a page."""
    files = [[file.source, dict(file.metadata)] for file in stored.files]
    text = json.dumps([stored.content_hash, files], sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def from_payload(payload: Mapping[str, Any] | None) -> StoredPage:
    """Read a payload of any layout back; fields that are missing or of another type come back empty."""
    fields = payload or {}
    files = tuple(_file(entry) for entry in _typed(fields, FILES, list, []) if isinstance(entry, dict))
    metadata = _typed(fields, "metadata", dict, {})
    if not files:
        names = [name for name in _typed(fields, "source", list, []) if isinstance(name, str)]
        files = tuple(PageFile(name, metadata) for name in names) or (PageFile("", metadata),)
    page = Page(
        id=_typed(fields, "id", str, ""),
        source=files[0].source,
        number=_typed(fields, "number", int, 1),
        text=_typed(fields, "text", str, ""),
        metadata=files[0].metadata,
    )
    return StoredPage(
        page=page,
        files=files,
        content_hash=_typed(fields, "content_hash", str, ""),
        content_metadata=_typed(fields, "content_metadata", dict, {}),
        image_key=_typed(fields, "image", str, None),
        image_size=_size(fields.get("image_size")),
        image_hash=_typed(fields, "image_hash", str, None),
    )


def payload_found(payload: Mapping[str, Any], filter: Filter | None) -> dict[str, Any]:
    """A page's payload with those of its files first that meet a filter, so that it is read as it was found."""
    conditions = parse_filter(filter) if isinstance(filter, Mapping) else ()
    page = from_payload(payload)
    found = matching_files(conditions, page)
    entries = payload.get(FILES)
    if not isinstance(entries, list) or len(page.files) < 2:
        return dict(payload)
    return {
        **payload,
        FILES: sorted(entries, key=lambda entry: not isinstance(entry, dict) or _file(entry) not in found),
    }


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


def _shared(stored: StoredPage, sources: Sequence[str], metadata: Mapping[str, Any]) -> StoredPage:
    """A page whose files all have the same metadata."""
    names = [name for name in dict.fromkeys(sources) if name] or [""]
    page = replace(stored.page, source=names[0], metadata=metadata)
    return replace(stored, page=page, files=tuple(PageFile(name, metadata) for name in names))


def _file(entry: Mapping[str, Any]) -> PageFile:
    return PageFile(_typed(entry, "source", str, ""), _typed(entry, "metadata", dict, {}))


def _typed(fields: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = fields.get(name)
    return value if isinstance(value, kind) else default


def _size(value: Any) -> tuple[int, int] | None:
    is_size = isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    return tuple(value) if is_size else None
