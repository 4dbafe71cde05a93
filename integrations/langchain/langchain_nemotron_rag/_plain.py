"""Metadata as plain JSON, and what tells an image from another one without opening it."""

from __future__ import annotations

import datetime
import hashlib
import math
import os
import uuid
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

from nemotron_rag.errors import InputError
from nemotron_rag.types import ImageReference

__all__ = ["image_mark", "plain_json"]

_BIG = 2**63  # whole numbers of Qdrant are below


def plain_json(value: Any, name: str) -> Any:
    """A value of metadata as JSON: dates, paths, UUIDs and the like as texts, arrays and sets as lists.

    Args:
        value: of any type.
        name: of its key, for messages.

    Raises:
        InputError: it has no place in JSON; the message names the key.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return plain_json(value.value, name)
    if isinstance(value, str):
        return str(value.encode("utf-8", "replace").decode())  # lone surrogates cannot be sent
    if isinstance(value, Mapping):
        return {str(key): plain_json(each, f"{name}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(each, name) for each in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | os.PathLike | Decimal):
        return plain_json(os.fspath(value) if isinstance(value, os.PathLike) else str(value), name)
    return _number(value, name)


def _number(value: Any, name: str) -> Any:
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # of numpy, and of what is like it
        return plain_json(value.tolist(), name)
    if isinstance(value, int) and -_BIG <= value < _BIG:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    shown = repr(value) if isinstance(value, int | float) else type(value).__name__
    raise InputError(f"metadata {name!r} cannot be stored, got {shown[:60]}; give a str, number, bool, list or dict")


def image_mark(held: Any) -> str | None:
    """What tells an image from another one without opening it; None if only its pixels would."""
    if isinstance(held, str) and held[:5].lower() == "data:":
        return held
    if isinstance(held, bytes):
        return hashlib.sha256(held).hexdigest()
    return held.pixel_hash if isinstance(held, ImageReference) else None
