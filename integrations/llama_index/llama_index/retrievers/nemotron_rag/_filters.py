"""LlamaIndex's metadata filters -> Qdrant's conditions, for payloads of any layout. It knows no collection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from qdrant_client import models

from nemotron_rag.errors import InputError
from nemotron_rag.stores.client import Filter

__all__ = ["Filters", "Leaf", "compile_metadata_filters"]

Filters: TypeAlias = "MetadataFilters | Filter"
"""LlamaIndex's filters; or ``{"year": {"gte": 2020}}``, as in `PageIndex.search`; or Qdrant's own filter."""

Leaf: TypeAlias = Callable[[str, Any], models.Filter]
"""Key, and value, list, bounds or None for "absent" -> a condition; it knows where keys lie."""


def compile_metadata_filters(filters: MetadataFilters, leaf: Leaf) -> models.Filter:
    """Translate, with LlamaIndex's meaning: "not" wants none of its filters; pages without the key are "not equal".

    Args:
        filters: nested to any depth.
        leaf: makes the conditions on single keys.

    Raises:
        InputError: a key or value that cannot be translated.
    """
    conditions: list[models.Condition] = [
        compile_metadata_filters(entry, leaf) if isinstance(entry, MetadataFilters) else _condition(entry, leaf)
        for entry in filters.filters
    ]
    if filters.condition == FilterCondition.OR:
        return models.Filter(should=conditions)
    if filters.condition == FilterCondition.NOT:
        return models.Filter(must_not=conditions)
    return models.Filter(must=conditions)


def _condition(entry: MetadataFilter, leaf: Leaf) -> models.Filter:
    key, value = entry.key, entry.value
    if entry.operator in _BOUNDS:
        return leaf(key, {_BOUNDS[entry.operator]: value})
    if entry.operator in _TEXT and not isinstance(value, str):
        raise InputError(f"filter on {key!r}: {entry.operator.value} wants a str, got {type(value).__name__}")
    if entry.operator not in _CONDITIONS:
        raise InputError(f"filter on {key!r}: Qdrant knows no {entry.operator.value!r}; pass a qdrant filter")
    return _CONDITIONS[entry.operator](leaf, key, value)


def _values(value: Any) -> Sequence[Any]:
    """A list as it is; of a str, its parts between commas, as LlamaIndex's own store for Qdrant takes it."""
    if isinstance(value, list):
        return value
    return value.split(",") if isinstance(value, str) else [value]


def _text(equal: models.Filter, value: str) -> models.Filter:
    """Full text where there was equality: the key's place in the payload is the same."""
    conditions = equal.must if isinstance(equal.must, list) else []
    paths = [condition.key for condition in conditions if isinstance(condition, models.FieldCondition)]
    return models.Filter(must=[models.FieldCondition(key=path, match=models.MatchText(text=value)) for path in paths])


_BOUNDS = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
}
_TEXT = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)
_CONDITIONS: dict[FilterOperator, Callable[[Leaf, str, Any], models.Filter]] = {
    FilterOperator.EQ: lambda leaf, key, value: leaf(key, value),
    FilterOperator.CONTAINS: lambda leaf, key, value: leaf(key, value),  # of a list, Qdrant looks at each element
    FilterOperator.IS_EMPTY: lambda leaf, key, value: leaf(key, None),
    FilterOperator.IN: lambda leaf, key, value: leaf(key, _values(value)),
    FilterOperator.ANY: lambda leaf, key, value: leaf(key, _values(value)),
    FilterOperator.ALL: lambda leaf, key, value: models.Filter(must=[leaf(key, one) for one in _values(value)]),
    FilterOperator.NE: lambda leaf, key, value: models.Filter(must_not=[leaf(key, value)]),
    FilterOperator.NIN: lambda leaf, key, value: models.Filter(must_not=[leaf(key, _values(value))]),
    FilterOperator.TEXT_MATCH: lambda leaf, key, value: _text(leaf(key, value), value),
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda leaf, key, value: _text(leaf(key, value), value),
}
