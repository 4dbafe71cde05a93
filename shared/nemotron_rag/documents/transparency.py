"""Images that can be transparent, laid on a white ground as on paper; opaque ones stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

__all__ = ["lay_on_white", "transparent_value_of", "with_transparent_value"]

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_ONE_VALUE = ("1", "L", "P", "RGB")  # modes in which one value, or entries of the palette, may be transparent
_SCALE = {"L;2": 85, "L;4": 17}  # what Pillow multiplies the pixels of a PNG of few bits with, but not this value


def lay_on_white(image: Image.Image) -> Image.Image:
    """Return an image that can be transparent as RGB on white, and any other one as it is.

    What lies under transparent pixels is mostly black, so that dark text vanishes where alpha is only dropped.
    Wherever an image is opaque, the result has the very pixels of Pillow's ``convert("RGB")``.

    Example:
        >>> lay_on_white(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
        (255, 255, 255)
        >>> lay_on_white(Image.new("L", (1, 1), 7)).mode
        'L'
    """
    if image.mode not in _ALPHA and not (image.mode in _ONE_VALUE and "transparency" in image.info):
        return image
    if image.mode == "La":
        image = image.convert("LA")  # Pillow knows no other way from premultiplied grey
    whole = image.convert("RGBA")
    page = Image.new("RGB", whole.size, "white")
    page.paste(whole, mask=whole.getchannel("A"))
    return page


def transparent_value_of(image: Image.Image) -> int | bytes | tuple[int, ...] | None:
    """Return the transparent value of a file that is opened but not decoded, in the scale that its pixels will have."""
    value = image.info.get("transparency")
    tiles: Any = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else None
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    if isinstance(value, int) and raw in _SCALE:
        return value * _SCALE[raw]
    if isinstance(value, tuple) and max(value, default=0) > 255:  # 16 bits a channel, of which Pillow keeps the upper 8
        return tuple(part >> 8 for part in value)
    return value


def with_transparent_value(grey: Image.Image, deep: Image.Image) -> Image.Image:
    """Return the 8-bit image of a deep one, as LA if one value of the deep one is transparent."""
    value = deep.info.get("transparency")
    if not isinstance(value, int):
        return grey
    alpha = Image.fromarray(np.where(np.asarray(deep) == value, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))
