"""Cuts training crops out of rendered pages, with a label for every cell and every image token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.renders import Render

__all__ = ["CELLS", "PATCH", "Batch", "Crops", "label_cells", "label_tokens"]

PATCH = 16  # pixels, of the tower
CELLS = (4, 2)
"""Rows and columns of character cells in a patch."""

_TILE = 512
_TOKEN = 2 * PATCH  # the pixel shuffle joins 2 x 2 patches
_WITHIN = 0.4  # share of a piece's area that must lie in a token's square to be its label


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops and their labels.

    Attributes:
        pixels: (crops, height, width) float32, paper is 0 and ink up to 1.
        cells: (crops, 4 * patch rows, 2 * patch columns) int64, the class of the character covering a cell.
        places: (labels, 2) int64, row-major number of the token among all tokens of all crops, and piece.
        shares: (labels,) float32, how much of the piece lies in the token's square.
        blank: (tokens,) bool, the token's square touches no character.
    """

    pixels: torch.Tensor
    cells: torch.Tensor
    places: torch.Tensor
    shares: torch.Tensor
    blank: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


def label_cells(characters: NDArray[np.int16], shape: tuple[int, int]) -> NDArray[np.int64]:
    """The class covering the centre of every cell.

    Args:
        characters: (n, 5) class and box, in pixels of the crop.
        shape: height and width of the crop, pixels.
    """
    step = np.array([PATCH / CELLS[1], PATCH / CELLS[0]] * 2)  # of x and y
    cells = np.zeros((round(shape[0] / step[1]), round(shape[1] / step[0])), dtype=np.int64)
    bounds = np.ceil(characters[:, 1:] / step - 0.5).astype(int).clip(0)
    for which, (left, top, right, bottom) in zip(characters[:, 0], bounds, strict=True):
        cells[top:bottom, left:right] = which
    return cells


