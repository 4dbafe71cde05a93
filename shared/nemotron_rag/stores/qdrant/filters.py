"""Plain-dict filters as Qdrant's conditions, over payloads of any layout."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qdrant_client import models

from nemotron_rag.errors import InputError
from nemotron_rag.stores.filters import (
    Absent,
    AnyOf,
    DateRange,
    Equals,
    NumberRange,
    Test,
    check_key,
    metadata_steps,
    parse_filter,
)
from nemotron_rag.types import Filter

__all__ = ["PAGE_PAYLOAD", "compile_filter", "field_path"]

PAGE_PAYLOAD: Mapping[str, str] = {
    "id": "id",
    "source": "source",
    "page_number": "number",
    "number": "number",
    "content_hash": "content_hash",
}
"""Page fields, as filters name them, and where they are in the payload of a page."""

_PLAIN_STEP = re.compile(r"[\w-]+")


def compile_filter(
    filter: Filter | None, *, fields: Mapping[str, str] | Collection[str] = PAGE_PAYLOAD, metadata: str = "metadata"
) -> models.Filter | None:
    """Translate a filter; all its entries must hold.

    Args:
        filter: see `nemotron_rag.stores.filters`; a `qdrant_client.models.Filter` is used as it is.
        fields: keys that are not metadata: with their places in the payload, or just the keys if they are at its top.
        metadata: where in the payload all other keys are; empty for its top.

    Raises:
        InputError: a key or value that cannot be translated.
    """
    if filter is None or isinstance(filter, models.Filter):
        return filter
    if not isinstance(filter, Mapping):
        raise InputError(f"filter must be a dict or a qdrant_client.models.Filter, got {type(filter).__name__}")
    return models.Filter(
        must=[
            _condition(field_path(each.key, fields=fields, metadata=metadata), each.key, each.test)
            for each in parse_filter(filter)
        ]
    )


def field_path(
    key: str, *, fields: Mapping[str, str] | Collection[str] = PAGE_PAYLOAD, metadata: str = "metadata"
) -> str:
    """Where a filter's key is found in a stored payload; see `compile_filter`.

    Raises:
        InputError: the key is empty, not a str, or holds a double quote.
    """
    check_key(key)
    if key in fields:
        return fields[key] if isinstance(fields, Mapping) else key
    steps = [step if _PLAIN_STEP.fullmatch(step) else f'"{step}"' for step in metadata_steps(key, metadata)]
    return ".".join([metadata, *steps] if metadata else steps)


def _condition(path: str, key: str, test: Test) -> models.Condition:
    if isinstance(test, Absent):
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=path))
    if isinstance(test, AnyOf):
        return _any_of(path, key, test.tests)
    if isinstance(test, Equals) and not isinstance(test.value, float):
        return models.FieldCondition(key=path, match=models.MatchValue(value=test.value))
    return models.FieldCondition(key=path, range=_range(key, test))


def _any_of(path: str, key: str, tests: Sequence[Test]) -> models.Condition:
    values: list[Any] = [test.value if isinstance(test, Equals) else None for test in tests]
    if all(isinstance(value, str) for value in values) or all(type(value) is int for value in values):
        return models.FieldCondition(key=path, match=models.MatchAny(any=values))
    return models.Filter(should=[_condition(path, key, test) for test in tests])


def _range(key: str, test: Equals | NumberRange | DateRange) -> models.Range | models.DatetimeRange:
    if isinstance(test, Equals):  # of a float: exact match exists for str, int and bool only
        value: Any = test.value
        return models.Range(gte=value, lte=value)
    bounds: dict[str, Any] = {name: bound for name, bound in test.bounds.items() if bound is not None}
    if isinstance(test, NumberRange):
        return models.Range(**bounds)
    try:
        return models.DatetimeRange(**bounds)
    except ValueError as error:
        raise InputError(f"filter on {key!r}: {bounds} are not ISO dates or datetimes") from error
