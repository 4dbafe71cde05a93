"""Which rectangle of a picture each of its tokens stands for. Pure arithmetic: it knows no pixels and no model.

A box is left, top, right, bottom in fractions of the picture's width and height, so it fits the picture in every size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.protocols import FloatArray

__all__ = ["grid_boxes", "place_boxes", "tile_boxes"]


def grid_boxes(columns: int, rows: int) -> FloatArray:
    """The cells of a grid over the whole picture, row by row: (rows * columns, 4) float32.

    Example:
        >>> grid_boxes(2, 1)
        array([[0. , 0. , 0.5, 1. ],
               [0.5, 0. , 1. , 1. ]], dtype=float32)
    """
    top, left = np.indices((rows, columns)).reshape(2, -1)  # each (rows * columns,)
    cells = np.stack([left, top, left + 1, top + 1], axis=1) / (columns, rows, columns, rows)
    return cells.astype(np.float32)


def tile_boxes(columns: int, rows: int, *, side: int, thumbnail: bool) -> FloatArray:
    """The tokens of a picture that was cut into tiles, tile by tile and in each row by row.

    Args:
        columns: of tiles.
        rows: of tiles.
        side: tokens along a side of a tile.
        thumbnail: whether one more tile, the last, shows the whole picture.

    Returns:
        (tiles * side * side, 4) float32.
    """
    cells, tiles = grid_boxes(side, side), grid_boxes(columns, rows)
    corners = tiles[:, None, [0, 1, 0, 1]]  # (tiles, 1, 4)
    share = np.array([1 / columns, 1 / rows, 1 / columns, 1 / rows], dtype=np.float32)  # of a tile in the picture
    boxes = (corners + cells * share).reshape(-1, 4)
    return np.concatenate([boxes, cells]) if thumbnail else boxes


def place_boxes(in_picture: NDArray[np.bool_], boxes: FloatArray) -> FloatArray:
    """The boxes among all tokens of a passage: (tokens, 4) float32, NaN for those that stand for no part of a picture.

    Args:
        in_picture: (tokens,), True for as many tokens as there are boxes.
        boxes: (picture tokens, 4), in the tokens' order.
    """
    placed = np.full((len(in_picture), 4), np.nan, dtype=np.float32)
    placed[in_picture] = boxes
    return placed
