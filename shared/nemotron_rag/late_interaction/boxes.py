"""Bounding boxes of image tokens: the rectangle of the image that each token stands for.

A box is left, top, right, bottom in fractions of the image's width and height, so that it fits the image at any size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.types import FloatArray

__all__ = ["grid_boxes", "place_boxes", "tile_boxes"]


def grid_boxes(columns: int, rows: int) -> FloatArray:
    """Return the cells of a grid over the whole image, row by row: (rows * columns, 4) float32.

    Example:
        >>> grid_boxes(2, 1)
        array([[0. , 0. , 0.5, 1. ],
               [0.5, 0. , 1. , 1. ]], dtype=float32)
    """
    top, left = np.indices((rows, columns)).reshape(2, -1)  # each (rows * columns,)
    cells = np.stack([left, top, left + 1, top + 1], axis=1) / (columns, rows, columns, rows)
    return cells.astype(np.float32)


def tile_boxes(columns: int, rows: int, *, side: int, thumbnail: bool) -> FloatArray:
    """Return the boxes of the tokens of a tiled image: tile by tile, and row by row within each tile.

    Args:
        columns: of tiles.
        rows: of tiles.
        side: tokens along a side of a tile.
        thumbnail: whether a last tile shows the whole image.

    Returns:
        (tiles * side * side, 4) float32.
    """
    cells, tiles = grid_boxes(side, side), grid_boxes(columns, rows)
    corners = tiles[:, None, [0, 1, 0, 1]]  # (tiles, 1, 4)
    share = np.array([1 / columns, 1 / rows, 1 / columns, 1 / rows], dtype=np.float32)  # of a tile in the image
    boxes = (corners + cells * share).reshape(-1, 4)
    return np.concatenate([boxes, cells]) if thumbnail else boxes


def place_boxes(in_image: NDArray[np.bool_], boxes: FloatArray) -> FloatArray:
    """Assign boxes to the image tokens of a passage: (tokens, 4) float32, NaN for all other tokens.

    Args:
        in_image: (tokens,), True for as many tokens as there are boxes.
        boxes: (image tokens, 4), in the order of the tokens.
    """
    placed = np.full((len(in_image), 4), np.nan, dtype=np.float32)
    placed[in_image] = boxes
    return placed
