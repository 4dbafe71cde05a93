"""What the reader sees on whole pages, kept on disk: the heads learn from it without running the tower again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.crops import cut
from training.places import WORK
from training.reader import LENGTH, Reader
from training.renders import Render

__all__ = ["Sighting", "draw_queries", "load_sightings", "main_directions", "see_pages"]

_TILE = 512
_BLANKS = 64


@dataclass(frozen=True, slots=True)
class Sighting:
    """One page.

    Attributes:
        inked: (tokens, size) float16, the image tokens whose squares touch a character.
        blank: (64, size) float16, some of the others.
        blanks: how many others there are.
        pieces: the page's pieces in reading order.
    """

    inked: torch.Tensor
    blank: torch.Tensor
    blanks: int
    pieces: list[int]


@torch.no_grad()
def see(reader: Reader, render: Render) -> tuple[torch.Tensor, torch.Tensor]:
    """All image tokens of a page's tiles, row by row of each tile, and which squares touch nothing."""
    height, width = render.pixels.shape
    corners = [(left, top) for top in range(0, height, _TILE) for left in range(0, width, _TILE)]
    tiles = [cut(render, left, top, (_TILE, _TILE)) for left, top in corners]
    tokens = reader(torch.cat([tile.pixels for tile in tiles]), (0, 0))[1]
    return tokens, torch.cat([tile.blank for tile in tiles])


def see_pages(reader: Reader, renders: Sequence[Render], *, seed: int = 0) -> None:
    """Write ``work/sightings.pt``; about half a second a page on two cores."""
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for number, render in enumerate(renders, start=1):
        tokens, blank = see(reader, render)
        others = tokens[blank]
        some = others[torch.randperm(len(others), generator=generator)[:_BLANKS]]
        kept.append((tokens[~blank].half(), some.half(), len(others), np.asarray(render.pieces[:, 0]).tolist()))
        if number % 50 == 0:
            print(f"{number} pages seen", flush=True)
    torch.save(kept, WORK / "sightings.pt")


def load_sightings() -> list[Sighting]:
    """The pages seen."""
    return [Sighting(*fields) for fields in torch.load(WORK / "sightings.pt")]


def draw_queries(pages: Sequence[Sighting], starts: Sequence[bool], rng: random.Random) -> list[list[int]]:
    """A span of each page's pieces, or some of its words in any order."""
    made = []
    for page in pages:
        words: list[list[int]] = []
        for piece in page.pieces:
            if starts[piece] or not words:
                words.append([])
            words[-1].append(piece)
        if rng.random() < 0.5:
            first = rng.randrange(max(1, len(words) - 12))
            chosen = words[first : first + rng.randint(4, 14)]
        else:
            chosen = rng.sample(words, min(len(words), rng.randint(3, 10)))
        made.append([piece for word in chosen for piece in word])
    return made


def main_directions(pages: Sequence[Sighting], codes: torch.Tensor, rows: int) -> torch.Tensor:
    """(rows, size) of length 1, at right angles: those that hold most of what pieces and image tokens are, by rank."""
    tokens = torch.cat([page.inked[::8] for page in pages]).float() / LENGTH
    both = tokens.T @ tokens / len(tokens) + codes.T @ codes / len(codes)
    return torch.linalg.eigh(both).eigenvectors.flip(1)[:, :rows].T
