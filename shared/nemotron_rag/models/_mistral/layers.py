"""The layer that tower and language model are made of: attention over packed sequences and a gated MLP.

The names of the modules are the published ones of the language model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN

from nemotron_rag.models._mistral.rope import rotate
from nemotron_rag.runtime.attention import Packing, attend

__all__ = ["Attention", "GatedMLP", "Positions"]


class Positions(NamedTuple):
    """What attention needs to know of the positions of a batch.

    Args:
        cosines: (tokens, 1, head_dim / 2).
        sines: like `cosines`.
        query_scale: (tokens, 1, 1) factor on the queries, or None for 1.
    """

    cosines: torch.Tensor
    sines: torch.Tensor
    query_scale: torch.Tensor | None = None


class Attention(nn.Module):
    """Attention of each token to all tokens of its own sequence.

    Args:
        hidden: width of the input.
        heads: of the queries.
        kv_heads: of keys and values; divides `heads`.
        head_dim: width of a head.
    """

    def __init__(self, hidden: int, *, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(hidden, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, hidden, bias=False)
        self._head_dim = head_dim

    def forward(self, hidden: torch.Tensor, positions: Positions, packing: Packing) -> torch.Tensor:
        """From (tokens, hidden) to (tokens, hidden)."""
        query, key, value = (
            product(hidden).unflatten(-1, (-1, self._head_dim)) for product in (self.q_proj, self.k_proj, self.v_proj)
        )  # (tokens, heads, head_dim)
        query, key = (rotate(part, positions.cosines, positions.sines) for part in (query, key))
        if positions.query_scale is not None:
            query = query * positions.query_scale
        attended = attend(query, key, value, packing, scaling=self._head_dim**-0.5)
        return self.o_proj(attended.flatten(1))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """A gated MLP without biases.

    Args:
        hidden: width of input and output.
        inner: width between.
        act: name of the gate's activation.
    """

    def __init__(self, hidden: int, inner: int, *, act: str) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        self._act = ACT2FN[act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """From (tokens, hidden) to (tokens, hidden)."""
        gated = self._act(self.gate_proj(hidden)).mul_(self.up_proj(hidden))  # (tokens, inner)
        return self.down_proj(gated)  # type: ignore[no-any-return]
