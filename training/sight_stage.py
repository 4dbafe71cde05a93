"""Learns how sure the reranker must be that a piece stands in a picture: the formula that `rerank_start` sets up.

A piece's hit is the share that a softmax over the image tokens and a constant leaves to the image tokens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, normalize

from training.reader import LENGTH
from training.sightings import Sighting, draw_queries

__all__ = ["Sight", "main_directions", "train_sight"]

_PAGES, _SCALE = 24, 15.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What was learned.

    Attributes:
        turn: (rows, size), onto the directions in which the reader's vectors differ most.
        sharpness: logit of a piece that looks exactly like an image token.
        threshold: cosine at which half of a hit counts.
    """

    turn: torch.Tensor
    sharpness: float
    threshold: float


def main_directions(pages: Sequence[Sighting], codes: torch.Tensor, rows: int) -> torch.Tensor:
    """(rows, size) of length 1, at right angles: those that hold most of what pieces and image tokens are."""
    tokens = torch.cat([page.inked[::8] for page in pages]).float() / LENGTH
    both = tokens.T @ tokens / len(tokens) + codes.T @ codes / len(codes)
    return torch.linalg.eigh(both).eigenvectors[:, -rows:].T


def train_sight(
    pages: Sequence[Sighting],
    codes: torch.Tensor,
    weights: torch.Tensor,
    *,
    rows: int,
    starts: Sequence[bool],
    steps: int,
    seed: int = 0,
) -> Sight:
    """Train sharpness and threshold by the rank of the page that a question was made from.

    Args:
        pages: what was seen.
        codes: (pieces, size), the reader's.
        weights: (pieces,) logarithm of what each counts in a question.
        rows: dimensions that the reranker compares.
        starts: of each piece, whether a word begins with it.
        steps: batches.
        seed: of the draws.
    """
    rng = random.Random(seed)
    turn = main_directions(pages, codes, rows)
    looks = normalize(codes @ turn.T, dim=1)
    sharpness, threshold = (torch.tensor(value, requires_grad=True) for value in (30.0, 0.45))
    optimizer = torch.optim.Adam([{"params": [sharpness], "lr": 0.5}, {"params": [threshold], "lr": 0.01}])
    began = time.monotonic()
    for step in range(steps):
        some = rng.sample(list(pages), min(_PAGES, len(pages)))
        queries = draw_queries(some, starts, rng)
        pieces = torch.tensor([piece for query in queries for piece in query])
        hits = torch.stack([_hits(page, looks[pieces], turn, sharpness, threshold) for page in some], dim=1)
        shares = [
            torch.softmax(weights[torch.tensor(query)], dim=0) @ part
            for query, part in zip(queries, hits.split([len(query) for query in queries]), strict=True)
        ]
        loss = cross_entropy(torch.stack(shares) * _SCALE, torch.arange(len(some)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == steps - 1:
            now = f"sharpness {sharpness:.1f} threshold {threshold:.2f}"
            print(f"sight {step} loss {loss:.3f} {now} {time.monotonic() - began:.0f}s", flush=True)
    return Sight(turn, sharpness.item(), threshold.item())


def _hits(
    page: Sighting, looks: torch.Tensor, turn: torch.Tensor, sharpness: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """How surely each piece is on the page: (pieces,) in 0..1."""
    tokens = torch.cat([page.inked, page.blank]).float() / LENGTH @ turn.T
    return torch.sigmoid(torch.logsumexp(sharpness * (looks @ tokens.T - threshold), dim=1))
