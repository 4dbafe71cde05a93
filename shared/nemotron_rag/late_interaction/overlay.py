"""Paint heat over a page image that stays readable, and frames on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from nemotron_rag.types import Box, FloatArray

__all__ = ["frame", "overlay"]

_LEVELS = np.linspace(0, 1, 256)
# From amber over red to purple: they also differ in lightness, and none is close to the black on white of a page.
_STOPS = (0.0, 0.45, 0.75, 1.0)
_CHANNELS = ((255, 255, 240, 150), (214, 150, 50, 0), (64, 20, 60, 110))  # red, green, blue at the stops
_COLOURS = np.stack([np.interp(_LEVELS, _STOPS, channel) for channel in _CHANNELS], axis=1).astype(np.uint8)
_STRONGEST = 0.7  # share of the colour in the mixture; black ink on white paper stays readable below it
_WASH, _WASHED = (255, 214, 64), 80  # amber, and how much of it in 255ths
_FRAME = (150, 0, 110)  # the strongest heat
_OPACITIES = [round(255 * _STRONGEST * level**1.3) for level in _LEVELS.tolist()]


def overlay(page: Image.Image, heat: FloatArray) -> Image.Image:
    """Return the page in shades of grey with the heat in colour: a new RGB image of the page's size.

    Args:
        page: RGB.
        heat: (rows, columns) from 0, which leaves the page as it is, to 1.
    """
    cells = Image.fromarray((heat * 255).round().astype(np.uint8))
    levels = cells.resize(page.size, Image.Resampling.BILINEAR)
    colours = Image.fromarray(_COLOURS[np.asarray(levels)])
    return Image.composite(colours, page.convert("L").convert("RGB"), levels.point(_OPACITIES))


def frame(page: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Return the page with frames and a light wash of colour over boxes, the first one strongest: a new RGB image.

    Args:
        page: RGB.
        boxes: in fractions of its sides, the best one first.
    """
    framed = page.copy()
    line = max(1, round(max(page.size) / 400))
    for place, box in reversed([*enumerate(boxes)]):
        left, top = (int(box[i] * side) - 2 * line for i, side in enumerate(page.size))
        right, bottom = (int(box[i] * side) + 2 * line for i, side in enumerate(page.size, 2))
        wash = Image.new("RGB", page.size, _WASH)
        mask = Image.new("L", page.size, 0)
        ImageDraw.Draw(mask).rectangle((left, top, right, bottom), fill=_WASHED if place == 0 else _WASHED // 2)
        framed = Image.composite(wash, framed, mask)
        ImageDraw.Draw(framed).rectangle((left, top, right, bottom), outline=_FRAME, width=line if place else 2 * line)
    return framed
