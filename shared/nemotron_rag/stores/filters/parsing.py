"""Filters as the caller writes them, read into conditions; see `nemotron_rag.stores.filters` for their form."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nemotron_rag.errors import InputError
from nemotron_rag.stores.filters.conditions import (
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
    OneOf,
    Prefix,
    Test,
    Words,
    always_hold,
)
from nemotron_rag.stores.filters.dates import moment, that_day

__all__ = ["check_key", "is_empty", "parse_filter", "rename_keys"]

_BOUNDS = ("gt", "gte", "lt", "lte")
_JOINS = ("and", "or", "not", "nor")
_DEEPEST = 32  # filters in filters; more is an accident, such as a list that holds itself
_INTEGERS = range(-(2**63), 2**63)  # whole numbers that Qdrant takes


def parse_filter(filter: Mapping[str, Any] | tuple[Mapping[str, Any], ...] | None) -> tuple[Expression, ...]:
    """Read a filter, all of whose entries must hold; see `nemotron_rag.stores.filters` for its form.

    Args:
        filter: None for one that always holds; of a tuple of filters, all must hold.

    Raises:
        InputError: it is no dict, or a key or value cannot be used.

    Example:
        >>> parse_filter({"year": {"gte": 2020}, "page_number": 3})[1]
        Condition(key='page_number', test=Equals(value=3))
    """
    if isinstance(filter, tuple):
        return tuple(expression for part in filter for expression in parse_filter(part))
    return () if filter is None else _entries(filter, 0)


def is_empty(filter: Any) -> bool:
    """Whether a filter leaves nothing out, whatever is stored: ``{}``, and what comes of lists that are empty.

    Args:
        filter: as `parse_filter` takes it, or a store's own kind.

    Raises:
        InputError: it cannot be read.

    Example:
        >>> [is_empty(each) for each in ({}, {"year": {"nin": []}}, {"year": []}, {"year": 2024})]
        [True, True, False, False]
    """
    if isinstance(filter, Mapping | tuple):
        return always_hold(parse_filter(filter))
    clauses = filter.model_dump() if hasattr(filter, "model_dump") else None  # of a model of qdrant-client
    return isinstance(clauses, dict) and not any(clauses.values())


def check_key(key: object) -> None:
    """Raise unless this can be a filter's key.

    Raises:
        InputError: it is empty, no str, or holds a double quote.
    """
    if not isinstance(key, str) or not key or '"' in key:
        raise InputError(f'a filter key must be a non-empty str without ", got {key!r}')


def rename_keys(filter: Any, rename: Callable[[str, Any], tuple[str, Any]]) -> Any:
    """The same filter in terms of other keys, at any depth; what is no dict comes back as it is.

    Args:
        filter: as `parse_filter` takes it.
        rename: gives the other key and value for a key of a page and its value.

    Raises:
        InputError: two keys become one, or the filter is nested too deeply.
    """
    return _renamed(filter, rename, 0)


def _renamed(filter: Any, rename: Callable[[str, Any], tuple[str, Any]], depth: int) -> Any:
    _check_depth(depth)
    if not isinstance(filter, Mapping):
        return filter
    pairs: list[tuple[str, Any]] = []
    for key, value in filter.items():
        if not _joins(key):
            pairs.append(rename(key, value))
        elif isinstance(value, list | tuple):
            pairs.append((key, [_renamed(part, rename, depth + 1) for part in value]))
        else:
            pairs.append((key, _renamed(value, rename, depth + 1)))
    if len(dict(pairs)) < len(pairs):
        raise InputError(f"two keys of the filter mean the same: {', '.join(filter)}; leave one out")
    return dict(pairs)


def _entries(filter: Any, depth: int) -> tuple[Expression, ...]:
    _check_depth(depth)
    if not isinstance(filter, Mapping):
        raise InputError(f"filter must be a dict, got {type(filter).__name__}")
    return tuple(_entry(key, value, depth) for key, value in filter.items())


def _entry(key: Any, value: Any, depth: int) -> Expression:
    if name := _joins(key):
        return _joined(name, value, depth)
    check_key(key)
    if key.startswith("$"):
        raise InputError(f"a filter knows no {key!r}; between filters there are {', '.join(_JOINS)}")
    return _of_value(key, value, depth)


def _joins(key: Any) -> str | None:
    """The word for how filters are joined; None if the key is one of a page."""
    name = key.removeprefix("$") if isinstance(key, str) else ""
    return name if name in _JOINS else None


def _joined(name: str, value: Any, depth: int) -> Expression:
    given = [value] if isinstance(value, Mapping) and name in ("not", "nor") else value
    if not isinstance(given, list | tuple) or not given:
        wanted = "a filter or a list of them" if name in ("not", "nor") else "a list of filters"
        raise InputError(
            f"filter {name!r} wants {wanted}, got {_described(value)}; a metadata key of that name is 'metadata.{name}'"
        )
    parts = tuple(_whole(_entries(part, depth + 1)) for part in given)
    if name == "and":
        return _whole(parts)
    some = parts[0] if len(parts) == 1 else OneOf(parts)
    return some if name == "or" else Not(some)


def _whole(parts: tuple[Expression, ...]) -> Expression:
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _of_value(key: str, value: Any, depth: int) -> Expression:
    _check_depth(depth)
    if isinstance(value, Mapping):
        return _of_operators(key, value, depth)
    if isinstance(value, Sequence | set | frozenset | np.ndarray) and not isinstance(value, str | bytes):
        return _any_of(key, value, depth)
    return Condition(key, _of_plain(key, value))


def _of_plain(key: str, value: Any) -> Test:
    """A value that is neither a list nor has operators."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None:
        return Absent()
    if isinstance(value, datetime.date):
        return that_day(value)
    if not isinstance(value, str | int | float):
        raise InputError(
            f"filter on {key!r} got a {type(value).__name__}; give a str, number, bool, date, list, operators or None"
        )
    _check_number(key, value)
    return Equals(value)


