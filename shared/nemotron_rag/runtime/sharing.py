"""One set of weights for all who ask for the same ones, for as long as somebody holds it. It knows no model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar
from weakref import WeakValueDictionary

__all__ = ["shared"]

T = TypeVar("T")

_lock = threading.Lock()
_loaded: WeakValueDictionary[Hashable, object] = WeakValueDictionary()


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """The living object under `key`, or a new one; threads that ask at the same time load it once.

    Args:
        key: all that decides what is loaded.
        load: makes the object.
    """
    with _lock:
        found = _loaded.get(key)
        if found is None:
            found = _loaded[key] = load()
        return found  # type: ignore[return-value]  # only `load` for this key wrote it
