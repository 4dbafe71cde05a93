"""Cut a page image into the tiles that the vision tower reads.

As in the `pil` path of the published processors: resize the whole image to the tile grid with Pillow's default filter,
crop row by row, resize the thumbnail separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nemotron_rag.models._base.resize import resize, resize_image
from nemotron_rag.models._llama.tiling import choose_grid, count_tiles

__all__ = ["Cut", "cut_tiles", "cut_tiles_on_device", "normalise"]


@dataclass(frozen=True, slots=True)
class Cut:
    """How an image is cut into tiles.

    Args:
        columns: of the grid.
        rows: of the grid.
        side: of a tile, pixels.
        thumbnail: whether the whole image follows as a last tile.
    """

    columns: int
    rows: int
    side: int
    thumbnail: bool

    @classmethod
    def of(cls, size: tuple[int, int], *, max_tiles: int, side: int, use_thumbnail: bool) -> Cut:
        """Choose the tile grid of an image by the published rule.

        Args:
            size: its width and height, pixels.
            max_tiles: most tiles of the grid.
            side: of a tile, pixels.
            use_thumbnail: add a thumbnail if the grid has more than one tile.
        """
        grid = choose_grid(*size, max_tiles=max_tiles, tile_size=side)
        return cls(*grid, side=side, thumbnail=count_tiles(grid, use_thumbnail=use_thumbnail) > grid[0] * grid[1])

    @property
    def tiles(self) -> int:
        """Number of tiles, thumbnail included."""
        return self.columns * self.rows + self.thumbnail

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole grid, pixels."""
        return self.columns * self.side, self.rows * self.side

    @property
    def pixels(self) -> int:
        """Number of pixels of all tiles."""
        return self.tiles * self.side**2


def cut_tiles(image: Image.Image, cut: Cut) -> NDArray[np.uint8]:
    """Cut an image into RGB tiles.

    The image is resized in its own mode and each tile converted to RGB afterwards, as the reranker's processor does;
    the embedder's converts first: give an RGB image for that.

    Args:
        image: any Pillow mode.
        cut: the tile grid.

    Returns:
        (tiles, side, side, 3) uint8.
    """
    side = cut.side
    resized = resize_image(image, cut.size)
    boxes = [(x * side, y * side) for y in range(cut.rows) for x in range(cut.columns)]
    tiles = [resized.crop((x, y, x + side, y + side)) for x, y in boxes]
    if cut.thumbnail:
        tiles.append(resize_image(image, (side, side)))
    return np.stack([np.asarray(tile.convert("RGB")) for tile in tiles])


def cut_tiles_on_device(image: torch.Tensor, cut: Cut) -> torch.Tensor:
    """`cut_tiles` on the device: (height, width, 3) uint8 to (tiles, side, side, 3) uint8; see `resize`."""
    side = cut.side
    resized = resize(image, cut.size).reshape(cut.rows, side, cut.columns, side, 3)
    tiles = resized.transpose(1, 2).flatten(0, 1)  # (tiles, side, side, 3)
    if not cut.thumbnail:
        return tiles
    return torch.cat([tiles, resize(image, (side, side)).unsqueeze(0)])


def normalise(
    tiles: torch.Tensor, *, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> torch.Tensor:
    """Normalize pixels for the vision tower.

    The result is bfloat16 whatever the model's dtype, as in the published processors.

    Args:
        tiles: (tiles, side, side, 3) uint8.
        mean: of the channels, in units of 0..1.
        std: of the channels, in units of 0..1.
        device: where to compute; the tiles are copied as bytes.

    Returns:
        (tiles, 3, side, side) bfloat16.
    """
    pixels = tiles.to(device).permute(0, 3, 1, 2)  # (tiles, 3, side, side)
    scaled = pixels.float() / 255
    shape = (1, 3, 1, 1)
    centred = scaled - torch.tensor(mean, device=device).view(shape)
    return (centred / torch.tensor(std, device=device).view(shape)).to(torch.bfloat16)
