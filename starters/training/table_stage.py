"""Learns the directions of the pieces as a damped bag, before any network runs.

The bag is what `embedder_start` makes the network compute; training it costs a thousandth of training the network.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch.nn.functional import cross_entropy, embedding_bag, normalize, pad

from training.bag import Bag
from training.embedder_start import CODE, CODE_LENGTH, LENGTH, lean, piece_codes

Draw: TypeAlias = Callable[[random.Random], tuple[list[list[int]], list[list[int]]]]

__all__ = ["bag_rows", "train_table"]

_TEMPERATURE = 0.05


def bag_rows(directions: torch.Tensor) -> torch.Tensor:
    """What a piece adds to a bag, as in `embedder_start.fill_table`: fixed codes in front of the directions.

    Args:
        directions: (pieces, hidden - 36) of any length.

    Returns:
        (pieces, hidden), of length 1.
    """
    share = (CODE_LENGTH / LENGTH) ** 2
    codes = normalize(piece_codes(len(directions)), dim=1) * share**0.5
    return torch.cat([pad(codes, (CODE.start, 0)), lean(directions) * (1 - share) ** 0.5], dim=1)


def _weigh(bag: Bag, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return embedding_bag(bag.pieces, rows, bag.offsets, mode="sum", per_sample_weights=weights[bag.pieces] * bag.counts)


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
        directions: (pieces, hidden - 36), trained.
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
    trained = normalize(directions, dim=1).requires_grad_(True)
    weights = importance.clamp(0.01, 0.97)
    optimizer = torch.optim.Adam([trained], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    began = time.monotonic()
    for step in range(steps):
        rows = bag_rows(trained)
        losses = [weight * _loss(rows, weights, draw(rng), sizes) for weight, draw in sources]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            shown = " ".join(f"{loss:.3f}" for loss in losses)
            print(f"table {step} loss {shown} {time.monotonic() - began:.0f}s", flush=True)
    return normalize(trained.detach(), dim=1)


def _loss(
    rows: torch.Tensor, weights: torch.Tensor, batch: tuple[list[list[int]], list[list[int]]], sizes: Sequence[int]
) -> torch.Tensor:
    left, right = (_weigh(Bag.of(side), rows, weights) for side in batch)
    targets = torch.arange(len(left))
    loss = torch.zeros(())
    for size in sizes:
        scores = normalize(left[:, :size], dim=1) @ normalize(right[:, :size], dim=1).T / _TEMPERATURE
        loss = loss + (cross_entropy(scores, targets) + cross_entropy(scores.T, targets) * 0.2) / len(sizes)
    return loss
