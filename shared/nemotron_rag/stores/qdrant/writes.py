"""Writes of pages, which any number of processes may make on one server at once, without a lock.

Each one reads, writes on the condition that nothing has changed since, and reads again: who came too late begins anew
from what the others wrote. An embedded Qdrant has one process at a time, and a lock for its threads.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from qdrant_client import models

from nemotron_rag.errors import StoreError
from nemotron_rag.stores.filters import matching_files, parse_filter
from nemotron_rag.stores.qdrant.basis import ProjectionBasis
from nemotron_rag.stores.qdrant.collection import Collection
from nemotron_rag.stores.qdrant.layout import MAX_POINTS, STATE, batches, from_payload, point_uuid, state_of
from nemotron_rag.stores.qdrant.vectors import named_vectors, number_count
from nemotron_rag.types import Filter, PageVectors, StoredPage

__all__ = ["LISTED", "NO_TEXT", "Known", "PageWriter"]

LISTED = 1000
"""Points per request of a listing."""

NO_TEXT = models.PayloadSelectorExclude(exclude=["text"])
"""Texts are long, and only hits need them."""

_TURNS = 50  # in each of them one of those who write the same page is done
_LONGEST_PAUSE = 0.2  # seconds before another turn


@dataclass(frozen=True, slots=True)
class Known:
    """A page as it was read.

    Args:
        page: without its text.
        state: what is stored under `STATE`; None where earlier versions wrote none.
    """

    page: StoredPage
    state: int | None


Turn: TypeAlias = Callable[[Sequence[str], Mapping[str, Known]], list[str]]
"""Given ids and what is stored of them: writes what is still to be written, and returns the ids it concerned."""


class PageWriter:
    """Puts pages into a collection, and changes which files hold them.

    Args:
        collection: of pages.
        basis: of its token vectors.
        analysis: tells how words are found in its texts.
    """

    def __init__(self, collection: Collection, basis: ProjectionBasis, analysis: Callable[[], int]) -> None:
        self._collection, self._basis, self._analysis = collection, basis, analysis

    def read(self, ids: Sequence[str]) -> dict[str, Known]:
        """The stored ones of these pages, by id.

        Raises:
            StoreError: the server could not be reached.
        """
        found: dict[str, Known] = {}
        points = [point_uuid(page_id) for page_id in ids]
        for start in range(0, len(points), LISTED):
            part = points[start : start + LISTED]
            for record in self._collection.call("retrieve", ids=part, with_payload=NO_TEXT):
                page, state = from_payload(record.payload), (record.payload or {}).get(STATE)
                found[page.page.id] = Known(page, state if isinstance(state, int) else None)
        return found

    def put(self, pages: Sequence[StoredPage], vectors: Sequence[PageVectors] | PageVectors) -> None:
        """Write pages with their vectors; see `PageStore.put`."""
        given = {stored.page.id: (stored, rows) for stored, rows in zip(pages, vectors, strict=True)}
        layout, sent = self._collection.layout, set[str]()

        def turn(left: Sequence[str], known: Mapping[str, Known]) -> list[str]:
            stored = sent & {page_id for page_id, old in known.items() if layout.holds(old.page, given[page_id][0])}
            todo = [page_id for page_id in left if page_id not in stored]
            olds = [known.get(page_id) for page_id in todo]
            merged = [
                layout.merged(given[page_id][0], None if old is None else old.page)
                for page_id, old in zip(todo, olds, strict=True)
            ]
            self._upsert(merged, [given[page_id][1] for page_id in todo], olds)
            sent.update(todo)
            return todo

        self._take_turns(list(given), turn)

    def attach(self, ids: Sequence[str], source: str, metadata: Mapping[str, Any]) -> int:
        """Add a file to those that hold pages; see `PageStore.attach`."""
        layout, missing = self._collection.layout, set[str]()

        def turn(left: Sequence[str], known: Mapping[str, Known]) -> list[str]:
            missing.update(set(left) - known.keys())
            changes = [(old, layout.attached(old.page, source, metadata)) for old in known.values()]
            changes = [(old, new) for old, new in changes if state_of(new) != state_of(old.page)]
            self._change(changes)
            return [new.page.id for _, new in changes]

        self._take_turns(ids, turn)
        return len(set(ids) - missing)

    def remove(self, ids: Sequence[str], filter: Filter | None) -> list[StoredPage]:
        """Take files from those that hold pages; returns the pages that are gone. See `PageStore.remove`."""
        conditions = parse_filter(filter)
        going, gone = dict[str, StoredPage](), list[StoredPage]()

        def turn(left: Sequence[str], known: Mapping[str, Known]) -> list[str]:
            gone.extend(going[page_id] for page_id in left if page_id in going and page_id not in known)
            going.clear()
            changes = list[_Change]()
            for old in known.values():
                leaving = matching_files(conditions, old.page)
                if leaving:
                    changes.append((old, old.page.held_by([file for file in old.page.files if file not in leaving])))
            going.update({old.page.page.id: old.page for old, rest in changes if rest is None})
            self._change(changes)
            return [old.page.page.id for old, _ in changes]

        self._take_turns(ids, turn)
        return [*gone, *going.values()]  # an embedded Qdrant is not asked again

    def _take_turns(self, ids: Sequence[str], turn: Turn) -> None:
        """Read and write until nothing is left to be written."""
        embedded = self._collection.qdrant.embedded
        with self._collection.qdrant.writing if embedded else nullcontext():
            left = list(dict.fromkeys(ids))
            for number in range(_TURNS):
                left = turn(left, self.read(left))
                if not left or embedded:
                    return
                if number:  # somebody else was quicker
                    time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  not a secret
        raise StoreError(f"others keep changing the same pages of {self._collection}; do it again later")

    def _upsert(
        self,
        pages: Sequence[StoredPage],
        vectors: Sequence[PageVectors],
        olds: Sequence[Known | None],
    ) -> None:
        """Write pages where nothing has changed since the old ones, or that there are none, was read."""
        basis = self._basis.fit(list(vectors)) if len(vectors) and vectors[0].ndim == 2 else None
        groups: dict[Any, list[int]] = {}
        for place, old in enumerate(olds):
            condition = None if self._collection.qdrant.embedded else (old is None, old and old.state)
            groups.setdefault(condition, []).append(place)
        for condition, places in groups.items():
            points = [self._point(pages[place], vectors[place], basis) for place in places]
            sizes = [number_count(vectors[place]) * self._collection.qdrant.bytes_per_number for place in places]
            for part in batches([point.payload or {} for point in points], sizes):
                self._collection.call("upsert", points=points[part], wait=True, **_unless_changed(condition))

    def _point(self, stored: StoredPage, rows: PageVectors, basis: Any) -> models.PointStruct:
        arrays = self._collection.qdrant.embedded
        # not validated: a page may have a million numbers, and embedded ones come as arrays
        return models.PointStruct.model_construct(
            id=point_uuid(stored.page.id),
            vector=named_vectors(stored.page, rows, basis, arrays=arrays, analysis=self._analysis()),
            payload=self._collection.layout.payload(stored),
        )

    def _change(self, changes: Sequence[_Change]) -> None:
        """Change which files hold pages where nothing has changed since they were read; delete those without any."""
        groups: dict[tuple[int | None, str], list[str]] = {}
        for old, new in changes:
            payload = "" if new is None else json.dumps(self._collection.layout.held(new))
            groups.setdefault((old.state, payload), []).append(point_uuid(old.page.page.id))
        if self._collection.qdrant.embedded:
            self._change_embedded(groups)
            return
        operations = [_operation(ids, state, payload) for (state, payload), ids in groups.items()]
        for start in range(0, len(operations), MAX_POINTS):
            part = operations[start : start + MAX_POINTS]
            self._collection.call("batch_update_points", update_operations=part, wait=True)

    def _change_embedded(self, groups: Mapping[tuple[int | None, str], list[str]]) -> None:
        for (_, payload), ids in groups.items():
            if payload:
                self._collection.call("set_payload", payload=json.loads(payload), points=ids, wait=True)
            else:
                self._collection.call("delete", points_selector=models.PointIdsList(points=list(ids)), wait=True)


_Change: TypeAlias = tuple[Known, StoredPage | None]


def _unless_changed(condition: tuple[bool, int | None] | None) -> dict[str, Any]:
    """Arguments of ``upsert``: for pages that are new, or as they were read, or, with None, whatever is there."""
    if condition is None:
        return {}
    is_new, state = condition
    if is_new:
        return {"update_mode": models.UpdateMode.INSERT_ONLY}
    return {"update_filter": models.Filter(must=[_has(state)])}


def _operation(ids: Sequence[str], state: int | None, payload: str) -> Any:
    still = models.Filter(must=[models.HasIdCondition(has_id=list(ids)), _has(state)])
    if not payload:
        return models.DeleteOperation(delete=models.FilterSelector(filter=still))
    return models.SetPayloadOperation(set_payload=models.SetPayload(payload=json.loads(payload), filter=still))


def _has(state: int | None) -> models.Condition:
    if state is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=STATE))
    return models.FieldCondition(key=STATE, match=models.MatchValue(value=state))
