"""Paint heat over a page image that stays readable."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nemotron_rag.types import FloatArray

__all__ = ["overlay"]

_LEVELS = np.linspace(0, 1, 256)
# From amber over red to purple: they also differ in lightness, and none is close to the black on white of a page.
_STOPS = (0.0, 0.45, 0.75, 1.0)
_CHANNELS = ((255, 255, 240, 150), (214, 150, 50, 0), (64, 20, 60, 110))  # red, green, blue at the stops
_COLOURS = np.stack([np.interp(_LEVELS, _STOPS, channel) for channel in _CHANNELS], axis=1).astype(np.uint8)
_STRONGEST = 0.7  # share of the colour in the mixture; black ink on white paper stays readable below it
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
