"""The network of Nemotron 3 and 3.5: language model, and for images tower and projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from nemotron_rag.models._base.weights import own_name
from nemotron_rag.models._mistral.config import MistralConfig
from nemotron_rag.models._mistral.decoder import BidirectionalMinistral
from nemotron_rag.models._mistral.vision import Grid, PixtralTower, Projector
from nemotron_rag.runtime.attention import Packing
from nemotron_rag.runtime.checkpoint import load_weights

__all__ = ["MistralStack", "load_mistral_stack", "rename_weight"]

_VISION = ("vision_tower.", "multi_modal_projector.")
_UNUSED = ("lm_head.", "score.")


class MistralStack(nn.Module):
    """Language model, with tower and projector if the model reads images.

    Args:
        config: of the checkpoint.
    """

    def __init__(self, config: MistralConfig) -> None:
        super().__init__()
        self._image_token_id = config.image_token_id
        self.language_model = BidirectionalMinistral(config.text)
        if config.vision is not None:
            self.vision_tower = PixtralTower(config.vision)
            self.multi_modal_projector = Projector(config.vision, config.text)

    def encode_images(self, patches: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Turn images into image tokens; they do not depend on any query.

        Args:
            patches: (patches, values) of all images, those of one image token side by side.
            grids: of each image.

        Returns:
            (image tokens, hidden).
        """
        return self.multi_modal_projector(self.vision_tower(patches, grids))  # type: ignore[no-any-return]

    def forward(
        self, input_ids: torch.Tensor, packing: Packing, image_tokens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run packed sequences through the language model.

        Args:
            input_ids: (tokens,) of all sequences.
            packing: of the batch.
            image_tokens: (image tokens, hidden), in the order of the ids that they replace.

        Returns:
            (tokens, hidden), after the final norm.
        """
        embeddings = self.language_model.embed_tokens(input_ids)  # (tokens, hidden)
        if image_tokens is not None:
            assert self._image_token_id is not None  # a network that reads images has one
            places = (input_ids == self._image_token_id).unsqueeze(-1)  # (tokens, 1)
            embeddings = embeddings.masked_scatter(places, image_tokens.to(embeddings.dtype))
        return self.language_model(embeddings, packing)  # type: ignore[no-any-return]


def load_mistral_stack(
    folder: Path, config: MistralConfig, *, device: torch.device, dtype: torch.dtype
) -> MistralStack:
    """Build the network and load its weights."""
    with torch.device("meta"):
        stack = MistralStack(config)
    load_weights(stack, folder, rename=rename_weight, device=device, dtype=dtype)
    stack.language_model._buffers["frequencies"] = stack.language_model.get_buffer("frequencies").to(device)
    return stack


def rename_weight(name: str) -> str | None:
    """Map a published weight name to this module's; None for heads, and for frequencies that are computed.

    Files may have ``model.`` in front of everything, and again after ``language_model.``; text checkpoints have the
    language model's own names.
    """
    bare = own_name(name)
    if bare is None or bare.startswith(_VISION):
        return bare
    own = bare.removeprefix("language_model.").removeprefix("model.")
    return None if own.startswith(_UNUSED) else f"language_model.{own}"
