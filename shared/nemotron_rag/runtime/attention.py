"""Attention over packed sequences: many inputs in one row of tokens, none sees another, and no token is padding.

It knows no model: `transformers` layers whose config asks for one of the two names below call it with ``lengths=``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

__all__ = ["PACKED_ATTENTION", "PACKED_CAUSAL_ATTENTION", "packed_attention"]

PACKED_ATTENTION = "nemotron_rag_packed"
PACKED_CAUSAL_ATTENTION = "nemotron_rag_packed_causal"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    lengths: Sequence[int],
    causal: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of every sequence over itself; the signature is that of `transformers` attentions.

    Args:
        module: the attention layer; not used.
        query: (1, heads, tokens, head_dim).
        key: (1, kv_heads, tokens, head_dim), kv_heads divides heads.
        value: like key.
        attention_mask: not used; there is nothing to mask.
        scaling: factor on the dot products.
        lengths: tokens of each sequence, in order; they sum to tokens.
        causal: whether a token sees only those before it, and itself.

    Returns:
        (1, tokens, heads, head_dim), and None in place of the attention weights.
    """
    parts = zip(*(tensor.split(list(lengths), dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [
        scaled_dot_product_attention(q, k, v, scale=scaling, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
        for q, k, v in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None  # (1, tokens, heads, head_dim)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionInterface.register(PACKED_CAUSAL_ATTENTION, partial(packed_attention, causal=True))
