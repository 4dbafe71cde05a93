"""What code written for other packages gives to a model, as passages."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from PIL import Image

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import InputError
from nemotron_rag.types import ImageSource, Passage

__all__ = ["as_passages", "image_of", "is_single"]

_log = logging.getLogger("nemotron_rag")
_ADDRESS = re.compile(r"\S+\.(jpe?g|png|gif|bmp|tiff?|webp)|data:image/\S+", re.IGNORECASE)
_CONTAINERS = ("base64", "bytes", "disk_path", "url")


def is_single(inputs: Any) -> bool:
    """Whether it is one input, and not a list of them."""
    return isinstance(inputs, str | Mapping | Image.Image | Passage) or (
        isinstance(inputs, np.ndarray) and inputs.dtype.kind not in "UO"
    )


def as_passages(inputs: Any, *, access: ImageAccess) -> list[Passage]:
    """Texts, images and dicts of both as passages.

    A text is a text, also where it is the address of an image: sentence-transformers would open it. A log line says so.

    Args:
        inputs: each a text, an image in any form of `load_image`, a dict with ``text`` and ``image``, or a `Passage`.
        access: which addresses of images may be fetched.

    Raises:
        InputError: an item is none of these.
    """
    return [_as_passage(each, index, access) for index, each in enumerate(inputs)]


def image_of(image: Any, *, access: ImageAccess) -> ImageSource | None:
    """An image as NVIDIA's processors take it: in any form of `load_image`, or a dict that says where it is.

    Args:
        image: also ``{"disk_path": ...}``, ``{"url": ...}``, ``{"base64": ...}`` or ``{"bytes": ...}``; None or an
            empty text for none.
        access: which addresses may be fetched; paths are the caller's own.

    Raises:
        InputError: the dict has none of these keys.
    """
    if image is None or (isinstance(image, str) and not image):
        return None
    if isinstance(image, Mapping):
        key = next((name for name in _CONTAINERS if image.get(name)), None)
        if key is None:
            raise InputError(f"an image that is a dict needs one of {', '.join(_CONTAINERS)}; got {[*image]}")
        given = image[key]
        image = f"data:image/png;base64,{given}" if key == "base64" and not str(given).startswith("data:") else given
    return access.of_caller(cast("ImageSource", image))


def _as_passage(item: Any, index: int, access: ImageAccess) -> Passage:
    if isinstance(item, Passage):
        return item
    if isinstance(item, str):
        if _ADDRESS.fullmatch(item):
            _log.warning(
                "input %d, %s, is read as a text; write {'image': ...} for an image", index, one_line(repr(item))
            )
        return Passage(item)
    if not isinstance(item, Mapping):
        return Passage(image=image_of(item, access=access))
    unknown = [key for key in item if key not in ("text", "image")]
    if unknown or not item:
        raise InputError(f"input {index} must have the keys text and image, or one of them; got {[*item]}")
    text = item.get("text") or ""
    if not isinstance(text, str):
        raise InputError(f"the text of input {index} must be a str, got {type(text).__name__}")
    return Passage(text, image_of(_one(item.get("image"), index), access=access))


def _one(image: Any, index: int) -> Any:
    """An image that may be given as a list of one."""
    if not isinstance(image, Sequence) or isinstance(image, str | bytes):
        return image
    if len(image) != 1:
        raise InputError(f"input {index} has {len(image)} images; a passage has one, give each page its own")
    return image[0]
