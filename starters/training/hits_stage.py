"""Learns what the reranker starts from: how much rarer pieces weigh more, how hits saturate and depend on length.

It trains the formula that `rerank_start` makes the network compute, at a thousandth of the network's cost:
sum over the query's pieces of weight x repeats / (repeats + r), where log r falls as the passage gets shorter.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from training.batches import PageBatches, encode
from training.bm25 import Bm25

__all__ = ["USUAL", "Hits", "train_hits"]

USUAL = 300.0
"""Tokens of a text of usual length."""

_LONGEST_QUERY = 32


@dataclass(frozen=True, slots=True)
class Hits:
    """What was learned.

    Args:
        weights: (pieces,) natural logarithm of each piece's weight as part of a query: idf, raised to a power.
        repeats: logarithm of the repeats at which half of a hit counts, at the usual length.
        length: how much that logarithm falls from an endless text to an empty one.
        scale: factor from share of hits to logit.
    """

    weights: torch.Tensor
    repeats: float
    length: float
    scale: float


@dataclass(frozen=True, slots=True)
class _Batch:
    pieces: torch.Tensor  # (queries, slots)
    is_real: torch.Tensor  # (queries, slots)
    counts: torch.Tensor  # (queries, passages, slots)
    lengths: torch.Tensor  # (queries, passages)


def _draw(pages: PageBatches, tokenizer: Tokenizer, rng: random.Random, *, near: int) -> _Batch:
    """Queries with the right passage first and BM25's best of the others behind it, its neighbours among them."""
    rows = pages.texts(rng)
    texts = [text for _, text in rows]
    bm25 = Bm25(texts)
    tokens = encode(tokenizer, texts)
    counters = [Counter(ids) for ids in tokens]
    queries = [ids[:_LONGEST_QUERY] for ids in encode(tokenizer, [query for query, _ in rows])]
    pieces = torch.zeros(len(rows), _LONGEST_QUERY, dtype=torch.long)
    is_real = torch.zeros(len(rows), _LONGEST_QUERY)
    counts = torch.zeros(len(rows), near + 1, _LONGEST_QUERY)
    lengths = torch.zeros(len(rows), near + 1)
    for i, ids in enumerate(queries):
        order = [int(j) for j in (-bm25.scores(rows[i][0])).argsort() if texts[j] != texts[i]]
        pieces[i, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        is_real[i, : len(ids)] = 1
        for k, j in enumerate([i, *order[:near]]):
            counts[i, k, : len(ids)] = torch.tensor([float(counters[j][piece]) for piece in ids])
            lengths[i, k] = len(tokens[j]) + len(ids)
    return _Batch(pieces, is_real, counts, lengths)


def _shares(batch: _Batch, weights: torch.Tensor, repeats: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Weighted share of hits, (queries, passages)."""
    shortness = USUAL / (USUAL + batch.lengths)  # (queries, passages)
    half = torch.exp(repeats + length * (0.5 - shortness)).unsqueeze(-1)  # (queries, passages, 1)
    hits = batch.counts / (batch.counts + half)  # (queries, passages, slots)
    logits = weights[batch.pieces].masked_fill(batch.is_real == 0, -torch.inf)  # (queries, slots)
    return (torch.softmax(logits, dim=-1).unsqueeze(1) * hits).sum(-1)


def train_hits(
    idf: torch.Tensor, pages: PageBatches, tokenizer: Tokenizer, *, steps: int, near: int = 12, seed: int = 0
) -> Hits:
    """Train the formula by the rank of the right passage among near misses.

    Only four numbers are learned: weights of single pieces, trained too, ranked held-out pages no better and natural
    queries worse.

    Args:
        idf: (pieces,), at least 0.
        pages: what to draw queries and passages from.
        tokenizer: of the model.
        steps: batches.
        near: near misses of a query.
        seed: of the draws.
    """
    rng, rarity = random.Random(seed), idf.clamp_min(0.1).log()
    scalars = torch.tensor([0.0, 2.0, 15.0, 2.0], requires_grad=True)
    optimizer = torch.optim.Adam([scalars], lr=0.02)
    began, shown = time.monotonic(), 0.0
    for step in range(steps):
        batch = _draw(pages, tokenizer, rng, near=near)
        repeats, length, scale, power = scalars
        shares = _shares(batch, power * rarity, repeats, length)
        loss = cross_entropy(shares * scale, torch.zeros(len(shares), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hits = float((shares.argmax(1) == 0).float().mean())
        shown = 0.95 * shown + 0.05 * hits if step else hits
        if step % 20 == 0 or step == steps - 1:
            learned = " ".join(f"{value:.2f}" for value in scalars.tolist())
            print(
                f"hits {step} loss {loss:.3f} top1 {shown:.3f} [{learned}] {time.monotonic() - began:.0f}s", flush=True
            )
    repeats, length, scale, power = scalars.tolist()
    return Hits(power * rarity, repeats, length, scale)
