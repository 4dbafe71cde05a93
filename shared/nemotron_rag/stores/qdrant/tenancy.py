"""A tenant's share of a collection: every call is narrowed to it here, and one that cannot be narrowed is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qdrant_client import models

from nemotron_rag.errors import StoreError
from nemotron_rag.stores.qdrant.layout import BASIS_ID, RECORD_ID
from nemotron_rag.stores.tenant import Tenant

__all__ = ["TENANT", "TenantScope", "tenant_index", "tenant_path"]

TENANT = "tenant"
"""Payload key of pages: whose they are. Beside the record: by which metadata key the collection is divided."""

_SHARED = (RECORD_ID, BASIS_ID)
_OF_ALL = (
    "collection_exists",
    "create_collection",
    "create_payload_index",
    "get_collection",
    "optimize",
    "salvage",
    "update_collection",
)
_FILTERS = {
    "count": "count_filter",
    "scroll": "scroll_filter",
    "facet": "facet_filter",
    "query_points": "query_filter",
    "query_points_groups": "query_filter",
}


def tenant_path(key: str) -> str:
    """Where in the payload of a page the value of a tenant key is."""
    return f"{TENANT}.{key}"


def tenant_index() -> models.KeywordIndexParams:
    """The payload index that lets Qdrant lay a tenant's points beside each other."""
    return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)


class TenantScope:
    """Narrows the arguments of calls of a collection of pages.

    Points have other ids than a caller names them by, so that equal ids of two tenants are two points; the points of
    the collection itself (its record and basis) belong to all.

    Args:
        tenant: whose points they are.
    """

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self._mine = models.FieldCondition(
            key=tenant_path(tenant.key), match=models.MatchValue(value=tenant.value)
        )  # the one condition that every request has

    def narrowed(self, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call that sees and changes this tenant's points alone.

        Raises:
            StoreError: there is no telling whose points the call is about.
        """
        given = dict(arguments)
        if method in _OF_ALL:
            return given
        if method in _FILTERS:
            name = _FILTERS[method]
            return {**given, name: self.filter(given.get(name)), **self._prefetch(given)}
        narrow = self._writes.get(method)
        if narrow is None:
            raise StoreError(f"{method!r} cannot be narrowed to tenant {self.tenant}; it is not called")
        return narrow(given)

    def filter(self, filter: models.Filter | None) -> models.Filter:
        """A filter that matches this tenant's points alone, ids in it being those that callers know."""
        if filter is None:
            return models.Filter(must=[self._mine])
        if isinstance(filter.must, list) and self._mine in filter.must:
            return filter  # narrowed before
        return models.Filter(must=[self._mine, self._translated(filter)])

    def id(self, id: Any) -> Any:
        """The id of the point that a caller knows by an id."""
        return id if id in _SHARED else self.tenant.uuid(str(id))

    @property
    def _writes(self) -> Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "retrieve": lambda given: {**given, "ids": self._ids(given["ids"])},
            "upsert": self._upsert,
            "set_payload": lambda given: {**given, "points": self._selected(given["points"])},
            "delete": self._delete,
            "batch_update_points": lambda given: {
                **given,
                "update_operations": [self._operation(each) for each in given["update_operations"]],
            },
        }

    def _prefetch(self, given: Mapping[str, Any]) -> dict[str, Any]:
        stages = given.get("prefetch")
        if stages is None:
            return {}
        several = stages if isinstance(stages, list) else [stages]
        return {"prefetch": [self._stage(stage) for stage in several]}

    def _stage(self, stage: models.Prefetch) -> models.Prefetch:
        # a shallow copy that is not validated: embedded queries are arrays
        changed: dict[str, Any] = {"filter": self.filter(stage.filter), **self._prefetch({"prefetch": stage.prefetch})}
        return stage.model_copy(update=changed)

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        condition = given.get("update_filter")
        more = {} if condition is None else {"update_filter": self.filter(condition)}
        return {**given, "points": [self._point(point) for point in given["points"]], **more}

    def _point(self, point: models.PointStruct) -> models.PointStruct:
        if point.id in _SHARED:
            return point
        payload = {**(point.payload or {}), TENANT: self.tenant.metadata}
        return point.model_copy(update={"id": self.id(point.id), "payload": payload})

    def _delete(self, given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "points_selector": models.FilterSelector(filter=self._selected(given["points_selector"]))}

    def _selected(self, points: Any) -> models.Filter:
        """The points that a selector selects, as far as they are this tenant's."""
        if isinstance(points, models.FilterSelector):
            return self.filter(points.filter)
        if isinstance(points, models.Filter):
            return self.filter(points)
        ids = points.points if isinstance(points, models.PointIdsList) else points
        return models.Filter(must=[self._mine, models.HasIdCondition(has_id=self._ids(ids))])

    def _operation(self, operation: Any) -> Any:
        if isinstance(operation, models.DeleteOperation):
            return models.DeleteOperation(delete=models.FilterSelector(filter=self._selected(operation.delete)))
        if isinstance(operation, models.SetPayloadOperation):
            change = operation.set_payload
            selected = self._selected(change.points if change.filter is None else change.filter)
            narrowed = change.model_copy(update={"points": None, "filter": selected})
            return models.SetPayloadOperation(set_payload=narrowed)
        raise StoreError(f"{type(operation).__name__} cannot be narrowed to tenant {self.tenant}; it is not made")

    def _ids(self, ids: Iterable[Any]) -> list[Any]:
        return [self.id(id) for id in ids]

    def _translated(self, condition: Any) -> Any:
        """A filter or condition with the ids of points in place of those that callers know."""
        if isinstance(condition, models.HasIdCondition):
            return models.HasIdCondition(has_id=self._ids(condition.has_id))
        if isinstance(condition, models.MinShould):
            return condition.model_copy(update={"conditions": [self._translated(e) for e in condition.conditions]})
        if not isinstance(condition, models.Filter):
            return condition
        parts = {name: getattr(condition, name) for name in ("must", "should", "must_not", "min_should")}
        return models.Filter(**{name: self._part(part) for name, part in parts.items() if part is not None})

    def _part(self, part: Any) -> Any:
        return [self._translated(each) for each in part] if isinstance(part, list) else self._translated(part)
