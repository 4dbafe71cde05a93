"""The bidirectional Llama of NVIDIA's models over packed sequences, with the layer classes of `transformers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from nemotron_rag.runtime.attention import PACKED_ATTENTION, Packing

__all__ = ["BidirectionalLlama", "llama_config", "plain"]


class BidirectionalLlama(nn.Module):
    """Llama with attention in both directions.

    Sequences are packed one after the other; positions start at 0 in each. (The reference pads on the left and counts
    from the padding; rotary positions are relative, so that the result is the same.)
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
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
        hidden = embeddings.unsqueeze(0)  # (1, tokens, hidden)
        rotary = self.rotary_emb(hidden, packing.positions.unsqueeze(0))
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary, packing=packing)
        return self.norm(hidden).squeeze(0)  # type: ignore[no-any-return]  # (tokens, hidden)


def llama_config(fields: Mapping[str, Any]) -> LlamaConfig:
    """Build the configuration of the layers from a checkpoint's JSON, as written by any `transformers` release."""
    config = LlamaConfig(**plain(_classic_rope(fields)))
    config._attn_implementation = PACKED_ATTENTION
    return config


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
