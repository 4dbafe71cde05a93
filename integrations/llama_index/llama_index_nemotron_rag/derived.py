"""Filters on what nodes have in their metadata and an index does not store: the name of a file, the label of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, TypeAlias

from nemotron_rag.errors import InputError

__all__ = ["Sources", "expanded"]

Sources: TypeAlias = Callable[[Mapping[str, Any]], Iterable[str]]
"""The sources of an index that have pages which a filter of the index matches."""

_JOINS = ("and", "or", "not", "nor")
_DEEPEST = 32  # as filters may be nested


def expanded(filter: Any, sources: Sources, depth: int = 0) -> Any:
    """A filter with ``file_name`` and ``page_label`` in words that an index knows, at any depth.

    Args:
        filter: a plain one; what is no dict comes back as it is.
        sources: names those of the index.
        depth: how deep it is in another one.

    Raises:
        InputError: an operator that these two keys do not take.
    """
    if not isinstance(filter, Mapping) or depth > _DEEPEST:
        return filter
    kept: dict[Any, Any] = {}
    parts: list[Any] = []
    for key, value in filter.items():
        if key == "page_label":
            parts.append(_tested(key, value, _labelled, {}))
        elif key == "file_name":
            parts.append(_tested(key, value, lambda name: _named(name, str.__eq__, sources), _looks(sources)))
        elif _is_join(key) and isinstance(value, list | tuple):
            kept[key] = [expanded(part, sources, depth + 1) for part in value]
        else:
            kept[key] = expanded(value, sources, depth + 1) if _is_join(key) else value
    if not parts:
        return kept
    return {"and": [*([kept] if kept else []), *parts]}


def _is_join(key: Any) -> bool:
    return isinstance(key, str) and key.removeprefix("$") in _JOINS


def _tested(key: str, value: Any, equals: Callable[[str], Any], others: Mapping[str, Callable[[str], Any]]) -> Any:
    """What a value, a list of them or operators ask of a text, of which only `equals` is known, and `others`."""
    if isinstance(value, Mapping):
        names = {str(name).removeprefix("$"): operand for name, operand in value.items()}
        known = {"eq", "ne", "in", "nin", "not", *others}
        if not names or not names.keys() <= known:
            raise InputError(f"filter on {key!r} takes {', '.join(sorted(known))}, got {list(value)}")
        return {"and": [_operated(key, name, operand, equals, others) for name, operand in names.items()]}
    if isinstance(value, list | tuple | set | frozenset):
        return {"or": [_tested(key, each, equals, others) for each in value]} if value else _NOTHING
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | PurePath):
        raise InputError(f"filter on {key!r} wants a text, or a list of them, got {value!r}")
    return equals(str(value))


def _operated(
    key: str, name: str, operand: Any, equals: Callable[[str], Any], others: Mapping[str, Callable[[str], Any]]
) -> Any:
    if name in others:
        if not isinstance(operand, str) or not operand:
            raise InputError(f"filter on {key!r}: {name} wants a non-empty str, got {operand!r}")
        return others[name](operand)
    asked = _tested(key, operand, equals, others)
    return {"not": asked} if name in ("ne", "nin", "not") else asked


def _labelled(label: str) -> dict[str, Any]:
    """A page's label is the one that is printed on it, or its number."""
    parts: list[dict[str, Any]] = [{"label": label}]
    if label.isdecimal() and label == str(int(label)):
        parts.append({"label": None, "page_number": int(label)})
    return {"or": parts}


def _named(text: str, fits: Callable[[str, str], bool], sources: Sources) -> dict[str, Any]:
    found = sources({"source": {"contains": text}}) if text else ()
    return {"source": [source for source in found if fits(PurePath(source).name, text)]}


def _looks(sources: Sources) -> dict[str, Callable[[str], Any]]:
    return {
        "contains": lambda text: _named(text, str.__contains__, sources),
        "not_contains": lambda text: {"not": _named(text, str.__contains__, sources)},
        "prefix": lambda text: _named(text, str.startswith, sources),
    }


_NOTHING: Mapping[str, Any] = {"source": []}
