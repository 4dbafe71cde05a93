"""Plain-dict filters over pages, translated to Qdrant's conditions. It knows field names, no collection or client."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from nemotron_rag.errors import InputError, MissingExtraError

try:
    from qdrant_client import models
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("qdrant_client", "qdrant") from error

__all__ = ["PAGE_FIELDS", "Filter", "compile_filter", "field_path"]

Filter: TypeAlias = "Mapping[str, Any] | models.Filter"
"""``{"source": "a.pdf", "number": [1, 2], "year": {"gte": 2020}}``, or Qdrant's own filter."""

PAGE_FIELDS = ("id", "source", "number", "content_hash")
"""Fields of a page that a filter names directly; every other key is looked up in the page's metadata."""

_BOUNDS = ("gt", "gte", "lt", "lte")
_PLAIN_STEP = re.compile(r"[\w-]+")


def compile_filter(
    wanted: Filter | None, *, fields: Sequence[str] = PAGE_FIELDS, metadata: str = "metadata"
) -> models.Filter | None:
    """Translate a filter; all its entries must hold.

    Args:
        wanted: maps a page field (`PAGE_FIELDS`) or a metadata key (dots step into nested objects) to a value, to a
            list of allowed values, to bounds (``gt``, ``gte``, ``lt``, ``lte``: numbers, or ISO dates and datetimes),
            or to None for "absent". A `qdrant_client.models.Filter` is used as it is.
        fields: keys that lie directly in the payload, for payloads other than those of pages.
        metadata: where in the payload all other keys lie.

    Raises:
        InputError: a key or value that cannot be translated.
    """
    if wanted is None or isinstance(wanted, models.Filter):
        return wanted
    if not isinstance(wanted, Mapping):
        raise InputError(f"filter must be a dict or a qdrant_client.models.Filter, got {type(wanted).__name__}")
    paths = {key: field_path(key, fields=fields, metadata=metadata) for key in wanted}
    return models.Filter(must=[_condition(paths[key], key, value) for key, value in wanted.items()])


def field_path(key: str, *, fields: Sequence[str] = PAGE_FIELDS, metadata: str = "metadata") -> str:
    """Where a filter's key is found in a stored payload; see `compile_filter`.

    Raises:
        InputError: the key is empty, not a str, or holds a double quote.
    """
    if not isinstance(key, str) or not key or '"' in key:
        raise InputError(f'a filter key must be a non-empty str without ", got {key!r}')
    if key in fields:
        return key
    steps = key.removeprefix(f"{metadata}.").split(".")
    return ".".join([metadata, *(step if _PLAIN_STEP.fullmatch(step) else f'"{step}"' for step in steps)])


def _condition(path: str, key: str, value: Any) -> models.Condition:
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=path))
    if isinstance(value, Mapping):
        return models.FieldCondition(key=path, range=_range(key, value))
    if isinstance(value, float):  # exact match exists for str, int and bool only
        return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))
    if isinstance(value, str | int):
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return _any_of(path, key, list(value))
    raise InputError(f"filter on {key!r} got a {type(value).__name__}; give a str, number, bool, list, bounds or None")


def _any_of(path: str, key: str, values: list[Any]) -> models.Condition:
    if all(isinstance(value, str) for value in values) or all(type(value) is int for value in values):
        return models.FieldCondition(key=path, match=models.MatchAny(any=values))
    return models.Filter(should=[_condition(path, key, value) for value in values])


def _range(key: str, bounds: Mapping[str, Any]) -> models.Range | models.DatetimeRange:
    unknown = sorted(set(bounds) - set(_BOUNDS))
    if unknown or not bounds:
        raise InputError(f"filter on {key!r} takes the bounds {', '.join(_BOUNDS)}; got {unknown or 'none'}")
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in bounds.values()):
        return models.Range(**bounds)
    if all(isinstance(value, str | datetime.date) for value in bounds.values()):
        try:
            return models.DatetimeRange(**bounds)
        except ValueError as error:
            raise InputError(f"filter on {key!r}: {dict(bounds)} are not ISO dates or datetimes") from error
    raise InputError(f"filter on {key!r}: bounds must all be numbers or all be dates, got {dict(bounds)}")
