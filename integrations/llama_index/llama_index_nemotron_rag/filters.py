"""Filters over nodes' metadata, as filters of an index and as Qdrant's conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from qdrant_client import models

from llama_index_nemotron_rag.documents import INDEX_KEYS, UNSTORED_KEYS
from nemotron_rag.errors import InputError
from nemotron_rag.stores.qdrant import Layout, compile_filter
from nemotron_rag.types import Filter

__all__ = ["Filters", "Leaf", "compile_metadata_filters", "index_filter", "points_filter"]

Filters: TypeAlias = "MetadataFilters | Filter"
"""LlamaIndex's filters; or ``{"year": {"gte": 2020}}``, as in `PageIndex.search`; or Qdrant's own filter."""

Leaf: TypeAlias = Callable[[Mapping[str, Any]], models.Filter | None]
"""A plain filter of one key as Qdrant's; it knows where in the payload the key is."""


def index_filter(filters: Filters | None) -> Filter | None:
    """Filters in the words of nodes, in the words of an index.

    Raises:
        InputError: a key or value that cannot be translated, or that an index does not store.
    """
    if isinstance(filters, MetadataFilters):
        return compile_metadata_filters(filters, lambda filter: compile_filter(index_filter(filter)))
    if not isinstance(filters, Mapping):
        return filters
    if unstored := [key for key in filters if key in UNSTORED_KEYS]:
        raise InputError(f"an index does not store {unstored[0]}; filter on source, page_number or your own metadata")
    translated = {INDEX_KEYS.get(key, key): value for key, value in filters.items()}
    if len(translated) < len(filters):
        raise InputError(f"two keys of the filter mean the same: {', '.join(filters)}; leave one out")
    return translated


def points_filter(filters: Filters | None) -> Filter | None:
    """Filters over payloads that have the metadata at their top, as LlamaIndex writes them."""
    return compile_metadata_filters(filters, Layout().filter) if isinstance(filters, MetadataFilters) else filters


def compile_metadata_filters(filters: MetadataFilters, leaf: Leaf) -> models.Filter:
    """Translate, with LlamaIndex's meaning: "not" excludes what any filter matches; a missing key is "not equal".

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

    def test(value: Any) -> models.Filter:
        return leaf({key: value}) or models.Filter()

    if entry.operator in _TEXT and not isinstance(value, str):
        raise InputError(f"filter on {key!r}: {entry.operator.value} wants a str, got {type(value).__name__}")
    if entry.operator not in _CONDITIONS:
        raise InputError(f"filter on {key!r}: Qdrant has no {entry.operator.value!r}; pass a qdrant filter")
    return _CONDITIONS[entry.operator](test, value)


def _values(value: Any) -> Sequence[Any]:
    """A list as it is; of a str, its parts between commas, as in LlamaIndex's own store for Qdrant."""
    if isinstance(value, list):
        return value
    return value.split(",") if isinstance(value, str) else [value]


def _text(equal: models.Filter, value: str) -> models.Filter:
    """Full text where there was equality: the key's place in the payload is the same."""
    conditions = equal.must if isinstance(equal.must, list) else []
    paths = [condition.key for condition in conditions if isinstance(condition, models.FieldCondition)]
    return models.Filter(must=[models.FieldCondition(key=path, match=models.MatchText(text=value)) for path in paths])


_TEXT = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)
_CONDITIONS: dict[FilterOperator, Callable[[Callable[[Any], models.Filter], Any], models.Filter]] = {
    FilterOperator.EQ: lambda test, value: test(value),
    FilterOperator.GT: lambda test, value: test({"gt": value}),
    FilterOperator.GTE: lambda test, value: test({"gte": value}),
    FilterOperator.LT: lambda test, value: test({"lt": value}),
    FilterOperator.LTE: lambda test, value: test({"lte": value}),
    FilterOperator.CONTAINS: lambda test, value: test(value),  # of a list, Qdrant looks at each element
    FilterOperator.IS_EMPTY: lambda test, value: test(None),
    FilterOperator.IN: lambda test, value: test(_values(value)),
    FilterOperator.ANY: lambda test, value: test(_values(value)),
    FilterOperator.ALL: lambda test, value: models.Filter(must=[test(one) for one in _values(value)]),
    FilterOperator.NE: lambda test, value: models.Filter(must_not=[test(value)]),
    FilterOperator.NIN: lambda test, value: models.Filter(must_not=[test(_values(value))]),
    FilterOperator.TEXT_MATCH: lambda test, value: _text(test(value), value),
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda test, value: _text(test(value), value),
}
