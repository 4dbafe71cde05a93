"""Learns how the embedder turns image tokens into the directions of pieces: a feed-forward layer as a memory.

Each unit is a key, compared with the image token, and the vector that is added where the comparison exceeds the unit's
threshold (Geva et al., "Transformer Feed-Forward Layers Are Key-Value Memories", 2021). Keys start as the codes of the
pieces that tell pages apart best, vectors as those pieces' rows of the embedding table. Only the thresholds and how
loud each vector is are trained: with all of them free, 600 pages are learned by heart.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, embedding_bag, normalize, silu

from training.bag import Bag
from training.page_tokens import PageTokens, draw_queries
from training.reader import LENGTH

__all__ = ["Memory", "choose_pieces", "train_memory"]

_THRESHOLD = 0.3  # cosine from which a unit counts: where training starts
_SLOPE = 100.0  # so steep that SiLU, which dips below zero in front of its threshold, hardly does
_TEMPERATURE = 0.05
_PAGES = 48


@dataclass(frozen=True, slots=True)
class Memory:
    """What was learned, for unit vectors of image tokens.

    Attributes:
        keys: (units, size).
        thresholds: (units,).
        values: (units, hidden).
    """

    keys: torch.Tensor
    thresholds: torch.Tensor
    values: torch.Tensor


def choose_pieces(pages: Sequence[PageTokens], importance: torch.Tensor, count: int) -> torch.Tensor:
    """Pieces that occur often and still say much: (count,) ids."""
    spread = torch.zeros(len(importance))
    for page in pages:
        spread[torch.tensor(page.pieces).unique()] += 1
    return (spread * importance**2).topk(count).indices


def _see(page: PageTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (n, size) of length 1, and how many tokens of the page each stands for."""
    tokens = torch.cat([page.inked, page.blank]).float() / LENGTH
    weights = torch.ones(len(tokens))
    weights[len(page.inked) :] = page.blanks / max(1, len(page.blank))
    return tokens, weights / (len(page.inked) + page.blanks)


def train_memory(
    pages: Sequence[PageTokens],
    codes: torch.Tensor,
    rows: torch.Tensor,
    weights: torch.Tensor,
    chosen: torch.Tensor,
    *,
    starts: Sequence[bool],
    steps: int,
    seed: int = 0,
) -> Memory:
    """Contrastive training: queries as text against pages as images.

    Args:
        pages: what was seen.
        codes: (pieces, size), the reader's.
        rows: (pieces, hidden), the text path's vectors.
        weights: (pieces,) what each counts in a text.
        chosen: (units,) pieces the memory starts from.
        starts: of each piece, whether a word begins with it.
        steps: batches.
        seed: of the draws.
    """
    rng = random.Random(seed)
    keys = codes[chosen] * _SLOPE
    plain = rows[chosen] * weights[chosen].unsqueeze(1) / _SLOPE
    thresholds = torch.full((len(chosen),), _THRESHOLD, requires_grad=True)
    loudness = torch.zeros(len(chosen), requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [thresholds], "lr": 0.003}, {"params": [loudness], "lr": 0.03}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (steps - step) / (0.5 * steps)))
    began = time.monotonic()
    for step in range(steps):
        some = rng.sample(list(pages), min(_PAGES, len(pages)))
        bag = Bag.of(draw_queries(some, starts, rng))
        queries = embedding_bag(
            bag.pieces, rows, bag.offsets, mode="sum", per_sample_weights=weights[bag.pieces] * bag.counts
        )
        seen = [_see(page) for page in some]
        fired = silu(torch.cat([tokens for tokens, _ in seen]) @ keys.T - thresholds * _SLOPE)
        sums = [part.T @ share for part, (_, share) in zip(fired.split([len(t) for t, _ in seen]), seen, strict=True)]
        vectors = torch.stack(sums) @ (plain * loudness.exp().unsqueeze(1))
        scores = normalize(queries, dim=1) @ normalize(vectors, dim=1).T / _TEMPERATURE
        targets = torch.arange(len(some))
        loss = cross_entropy(scores, targets) + 0.2 * cross_entropy(scores.T, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0 or step == steps - 1:
            right = (scores.argmax(dim=1) == targets).float().mean()
            print(f"memory {step} loss {loss:.3f} top1 {right:.3f} {time.monotonic() - began:.0f}s", flush=True)
    with torch.no_grad():
        return Memory(keys, thresholds * _SLOPE, plain * loudness.exp().unsqueeze(1))
