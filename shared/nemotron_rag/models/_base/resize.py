"""Resize images: on the CPU with Pillow, or on the device with the same bicubic filter.

A CPU core takes 0.05 s to resize a page to 7 tiles, which would leave a GPU idle.
"""

from __future__ import annotations

import PIL
import torch
from PIL import Image
from torch.nn.functional import interpolate

__all__ = ["resize", "resize_image", "resizes_on_device"]

_PILLOW_BEFORE_13 = int(PIL.__version__.partition(".")[0]) < 13
_MOST = 3  # times the resized pixels, as a scan of 200 dpi has: larger images take too much memory in the queue


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize like Pillow 13's `image.resize(size)`, with any version of Pillow.

    Versions before 13 never start with the vertical pass, so that edges of letters may differ by up to 25 of 255
    levels: an index would depend on the version that wrote it.

    Args:
        image: any mode.
        size: width and height, pixels.
    """
    if not _PILLOW_BEFORE_13:
        return image.resize(size)
    premultiplied = {"LA": "La", "RGBA": "RGBa"}.get(image.mode, image.mode)  # as within `resize`, but once
    return image.convert(premultiplied).resize(_intermediate_size(image.size, size)).resize(size).convert(image.mode)


def resizes_on_device(image: Image.Image, *, pixels: int, device: torch.device) -> bool:
    """Whether to send an image unresized and resize it on the device.

    Args:
        image: only RGB; Pillow treats other modes differently.
        pixels: of the resized image.
        device: of the model. On a CPU, Pillow is as fast.
    """
    return device.type == "cuda" and image.mode == "RGB" and image.width * image.height <= _MOST * pixels


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Like `resize_image`, within one grey level per channel.

    Two passes as in Pillow, each rounded to whole levels; but with float32 weights instead of 22 bits.

    Args:
        image: (height, width, 3) uint8.
        size: target width and height, pixels.

    Returns:
        (height, width, 3) uint8, on the same device.
    """
    rows, columns = image.shape[:2]
    values = image.permute(2, 0, 1).unsqueeze(0)  # (1, 3, rows, columns)
    for width, height in (_intermediate_size((columns, rows), size), size):
        if values.shape[2:] != (height, width):
            values = interpolate(values.float(), (height, width), mode="bicubic", antialias=True)
            values = (values + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return values.squeeze(0).permute(1, 2, 0)


def _intermediate_size(given: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the size between the two passes: the height changes first if it loses over twice as many pixels.

    Pillow's rule since https://github.com/python-pillow/Pillow/pull/9549; the order matters, since values beyond
    black and white are clipped after each pass.
    """
    columns_lost, rows_lost = given[0] - target[0], given[1] - target[1]
    return (given[0], target[1]) if rows_lost > max(0, 2 * columns_lost) else (target[0], given[1])
