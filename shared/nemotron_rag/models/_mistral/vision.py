"""The Pixtral tower and its projector: images of any size, their patches packed one after the other.

The names of the modules are the published weight names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from nemotron_rag.models._mistral.config import TextConfig, VisionConfig
from nemotron_rag.models._mistral.layers import Attention, GatedMLP, Positions
from nemotron_rag.runtime.attention import Packing, pack

__all__ = ["Grid", "PixtralTower", "Projector"]

Grid = tuple[int, int]
"""Rows and columns of an image's patches."""

_NORM_EPS = 1e-5  # of the published class; no configuration file names it


class _Layer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        heads = config.num_attention_heads
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=_NORM_EPS)
        self.attention = Attention(config.hidden_size, heads=heads, kv_heads=heads, head_dim=config.head_dim)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, eps=_NORM_EPS)
        self.feed_forward = GatedMLP(config.hidden_size, config.intermediate_size, act=config.hidden_act)

    def forward(self, hidden: torch.Tensor, positions: Positions, packing: Packing) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), positions, packing)
        return hidden + self.feed_forward(self.ffn_norm(hidden))  # type: ignore[no-any-return]


class _Transformer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])


class PixtralTower(nn.Module):
    """The vision tower; patches of one image attend to each other.

    Patches of one image token stand side by side, so that merging them is a reshape: attention does not depend on the
    order, and rotary positions go with their patches.

    Args:
        config: of the network.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        patch, hidden = config.patch_size, config.hidden_size
        self.patch_conv = nn.Conv2d(3, hidden, kernel_size=patch, stride=patch, bias=False)
        self.ln_pre = nn.RMSNorm(hidden, eps=_NORM_EPS)
        self.transformer = _Transformer(config)
        self._config = config

    def forward(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Run the layers.

        Args:
            patches: (patches, values) of all images, those of one image token side by side.
            grids: of each image.

        Returns:
            (patches, hidden), in the same order.
        """
        kernel = self.patch_conv.weight.flatten(1)  # a whole patch: the convolution is a matrix product
        hidden = self.ln_pre(linear(patches.to(kernel.dtype), kernel))  # (patches, hidden)
        packing = pack([rows * columns for rows, columns in grids], hidden.device)
        positions = self._positions(grids, hidden)
        for layer in self.transformer.layers:
            hidden = layer(hidden, positions, packing)
        return hidden  # type: ignore[no-any-return]

    def _positions(self, grids: Sequence[Grid], hidden: torch.Tensor) -> Positions:
        """Every other frequency turns with the row, the ones between with the column."""
        width = self._config.head_dim
        powers = self._config.rope_theta ** (torch.arange(0, width, 2, device=hidden.device).float() / width)
        frequencies = 1.0 / powers  # (head_dim / 2,)
        rows, columns = torch.cat([self._places(grid) for grid in grids]).to(hidden.device).float().unbind(1)
        turned = torch.cat((torch.outer(rows, frequencies[::2]), torch.outer(columns, frequencies[1::2])), dim=1)
        angles = turned.unsqueeze(1)  # (patches, 1, head_dim / 2)
        return Positions(angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype))

    def _places(self, grid: Grid) -> torch.Tensor:
        """Row and column of each patch: (patches, 2)."""
        merge, (rows, columns) = self._config.merge_size, grid
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        squares = places.view(rows // merge, merge, columns // merge, merge, 2)
        return squares.transpose(1, 2).reshape(-1, 2)


class _PatchMerger(nn.Module):
    def __init__(self, hidden: int, merge: int) -> None:
        super().__init__()
        self.merging_layer = nn.Linear(hidden * merge**2, hidden, bias=False)
        self._patches = merge**2

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """From (patches, hidden) to (image tokens, hidden); the published order has all patches of a channel."""
        squares = patches.view(-1, self._patches, patches.shape[1])
        return self.merging_layer(squares.transpose(1, 2).flatten(1))  # type: ignore[no-any-return]


class Projector(nn.Module):
    """Merges patches into image tokens of the language model's width.

    Args:
        vision: of the tower.
        text: of the language model.
    """

    def __init__(self, vision: VisionConfig, text: TextConfig) -> None:
        super().__init__()
        bias = vision.projector_bias
        self.norm = nn.RMSNorm(vision.hidden_size, eps=text.rms_norm_eps)
        self.patch_merger = _PatchMerger(vision.hidden_size, vision.merge_size)
        self.linear_1 = nn.Linear(vision.hidden_size, text.hidden_size, bias=bias)
        self.linear_2 = nn.Linear(text.hidden_size, text.hidden_size, bias=bias)
        self._act = ACT2FN[vision.projector_act]

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """From (patches, vision_hidden) to (image tokens, hidden)."""
        merged = self.patch_merger(self.norm(patches))  # (image tokens, vision_hidden)
        return self.linear_2(self._act(self.linear_1(merged)))  # type: ignore[no-any-return]
