"""Resize a page image and cut it into the patches that a Pixtral tower reads, at the image's own aspect ratio.

As in the Pillow path of the published `PixtralImageProcessor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from nemotron_rag.documents.images import to_rgb
from nemotron_rag.errors import CheckpointError

__all__ = ["PixelSettings", "blend_on_white", "fitted_size", "patchify", "read_pixel_settings"]

# The only values implemented; others change the computation.
_SUPPORTED = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """How images are resized and cut into patches.

    Args:
        patch_size: side of a patch, pixels.
        merge_size: one image token is merged from merge_size x merge_size patches.
        max_width: wider images are shrunk.
        max_height: higher images are shrunk.
        mean: of the three channels, in units of 0..1.
        std: of the three channels, in units of 0..1.
    """

    patch_size: int
    merge_size: int
    max_width: int
    max_height: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def token_side(self) -> int:
        """Side of the square of one image token, pixels."""
        return self.patch_size * self.merge_size


def read_pixel_settings(processor: Mapping[str, Any], *, patch_size: int, merge_size: int) -> PixelSettings:
    """Read the settings of the image processor.

    Args:
        processor: its fields, and those of the processor around it, which decide where both have one.
        patch_size: of the network.
        merge_size: of the network.

    Raises:
        CheckpointError: a value is not implemented, or does not belong to this network.
        KeyError: a field is missing.
    """
    for name, value in _SUPPORTED.items():
        if processor.get(name) not in (None, value):
            raise CheckpointError(f"has {name}={processor[name]!r}, only {value!r} is implemented")
    if not math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise CheckpointError(f"has rescale_factor={processor['rescale_factor']!r}, only 1/255 is implemented")
    for name, value in (("patch_size", patch_size), ("spatial_merge_size", merge_size)):
        given = processor.get(name, value)
        if (given.get("height") if isinstance(given, Mapping) else given) != value:
            raise CheckpointError(f"has {name}={given!r} in its processor's files and {value} in its config.json")
    size = processor["size"]
    longest = size.get("longest_edge")
    return PixelSettings(
        patch_size=patch_size,
        merge_size=merge_size,
        max_width=int(longest or size["width"]),
        max_height=int(longest or size["height"]),
        mean=tuple(processor["image_mean"]),
        std=tuple(processor["image_std"]),
    )


def fitted_size(width: int, height: int, settings: PixelSettings, *, max_tokens: int | None = None) -> tuple[int, int]:
    """Compute the size that an image is resized to: shrunk to the longest side allowed, then up to whole image tokens.

    A side never falls below one pixel. (The published processor fails where a very long image loses its shorter side.)

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        settings: of the checkpoint.
        max_tokens: an image of more image tokens is shrunk further, down to whole ones; None for no such limit.

    Returns:
        Width and height, pixels.
    """
    ratio = max(height / settings.max_height, width / settings.max_width)
    if ratio > 1:
        width, height = (max(1, math.floor(side / ratio)) for side in (width, height))
    token = settings.token_side
    columns, rows = -(-width // token), -(-height // token)
    if max_tokens is not None and columns * rows > max_tokens:
        shrink = math.sqrt(width * height / (max_tokens * token**2))
        columns, rows = (max(1, min(max_tokens, math.floor(side / shrink / token))) for side in (width, height))
    return columns * token, rows * token


def patchify(pixels: torch.Tensor, settings: PixelSettings) -> torch.Tensor:
    """Normalize an image and cut it into patches, those of one image token side by side.

    Args:
        pixels: (height, width, 3) uint8, both sides multiples of `settings.token_side`.
        settings: of the checkpoint.

    Returns:
        (patches, 3 * patch_size * patch_size) float32, on the device of `pixels`.
    """
    size, merge = settings.patch_size, settings.merge_size
    rows, columns = (side // settings.token_side for side in pixels.shape[:2])
    mean, std = (torch.tensor(values, device=pixels.device) for values in (settings.mean, settings.std))
    scaled = (pixels.float() / 255 - mean) / std  # (height, width, 3)
    cut = scaled.view(rows, merge, size, columns, merge, size, 3)
    return cut.permute(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * size * size)


def blend_on_white(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, whatever is transparent laid on white, as transformers does from 5.19 on.

    Args:
        image: of any mode.

    Raises:
        ImageError: Pillow cannot convert this mode to RGB.
    """
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return to_rgb(image)
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
