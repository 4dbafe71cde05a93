"""Inputs as the wire formats write them: texts, images as data URIs, both, and content parts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.files import is_data_uri
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.serve.served import ServeSettings
from nemotron_rag.types import ImageSource, Passage, Query

__all__ = ["Input", "Modality", "as_query", "check_count", "to_passage", "to_passages"]

Input: TypeAlias = str | dict[str, Any] | list[dict[str, Any]]
"""A text, a data URI, ``{"text", "image"}``, ``{"content": [parts]}``, or a list of parts."""

Modality: TypeAlias = Literal["text", "image", "text_image"]

_BEHIND_TEXT = " data:image/"
_PARTS = ("text", "input_text", "image_url", "input_image", "image")


def check_count(given: Sequence[object], settings: ServeSettings, what: str) -> None:
    """Raise unless a request holds something, and not too much.

    Raises:
        InputError: it holds none, or more than the server takes.
    """
    if not given:
        raise InputError(f"{what} must hold at least one")
    if len(given) > settings.max_items:
        raise InputError(f"{what} may hold {settings.max_items} at most, got {len(given)}; send several requests")


def as_query(given: Passage) -> Query:
    """A query as models take it: a text if that is all it has."""
    return given.text if given.image is None else given


def to_passages(inputs: Sequence[Input], access: ImageAccess, modality: Sequence[Modality | None]) -> list[Passage]:
    """Convert inputs; see `to_passage`. An error names the place in the list."""
    found = []
    for place, (given, kind) in enumerate(zip(inputs, modality, strict=True)):
        try:
            found.append(to_passage(given, access, kind))
        except InputError as error:
            raise InputError(f"input {place}: {error}") from error
    return found


def to_passage(given: Input, access: ImageAccess, modality: Modality | None = None) -> Passage:
    """Convert an input.

    Args:
        given: as a client sent it.
        access: decides which URLs may be fetched; a file is never opened.
        modality: what a string holds; None to find out: a data URI of an image is an image, alone or behind a text.

    Raises:
        InputError: it holds nothing, or something unknown, or more than one image.
        ImageError: an image is not a data URI, not Base64, and not at an allowed URL.
    """
    if isinstance(given, str):
        return _of_string(given, access, modality)
    parts = given if isinstance(given, list) else given.get("content")
    if isinstance(parts, str):
        return Passage(parts)
    if parts is not None:
        return _of_parts(parts, access)
    return _of_fields(given, access) if isinstance(given, Mapping) else _of_parts(given, access)


def _of_string(given: str, access: ImageAccess, modality: Modality | None) -> Passage:
    if modality == "text":
        return Passage(given)
    if given.startswith("data:image/"):
        return Passage(image=_image(given, access))
    text, found, rest = given.rpartition(_BEHIND_TEXT)
    if found:
        return Passage(text, _image(f"data:image/{rest}", access))
    if modality is not None:
        raise InputError(f"modality {modality!r} needs a data URI of an image, got text alone")
    return Passage(given)


def _of_fields(given: Mapping[str, Any], access: ImageAccess) -> Passage:
    unknown = given.keys() - {"text", "image", "image_url", "title", "metadata", "id"}
    if unknown or not given.keys() & {"text", "image", "image_url"}:
        raise InputError(f"wanted a text, an image or content parts, got the keys {sorted(given)}")
    image = given.get("image") or given.get("image_url")
    return _checked(_text(given.get("text") or ""), None if image is None else _image(image, access))


def _of_parts(parts: object, access: ImageAccess) -> Passage:
    if not isinstance(parts, list):
        raise InputError(f"content must be a text or a list of parts, got {type(parts).__name__}")
    texts, images = [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _PARTS:
            raise InputError(f"a content part's type must be one of {', '.join(_PARTS)}, got {kind!r}")
        if kind in ("text", "input_text"):
            texts.append(_text(part.get("text")))
        else:
            images.append(_image(part.get("image_url", part.get("image")), access))
    if len(images) > 1:
        raise InputError(f"an input holds one image at most, got {len(images)}")
    return _checked("\n".join(texts), images[0] if images else None)


def _checked(text: str, image: ImageSource | None) -> Passage:
    if not text and image is None:
        raise InputError("an input holds neither text nor image")
    return Passage(text, image)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"a text must be a string, got {type(value).__name__}")
    return value


def _image(value: object, access: ImageAccess) -> ImageSource:
    """The image that a client sent: decoded when the model needs it."""
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise ImageError(f"an image must be a data URI, got {type(url).__name__}")
    if is_data_uri(url) or url[:8].lower().startswith(("http://", "https://")):
        return access.reference(url, lay_on_white=False)  # as the model alone treats it
    try:
        return base64.b64decode(url, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("an image must be a data URI or Base64; send its bytes, not its path") from error
