"""The vision towers of Qwen2-VL and Qwen3-VL: images of any size, packed one after the other.

Layer classes come from `transformers`; the names of the modules are the published weight names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate, linear
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger, Qwen2VLVisionBlock
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionBlock, Qwen3VLVisionPatchMerger

from nemotron_rag.models._qwen.config import QwenConfig

__all__ = ["Grid", "Qwen2Tower", "Qwen3Tower", "rotary_frequencies"]

Grid = tuple[int, int]
"""Rows and columns of an image's patches."""

_ROPE_THETA = 10_000.0  # of the towers; no configuration file names it


def rotary_frequencies(width: int, *, base: float, device: torch.device) -> torch.Tensor:
    """Return the rotary frequencies of `width` channels, radians per position: (width / 2,) float32."""
    return 1.0 / base ** (torch.arange(0, width, 2, device=device).float() / width)


class _PatchEmbed(nn.Module):
    """A convolution whose kernel is a whole patch: a matrix product over flat patches."""

    def __init__(self, config: QwenConfig, *, hidden: int, bias: bool) -> None:
        super().__init__()
        pixels = config.pixels
        kernel = (pixels.temporal_patch_size, pixels.patch_size, pixels.patch_size)
        self.proj = nn.Conv3d(3, hidden, kernel_size=kernel, stride=kernel, bias=bias)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """From (patches, values) to (patches, hidden)."""
        return linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


class _Tower(nn.Module):
    """What both generations share: rotary positions of rows and columns, attention within each image."""

    blocks: nn.ModuleList
    merge: int
    head_dim: int

    def _blocks_inputs(self, grids: Sequence[Grid], device: torch.device) -> dict[str, object]:
        """Return the arguments that all blocks share."""
        ends = torch.tensor([0, *(rows * columns for rows, columns in grids)]).cumsum(0)  # on the CPU: read as a list
        return {"cu_seqlens": ends.to(torch.int32), "position_embeddings": self._rotary(grids, device)}

    def _rotary(self, grids: Sequence[Grid], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of all patches: (patches, head_dim) float32 each."""
        frequencies = rotary_frequencies(self.head_dim // 2, base=_ROPE_THETA, device=device)  # (head_dim / 4,)
        places = torch.cat([self._places(grid) for grid in grids]).to(device)  # (patches, 2)
        angles = (places.unsqueeze(-1) * frequencies).flatten(1).repeat(1, 2)  # (patches, head_dim)
        return angles.cos(), angles.sin()

    def _places(self, grid: Grid) -> torch.Tensor:
        """Return row and column of each patch: (patches, 2), patches of one image token side by side."""
        rows, columns = grid
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(rows, columns, 2)
        return self._grouped(places)

    def _grouped(self, values: torch.Tensor) -> torch.Tensor:
        """Reorder (rows, columns, values) to (patches, values), patches of one image token side by side."""
        rows, columns, count = values.shape
        squares = values.view(rows // self.merge, self.merge, columns // self.merge, self.merge, count)
        return squares.transpose(1, 2).reshape(-1, count)


class Qwen2Tower(_Tower):
    """The vision tower of Qwen2-VL."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        vision = config.vision
        self.merge = vision.spatial_merge_size
        self.head_dim = vision.embed_dim // vision.num_heads
        self.patch_embed = _PatchEmbed(config, hidden=vision.embed_dim, bias=False)
        self.blocks = nn.ModuleList([Qwen2VLVisionBlock(vision, "sdpa") for _ in range(vision.depth)])
        self.merger = PatchMerger(vision.hidden_size, vision.embed_dim, vision.spatial_merge_size)

    def forward(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Turn images into image tokens.

        Args:
            patches: (patches, values) of all images.
            grids: of each image.

        Returns:
            (image tokens, 1, hidden).
        """
        hidden = self.patch_embed(patches)  # (patches, vision_hidden)
        shared = self._blocks_inputs(grids, hidden.device)
        for block in self.blocks:
            hidden = block(hidden, **shared)
        return self.merger(hidden).unsqueeze(1)  # type: ignore[no-any-return]


class Qwen3Tower(_Tower):
    """The vision tower of Qwen3-VL: learned positions, and features of some middle layers besides the last."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        vision = config.vision
        self.merge = vision.spatial_merge_size
        self.head_dim = vision.hidden_size // vision.num_heads
        self.taps = {layer: i for i, layer in enumerate(vision.deepstack_visual_indexes)}
        self.patch_embed = _PatchEmbed(config, hidden=vision.hidden_size, bias=True)
        self.pos_embed = nn.Embedding(vision.num_position_embeddings, vision.hidden_size)
        self.blocks = nn.ModuleList([Qwen3VLVisionBlock(vision, "sdpa") for _ in range(vision.depth)])
        self.merger = Qwen3VLVisionPatchMerger(vision, use_postshuffle_norm=False)
        self.deepstack_merger_list = nn.ModuleList(
            [Qwen3VLVisionPatchMerger(vision, use_postshuffle_norm=True) for _ in self.taps]
        )

    def forward(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Turn images into image tokens.

        Args:
            patches: (patches, values) of all images.
            grids: of each image.

        Returns:
            (image tokens, 1 + taps, hidden): the last layer's features, then those that are added to the
            outputs of the language model's first layers (DeepStack).
        """
        hidden = self.patch_embed(patches)  # (patches, vision_hidden)
        hidden = hidden + torch.cat([self._positions(grid) for grid in grids]).to(hidden.dtype)
        shared = self._blocks_inputs(grids, hidden.device)
        taps: list[torch.Tensor] = []
        for layer, block in enumerate(self.blocks):
            hidden = block(hidden, **shared)
            if layer in self.taps:
                taps.append(self.deepstack_merger_list[self.taps[layer]](hidden))  # (image tokens, hidden)
        return torch.stack([self.merger(hidden), *taps], dim=1)

    def _positions(self, grid: Grid) -> torch.Tensor:
        """Interpolate the learned positions to an image's grid: (patches, vision_hidden) float32."""
        side = round(self.pos_embed.num_embeddings**0.5)
        square = self.pos_embed.weight.float().T.view(1, -1, side, side)
        stretched = interpolate(square, size=grid, mode="bilinear", align_corners=True)  # (1, hidden, rows, columns)
        return self._grouped(stretched[0].permute(1, 2, 0))
