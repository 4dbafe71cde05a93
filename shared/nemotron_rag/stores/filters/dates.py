"""Dates of metadata and filters, read as Qdrant reads them."""

from __future__ import annotations

import datetime
import re

from nemotron_rag.stores.filters.conditions import Date, DateRange

__all__ = ["moment", "that_day"]

_ISO = re.compile(
    r"\s*(\d{4})-(\d\d?)-(\d\d?)(?:[T ](\d\d?):(\d\d?)(?::(\d\d?)(\.\d+)?\s?(Z|z|UTC|[+-]\d\d(?::?\d\d)?)?)?)?",
    re.ASCII,
)


def moment(value: Date) -> datetime.datetime | None:
    """A point in time, UTC where no zone is said; None if a str is none."""
    if isinstance(value, str):
        return _parsed(value)
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time.min)
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)


def that_day(value: datetime.date) -> DateRange:
    """What equals a date, all of its day, or a datetime, that moment."""
    if isinstance(value, datetime.datetime) or value == datetime.date.max:
        return DateRange(gte=value, lte=value)
    return DateRange(gte=value, lt=value + datetime.timedelta(days=1))


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
