"""The reading half of `QdrantStore`: pages by id, by filter, and how many. It searches nothing and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nemotron_rag.errors import MissingExtraError
from nemotron_rag.stores._collection import Collection
from nemotron_rag.stores._filters import Filter, compile_filter
from nemotron_rag.stores._points import DIRECTIONS_ID, RECORD_ID, StoredPage, from_payload, point_id

try:
    from qdrant_client import models
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = ["StoredPages"]

_SCROLL = 1000  # points per request of a listing
_SCROLL_EMBEDDED = 100_000  # an embedded Qdrant looks at all its points at every request
_NO_TEXT = models.PayloadSelectorExclude(exclude=["text"])  # texts are long, and only hits need them


class StoredPages:
    """What lies in a collection.

    Args:
        collection: where it lies.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._connection = collection.connection
        self._name = collection.name
        self._client = collection.connection.client
        self._scroll = _SCROLL_EMBEDDED if self._connection.embedded else _SCROLL

    def get(self, ids: Sequence[str]) -> dict[str, StoredPage]:
        """The pages that are there, by page id, without their texts.

        Raises:
            StoreError: the server could not be reached.
        """
        found: dict[str, StoredPage] = {}
        points = [point_id(page_id) for page_id in ids]
        for start in range(0, len(points), _SCROLL):
            part: list[Any] = points[start : start + _SCROLL]
            records = self._connection.read("read pages", self._client.retrieve, self._name, part, _NO_TEXT)
            stored = [from_payload(record.payload) for record in records]
            found |= {known.page.id: known for known in stored}
        return found

    def pages(self, wanted: Filter | None = None) -> Iterator[StoredPage]:
        """All pages that a filter matches, without their texts, in no particular order, read as they are consumed.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached.
        """
        conditions = _only_pages(wanted)
        offset: Any = None
        while True:
            records, offset = self._connection.read(
                "list pages",
                self._client.scroll,
                self._name,
                scroll_filter=conditions,
                limit=self._scroll,
                with_payload=_NO_TEXT,
                offset=offset,
            )
            yield from (from_payload(record.payload) for record in records)
            if offset is None:
                return

    def sources(self) -> list[str]:
        """The documents that have pages here, sorted.

        Raises:
            StoreError: the server could not be reached.
        """
        return sorted({source for stored in self.pages() for source in stored.sources})

    def count(self, wanted: Filter | None = None) -> int:
        """How many pages a filter matches.

        Raises:
            InputError: the filter cannot be translated.
            StoreError: the server could not be reached.
        """
        conditions = _only_pages(wanted)
        return self._connection.read("count", self._client.count, self._name, count_filter=conditions).count


def _only_pages(wanted: Filter | None) -> models.Filter:
    conditions = compile_filter(wanted)
    return models.Filter(
        must=[] if conditions is None else [conditions],
        must_not=[models.HasIdCondition(has_id=[RECORD_ID, DIRECTIONS_ID])],
    )
