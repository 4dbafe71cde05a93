"""What may be told of a model's identity outside this machine."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping

__all__ = ["public_identity"]

Identity = Mapping[str, str | int | bool | None]

_ENDING = re.compile(r" \([^()/\\]+\)$")  # such as that of adopted models
_ABSOLUTE = re.compile(r"(?:file:|~[^/\\\s]*|[A-Za-z]:)?[/\\]+[^/\\\r\n]+[/\\][^\r\n]*")
_DIGITS = 8  # of a digest, which tells folders of one name apart


def public_identity(identity: Identity) -> dict[str, str | int | bool | None]:
    """An identity in which the last part of a path and a digest of it stand for the path.

    A path is what is absolute, or names something that is there; a single word, or a prompt, stays as it is.

    Args:
        identity: see `nemotron_rag.Embedder`.

    Example:
        >>> public_identity({"model": "/home/ann/models/tuned", "family": "own", "dimensions": 64})
        {'model': 'tuned-ea5eacc1', 'family': 'own', 'dimensions': 64}
    """
    return {name: _shown(value) if isinstance(value, str) else value for name, value in identity.items()}


def _shown(value: str) -> str:
    found = _ENDING.search(value)
    place, ending = (value, "") if found is None else (value[: found.start()], found.group())
    has_parts = "/" in place or "\\" in place
    if not (has_parts and (_ABSOLUTE.fullmatch(place) or os.path.exists(place))):  # noqa: PTH110  # any text at all
        return value
    last = re.split(r"[/\\]", place.rstrip("/\\"))[-1]
    return f"{last}-{hashlib.sha256(place.encode()).hexdigest()[:_DIGITS]}{ending}"
