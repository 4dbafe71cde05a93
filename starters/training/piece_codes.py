"""Vectors of pieces, put together from the vectors of their letters and letter groups.

Rare pieces are seen too seldom to be learned one by one. Built from parts that they share with common pieces, they are
read nearly as well: the attribute embeddings of word spotting (Almazan et al., "Word Spotting and Recognition with
Embedded Attributes", 2014) do the same with histograms of characters.
"""

from __future__ import annotations

from collections import Counter

import torch
from tokenizers import Tokenizer
from torch.nn.functional import embedding_bag, normalize

__all__ = ["PieceCodes", "spellings"]

_FEWEST = 3  # pieces that must share a letter group
_PLACES = 4  # letters counted from the start, and from the end


def spellings(tokenizer: Tokenizer) -> list[str]:
    """The letters of every piece; a blank in front where a word begins."""
    return [tokenizer.decode([i]).replace("\ufffd", "") for i in range(tokenizer.get_vocab_size())]


def _parts(spelling: str) -> list[str]:
    word = spelling.strip()
    marked = spelling if spelling.startswith(" ") else f"-{spelling}"
    groups = [marked[i : i + n] for n in (1, 2, 3) for i in range(len(marked) - n + 1)]
    from_start = [f"{letter}>{i}" for i, letter in enumerate(word[:_PLACES])]
    from_end = [f"{letter}<{i}" for i, letter in enumerate(word[::-1][:_PLACES])]
    return groups + from_start + from_end


class PieceCodes(torch.nn.Module):
    """Trained vectors of letter groups, and of each piece what the groups do not explain.

    Args:
        pieces: their spellings.
        size: of a vector.
    """

    def __init__(self, pieces: list[str], size: int) -> None:
        super().__init__()
        parts = [_parts(piece) for piece in pieces]
        spread = Counter(part for own in parts for part in set(own))
        kept = {part: i for i, part in enumerate(sorted(part for part, n in spread.items() if n >= _FEWEST))}
        rows = [[kept[part] for part in own if part in kept] for own in parts]
        ends = torch.tensor([len(row) for row in rows]).cumsum(0)
        self.members: torch.Tensor
        self.starts: torch.Tensor
        self.register_buffer("members", torch.tensor([part for row in rows for part in row]), persistent=False)
        self.register_buffer("starts", torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]]), persistent=False)
        self.groups = torch.nn.Parameter(torch.randn(len(kept), size) * size**-0.5)
        self.own = torch.nn.Parameter(torch.zeros(len(pieces), size))

    def forward(self) -> torch.Tensor:
        """(pieces, size), of length 1."""
        return normalize(embedding_bag(self.members, self.groups, self.starts, mode="mean") * 3 + self.own, dim=1)
