"""Heat painted over a page, which stays readable. It knows neither words nor models."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nemotron_rag.protocols import FloatArray

__all__ = ["overlay"]

_LEVELS = np.linspace(0, 1, 256)
# From amber over red to purple: told apart by lightness too, and none of them close to a page's black on white.
_STOPS = (0.0, 0.45, 0.75, 1.0)
_CHANNELS = ((255, 255, 240, 150), (214, 150, 50, 0), (64, 20, 60, 110))  # red, green, blue at the stops
_COLOURS = np.stack([np.interp(_LEVELS, _STOPS, channel) for channel in _CHANNELS], axis=1).astype(np.uint8)
_STRONGEST = 0.7  # of the colour in the mixture; what is left of black ink on white paper can still be read
_OPACITIES = [round(255 * _STRONGEST * level**1.3) for level in _LEVELS.tolist()]


def overlay(page: Image.Image, heat: FloatArray) -> Image.Image:
    """The page in shades of grey, with the heat in colour: a new RGB image of the page's size.

    Args:
        page: RGB.
        heat: (rows, columns) from 0, where the page shows unchanged, to 1.
    """
    cells = Image.fromarray((heat * 255).round().astype(np.uint8))
    levels = cells.resize(page.size, Image.Resampling.BILINEAR)
    colours = Image.fromarray(_COLOURS[np.asarray(levels)])
    return Image.composite(colours, page.convert("L").convert("RGB"), levels.point(_OPACITIES))
