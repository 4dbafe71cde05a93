"""The language model of Nemotron 3 and 3.5: Ministral 3 with attention in both directions, over packed sequences."""

from __future__ import annotations

import torch
from torch import nn

from nemotron_rag.models._mistral.config import TextConfig
from nemotron_rag.models._mistral.layers import Attention, GatedMLP, Positions
from nemotron_rag.models._mistral.rope import Rope
from nemotron_rag.runtime.attention import Packing

__all__ = ["BidirectionalMinistral"]


class _Layer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = Attention(
            config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
        )
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, act=config.hidden_act)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden: torch.Tensor, positions: Positions, packing: Packing) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), positions, packing)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))  # type: ignore[no-any-return]


class BidirectionalMinistral(nn.Module):
    """Ministral 3 with attention in both directions.

    Positions start at 0 in each sequence. (The reference counts from the padding of a batch, where padding is on the
    left: there the result of a long text depends on the texts beside it.)

    Args:
        config: of the network.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._rope: Rope = config.rope
        with torch.device("cpu"):  # computed, not loaded: must not be on the meta device
            self.register_buffer("frequencies", config.rope.frequencies(), persistent=False)

    def forward(self, embeddings: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Run the layers.

        Args:
            embeddings: (tokens, hidden) of all sequences.
            packing: of the batch.

        Returns:
            (tokens, hidden), after the final norm.
        """
        hidden = embeddings
        positions = self._positions(packing, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, positions, packing)
        return self.norm(hidden)  # type: ignore[no-any-return]

    def _positions(self, packing: Packing, dtype: torch.dtype) -> Positions:
        places = packing.positions  # (tokens,)
        angles = torch.outer(places.float(), self.get_buffer("frequencies")).unsqueeze(1)  # (tokens, 1, head_dim / 2)
        rope = self._rope
        scale = None
        # Within the original length every factor is 1. The lengths are known without asking the device.
        if rope.query_beta and max(packing.lengths) > (rope.original_length or 0):
            scale = rope.query_scale(places).view(-1, 1, 1).to(dtype)
        cosines, sines = (turned * rope.attention_factor for turned in (angles.cos(), angles.sin()))
        return Positions(cosines.to(dtype), sines.to(dtype), scale)
