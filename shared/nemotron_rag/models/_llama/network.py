"""The network of all Llama-Nemotron VL models: SigLIP tower, pixel shuffle, projector, bidirectional Llama.

The names of the modules are the published weight names.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from nemotron_rag.models._base.weights import own_name
from nemotron_rag.models._llama.config import VLConfig
from nemotron_rag.models._llama.layers import BidirectionalLlama
from nemotron_rag.models._llama.tower import VisionTower
from nemotron_rag.runtime.attention import Packing
from nemotron_rag.runtime.checkpoint import load_weights

__all__ = ["LlamaNemotronVL", "load_vl_stack", "pixel_shuffle"]


class LlamaNemotronVL(nn.Module):
    """Tower, projector and Llama."""

    def __init__(self, config: VLConfig) -> None:
        super().__init__()
        self.config = config
        joined = 4 * config.vision.hidden_size
        hidden = config.llm.hidden_size
        self.vision_model = VisionTower(config)
        self.mlp1 = nn.Sequential(nn.LayerNorm(joined), nn.Linear(joined, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.language_model = BidirectionalLlama(config.llm)

    def encode_tiles(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn tiles into image tokens; they do not depend on any query.

        Args:
            pixels: (tiles, 3, side, side), normalised.

        Returns:
            (tiles, tokens_per_tile, hidden).
        """
        patches = self.vision_model(
            pixels.to(self.vision_model.post_layernorm.weight.dtype)
        )  # (tiles, patches, vision_hidden)
        return self.mlp1(pixel_shuffle(patches))  # type: ignore[no-any-return]  # (tiles, tokens, hidden)

    def forward(
        self, input_ids: torch.Tensor, packing: Packing, image_tokens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run packed sequences through the Llama.

        Args:
            input_ids: (tokens,) of all sequences.
            packing: of the batch.
            image_tokens: (image tokens, hidden), in the order of the ``<IMG_CONTEXT>`` ids that they replace.

        Returns:
            (tokens, hidden), after the final norm.
        """
        embeddings = self.language_model.embed_tokens(input_ids)  # (tokens, hidden)
        if image_tokens is not None:
            places = (input_ids == self.config.image_context_id).unsqueeze(-1)  # (tokens, 1)
            embeddings = embeddings.masked_scatter(places, image_tokens.to(embeddings.dtype))
        return self.language_model(embeddings, packing)  # type: ignore[no-any-return]


def pixel_shuffle(patches: torch.Tensor) -> torch.Tensor:
    """Join every 2x2 square of patches into one token, row by row (the published "v2" order).

    Args:
        patches: (tiles, side * side, channels).

    Returns:
        (tiles, side * side / 4, 4 * channels).
    """
    tiles, count, channels = patches.shape
    half = round(count**0.5) // 2
    squares = patches.view(tiles, half, 2, half, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return squares.reshape(tiles, half * half, 4 * channels)


def load_vl_stack(folder: Path, config: VLConfig, *, device: torch.device, dtype: torch.dtype) -> LlamaNemotronVL:
    """Build the network and load the weights of a checkpoint of any VL family."""
    with torch.device("meta"):
        stack = LlamaNemotronVL(config)
    load_weights(stack, folder, rename=rename_weight, device=device, dtype=dtype)
    stack.language_model.rotary_emb.to(device)
    stack.vision_model.fuse()
    return stack


def rename_weight(name: str) -> str | None:
    """Map a published weight name to this module's; None for weights that are never used.

    Rerankers prefix everything with ``model.``; files written by transformers 4 nest the tower twice.
    """
    own = own_name(name)
    own = own and own.replace("vision_model.vision_model.", "vision_model.")
    return None if own is None or own.startswith(("vision_model.head.", "score.")) else own
