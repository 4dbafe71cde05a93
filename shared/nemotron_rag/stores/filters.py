"""Plain-dict filters over pages: read once into conditions, which each store translates, or applies with `matches`.

``{"source": "a.pdf", "page_number": [1, 2], "year": {"gte": 2020}, "draft": None}``; all entries must hold. A key is a
field of the page (`nemotron_rag.types.PAGE_FIELDS`; ``number`` is an older name of ``page_number``), else a key
of its metadata, where dots step into nested objects. A value is

* a str, number or bool to be equal to, or a list of allowed values. Where the page has a list, one equal element is
  enough. Numbers never equal bools, and an int equals no float; a float equals every number of its size;
* bounds, ``gt``, ``gte``, ``lt``, ``lte``: numbers; or dates, datetimes or ISO strings of them, UTC unless they say
  otherwise, for metadata that hold ISO strings;
* None for "absent": no such key, None, or an empty list.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from nemotron_rag.errors import InputError
from nemotron_rag.types import StoredPage

__all__ = [
    "Absent",
    "AnyOf",
    "Condition",
    "DateRange",
    "Equals",
    "NumberRange",
    "Test",
    "check_key",
    "matches",
    "metadata_steps",
    "parse_filter",
]

Number: TypeAlias = int | float
Date: TypeAlias = str | datetime.date
"""An ISO string, a date or a datetime."""

_BOUNDS = ("gt", "gte", "lt", "lte")
_ISO = re.compile(
    r"\s*(\d{4})-(\d\d?)-(\d\d?)(?:[T ](\d\d?):(\d\d?)(?::(\d\d?)(\.\d+)?\s?(Z|z|UTC|[+-]\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Equals:
    """The value, or one element of a list, is `value`."""

    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of the tests holds; never, if there are none."""

    tests: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class NumberRange:
    """A number within bounds; None for none."""

    gt: Number | None = None
    gte: Number | None = None
    lt: Number | None = None
    lte: Number | None = None

    @property
    def bounds(self) -> dict[str, Number | None]:
        """By name."""
        return {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}


