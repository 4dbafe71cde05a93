"""Rotary positions of Ministral 3: YaRN at every length, and queries that grow with their position.

As `_compute_yarn_parameters` and `get_llama_4_attn_scale` of `transformers`, in the same order of operations: one
rounding more in a frequency shows after thousands of positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nemotron_rag.errors import CheckpointError

__all__ = ["Rope", "read_rope", "rotate"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Settings of the rotary positions.

    Args:
        head_dim: width of an attention head.
        theta: base of the frequencies.
        factor: by which YaRN stretches the slow frequencies; None without YaRN.
        original_length: positions of the training before it was extended; None if it plays no part.
        beta_fast: rotations within `original_length` above which a frequency is left as it is.
        beta_slow: rotations within `original_length` below which a frequency is fully stretched.
        truncate: whether the bounds between both are rounded to whole frequencies.
        attention_factor: on cosines and sines.
        query_beta: growth of queries by the logarithm of their position; 0 for none.
    """

    head_dim: int
    theta: float
    factor: float | None = None
    original_length: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    query_beta: float = 0.0

    def frequencies(self) -> torch.Tensor:
        """Radians per position: (head_dim / 2,) float32 on the CPU."""
        powers = self.theta ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        if self.factor is None:
            return 1.0 / powers
        kept = 1 - self._ramp()
        return 1.0 / (self.factor * powers) * (1 - kept) + 1.0 / powers * kept

    def query_scale(self, positions: torch.Tensor) -> torch.Tensor:
        """Factor on the query of each position: (tokens,) float32; 1 below `original_length`."""
        assert self.original_length is not None  # as `read_rope` holds where `query_beta` is given
        return 1 + self.query_beta * torch.log(1 + torch.floor(positions / self.original_length))

    def _ramp(self) -> torch.Tensor:
        """How far each frequency is stretched, from 0 to 1."""
        low, high = (self._dimension(rotations) for rotations in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.head_dim - 1)
        high += 0.001 if low == high else 0
        return ((torch.arange(self.head_dim // 2).float() - low) / (high - low)).clamp(0, 1)

    def _dimension(self, rotations: float) -> float:
        """The place of the frequency that makes so many rotations within `original_length`."""
        assert self.original_length is not None
        turns = math.log(self.original_length / (rotations * 2 * math.pi))
        return (self.head_dim * turns) / (2 * math.log(self.theta))


def read_rope(text: Mapping[str, Any], *, head_dim: int) -> Rope:
    """Read the settings of a language model, as written by any `transformers` release.

    Args:
        text: its configuration, with ``rope_parameters``, or ``rope_theta`` and ``rope_scaling``.
        head_dim: width of its attention heads.

    Raises:
        CheckpointError: a value is not implemented.
        KeyError: a value is missing.
    """
    given: Mapping[str, Any] = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ("default", "yarn") or given.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"has rotary positions of type {kind!r}, only 'default' and 'yarn' over whole heads are implemented"
        )
    theta = float(given["rope_theta"] if "rope_theta" in given else text["rope_theta"])
    beta = float(given.get("llama_4_scaling_beta") or 0.0)
    original = int(given["original_max_position_embeddings"]) if beta or kind == "yarn" else None
    if kind == "default":
        return Rope(head_dim, theta, original_length=original, query_beta=beta)
    factor = float(given.get("factor") or text["max_position_embeddings"] / given["original_max_position_embeddings"])
    return Rope(
        head_dim,
        theta,
        factor=factor,
        original_length=original,
        beta_fast=float(given.get("beta_fast") or 32),
        beta_slow=float(given.get("beta_slow") or 1),
        truncate=bool(given.get("truncate", True)),
        attention_factor=_attention_factor(given, factor),
        query_beta=beta,
    )


def rotate(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turn each pair of numbers, one from either half of a head, by the angle of its position.

    Args:
        heads: (tokens, heads, head_dim).
        cosines: (tokens, 1, head_dim / 2).
        sines: like `cosines`.
    """
    first, second = heads.chunk(2, dim=-1)  # (tokens, heads, head_dim / 2)
    turned = torch.empty_like(heads)
    turned_first, turned_second = turned.chunk(2, dim=-1)
    torch.mul(first, cosines, out=turned_first).addcmul_(second, sines, value=-1)
    torch.mul(second, cosines, out=turned_second).addcmul_(first, sines)
    return turned


def _attention_factor(given: Mapping[str, Any], factor: float) -> float:
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    both = given.get("mscale"), given.get("mscale_all_dim")
    if all(both):
        above, below = (_magnitude(factor, float(scale)) for scale in both if scale)
        return above / below
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
