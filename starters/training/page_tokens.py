"""What the reader sees on whole pages, stored: the heads learn from it without running the tower again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.crops import cut
from training.reader import LENGTH, Reader
from training.renders import Render

__all__ = ["PageTokens", "draw_queries", "load_page_tokens", "main_directions", "read_pages"]

_TILE = 512
_BLANKS = 64


@dataclass(frozen=True, slots=True)
class PageTokens:
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


def read_pages(reader: Reader, renders: Sequence[Render], path: Path, *, seed: int = 0) -> None:
    """Read whole pages and write what `load_page_tokens` reads; about half a second a page on two cores."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, render in enumerate(renders, start=1):
        tokens, blank = see(reader, render)
        others = tokens[blank]
        some = others[torch.randperm(len(others), generator=generator)[:_BLANKS]]
        rows.append((tokens[~blank].half(), some.half(), len(others), np.asarray(render.pieces[:, 0]).tolist()))
        if number % 50 == 0:
            print(f"{number} pages read", flush=True)
    torch.save(rows, path)


def load_page_tokens(path: Path) -> list[PageTokens]:
    """What `read_pages` wrote."""
    return [PageTokens(*fields) for fields in torch.load(path)]


def draw_queries(pages: Sequence[PageTokens], starts: Sequence[bool], rng: random.Random) -> list[list[int]]:
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


def main_directions(pages: Sequence[PageTokens], codes: torch.Tensor, rows: int) -> torch.Tensor:
    """(rows, size) of length 1, at right angles: those that hold most of what pieces and image tokens are, by rank."""
    tokens = torch.cat([page.inked[::8] for page in pages]).float() / LENGTH
    both = tokens.T @ tokens / len(tokens) + codes.T @ codes / len(codes)
    vectors: torch.Tensor = torch.linalg.eigh(both).eigenvectors
    return vectors.flip(1)[:, :rows].T
