"""Pool the hidden states of packed sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import embedding_bag, normalize

from nemotron_rag.models._base.sentence import Pooling

__all__ = ["mean_pool", "pool", "token_vectors"]


def pool(hidden: torch.Tensor, lengths: Sequence[int], pooling: Pooling) -> torch.Tensor:
    """Pool each sequence: from (tokens, hidden) to (sequences, hidden) float32."""
    if pooling == "avg":
        return mean_pool(hidden, lengths)
    ends = torch.tensor(lengths).cumsum(0)  # (sequences,)
    places = ends - 1 if pooling == "last" else ends - torch.tensor(lengths)
    return hidden[places.to(hidden.device)].float()


def mean_pool(hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Average the tokens of each sequence in float32: from (tokens, hidden) to (sequences, hidden)."""
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0).to(hidden.device)  # (sequences,)
    tokens = torch.arange(len(hidden), device=hidden.device)
    return embedding_bag(tokens, hidden.float(), starts, mode="mean")  # one kernel, however many sequences there are


def token_vectors(hidden: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """Normalize each token's vector to length 1: (tokens, hidden) float32 for each sequence, on the CPU."""
    vectors = normalize(hidden.float(), dim=-1).cpu()
    # Copies: a view would keep the vectors of the whole batch alive, which other callers share.
    return [part.clone() for part in vectors.split(list(lengths))]
