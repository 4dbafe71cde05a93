"""SigLIP's vision transformer for tiles, without its pooling head; module names are the published weight names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from transformers import SiglipVisionConfig
from transformers.activations import ACT2FN

from nemotron_rag.models._llama.config import VLConfig
from nemotron_rag.runtime.budget import layer_bytes

__all__ = ["VisionTower", "tower_patch_bytes"]

_TANH_GELU = ("gelu_pytorch_tanh", "gelu_new")
# A matrix product with bias and tanh-GELU in one kernel. On CUDA only: elsewhere it computes another GELU.
_LINEAR_GELU: Callable[..., Any] | None = getattr(torch, "_addmm_activation", None)


class VisionTower(nn.Module):
    """SigLIP's vision transformer without its pooling head, which these models do not use."""

    def __init__(self, config: VLConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config.vision)
        self.post_layernorm = nn.LayerNorm(config.vision.hidden_size, eps=config.vision.layer_norm_eps)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """From (tiles, 3, side, side) to (tiles, patches, hidden)."""
        return self.post_layernorm(self.encoder(self.embeddings(pixels)))  # type: ignore[no-any-return]

    def fuse(self) -> None:
        """Join the weights of queries, keys and values, which one product computes faster; once, after loading."""
        for module in self.modules():
            if isinstance(module, _Attention):
                module.fuse()


class _Embeddings(nn.Module):
    """Patch and position embeddings of tiles."""

    def __init__(self, config: VLConfig) -> None:
        super().__init__()
        patch, hidden = config.patch_size, config.vision.hidden_size
        self.patch_embedding = nn.Conv2d(config.vision.num_channels, hidden, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Embedding((config.tile_size // patch) ** 2, hidden)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (tiles, patches, hidden)
        return patches + self.position_embedding.weight  # type: ignore[no-any-return]


class _Encoder(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class _Layer(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = _Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _MLP(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp(self.layer_norm2(hidden))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    """Every patch of a tile attends to all its patches."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self._heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self._joined: nn.Linear | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in self._products(hidden))
        attended = scaled_dot_product_attention(q, k, v)  # (tiles, heads, patches, head_dim)
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def fuse(self) -> None:
        parts = (self.q_proj, self.k_proj, self.v_proj)
        joined = nn.Linear(self.q_proj.in_features, 3 * self.q_proj.out_features, device="meta")
        joined.weight, joined.bias = (
            nn.Parameter(torch.cat([getattr(part, name) for part in parts]), requires_grad=False)
            for name in ("weight", "bias")
        )
        del self.q_proj, self.k_proj, self.v_proj
        self._joined = joined

    def _products(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values: (tiles, patches, hidden) each."""
        if self._joined is None:
            return self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)
        return self._joined(hidden).chunk(3, dim=-1)  # type: ignore[no-any-return]


class _MLP(nn.Module):
    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self._is_tanh = config.hidden_act in _TANH_GELU
        self._activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self._is_tanh:
            return self.fc2(self._activation(self.fc1(hidden)))  # type: ignore[no-any-return]
        return self.fc2(_linear_gelu(hidden, self.fc1))  # type: ignore[no-any-return]


def _linear_gelu(hidden: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """Tanh-approximated GELU of a linear layer: (tiles, patches, in) to (tiles, patches, out)."""
    if _LINEAR_GELU is None or not hidden.is_cuda or torch.compiler.is_compiling():
        return gelu(linear(hidden, layer.weight, layer.bias), approximate="tanh")
    wide: torch.Tensor = _LINEAR_GELU(
        layer.bias, hidden.flatten(0, 1), layer.weight.t(), use_gelu=True
    )  # (tiles * patches, out)
    return wide.view(*hidden.shape[:2], -1)  # (tiles, patches, out)


def tower_patch_bytes(vision: SiglipVisionConfig, dtype: torch.dtype) -> int:
    """Return the bytes of activations for each patch; see `layer_bytes`."""
    width = vision.hidden_size
    return layer_bytes(hidden=width, mlp=vision.intermediate_size, queries=width, keys=width, dtype=dtype)