@dataclass(frozen=True, slots=True)
class DateRange:
    """An ISO date or datetime within bounds, which are as the caller gave them; None for none."""

    gt: Date | None = None
    gte: Date | None = None
    lt: Date | None = None
    lte: Date | None = None

    @property
    def bounds(self) -> dict[str, Date | None]:
        """By name."""
        return {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no value, or it is None or an empty list."""


Test: TypeAlias = Equals | AnyOf | NumberRange | DateRange | Absent
"""What may be required of a value."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of a filter.

    Args:
        key: as the filter names it.
        test: of the value under the key.
    """

    key: str
    test: Test


def parse_filter(filter: Mapping[str, Any] | None) -> tuple[Condition, ...]:
    """Read a filter; see the module for its form.

    Raises:
        InputError: it is no dict, or a key or value cannot be used.

    Example:
        >>> parse_filter({"year": {"gte": 2020}, "page_number": 3})[1]
        Condition(key='page_number', test=Equals(value=3))
    """
    if filter is None:
        return ()
    if not isinstance(filter, Mapping):
        raise InputError(f"filter must be a dict, got {type(filter).__name__}")
    for key in filter:
        check_key(key)
    return tuple(Condition(key, _test(key, value)) for key, value in filter.items())


def matches(conditions: Sequence[Condition], page: StoredPage) -> bool:
    """Whether a stored page meets all conditions.

    Example:
        >>> from nemotron_rag.types import Page
        >>> page = StoredPage.of(Page(id="p1", source="a.pdf", number=3, metadata={"tags": ["x"]}), content_hash="")
        >>> matches(parse_filter({"page_number": {"lte": 3}, "tags": "x"}), page)
        True
    """
    return all(_holds(condition.test, _value(page, condition.key)) for condition in conditions)


def check_key(key: object) -> None:
    """Raise unless this can be a filter's key.

    Raises:
        InputError: it is empty, no str, or holds a double quote.
    """
    if not isinstance(key, str) or not key or '"' in key:
        raise InputError(f'a filter key must be a non-empty str without ", got {key!r}')


def metadata_steps(key: str, prefix: str = "metadata") -> list[str]:
    """The way to a value in nested metadata; the key may begin with the name of the metadata itself."""
    return (key.removeprefix(f"{prefix}.") if prefix else key).split(".")


def _test(key: str, value: Any) -> Test:
    if value is None:
        return Absent()
    if isinstance(value, Mapping):
        return _range(key, value)
    if isinstance(value, str | int | float):
        return Equals(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return AnyOf(tuple(_test(key, each) for each in value))
    raise InputError(f"filter on {key!r} got a {type(value).__name__}; give a str, number, bool, list, bounds or None")


def _range(key: str, bounds: Mapping[str, Any]) -> NumberRange | DateRange:
    unknown = sorted(set(bounds) - set(_BOUNDS), key=str)
    if unknown or not bounds:
        raise InputError(f"filter on {key!r} takes the bounds {', '.join(_BOUNDS)}; got {unknown or 'none'}")
    if all(_is_number(bound) for bound in bounds.values()):
        return NumberRange(**bounds)
    if not all(isinstance(bound, str | datetime.date) for bound in bounds.values()):
        raise InputError(f"filter on {key!r}: bounds must all be numbers or all be dates, got {dict(bounds)}")
    if any(_moment(bound) is None for bound in bounds.values()):
        raise InputError(f"filter on {key!r}: {dict(bounds)} are not ISO dates or datetimes")
    return DateRange(**bounds)


def _value(page: StoredPage, key: str) -> Any:
    fields = {
        "id": page.page.id,
        "source": page.sources,
        "page_number": page.page.number,
        "number": page.page.number,
        "content_hash": page.content_hash,
    }
    if key in fields:
        return fields[key]
    value: Any = page.page.metadata
    for step in metadata_steps(key):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _holds(test: Test, value: Any) -> bool:
    if isinstance(test, AnyOf):
        return any(_holds(each, value) for each in test.tests)
    values = value if isinstance(value, list | tuple) else [value]
    if isinstance(test, Absent):
        return value is None or (values is value and not values)
    if isinstance(test, Equals):
        return any(_is_equal(each, test.value) for each in values)
    if isinstance(test, NumberRange):
        return any(_is_number(each) and _is_within(each, **test.bounds) for each in values)
    bounds = {name: None if bound is None else _moment(bound) for name, bound in test.bounds.items()}
    moments = [_moment(each) for each in values if isinstance(each, str)]
    return any(moment is not None and _is_within(moment, **bounds) for moment in moments)


def _is_equal(value: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return _is_number(value) and bool(value == expected)
    return type(value) is type(expected) and bool(value == expected)


def _is_within(value: Any, *, gt: Any, gte: Any, lt: Any, lte: Any) -> bool:
    return (
        (gt is None or value > gt)
        and (gte is None or value >= gte)
        and (lt is None or value < lt)
        and (lte is None or value <= lte)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _moment(value: Date) -> datetime.datetime | None:
    """A point in time, UTC where no zone is said; None if a str is none."""
    if isinstance(value, str):
        return _parsed(value)
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time.min)
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)


def _parsed(text: str) -> datetime.datetime | None:
    """The forms that Qdrant reads too; of a fraction of a second, six digits count."""
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    *numbers, fraction, zone = found.groups()
    year, month, day, hour, minute, second = (int(number or 0) for number in numbers)
    microsecond = int((fraction or ".")[1:7].ljust(6, "0"))
    try:
        return datetime.datetime(year, month, day, hour, minute, second, microsecond, tzinfo=_zone(zone))
    except ValueError:
        return None


def _zone(name: str | None) -> datetime.timezone:
    """Of an offset such as ``+02:00``, ``-0530`` or ``+01``; UTC for all other names."""
    if name is None or name[0] not in "+-":
        return datetime.UTC
    digits = name[1:].replace(":", "").ljust(4, "0")
    offset = datetime.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return datetime.timezone(-offset if name[0] == "-" else offset)
