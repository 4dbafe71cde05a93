"""Resize a page image and cut it into the patches that a Qwen-VL tower reads, at the image's own aspect ratio.

As in the `pil` path of the published image processors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from nemotron_rag.documents.images import on_white, to_rgb
from nemotron_rag.errors import ImageError

__all__ = [
    "MAX_IMAGE_TOKENS",
    "PixelSettings",
    "blend_alpha",
    "patchify",
    "read_pixel_settings",
    "shrunk",
    "smart_size",
    "within_tokens",
]

MAX_IMAGE_TOKENS = 1800
"""Most tokens of an image in the published code of Qwen3-VL-Embedding and -Reranker."""

_MIN_IMAGE_TOKENS = 4  # the same

_MAX_ASPECT = 200  # the published processors refuse longer images


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """How images are resized and cut into patches.

    Args:
        patch_size: side of a patch, pixels.
        merge_size: one image token is merged from merge_size x merge_size patches.
        temporal_patch_size: frames of a patch; a still image is repeated that many times.
        min_pixels: smaller images are enlarged.
        max_pixels: larger images are shrunk.
        mean: of the three channels, in units of 0..1.
        std: of the three channels, in units of 0..1.
        least_side: pixels that a side has before the budget is looked at; 0 as in the published image processors.
    """

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    least_side: int = field(default=0, repr=False)  # features of an image of a given size do not depend on it

    @property
    def token_side(self) -> int:
        """Side of the square of one image token, pixels."""
        return self.patch_size * self.merge_size


def blend_alpha(image: Image.Image) -> Image.Image:
    """Convert an image to RGB as the published code of the Qwen3-VL models does: RGBA alone is laid on white."""
    return on_white(image) if image.mode == "RGBA" else to_rgb(image)


def read_pixel_settings(processor: Mapping[str, Any], vision: Mapping[str, Any]) -> PixelSettings:
    """Read the settings from ``preprocessor_config.json`` and the vision configuration.

    `min_pixels` and `max_pixels` take precedence over ``size``, as in the published classes.

    Raises:
        KeyError: a field is missing.
    """
    size = processor.get("size") or {}
    return PixelSettings(
        patch_size=int(vision["patch_size"]),
        merge_size=int(vision["spatial_merge_size"]),
        temporal_patch_size=int(vision["temporal_patch_size"]),
        min_pixels=int(processor.get("min_pixels") or size["shortest_edge"]),
        max_pixels=int(processor.get("max_pixels") or size["longest_edge"]),
        mean=tuple(processor["image_mean"]),
        std=tuple(processor["image_std"]),
    )


def within_tokens(settings: PixelSettings, most: int) -> PixelSettings:
    """Return settings with a budget of image tokens, as qwen-vl-utils has it, whatever the checkpoint's files say."""
    token = settings.token_side**2  # pixels
    least = min(_MIN_IMAGE_TOKENS, most)
    return replace(settings, min_pixels=least * token, max_pixels=most * token, least_side=settings.token_side)


def shrunk(settings: PixelSettings, most: int | None) -> PixelSettings:
    """Return settings with at most so many image tokens; None for what the settings allow."""
    if most is None:
        return settings
    largest = min(settings.max_pixels, most * settings.token_side**2)
    return replace(settings, min_pixels=min(settings.min_pixels, largest), max_pixels=largest)


def smart_size(width: int, height: int, settings: PixelSettings) -> tuple[int, int]:
    """Compute the size that an image is resized to: whole image tokens, its aspect ratio, within the pixel budget.

    Rounding is that of the published rule (banker's rounding included).

    Returns:
        Width and height, pixels.

    Raises:
        ImageError: the image is more than 200 times as long as wide.
    """
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise ImageError(
            f"expected an image at most {_MAX_ASPECT} times as long as wide, got {width}x{height}; crop it"
        )
    side = settings.token_side
    sizes = [max(settings.least_side, round(length / side) * side) for length in (width, height)]
    if sizes[0] * sizes[1] > settings.max_pixels:
        shrink = math.sqrt(height * width / settings.max_pixels)
        sizes = [max(side, math.floor(length / shrink / side) * side) for length in (width, height)]
    elif sizes[0] * sizes[1] < settings.min_pixels:
        enlarge = math.sqrt(settings.min_pixels / (height * width))
        sizes = [math.ceil(length * enlarge / side) * side for length in (width, height)]
    return sizes[0], sizes[1]


def patchify(pixels: torch.Tensor, settings: PixelSettings) -> torch.Tensor:
    """Normalize an image and cut it into patches, those of one image token side by side.

    Args:
        pixels: (height, width, 3) uint8, both sides multiples of `settings.token_side`.
        settings: of the checkpoint.

    Returns:
        (patches, 3 * temporal_patch_size * patch_size * patch_size) float32, on the device of `pixels`.
    """
    size, merge = settings.patch_size, settings.merge_size
    rows, columns = pixels.shape[0] // size, pixels.shape[1] // size
    mean, std = (_channels(values, pixels.device) for values in (settings.mean, settings.std))
    scaled = (pixels.float() / 255 - mean) / std  # (height, width, 3)
    cut = scaled.view(rows // merge, merge, size, columns // merge, merge, size, 3)
    grouped = cut.permute(0, 3, 1, 4, 6, 2, 5).flatten(0, 3)  # (patches, 3, size, size)
    frames = grouped.unsqueeze(2).expand(-1, -1, settings.temporal_patch_size, -1, -1)
    return frames.flatten(1)


def _channels(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
