"""Weak cache of loaded models: equal settings share one object for as long as someone uses it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar
from weakref import WeakValueDictionary

from nemotron_rag._forking import Lock

__all__ = ["shared"]

T = TypeVar("T")

_lock = Lock()
_loaded: WeakValueDictionary[Hashable, object] = WeakValueDictionary()


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """Return the live object stored under `key`, or load it; concurrent callers load it once.

    Args:
        key: everything that decides what is loaded.
        load: creates the object.
    """
    with _lock:
        found = _loaded.get(key)
        if found is None:
            found = _loaded[key] = load()
        return found  # type: ignore[return-value]  # only `load` for this key wrote it
