"""From a page image to the tiles that the vision tower reads. It knows no text and no weights.

The `pil` pixel path of the published processors: squash the whole image to the tile grid with Pillow's default
filter, crop row by row, resize the thumbnail on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nemotron_rag.tiling import choose_grid

__all__ = ["cut_tiles", "normalise"]


def cut_tiles(image: Image.Image, *, max_tiles: int, tile_size: int, use_thumbnail: bool) -> NDArray[np.uint8]:
    """Cut an image into RGB tiles.

    The image is resized in the mode it comes in and each tile converted to RGB afterwards, as the reranker's
    processor does; for the embedder's order of steps hand in an RGB image.

    Args:
        image: any Pillow mode.
        max_tiles: most tiles of the grid.
        tile_size: side of a tile, pixels.
        use_thumbnail: append the whole image as one more tile if the grid has more than one.

    Returns:
        (tiles, tile_size, tile_size, 3) uint8.
    """
    columns, rows = choose_grid(image.width, image.height, max_tiles=max_tiles, tile_size=tile_size)
    squashed = image.resize((columns * tile_size, rows * tile_size))
    boxes = [(x * tile_size, y * tile_size) for y in range(rows) for x in range(columns)]
    tiles = [squashed.crop((x, y, x + tile_size, y + tile_size)) for x, y in boxes]
    if use_thumbnail and len(tiles) > 1:
        tiles.append(image.resize((tile_size, tile_size)))
    return np.stack([np.asarray(tile.convert("RGB")) for tile in tiles])


def normalise(
    tiles: torch.Tensor, *, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> torch.Tensor:
    """Pixels to what the tower was trained on.

    Rounded to bfloat16 whatever the model's own format: the published processors do so.

    Args:
        tiles: (tiles, side, side, 3) uint8.
        mean: of the channels, in units of 0..1.
        std: likewise.
        device: where to compute; bytes travel, not floats.

    Returns:
        (tiles, 3, side, side) bfloat16.
    """
    pixels = tiles.to(device).permute(0, 3, 1, 2)  # (tiles, 3, side, side)
    scaled = pixels.float() / 255
    shape = (1, 3, 1, 1)
    centred = scaled - torch.tensor(mean, device=device).view(shape)
    return (centred / torch.tensor(std, device=device).view(shape)).to(torch.bfloat16)
