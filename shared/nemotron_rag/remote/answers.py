"""What servers answer, checked: one value for each input, at its place, all of them finite."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import EndpointError, NonFiniteError
from nemotron_rag.types import FloatArray

__all__ = ["as_logits", "field", "in_order", "numbers", "tokens_of", "unit_rows"]

T = TypeVar("T")
_LEAST, _MOST = 1e-38, 1 - 2.0**-25  # probabilities that float32 tells from 0 and 1
_SLACK = 1e-6  # of a probability that was rounded
_COUNTS = (("usage", "prompt_tokens"), ("usage", "total_tokens"), ("meta", "tokens", "input_tokens"))
_LARGEST = 2**53  # number that is believed


def field(answer: object, *names: str, where: str) -> Any:
    """What an answer has under one of some names.

    Raises:
        EndpointError: it has none of them, or is no object.
    """
    if isinstance(answer, Mapping):
        for name in names:
            if name in answer:
                return answer[name]
    shown = sorted(answer) if isinstance(answer, Mapping) else type(answer).__name__
    raise EndpointError(f"{where} answered without {' or '.join(names)}, with {one_line(str(shown))}; check dialect=")


def in_order(rows: Iterable[object], read: Callable[[Any], T], *, count: int, where: str) -> list[T]:
    """The values of an answer's rows, each at the place that its ``index`` says; without one, in their own order.

    Args:
        rows: of the answer.
        read: the value of a row.
        count: of the inputs.
        where: the server, for messages.

    Raises:
        EndpointError: there is not one row for each input.
    """
    listed = list(rows) if isinstance(rows, Sequence) and not isinstance(rows, str) else None
    if listed is None:
        raise EndpointError(f"{where} answered with {type(rows).__name__} in the place of a list; check dialect=")
    if len(listed) != count:
        raise EndpointError(f"{where} answered {len(listed)} rows for {count} inputs")
    places = [row.get("index", place) if isinstance(row, Mapping) else place for place, row in enumerate(listed)]
    if any(type(place) is not int for place in places) or sorted(places) != list(range(count)):
        raise EndpointError(f"{where} answered {count} rows with the places {one_line(str(places))}, not one for each")
    found = dict(zip(places, listed, strict=True))
    return [read(found[place]) for place in range(count)]


def tokens_of(answer: object) -> int | None:
    """How many tokens a server says that it computed, where any dialect says it; None if it does not."""
    for names in _COUNTS:
        found = answer
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        if type(found) is int and 0 <= found < _LARGEST:
            return found
    return None


def numbers(values: object, *, where: str) -> FloatArray:
    """Numbers as an array, from a list of any depth or from Base64 of little-endian float32.

    Raises:
        EndpointError: they are none.
    """
    try:
        if isinstance(values, str):
            return np.frombuffer(base64.b64decode(values, validate=True), dtype="<f4").astype(np.float32)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
            return np.array(values, dtype=np.float64).astype(np.float32)
    except (ValueError, TypeError, OverflowError, binascii.Error) as error:
        raise EndpointError(f"{where} answered something else than numbers: {one_line(str(error))}") from error


def unit_rows(rows: FloatArray, *, what: str, where: str) -> FloatArray:
    """The rows, each of length 1.

    Args:
        rows: (n, dimensions).
        what: they are of, for messages.
        where: the server.

    Raises:
        NonFiniteError: a number is NaN or infinite, or a row has no direction.
    """
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    if not np.isfinite(wide).all():
        raise NonFiniteError(f"{where} answered NaN or infinity for {what}; its model may need another number format")
    if not lengths.all():
        raise NonFiniteError(f"{where} answered a vector of zeros for {what}")
    unit: FloatArray = (wide / lengths).astype(np.float32)
    return unit


def as_logits(probabilities: FloatArray, *, where: str) -> FloatArray:
    """The logits whose sigmoids these are; from 1 down to what float32 tells from it, they are 17.3.

    Raises:
        EndpointError: a number is no probability.
    """
    wide = probabilities.astype(np.float64)
    if ((wide < -_SLACK) | (wide > 1 + _SLACK)).any():
        raise EndpointError(
            f"{where} answered scores from {wide.min():.4g} to {wide.max():.4g}, where this format has probabilities; "
            "if they are logits, give endpoint={'scores': 'logit'}"
        )
    clipped = wide.clip(_LEAST, _MOST)
    logits: FloatArray = (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)
    return logits
