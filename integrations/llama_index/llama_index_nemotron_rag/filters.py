"""Filters over nodes' metadata, in the one language of filters: `nemotron_rag.stores.filters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_nemotron_rag.documents import INDEX_KEYS, UNSTORED_KEYS
from nemotron_rag.errors import InputError
from nemotron_rag.stores.filters import rename_keys
from nemotron_rag.types import Filter

__all__ = ["Filters", "index_filter", "plain_filter"]

Filters: TypeAlias = "MetadataFilters | Filter"
"""LlamaIndex's filters; or ``{"year": {"gte": 2020}}``, as in `PageIndex.search`; or Qdrant's own filter."""


def index_filter(filters: Filters | None) -> Filter | None:
    """Filters in the words of nodes, in the words of an index.

    Raises:
        InputError: a key or value that cannot be translated, or that an index does not store.
    """
    return rename_keys(plain_filter(filters), _index_key)


def plain_filter(filters: Filters | None) -> Filter | None:
    """LlamaIndex's filters as plain ones over the same keys; others come back as they are.

    "not" excludes what any of its filters matches; a missing key is "not equal".

    Raises:
        InputError: an operator or value that cannot be translated.
    """
    if not isinstance(filters, MetadataFilters):
        return filters
    parts = [
        plain_filter(entry) if isinstance(entry, MetadataFilters) else _condition(entry) for entry in filters.filters
    ]
    if not parts:
        return {}
    return {_JOINS[filters.condition or FilterCondition.AND]: parts}


def _index_key(key: str, value: Any) -> tuple[str, Any]:
    if key in UNSTORED_KEYS:
        raise InputError(f"an index does not store {key}; filter on source, page_number or your own metadata")
    return INDEX_KEYS.get(key, key), value


def _condition(entry: MetadataFilter) -> Mapping[str, Any]:
    if entry.operator not in _VALUES:
        raise InputError(f"filter on {entry.key!r}: there is no operator {entry.operator.value!r}; pass a plain filter")
    return {entry.key: _VALUES[entry.operator](entry.value)}


def _listed(value: Any) -> Sequence[Any]:
    """A list as it is; of a str, its parts between commas, as in LlamaIndex's own store for Qdrant."""
    if isinstance(value, list):
        return value
    return value.split(",") if isinstance(value, str) else [value]


_JOINS = {FilterCondition.AND: "and", FilterCondition.OR: "or", FilterCondition.NOT: "nor"}
_VALUES: dict[FilterOperator, Callable[[Any], Any]] = {
    FilterOperator.EQ: lambda value: value,
    FilterOperator.NE: lambda value: {"ne": value},
    FilterOperator.GT: lambda value: {"gt": value},
    FilterOperator.GTE: lambda value: {"gte": value},
    FilterOperator.LT: lambda value: {"lt": value},
    FilterOperator.LTE: lambda value: {"lte": value},
    FilterOperator.IN: lambda value: {"in": _listed(value)},
    FilterOperator.ANY: lambda value: {"in": _listed(value)},
    FilterOperator.NIN: lambda value: {"nin": _listed(value)},
    FilterOperator.ALL: lambda value: {"all": _listed(value)},
    FilterOperator.CONTAINS: lambda value: {"contains": value},
    FilterOperator.IS_EMPTY: lambda value: None,
    FilterOperator.TEXT_MATCH: lambda value: {"text": value},
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda value: {"text": value},
}