def label_tokens(pieces: NDArray[np.int32], shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which pieces lie in which token's square.

    Args:
        pieces: (n, 5) id and box, in pixels of the crop.
        shape: height and width of the crop, pixels.

    Returns:
        (labels, 2) token and piece, and the shares (labels,).
    """
    rows, columns = shape[0] // _TOKEN, shape[1] // _TOKEN
    left, top, right, bottom = pieces[:, 1:].T.astype(np.float32)
    edges_x, edges_y = np.arange(columns + 1) * _TOKEN, np.arange(rows + 1) * _TOKEN
    across = np.minimum(right[:, None], edges_x[None, 1:]) - np.maximum(left[:, None], edges_x[None, :-1])
    down = np.minimum(bottom[:, None], edges_y[None, 1:]) - np.maximum(top[:, None], edges_y[None, :-1])
    area = np.maximum((right - left) * (bottom - top), 1.0)
    shares = down.clip(0)[:, :, None] * across.clip(0)[:, None, :] / area[:, None, None]  # (pieces, rows, columns)
    which, row, column = np.nonzero(shares >= _WITHIN)
    places = np.stack([row * columns + column, pieces[which, 0]], axis=1)
    return places.astype(np.int64), shares[which, row, column].astype(np.float32)


def _touched(characters: NDArray[np.int16], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether any character reaches into a token's square: (tokens,)."""
    touched = np.zeros((shape[0] // _TOKEN, shape[1] // _TOKEN), dtype=bool)
    first = (characters[:, 1:3] // _TOKEN).clip(0)
    last = -(-characters[:, 3:5] // _TOKEN)
    for (left, top), (right, bottom) in zip(first, last, strict=True):
        touched[top:bottom, left:right] = True
    return touched.reshape(-1)


class Crops:
    """Draws crops around pieces that are worth reading.

    Args:
        renders: the pages.
        importance: (pieces,) in 0..1; a crop is centred on a piece, the rarer the likelier.
        shape: height and width of a crop in pixels, multiples of 32.
        thumbnails: share of crops cut out of a page shrunk to one tile, in which nothing is to be read.
    """

    def __init__(
        self, renders: Sequence[Render], importance: torch.Tensor, *, shape: tuple[int, int], thumbnails: float = 0.0
    ) -> None:
        self._renders = [render for render in renders if len(render.pieces) and min(render.pixels.shape) >= shape[1]]
        self._worth = importance.numpy() + 0.1
        self._shape, self._thumbnails = shape, thumbnails

    def draw(self, size: int, rng: np.random.Generator) -> Batch:
        """A batch of `size` crops from as many pages."""
        parts = [self._crop(rng) for _ in range(size)]
        tokens = len(parts[0].blank)
        places = torch.cat([part.places + torch.tensor([i * tokens, 0]) for i, part in enumerate(parts)])
        pixels, cells, shares, blank = (
            [getattr(part, name) for part in parts] for name in ("pixels", "cells", "shares", "blank")
        )
        return Batch(torch.cat(pixels), torch.cat(cells), places, torch.cat(shares), torch.cat(blank))

    def _crop(self, rng: np.random.Generator) -> Batch:
        render = self._renders[rng.integers(len(self._renders))]
        height, width = self._shape
        if rng.random() < self._thumbnails:
            small = _thumbnail(render)
            left, top = int(rng.integers(_TILE - width + 1)), int(rng.integers(_TILE - height + 1))
            return cut(small, left, top, self._shape, rng)
        worth = self._worth[render.pieces[:, 0]]
        piece = render.pieces[rng.choice(len(worth), p=worth / worth.sum()), 1:]
        middle = (piece[:2] + piece[2:]) // 2 - rng.integers(0, (width, height))
        left, top = middle.clip(0, np.array(render.pixels.shape[::-1]) - (width, height))
        return cut(render, int(left), int(top), self._shape, rng)


def _thumbnail(render: Render) -> Render:
    """The whole page as one tile, too small to be read."""
    pixels = np.asarray(Image.fromarray(np.asarray(render.pixels)).resize((_TILE, _TILE)))
    return Render(pixels, render.characters[:0], render.pieces[:0])


def cut(render: Render, left: int, top: int, shape: tuple[int, int], rng: np.random.Generator | None = None) -> Batch:
    """One crop with its labels; with `rng`, its contrast and noise are varied."""
    height, width = shape
    pixels = render.pixels[top : top + height, left : left + width]
    ink = (1.0 - pixels.astype(np.float32) / 255).astype(np.float32)
    if rng is not None:
        ink = _vary(ink, rng)
    characters, pieces = (_inside(boxes, left, top, shape) for boxes in (render.characters, render.pieces))
    places, shares = label_tokens(pieces, shape)
    return Batch(
        torch.from_numpy(ink)[None],
        torch.from_numpy(label_cells(characters, shape))[None],
        torch.from_numpy(places),
        torch.from_numpy(shares),
        torch.from_numpy(~_touched(characters, shape)),
    )


def _inside(boxes: NDArray[Any], left: int, top: int, shape: tuple[int, int]) -> NDArray[Any]:
    moved = boxes - np.array([0, left, top, left, top], dtype=boxes.dtype)
    is_near = (moved[:, 3] > 0) & (moved[:, 4] > 0) & (moved[:, 1] < shape[1]) & (moved[:, 2] < shape[0])
    inside: NDArray[Any] = moved[is_near]
    return inside


def _vary(ink: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Other contrast, a tinted background, noise, an inverted page: each now and then."""
    if rng.random() < 0.3:
        ink = ink * rng.uniform(0.5, 1.0) + rng.uniform(0.0, 0.15)
    if rng.random() < 0.2:
        ink = ink + rng.normal(0, rng.uniform(0.01, 0.08), ink.shape).astype(np.float32)
    if rng.random() < 0.03:
        ink = 1.0 - ink
    return ink.clip(0, 1)
