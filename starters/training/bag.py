"""A text as a damped bag of pieces: what the embedder computes, and what trains its table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["Bag", "damping", "importance_of"]

_REPEATS, _DAMPING = 10.0, 5.0


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
