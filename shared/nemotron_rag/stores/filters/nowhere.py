"""Keys of filters that no page has: what is said of them, so that a misspelt one is not answered with nothing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nemotron_rag.stores.filters.conditions import Condition, Expression, keys_of
from nemotron_rag.types import PAGE_FIELDS

__all__ = ["KeyCheck"]

_NAMED = 20  # keys in a message at most
_FIELDS = (*PAGE_FIELDS, "number", "label")  # the last is there for PDFs that print labels on their pages


class KeyCheck:
    """Looks for the keys of filters in what is stored; a key that was found once is not looked for again.

    Args:
        name: of the store, for messages.
        fields: keys that are never said to be missing.
    """

    def __init__(self, name: object, *, fields: Iterable[str] = _FIELDS) -> None:
        self._name, self._fields = name, frozenset(fields)
        self._known: set[str] = set()

    def doubtful(self, expressions: Iterable[Expression], *, found: bool) -> list[str]:
        """Keys worth looking for: of a filter that found nothing, or in which a wrong key may go unnoticed.

        Args:
            expressions: of the filter.
            found: whether it found anything.
        """
        read = list(expressions)
        if found and all(isinstance(each, Condition) for each in read):
            return []
        return [key for key in dict.fromkeys(keys_of(read)) if key not in self._known | self._fields]

    def found(self, key: str) -> None:
        """Remember that a key is there."""
        self._known.add(key)

    def missing(self, keys: Iterable[str], count: Callable[[Mapping[str, Any] | None], int]) -> list[str]:
        """Those of the keys that nothing has; none if nothing is stored.

        Args:
            keys: of `doubtful`.
            count: how many a filter matches.
        """
        asked = list(keys)
        total = count(None) if asked else 0
        missing = [key for key in asked if total and not count({key: {"exists": True}})]
        if total:
            self._known.update(key for key in asked if key not in missing)
        return missing

    def message(self, key: str, metadata: Iterable[Mapping[str, Any]]) -> str:
        """One line that names the keys that are there, the most alike first.

        Args:
            key: that nothing has.
            metadata: of some that are stored.
        """
        there = sorted({name for each in metadata for name in _names(each)})
        alike = difflib.get_close_matches(key, there, n=_NAMED)
        named = [*alike, *(name for name in there if name not in alike)]
        more = ", ..." if len(named) > _NAMED else ""
        keys = f"it has {', '.join([*self._named_fields(), *named[:_NAMED]]) or 'none'}{more}"
        return f"nothing in {self._name} has the metadata key {key!r}, which the filter asks for; {keys}"

    def _named_fields(self) -> list[str]:
        return [name for name in PAGE_FIELDS if name in self._fields]


def _names(metadata: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Keys as filters have them, with dots into nested objects."""
    for key, value in metadata.items():
        if isinstance(value, Mapping) and value:
            yield from _names(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"
