"""The networks of the model cards: `transformers` over padded batches. They share no code with the package.

Their parameters have the published names, so that checkpoints can be written from them and read into them.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel

__all__ = ["TextNetwork", "VLNetwork", "load_published"]

_TRANSFORMERS_4 = transformers.__version__.startswith(
    "4."
)  # its Llama is causal without a mask, whatever is_causal says


class TextNetwork(nn.Module):
    """Llama with attention in both directions, and padding masked.

    Args:
        llm: its configuration.
    """

    def __init__(self, llm: LlamaConfig) -> None:
        super().__init__()
        llm = copy.deepcopy(llm)
        llm._attn_implementation = "sdpa"
        llm.use_cache = False
        llm.is_causal = False
        self.language_model = LlamaModel(llm)
        for layer in self.language_model.layers:
            layer.self_attn.is_causal = False  # type: ignore[union-attr]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Compute (sequences, length, hidden) from (sequences, length) ids and mask."""
        return self.run(self.language_model.embed_tokens(input_ids), attention_mask)

    def run(self, embeddings: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the layers on (sequences, length, hidden); the result is after the final norm."""
        seen = None  # without padding torch may choose its fastest attention
        if not attention_mask.all() or _TRANSFORMERS_4:
            length = attention_mask.shape[1]
            seen = attention_mask[:, None, None, :].bool().expand(-1, 1, length, -1)  # (sequences, 1, length, length)
        found = self.language_model(inputs_embeds=embeddings, attention_mask=seen)
        return found.last_hidden_state  # type: ignore[no-any-return]


class VLNetwork(TextNetwork):
    """SigLIP tower, pixel shuffle and projector in front of the Llama.

    Args:
        llm: configuration of the Llama.
        vision: configuration of the tower.
        context: id of ``<IMG_CONTEXT>``.
    """

    def __init__(self, llm: LlamaConfig, vision: SiglipVisionConfig, *, context: int) -> None:
        super().__init__(llm)
        vision = copy.deepcopy(vision)
        vision._attn_implementation = "sdpa"
        vision.vision_use_head = False  # the models do not use it
        joined, hidden = 4 * vision.hidden_size, llm.hidden_size
        tower = SiglipVisionModel(vision)
        self.vision_model = getattr(tower, "vision_model", tower)  # transformers 4 has it one level deeper
        self.mlp1 = nn.Sequential(nn.LayerNorm(joined), nn.Linear(joined, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.context = context

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As in `TextNetwork`; features of the (tiles, 3, side, side) pixels replace the embeddings of context ids."""
        embeddings = self.language_model.embed_tokens(input_ids)
        if pixel_values is not None:
            pixels = pixel_values.to(embeddings.dtype)
            patches = self.vision_model(pixel_values=pixels).last_hidden_state  # (tiles, patches, vision_hidden)
            features = self.mlp1(_shuffle(patches)).flatten(0, 1)  # (image tokens, hidden)
            embeddings[input_ids == self.context] = features
        return self.run(embeddings, attention_mask)


def load_published(network: TextNetwork, folder: Path, *, prefix: str = "") -> None:
    """Load a checkpoint's weights; those that the network lacks (heads) are left out.

    Args:
        network: receives them.
        folder: holds ``model.safetensors``.
        prefix: in front of the network's own names, which text checkpoints lack.
    """
    expected = network.state_dict()
    found = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        bare = name.removeprefix("model.").replace("vision_model.vision_model.", "vision_model.")
        if prefix + bare in expected:
            found[prefix + bare] = tensor
    network.load_state_dict(found)


def _shuffle(patches: torch.Tensor) -> torch.Tensor:
    """Join 2 x 2 neighbours: from (tiles, n * n, channels) to (tiles, n * n / 4, 4 * channels)."""
    tiles, count, channels = patches.shape
    side = int(count**0.5)
    grid = patches.reshape(tiles, side, side, channels)
    corners = [grid[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return torch.cat(corners, dim=-1).reshape(tiles, count // 4, 4 * channels)
