"""Plain-dict filters as Qdrant's conditions, over payloads of any layout."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qdrant_client import models

from nemotron_rag.errors import InputError
from nemotron_rag.stores.filters import (
    Absent,
    AllOf,
    AnyOf,
    Condition,
    Contains,
    DateRange,
    Equals,
    Expression,
    Not,
    NumberRange,
    Prefix,
    Test,
    Words,
    check_key,
    is_whole,
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
    filter: Filter | None,
    *,
    fields: Mapping[str, str] | Collection[str] = PAGE_PAYLOAD,
    metadata: str = "metadata",
    files: str = "",
) -> models.Filter | None:
    """Translate a filter; all its entries must hold.

    Args:
        filter: see `nemotron_rag.stores.filters`; a `qdrant_client.models.Filter` is used as it is; of a tuple of
            filters, all must hold.
        fields: keys that are not metadata: with their places in the payload, or just the keys if they are at its top.
        metadata: where in the payload all other keys are; empty for its top.
        files: the list in the payload in whose entries all this is, one of which must meet the whole filter; empty if
            it is at the top of the payload.

    Raises:
        InputError: a key or value that cannot be translated.
    """
    if filter is None or isinstance(filter, models.Filter):
        return filter
    if isinstance(filter, tuple):
        parts = [compile_filter(part, fields=fields, metadata=metadata, files=files) for part in filter]
        return models.Filter(must=[part for part in parts if part is not None])
    if not isinstance(filter, Mapping):
        hint = "; put it into Filter(must=[...])" if type(filter).__module__.startswith("qdrant_client") else ""
        raise InputError(f"filter must be a dict or a qdrant_client.models.Filter, got {type(filter).__name__}{hint}")
    compiled = models.Filter(must=[_expression(each, fields, metadata) for each in parse_filter(filter)])
    if not files or not compiled.must:
        return compiled
    return models.Filter(must=[models.NestedCondition(nested=models.Nested(key=files, filter=compiled))])


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


def _expression(expression: Expression, fields: Mapping[str, str] | Collection[str], metadata: str) -> models.Condition:
    if isinstance(expression, Condition):
        key = expression.key
        path = field_path(key, fields=fields, metadata=metadata)
        # Fields of a page are of one kind each: whole numbers, or texts, of which a source is one of a list.
        return _condition(path, key, expression.test, is_field=key in fields and isinstance(fields, Mapping))
    if isinstance(expression, Not):
        return models.Filter(must_not=[_expression(expression.part, fields, metadata)])
    parts = [_expression(part, fields, metadata) for part in expression.parts]
    return models.Filter(must=parts) if isinstance(expression, AllOf) else models.Filter(should=parts)


def _condition(path: str, key: str, test: Test, *, is_field: bool) -> models.Condition:
    if isinstance(test, Absent):
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=path))
    if isinstance(test, AnyOf):
        return _any_of(path, key, test.tests, is_field=is_field)
    if isinstance(test, Contains):
        return _contains(path, test.text, is_field=is_field)
    if isinstance(test, Prefix):
        return models.FieldCondition(key=path, match=models.MatchPrefix(prefix=test.text))
    if isinstance(test, Words):
        return models.FieldCondition(key=path, match=models.MatchText(text=test.text))
    if isinstance(test, Equals):
        return _equals(path, test.value, is_field=is_field)
    return models.FieldCondition(key=path, range=_range(key, test))


def _equals(path: str, value: Any, *, is_field: bool) -> models.Condition:
    if isinstance(value, bool | str) or (is_field and isinstance(value, int)) or is_whole(value):
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    # An exact match is of one kind of number, a range of both: 2024 is 2024.0.
    return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))


def _any_of(path: str, key: str, tests: Sequence[Test], *, is_field: bool) -> models.Condition:
    values: list[Any] = [test.value if isinstance(test, Equals) else None for test in tests]
    whole = all(type(value) is int and (is_field or is_whole(value)) for value in values)
    if whole or all(isinstance(value, str) for value in values):
        return models.FieldCondition(key=path, match=models.MatchAny(any=values))
    return models.Filter(should=[_condition(path, key, test, is_field=is_field) for test in tests])


def _contains(path: str, text: str, *, is_field: bool) -> models.Condition:
    within = models.FieldCondition(key=path, match=models.MatchSubstring(substring=text))
    if is_field:
        return within
    is_no_list = models.IsEmptyCondition(is_empty=models.PayloadField(key=f"{path}[]"))  # nothing in it to be listed
    element = models.FieldCondition(key=path, match=models.MatchValue(value=text))
    return models.Filter(should=[element, models.Filter(must=[within, is_no_list])])


def _range(key: str, test: NumberRange | DateRange) -> models.Range | models.DatetimeRange:
    bounds: dict[str, Any] = {name: bound for name, bound in test.bounds.items() if bound is not None}
    if isinstance(test, NumberRange):
        return models.Range(**bounds)
    try:
        return models.DatetimeRange(**bounds)
    except ValueError as error:
        raise InputError(f"filter on {key!r}: {bounds} are not ISO dates or datetimes") from error
