"""For a dry run: what a GPU alone has, imitated on the CPU, so that the code around it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.functional import scaled_dot_product_attention

from nemotron_rag.models._llama import model as _vl_model
from nemotron_rag.models._llama import text_model as _text_model
from nemotron_rag.models._mistral import model as _mistral_model
from nemotron_rag.runtime import attention, graphs

__all__ = ["packed_kernel", "uncompiled"]


@contextmanager
def packed_kernel() -> Iterator[None]:
    """Variable-length attention, computed sequence by sequence; graphs that run everything again."""
    with ExitStack() as stack:
        for module in (attention, _vl_model, _text_model, _mistral_model):
            stack.enter_context(patch.object(module, "has_kernel", lambda *_, **__: True))
        stack.enter_context(patch.object(attention, "varlen_attn", _varlen_attn))
        stack.enter_context(patch.object(graphs, "_record", lambda run: run))
        stack.enter_context(patch.object(torch.cuda, "device", lambda device: nullcontext()))
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """torch.compile captures its graphs, and runs them as they are."""
    compile: Callable[..., Any] = torch.compile
    with patch.object(torch, "compile", partial(compile, backend="eager")):
        yield


def _varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    _: torch.Tensor,
    longest: int,
    __: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    rows = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))  # (heads, n, head_dim)
        causal = window_size == (-1, 0)
        rows.append(scaled_dot_product_attention(q, k, v, scale=scale, is_causal=causal, enable_gqa=enable_gqa))
    return torch.cat(rows, dim=1).transpose(0, 1)  # (tokens, heads, head_dim)
