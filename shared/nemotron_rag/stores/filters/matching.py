"""Conditions applied to a page in plain Python: what they mean, which every store must agree with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

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
    Prefix,
    Test,
    Words,
    is_whole,
)
from nemotron_rag.stores.filters.dates import moment
from nemotron_rag.stores.filters.parsing import parse_filter
from nemotron_rag.types import Filter, Page, PageFile, StoredPage

__all__ = ["matches", "matching_files", "metadata_steps", "page_found", "words_of"]

_WORD = re.compile(r"[^\W_]+")


def matches(expressions: Iterable[Expression], page: StoredPage) -> bool:
    """Whether a stored page meets all of them, in one of the files that hold it.

    Example:
        >>> from nemotron_rag.stores.filters import parse_filter
        >>> page = StoredPage.of(Page(id="p1", source="a.pdf", number=3, metadata={"tags": ["x"]}), content_hash="")
        >>> matches(parse_filter({"page_number": {"lte": 3}, "tags": {"ne": "y"}}), page)
        True
    """
    return bool(matching_files(expressions, page))


def matching_files(expressions: Iterable[Expression], page: StoredPage) -> list[PageFile]:
    """The files that hold a page and in which it meets all of them.

    Example:
        >>> from nemotron_rag.stores.filters import parse_filter
        >>> page = StoredPage.of(Page(id="p1", source="a.pdf", metadata={"by": "ann"}), content_hash="")
        >>> page = page.with_source("b.pdf", {"by": "bob"})
        >>> [file.source for file in matching_files(parse_filter({"by": "bob"}), page)]
        ['b.pdf']
    """
    conditions = list(expressions)
    return [file for file in page.files if all(_is_met(each, page, file) for each in conditions)]


def page_found(page: StoredPage, filter: Filter | None) -> Page:
    """A page as the first of its files has it that meets a filter; a store's own kind of filter tells nothing of them.

    Raises:
        InputError: a key or value cannot be used.
    """
    found = matching_files(parse_filter(filter), page) if isinstance(filter, Mapping) else page.files
    file = next(iter(found), page.files[0])
    return replace(page.page, source=file.source, metadata=file.metadata)


def metadata_steps(key: str, prefix: str = "metadata") -> list[str]:
    """The way to a value in nested metadata; the key may begin with the name of the metadata itself."""
    return (key.removeprefix(f"{prefix}.") if prefix else key).split(".")


def words_of(text: str) -> list[str]:
    """The words that a test of `Words` compares: letters and digits between anything else, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def _is_met(expression: Expression, page: StoredPage, file: PageFile) -> bool:
    if isinstance(expression, Condition):
        test, value = expression.test, _value(page, file, expression.key)
        if isinstance(test, Contains) and isinstance(value, list):
            test = Equals(test.text)
        return _holds(test, value)
    if isinstance(expression, Not):
        return not _is_met(expression.part, page, file)
    join = all if isinstance(expression, AllOf) else any
    return join(_is_met(part, page, file) for part in expression.parts)


def _value(page: StoredPage, file: PageFile, key: str) -> Any:
    fields = {
        "id": page.page.id,
        "source": file.source or None,
        "page_number": page.page.number,
        "number": page.page.number,
        "content_hash": page.content_hash,
    }
    if key in fields:
        return fields[key]
    value: Any = file.metadata
    for step in metadata_steps(key):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _holds(test: Test, value: Any) -> bool:
    if isinstance(test, AnyOf):
        return any(_holds(each, value) for each in test.tests)
    values = value if isinstance(value, list | tuple) else [value]
    if isinstance(test, Absent):
        return value is None or (values is value and not values)
    holds = _of_one(test)
    return any(holds(each) for each in values)


def _of_one(test: Test) -> Callable[[Any], bool]:
    """A test as a function of one element, or of a value that is no list."""
    if isinstance(test, Equals):
        return lambda value: _is_equal(value, test.value)
    if isinstance(test, NumberRange):
        limits = {name: None if bound is None else _as_float(bound) for name, bound in test.bounds.items()}
        return lambda value: _is_number(value) and _is_within(_as_float(value), **limits)
    if isinstance(test, Contains):
        return lambda value: isinstance(value, str) and test.text in value
    if isinstance(test, Prefix):
        return lambda value: isinstance(value, str) and value.startswith(test.text)
    if isinstance(test, Words):
        wanted = set(words_of(test.text))
        return lambda value: isinstance(value, str) and bool(wanted) and wanted <= set(words_of(value))
    assert isinstance(test, DateRange)
    bounds = {name: None if bound is None else moment(bound) for name, bound in test.bounds.items()}
    return lambda value: isinstance(value, str) and (at := moment(value)) is not None and _is_within(at, **bounds)


def _is_equal(value: Any, expected: Any) -> bool:
    if _is_number(value) and _is_number(expected) and not is_whole(expected):
        return _as_float(value) == _as_float(expected)
    return type(value) is type(expected) and bool(value == expected)


def _as_float(number: float) -> float:
    """A number as Qdrant compares it, where it does not compare whole ones exactly."""
    try:
        return float(number)
    except OverflowError:
        return math.copysign(math.inf, number)


def _is_within(value: Any, *, gt: Any, gte: Any, lt: Any, lte: Any) -> bool:
    return (
        (gt is None or value > gt)
        and (gte is None or value >= gte)
        and (lt is None or value < lt)
        and (lte is None or value <= lte)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
