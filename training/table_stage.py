"""Learns the directions of the pieces as a damped bag, before any network runs.

The bag is what `embedder_start` makes the network compute; training it costs a thousandth of training the network.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.nn.functional import cross_entropy, embedding_bag, normalize

from training.embedder_start import CODE, CODE_LENGTH, LENGTH, piece_codes

Draw: TypeAlias = Callable[[random.Random], tuple[list[list[int]], list[list[int]]]]

__all__ = ["Bag", "damping", "importance_of", "train_table"]

_REPEATS, _DAMPING = 10.0, 5.0
_TEMPERATURE = 0.05


def damping(repeats: int) -> float:
    """How much a piece counts that occurs so many times: about 1 + log(repeats)."""
    return repeats / math.sqrt(1 + (_DAMPING * repeats / (repeats + _REPEATS)) ** 2)


def importance_of(token_lists: Sequence[Sequence[int]], *, pieces: int) -> torch.Tensor:
    """Inverse document frequency, scaled to 0..1: (pieces,)."""
    spread = Counter(piece for ids in token_lists for piece in set(ids))
    count = len(token_lists)
    idf = [math.log(1 + (count - spread[i] + 0.5) / (spread[i] + 0.5)) for i in range(pieces)]
    return torch.tensor(idf) / max(idf)


@dataclass(frozen=True, slots=True)
class Bag:
    """A batch of texts as pieces, their damped counts and where each text starts."""

    pieces: torch.Tensor
    counts: torch.Tensor
    offsets: torch.Tensor

    @classmethod
    def of(cls, token_lists: Sequence[Sequence[int]]) -> Bag:
        """Count the pieces of each list."""
        pieces: list[int] = []
        counts: list[float] = []
        offsets: list[int] = []
        for ids in token_lists:
            offsets.append(len(pieces))
            for piece, repeats in Counter(ids).items():
                pieces.append(piece)
                counts.append(damping(repeats))
        return cls(torch.tensor(pieces), torch.tensor(counts), torch.tensor(offsets))


class _Table(torch.nn.Module):
    """The vectors behind the codes are trained; the codes are fixed, as in `embedder_start.fill_table`."""

    def __init__(self, codes: torch.Tensor, directions: torch.Tensor, importance: torch.Tensor) -> None:
        super().__init__()
        share = (CODE_LENGTH / LENGTH) ** 2
        self._rest = (1 - share) ** 0.5
        self.register_buffer("codes", torch.nn.functional.pad(normalize(codes, dim=1) * share**0.5, (CODE.start, 0)))
        self.directions = torch.nn.Parameter(normalize(directions, dim=1))
        self.register_buffer("importance", importance.clamp(0.01, 0.97))

    def forward(self, bag: Bag) -> torch.Tensor:
        rows = torch.cat([self.codes, normalize(self.directions, dim=1) * self._rest], dim=1)  # (pieces, hidden)
        weights = self.importance[bag.pieces] * bag.counts
        return embedding_bag(bag.pieces, rows, bag.offsets, mode="sum", per_sample_weights=weights)


def train_table(
    directions: torch.Tensor,
    importance: torch.Tensor,
    sources: Sequence[tuple[float, Draw]],
    *,
    steps: int,
    rate: float,
    sizes: Sequence[int],
    seed: int = 0,
) -> torch.Tensor:
    """Contrastive training, query against page, at several vector sizes at once.

    Args:
        directions: (pieces, hidden - 34), trained.
        importance: (pieces,) in 0..1, kept: training it too was measured to help nothing.
        sources: what to draw batches from, each with the weight of its loss.
        steps: batches.
        rate: of Adam at its peak.
        sizes: how many of the first dimensions each loss sees.
        seed: of the draws.

    Returns:
        The trained directions, of length 1.
    """
    rng = random.Random(seed)
    table = _Table(piece_codes(len(directions)), directions, importance)
    optimizer = torch.optim.Adam([table.directions], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    began = time.monotonic()
    for step in range(steps):
        losses = [weight * _loss(table, draw(rng), sizes) for weight, draw in sources]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            shown = " ".join(f"{loss:.3f}" for loss in losses)
            print(f"table {step} loss {shown} {time.monotonic() - began:.0f}s", flush=True)
    return normalize(table.directions.detach(), dim=1)


def _loss(table: _Table, batch: tuple[list[list[int]], list[list[int]]], sizes: Sequence[int]) -> torch.Tensor:
    left, right = (table(Bag.of(side)) for side in batch)
    wanted = torch.arange(len(left))
    loss = torch.zeros(())
    for size in sizes:
        scores = normalize(left[:, :size], dim=1) @ normalize(right[:, :size], dim=1).T / _TEMPERATURE
        loss = loss + (cross_entropy(scores, wanted) + cross_entropy(scores.T, wanted) * 0.2) / len(sizes)
    return loss
