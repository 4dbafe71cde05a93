"""Attention over packed sequences: many inputs in one row of tokens, without padding, each attending to itself only.

Layers of ours call `attend`; those of `transformers` whose config names one of the two implementations below reach it
with ``packing=``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None  # type: ignore[assignment]

__all__ = ["PACKED_ATTENTION", "PACKED_CAUSAL_ATTENTION", "Packing", "attend", "has_kernel", "pack", "packed_attention"]

PACKED_ATTENTION = "nemotron_rag_packed"
PACKED_CAUSAL_ATTENTION = "nemotron_rag_packed_causal"

# The first release with variable-length attention chooses the scale itself. The second takes fewer key heads than query
# heads unasked, those after it take them if told so.
_VARLEN_OPTIONS = frozenset(inspect.signature(varlen_attn).parameters) if varlen_attn is not None else frozenset()
_HAS_KERNEL = {"scale", "window_size"} <= _VARLEN_OPTIONS
_FEWER_KEY_HEADS: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in _VARLEN_OPTIONS else {}
_MAX_HEAD_DIM = 256  # of FlashAttention


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each sequence of a packed batch starts and ends; built once for a batch, used by every layer.

    Args:
        lengths: tokens of each sequence, in order.
        ends: (sequences + 1,) int32 on the device: 0, then where each sequence ends.
    """

    lengths: tuple[int, ...]
    ends: torch.Tensor

    @property
    def positions(self) -> torch.Tensor:
        """(tokens,) int64 on the device: the position of each token in its own sequence, from 0."""
        starts = self.ends[:-1].repeat_interleave(self.ends.diff(), output_size=sum(self.lengths))  # (tokens,)
        return torch.arange(len(starts), device=starts.device) - starts


def pack(lengths: Sequence[int], device: torch.device) -> Packing:
    """Pack sequences of these lengths one after the other.

    Args:
        lengths: at least one, each at least 1.
        device: where the attention will run.
    """
    ends = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    return Packing(tuple(lengths), ends)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    *,
    scaling: float,
    causal: bool = False,
) -> torch.Tensor:
    """Attention of every sequence over itself.

    Several sequences of one length, as pages of one size have, are a batch without padding for
    `scaled_dot_product_attention`. Others are one call of torch's variable-length FlashAttention where the device and
    number format have it, else one call of `scaled_dot_product_attention` for each sequence.

    Args:
        query: (tokens, heads, head_dim).
        key: (tokens, kv_heads, head_dim), kv_heads divides heads.
        value: like key.
        packing: of the batch.
        scaling: factor on the dot products.
        causal: whether a token attends only to itself and the tokens before it.

    Returns:
        (tokens, heads, head_dim).
    """
    if _is_even(packing):
        way = _together
    elif has_kernel(query.device, query.dtype, head_dim=query.shape[-1]):
        way = _in_one_call
    else:
        way = _one_by_one
    return way(query, key, value, packing, scaling, causal)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    packing: Packing,
    causal: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`attend` with the signature of `transformers` attentions.

    Args:
        module: the attention layer; not used.
        query: (1, heads, tokens, head_dim).
        key: (1, kv_heads, tokens, head_dim), kv_heads divides heads.
        value: like key.
        attention_mask: not used; there is nothing to mask.
        scaling: factor on the dot products.
        packing: of the batch.
        causal: whether a token attends only to itself and the tokens before it.

    Returns:
        (1, tokens, heads, head_dim), and None in place of the attention weights.
    """
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # (tokens, heads, head_dim)
    return attend(q, k, v, packing, scaling=scaling, causal=causal).unsqueeze(0), None


def has_kernel(device: torch.device, dtype: torch.dtype, *, head_dim: int) -> bool:
    """Whether torch's variable-length FlashAttention, which reads the lengths on the device, can be used.

    Args:
        device: where the attention runs.
        dtype: of queries, keys and values.
        head_dim: width of a head.
    """
    return (
        _HAS_KERNEL
        and device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and head_dim % 8 == 0
        and head_dim <= _MAX_HEAD_DIM
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and torch.backends.cuda.is_flash_attention_available()
    )


def _is_even(packing: Packing) -> bool:
    return len(packing.lengths) > 1 and len(set(packing.lengths)) == 1


def _together(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scaling: float, causal: bool
) -> torch.Tensor:
    count = len(packing.lengths)
    q, k, v = (tensor.unflatten(0, (count, -1)).transpose(1, 2) for tensor in (query, key, value))
    output = _scaled_dot_product(q, k, v, scaling, causal)  # (sequences, heads, length, head_dim)
    return output.transpose(1, 2).flatten(0, 1)


def _in_one_call(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scaling: float, causal: bool
) -> torch.Tensor:
    longest = max(packing.lengths)
    window = (-1, 0) if causal else (-1, -1)
    output: Any = varlen_attn(
        *(query, key, value, packing.ends, packing.ends, longest, longest),
        scale=scaling,
        window_size=window,
        **_FEWER_KEY_HEADS,
    )
    return output  # type: ignore[no-any-return]


def _one_by_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scaling: float, causal: bool
) -> torch.Tensor:
    heads = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))  # (1, heads, tokens, head_dim)
    parts = zip(*(tensor.split(packing.lengths, dim=2) for tensor in heads), strict=True)
    outputs = [_scaled_dot_product(q, k, v, scaling, causal) for q, k, v in parts]
    return torch.cat(outputs, dim=2).squeeze(0).transpose(0, 1)


def _scaled_dot_product(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, causal: bool
) -> torch.Tensor:
    fewer = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=causal, enable_gqa=fewer)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionInterface.register(PACKED_CAUSAL_ATTENTION, partial(packed_attention, causal=True))
