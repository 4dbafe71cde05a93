"""Resizing pictures: on the CPU with Pillow, or on the device as Pillow's bicubic filter does it. It knows no model.

A core takes 0.05 s to resize a page to 7 tiles; a GPU that waits for that computes less than it could.
"""

from __future__ import annotations

import PIL
import torch
from PIL import Image
from torch.nn.functional import interpolate

__all__ = ["resize", "resize_image", "resizes_there"]

_PILLOW_BEFORE_13 = int(PIL.__version__.partition(".")[0]) < 13
_MOST = 3  # times as large as resized, as a scan of 200 dpi is: such pictures wait in memory


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image.resize(size)` of Pillow 13, whichever version there is.

    Versions before it never begin vertically, so that edges of letters may get up to 25 of 255 levels more or less: an
    index would depend on where it was written.

    Args:
        image: any mode.
        size: width and height, pixels.
    """
    if not _PILLOW_BEFORE_13:
        return image.resize(size)
    premultiplied = {"LA": "La", "RGBA": "RGBa"}.get(image.mode, image.mode)  # as within `resize`, but once
    return image.convert(premultiplied).resize(_halfway(image.size, size)).resize(size).convert(image.mode)


def resizes_there(image: Image.Image, *, pixels: int, device: torch.device) -> bool:
    """Whether a picture is better sent as it is, and resized where the model runs.

    Args:
        image: Pillow resizes other modes than RGB in other ways.
        pixels: of the resized picture.
        device: the model's. On a CPU, Pillow is as fast.
    """
    return device.type == "cuda" and image.mode == "RGB" and image.width * image.height <= _MOST * pixels


def resize(picture: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """What `resize_image` makes of an RGB picture, but for one level in some of the values.

    Two passes as Pillow's, each rounded to whole levels; but with weights of float32, not of 22 bits.

    Args:
        picture: (height, width, 3) uint8.
        size: width and height wanted, pixels.

    Returns:
        (height, width, 3) uint8, on the same device.
    """
    rows, columns = picture.shape[:2]
    values = picture.permute(2, 0, 1).unsqueeze(0)  # (1, 3, rows, columns)
    for width, height in (_halfway((columns, rows), size), size):
        if values.shape[2:] != (height, width):
            values = interpolate(values.float(), (height, width), mode="bicubic", antialias=True)
            values = (values + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return values.squeeze(0).permute(1, 2, 0)


def _halfway(given: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The size between the two passes: it is the height that changes first if it loses over twice as many pixels.

    Pillow's rule since https://github.com/python-pillow/Pillow/pull/9549; the order shows in the result, since values
    beyond black and white are cut off after each pass.
    """
    columns_lost, rows_lost = given[0] - wanted[0], given[1] - wanted[1]
    return (given[0], wanted[1]) if rows_lost > max(0, 2 * columns_lost) else (wanted[0], given[1])
