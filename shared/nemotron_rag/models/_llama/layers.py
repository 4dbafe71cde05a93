"""The bidirectional Llama of NVIDIA's models over packed sequences; module names are the published weight names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nemotron_rag.models._base.packed import head_dim
from nemotron_rag.runtime.attention import Packing, attend

__all__ = ["BidirectionalLlama", "llama_config", "plain"]

Rotary: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of the rotary angles, (tokens, 1, head_dim / 2) each."""


class BidirectionalLlama(nn.Module):
    """Llama with attention in both directions.

    Sequences are packed one after the other; positions start at 0 in each. (The reference pads on the left and counts
    from the padding; rotary positions are relative, so that the result is the same.)
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        with torch.device("cpu"):  # computed, not loaded: must not be on the meta device
            self.rotary_emb = LlamaRotaryEmbedding(config)

    def forward(self, embeddings: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Run the layers.

        Args:
            embeddings: (tokens, hidden) of all sequences.
            packing: of the batch.

        Returns:
            (tokens, hidden), after the final norm.
        """
        hidden, rotary = embeddings, self._rotary(embeddings, packing)
        for layer in self.layers:
            hidden = layer(hidden, rotary, packing)
        return self.norm(hidden)  # type: ignore[no-any-return]  # (tokens, hidden)

    def _rotary(self, embeddings: torch.Tensor, packing: Packing) -> Rotary:
        # Both halves of a head turn by the same angles, which `transformers` returns twice.
        angles = self.rotary_emb(embeddings, packing.positions.unsqueeze(0))  # (1, tokens, head_dim), twice
        cos, sin = (part.squeeze(0).chunk(2, dim=-1)[0].unsqueeze(1) for part in angles)
        return cos.contiguous(), sin.contiguous()


class _Layer(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = _MLP(config)

    def forward(self, hidden: torch.Tensor, rotary: Rotary, packing: Packing) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, packing)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        hidden, bias, self.head_dim = config.hidden_size, config.attention_bias, head_dim(config)
        self._is_causal = getattr(config, "is_causal", False) is True  # of no published checkpoint
        queries, keys = (
            (heads or 0) * self.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = nn.Linear(hidden, queries, bias=bias)
        self.k_proj = nn.Linear(hidden, keys, bias=bias)
        self.v_proj = nn.Linear(hidden, keys, bias=bias)
        self.o_proj = nn.Linear(queries, hidden, bias=bias)

    def forward(self, hidden: torch.Tensor, rotary: Rotary, packing: Packing) -> torch.Tensor:
        query, key, value = (
            product(hidden).unflatten(-1, (-1, self.head_dim)) for product in (self.q_proj, self.k_proj, self.v_proj)
        )  # (tokens, heads, head_dim)
        query, key = _rotate(query, rotary), _rotate(key, rotary)
        attended = attend(query, key, value, packing, scaling=self.head_dim**-0.5, causal=self._is_causal)
        return self.o_proj(attended.flatten(1))  # type: ignore[no-any-return]  # (tokens, hidden)


class _MLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        hidden, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, wide, bias=config.mlp_bias)
        self.up_proj = nn.Linear(hidden, wide, bias=config.mlp_bias)
        self.down_proj = nn.Linear(wide, hidden, bias=config.mlp_bias)
        self._activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gated = self._activation(self.gate_proj(hidden)).mul_(self.up_proj(hidden))  # (tokens, wide)
        return self.down_proj(gated)  # type: ignore[no-any-return]


def _rotate(heads: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Turn each pair of numbers, one from either half of a head, by the angle of its position.

    Args:
        heads: (tokens, heads, head_dim).
        rotary: of the tokens.
    """
    cos, sin = rotary
    first, second = heads.chunk(2, dim=-1)  # (tokens, heads, head_dim / 2)
    turned = torch.empty_like(heads)
    turned_first, turned_second = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=turned_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=turned_second).addcmul_(first, sin)
    return turned


def llama_config(fields: Mapping[str, Any]) -> LlamaConfig:
    """Build the configuration of the layers from a checkpoint's JSON, as written by any `transformers` release."""
    return LlamaConfig(**plain(_classic_rope(fields)))


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Drop fields that say which class or release wrote a config."""
    dropped = {"architectures", "auto_map", "model_type", "transformers_version", "torch_dtype", "dtype"}
    return {key: value for key, value in fields.items() if key not in dropped and not key.startswith("_")}


def _classic_rope(llm: Mapping[str, Any]) -> dict[str, Any]:
    """Convert rotary settings to `rope_theta` and `rope_scaling`, which every `transformers` release reads."""
    fields = dict(llm)
    parameters = fields.pop("rope_parameters", None)
    if parameters:
        scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
        fields["rope_theta"] = parameters.get("rope_theta", fields.get("rope_theta"))
        fields["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
    return {key: value for key, value in fields.items() if value is not None or key == "rope_scaling"}