def _any_of(key: str, values: Iterable[Any], depth: int) -> Expression:
    """One of a list; as one test of the key where that is possible."""
    parts = [_of_value(key, value, depth + 1) for value in values]
    tests = [part.test for part in parts if isinstance(part, Condition)]
    return Condition(key, AnyOf(tuple(tests))) if len(tests) == len(parts) else OneOf(tuple(parts))


def _of_operators(key: str, given: Mapping[Any, Any], depth: int) -> Expression:
    operators = {name.removeprefix("$") if isinstance(name, str) else name: value for name, value in given.items()}
    unknown = sorted({name for name in operators if name not in _BOUNDS and name not in _OPERATORS}, key=str)
    if unknown or not operators or len(operators) < len(given):
        names = ", ".join([*_BOUNDS, *_OPERATORS])
        raise InputError(f"filter on {key!r} takes the operators {names}; got {unknown or list(given) or 'none'}")
    bounds = {name: value for name, value in operators.items() if name in _BOUNDS}
    parts: list[Expression] = [Condition(key, _range(key, bounds))] if bounds else []
    others = [(name, value) for name, value in operators.items() if name not in bounds]
    parts += [_OPERATORS[name](key, value, depth + 1) for name, value in others]
    return _whole(tuple(parts))


def _range(key: str, given: Mapping[str, Any]) -> NumberRange | DateRange:
    bounds = {name: each.item() if isinstance(each, np.generic) else each for name, each in given.items()}
    if all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds.values()):
        for bound in bounds.values():
            _check_number(key, bound)
        return NumberRange(**bounds)
    if not all(isinstance(bound, str | datetime.date) for bound in bounds.values()):
        raise InputError(f"filter on {key!r}: bounds must all be numbers or all be dates, got {bounds}")
    if any(moment(bound) is None for bound in bounds.values()):
        raise InputError(f"filter on {key!r}: {bounds} are not ISO dates or datetimes")
    return DateRange(**bounds)


def _in(key: str, value: Any, depth: int) -> Expression:
    return _of_value(key, _list(key, "in", value), depth)


def _none_of(key: str, value: Any, depth: int) -> Expression:
    return Not(_of_value(key, _list(key, "nin", value), depth))


def _all(key: str, value: Any, depth: int) -> Expression:
    return _whole(tuple(_of_value(key, each, depth + 1) for each in _list(key, "all", value)))


def _exists(key: str, value: Any, depth: int) -> Expression:
    if not isinstance(value, bool):
        raise InputError(f"filter on {key!r}: exists wants True or False, got {_described(value)}")
    return Not(Condition(key, Absent())) if value else Condition(key, Absent())


def _contains(key: str, value: Any, depth: int) -> Expression:
    if not isinstance(value, str):  # a list has it as an element
        return Condition(key, _of_plain(key, value))
    return Condition(key, Contains(_text(key, "contains", value)))


def _list(key: str, name: str, value: Any) -> Any:
    if not isinstance(value, Sequence | set | frozenset | np.ndarray) or isinstance(value, str | bytes):
        raise InputError(f"filter on {key!r}: {name} wants a list, got {_described(value)}")
    return value


def _text(key: str, name: str, value: Any) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value:
        raise InputError(f"filter on {key!r}: {name} wants a non-empty str, got {_described(value)}")
    return value


_OPERATORS: dict[Any, Callable[[str, Any, int], Expression]] = {
    "eq": _of_value,
    "ne": lambda key, value, depth: Not(_of_value(key, value, depth)),
    "in": _in,
    "nin": _none_of,
    "all": _all,
    "exists": _exists,
    "contains": _contains,
    "not_contains": lambda key, value, depth: Not(_contains(key, value, depth)),
    "prefix": lambda key, value, depth: Condition(key, Prefix(_text(key, "prefix", value))),
    "text": lambda key, value, depth: Condition(key, Words(_text(key, "text", value))),
    "not": lambda key, value, depth: Not(_of_value(key, value, depth)),
}


def _check_number(key: str, value: object) -> None:
    """Refuse what a server cannot be sent: it would match here, and fail there."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"filter on {key!r}: a number must be finite, got {value}; leave a bound out for none")
    if isinstance(value, int) and value not in _INTEGERS:
        raise InputError(f"filter on {key!r}: a whole number must fit into 64 bits, got {value}; give a float")


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise InputError(f"filters may be nested {_DEEPEST} deep, this one goes further; does a list hold itself?")


def _described(value: object) -> str:
    return repr(value) if isinstance(value, str | list | tuple) and len(value) == 0 else type(value).__name__
