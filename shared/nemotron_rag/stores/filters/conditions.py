"""What a filter says once it is read: tests of single values, and how they are joined."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "Absent",
    "AllOf",
    "AnyOf",
    "Condition",
    "Contains",
    "Date",
    "DateRange",
    "Equals",
    "Expression",
    "Not",
    "Number",
    "NumberRange",
    "OneOf",
    "Prefix",
    "Test",
    "Words",
    "always_hold",
    "is_whole",
    "keys_of",
]

Number: TypeAlias = int | float
Date: TypeAlias = str | datetime.date
"""An ISO string, a date or a datetime."""

_EXACT = 2**53  # whole numbers from here on have no float of their own


@dataclass(frozen=True, slots=True)
class Equals:
    """The value, or one element of a list, is `value`; numbers by their size."""

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


@dataclass(frozen=True, slots=True)
class Contains:
    """A text has `text` in it, letter by letter; or one element of a list is `text`."""

    text: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """A text, or one element of a list, begins with `text`, letter by letter."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """A text, or one element of a list, has all words of `text`, in any order and case."""

    text: str


Test: TypeAlias = Equals | AnyOf | NumberRange | DateRange | Absent | Contains | Prefix | Words
"""What may be required of a value."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A test of one key.

    Args:
        key: as the filter names it.
        test: of the value under the key.
    """

    key: str
    test: Test


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; always, if there are none."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    """One part holds; there is at least one."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Expression


Expression: TypeAlias = Condition | AllOf | OneOf | Not
"""What may be required of a page."""


def is_whole(value: object) -> bool:
    """Whether a number is a whole one that only whole numbers equal: as a float it could not be told from others."""
    return isinstance(value, int) and not isinstance(value, bool) and not -_EXACT < value < _EXACT


def always_hold(expressions: Iterable[Expression]) -> bool:
    """Whether every page meets all of them, whatever it has, as with those of an empty filter."""
    return all(_constant(expression) is True for expression in expressions)


def _constant(expression: Expression) -> bool | None:
    """What an expression says of every page; None if that depends on the page."""
    if isinstance(expression, Condition):
        return False if expression.test == AnyOf(()) else None
    if isinstance(expression, Not):
        inner = _constant(expression.part)
        return None if inner is None else not inner
    parts = {_constant(part) for part in expression.parts}
    decisive = isinstance(expression, OneOf)  # one such part is enough
    if decisive in parts:
        return decisive
    return None if None in parts else not decisive


def keys_of(expressions: Iterable[Expression]) -> Iterator[str]:
    """The keys that must be there for conditions on them to mean something: all but those tested for absence."""
    for expression in expressions:
        if isinstance(expression, Condition):
            if expression.test != Absent():
                yield expression.key
        else:
            yield from keys_of([expression.part] if isinstance(expression, Not) else expression.parts)
