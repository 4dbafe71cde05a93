"""The network of Qwen-VL models: vision tower, language model, rotary positions of text and image grids.

The names of the modules are the published weight names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from nemotron_rag.models._base.weights import own_name
from nemotron_rag.models._qwen.config import QwenConfig
from nemotron_rag.models._qwen.vision import Grid, Qwen2Tower, Qwen3Tower, rotary_frequencies
from nemotron_rag.runtime.attention import pack
from nemotron_rag.runtime.checkpoint import load_weights

__all__ = ["QwenLanguageModel", "QwenStack", "load_qwen_stack", "mrope_positions", "rename_qwen_weight"]


class QwenLanguageModel(nn.Module):
    """The language model: the layers of plain Qwen with the rotary positions of Qwen-VL.

    Sequences are packed one after the other. The final norm is left to the caller, since some models do not use it.
    """

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        text = config.text
        layer = Qwen2DecoderLayer if config.generation == 2 else Qwen3DecoderLayer
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size)
        self.layers = nn.ModuleList([layer(text, i) for i in range(text.num_hidden_layers)])
        self.norm = Qwen2RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self._head_dim, self._theta = config.head_dim, config.rope_theta
        self._axes = _frequency_axes(config)

    def forward(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        lengths: Sequence[int],
        places: torch.Tensor,
        deepstack: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Run the layers.

        Args:
            embeddings: (tokens, hidden) of all sequences.
            positions: (3, tokens) time, row and column.
            lengths: tokens of each sequence.
            places: (image tokens,) indices of the image tokens.
            deepstack: (image tokens, hidden) each, added to the image tokens after the first layers.

        Returns:
            (tokens, hidden), before the final norm.
        """
        hidden = embeddings.unsqueeze(0)  # (1, tokens, hidden)
        packing = pack(lengths, hidden.device)
        rotary = self._rotary(positions, hidden.dtype)
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary, packing=packing)
            if i < len(deepstack):
                hidden = hidden.index_add(1, places, deepstack[i].unsqueeze(0))
        return hidden.squeeze(0)

    def _rotary(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines: (1, tokens, head_dim) each."""
        frequencies = rotary_frequencies(self._head_dim, base=self._theta, device=positions.device)
        places = positions[self._axes].T.float()  # (tokens, head_dim / 2): one axis for each frequency
        angles = (places * frequencies).repeat(1, 2).unsqueeze(0)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _frequency_axes(config: QwenConfig) -> list[int]:
    """Return the axis of each rotary frequency: in blocks in Qwen2-VL, interleaved in Qwen3-VL."""
    time, rows, columns = config.mrope_section
    if config.generation == 2:
        return [0] * time + [1] * rows + [2] * columns
    axes = [0] * (time + rows + columns)
    axes[1 : 3 * rows : 3] = [1] * rows
    axes[2 : 3 * columns : 3] = [2] * columns
    return axes


class QwenStack(nn.Module):
    """Tower and language model."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self._image_token_id = config.image_token_id
        self.visual = Qwen2Tower(config) if config.generation == 2 else Qwen3Tower(config)
        self.language_model = QwenLanguageModel(config)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        lengths: Sequence[int],
        image_tokens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run packed sequences through the language model.

        Args:
            input_ids: (tokens,) of all sequences.
            positions: (3, tokens).
            lengths: tokens of each sequence.
            image_tokens: (image tokens, 1 + taps, hidden), in the order of the ids that they replace.

        Returns:
            (tokens, hidden), before the final norm.
        """
        embeddings = self.language_model.embed_tokens(input_ids)  # (tokens, hidden)
        places = (input_ids == self._image_token_id).nonzero().squeeze(1)  # (image tokens,)
        taps: list[torch.Tensor] = []
        if image_tokens is not None:
            first, *taps = image_tokens.to(embeddings.dtype).unbind(1)  # each (image tokens, hidden)
            embeddings = embeddings.index_copy(0, places, first)
        return self.language_model(embeddings, positions, lengths, places, taps)  # type: ignore[no-any-return]


def mrope_positions(ids: Sequence[int], *, image_token_id: int, grids: Sequence[Grid]) -> NDArray[np.int64]:
    """Compute time, row and column of each token: text advances all three, an image has one time for its whole grid.

    Args:
        ids: of one sequence.
        image_token_id: token id of an image token.
        grids: rows and columns of image tokens of each image, in order.

    Returns:
        (3, tokens) int64. Text after an image continues where the longer side of its grid ends.
    """
    parts: list[NDArray[np.int64]] = []
    place, start = 0, 0
    for rows, columns in grids:
        begin = ids.index(image_token_id, place)
        parts.append(start + np.tile(np.arange(begin - place), (3, 1)))
        start += begin - place
        parts.append(start + np.indices((1, rows, columns)).reshape(3, -1))
        start += max(rows, columns)
        place = begin + rows * columns
    parts.append(start + np.tile(np.arange(len(ids) - place), (3, 1)))
    return np.concatenate(parts, axis=1)


def load_qwen_stack(folder: Path, config: QwenConfig, *, device: torch.device, dtype: torch.dtype) -> QwenStack:
    """Build the network and load its weights."""
    with torch.device("meta"):
        stack = QwenStack(config)
    load_weights(stack, folder, rename=rename_qwen_weight, device=device, dtype=dtype)
    return stack


def rename_qwen_weight(name: str) -> str | None:
    """Map a published weight name to this module's; None for output layers, which are not part of it.

    Old files use ``visual.`` and ``model.layers.``, newer ones ``model.visual.`` and ``model.language_model.layers.``.
    """
    own = own_name(name)
    if own is None or own.startswith(("lm_head.", "score.")):
        return None
    return own if own.startswith(("visual.", "language_model.")) else f"language_model.{own}"
