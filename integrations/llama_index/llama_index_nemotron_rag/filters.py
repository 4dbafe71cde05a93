"""Filters over nodes' metadata, in the one language of filters: `nemotron_rag.stores.filters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_nemotron_rag.derived import Sources, expanded
from llama_index_nemotron_rag.documents import INDEX_KEYS, UNSTORED_KEYS
from nemotron_rag.errors import InputError
from nemotron_rag.stores.filters import rename_keys
from nemotron_rag.types import Filter

__all__ = ["Filters", "index_filter", "metadata_filters", "plain_filter"]

Filters: TypeAlias = "MetadataFilters | Filter"
"""LlamaIndex's filters; or ``{"year": {"gte": 2020}}``, as in `PageIndex.search`; or Qdrant's own filter."""


def index_filter(filters: Filters | None, sources: Sources = lambda filter: ()) -> Filter | None:
    """Filters in the words of nodes, in the words of an index.

    Args:
        filters: see `Filters`.
        sources: the sources of an index that have pages which a filter of the index matches.

    Raises:
        InputError: a key or value that cannot be translated, or that an index does not store.
    """
    return rename_keys(expanded(plain_filter(filters), sources), _index_key)


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


def metadata_filters(filters: Filters | None) -> MetadataFilters | None:
    """Plain filters as LlamaIndex's, for its own stores; others come back as they are.

    Raises:
        InputError: there is no such operator in LlamaIndex, or it is a filter of another kind.
    """
    if filters is None or isinstance(filters, MetadataFilters):
        return filters
    if not isinstance(filters, Mapping):
        raise InputError(f"an index of LlamaIndex takes filters as MetadataFilters, got {type(filters).__name__}")
    parts: list[MetadataFilter | MetadataFilters] = []
    for key, value in filters.items():
        joined = _JOINED.get(key.removeprefix("$"))
        if joined is None:
            parts += _own_filters(key, value)
            continue
        inner = [metadata_filters(each) for each in (value if isinstance(value, list | tuple) else [value])]
        parts.append(MetadataFilters(filters=[_flat(each) for each in inner if each is not None], condition=joined))
    if len(parts) == 1 and isinstance(parts[0], MetadataFilters):
        return parts[0]
    return MetadataFilters(filters=parts) if parts else None


def _flat(filters: MetadataFilters) -> MetadataFilter | MetadataFilters:
    """One test without the list around it: some stores take no lists in lists."""
    is_one = len(filters.filters) == 1 and filters.condition == FilterCondition.AND
    return filters.filters[0] if is_one else filters


def _own_filters(key: str, value: Any) -> list[MetadataFilter | MetadataFilters]:
    """The tests of one key in LlamaIndex's words."""
    if isinstance(value, list | tuple | set | frozenset):
        return [MetadataFilter(key=key, value=list(value), operator=FilterOperator.IN)]
    if not isinstance(value, Mapping):
        return [MetadataFilter(key=key, value=value)]
    if unknown := sorted(set(value) - _OPERATORS.keys()):
        raise InputError(
            f"filter on {key!r}: an index of LlamaIndex has no operator {unknown[0]!r}; pass MetadataFilters"
        )
    return [MetadataFilter(key=key, value=each, operator=_OPERATORS[name]) for name, each in value.items()]


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
_JOINED = {name: condition for condition, name in _JOINS.items()} | {"not": FilterCondition.NOT}
_OPERATORS = {
    prefix + name: operator
    for prefix in ("", "$")
    for name, operator in {
        "eq": FilterOperator.EQ,
        "ne": FilterOperator.NE,
        "gt": FilterOperator.GT,
        "gte": FilterOperator.GTE,
        "lt": FilterOperator.LT,
        "lte": FilterOperator.LTE,
        "in": FilterOperator.IN,
        "nin": FilterOperator.NIN,
        "all": FilterOperator.ALL,
        "contains": FilterOperator.CONTAINS,
        "text": FilterOperator.TEXT_MATCH,
    }.items()
}
