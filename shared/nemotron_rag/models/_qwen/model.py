"""A loaded Qwen-VL checkpoint: prepares prompts and images, and computes packed batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image as PILImage

from nemotron_rag.documents.images import to_rgb
from nemotron_rag.errors import ImageError
from nemotron_rag.models._base.images import PassageImage, grouped
from nemotron_rag.models._base.packed import PackedModel, load_packed, token_bytes
from nemotron_rag.models._base.pooling import token_vectors
from nemotron_rag.models._base.resize import resize, resize_image, resizes_on_device
from nemotron_rag.models._base.weights import find_weight
from nemotron_rag.models._qwen.config import QwenGeneration, read_qwen_config
from nemotron_rag.models._qwen.network import load_qwen_stack, mrope_positions
from nemotron_rag.models._qwen.pixels import PixelSettings, patchify, smart_size
from nemotron_rag.models._qwen.tokenizer import Image, Part, QwenTokenizer
from nemotron_rag.runtime.budget import tokens_at_once
from nemotron_rag.runtime.device import staged
from nemotron_rag.runtime.features import image_features, image_key, vision_features, weights_key
from nemotron_rag.types import Passage

__all__ = ["QwenInput", "QwenModel", "QwenPooling", "load_qwen_model"]

QwenPooling: TypeAlias = Literal["colbert", "last"]
"""How hidden states are pooled. "colbert": (tokens, hidden) of length 1, before the final norm, from attention in both
directions. "last": (hidden,), the last token after the final norm, from causal attention."""


@dataclass(frozen=True, slots=True)
class QwenInput:
    """One sequence, ready for the device.

    Args:
        ids: token ids.
        positions: (3, tokens) int64.
        images: in the order of their tokens.
    """

    ids: list[int]
    positions: NDArray[np.int64]
    images: tuple[Image, ...]

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.ids)


class QwenModel(PackedModel[QwenInput]):
    """Configuration, weights, tokenizer and worker of one checkpoint on one device.

    Args:
        folder: the checkpoint.
        generation: of the architecture.
        pooling: see `QwenPooling`.
        device: where it runs.
        dtype: number format of the weights.
    """

    def __init__(
        self,
        folder: Path,
        *,
        generation: QwenGeneration,
        pooling: QwenPooling,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._folder = folder
        self.config = read_qwen_config(folder, generation=generation, causal=pooling == "last")
        self.tokenizer = QwenTokenizer(folder, image_token_id=self.config.image_token_id)
        self._stack = load_qwen_stack(folder, self.config, device=device, dtype=dtype)
        self._pooling = pooling
        self._tower_key = weights_key(self._stack.visual, settings=self.config.tower_settings)
        self._patches_at_once = tokens_at_once(device, token_bytes=self.config.patch_bytes(dtype))
        super().__init__(folder, device=device, token_bytes=token_bytes(self.config.text, dtype))

    def answer_direction(self, yes: str, no: str) -> torch.Tensor:
        """Return the output layer's row for one word minus that for another: (hidden,) float32 on the CPU.

        The layer is the embedding table if the files have no other. What config.json says of it does not count: some
        files say that it is tied and have one of their own, which their publishers use, and others do not say it.
        """
        words = [self.tokenizer.token_id(word) for word in (yes, no)]
        layer = find_weight(self._folder, "lm_head.weight")
        table = self._stack.language_model.embed_tokens.weight if layer is None else layer
        rows: torch.Tensor = table[words].float().cpu()  # (2, hidden)
        return rows[0] - rows[1]

    def image(
        self,
        passage: Passage,
        *,
        index: int | None,
        what: str = "passage",
        pixels: PixelSettings | None = None,
        convert: Callable[[PILImage], PILImage] = to_rgb,
    ) -> Image | None:
        """Read and resize a passage's image; None if it has none.

        Args:
            passage: with or without an image.
            index: of the passage in the caller's list, for error messages; None for the only one.
            what: it is, for error messages.
            pixels: how to resize it; None for the checkpoint's settings.
            convert: how it becomes RGB.

        Raises:
            ImageError: the image cannot be read or used.
        """
        if passage.image is None:
            return None
        settings = pixels or self.config.pixels
        try:
            return self._prepare_image(PassageImage(passage.image, convert=convert), settings)
        except ImageError as error:
            raise error.at(index, what=what) from error

    def _prepare_image(self, image: PassageImage, settings: PixelSettings) -> Image:
        width, height = smart_size(*image.size, settings)
        grid = (height // settings.token_side, width // settings.token_side)
        key = self._tower_key + image_key(image.hash, f"{width}x{height}")
        features = vision_features.find(key)
        if features is not None:
            return Image(grid, key, features=staged(features, self._device))
        if image.is_trusting:
            return self._prepare_image(image.checked(), settings)
        decoded = image.decoded()
        on_device = resizes_on_device(decoded, pixels=width * height, device=self._device)
        sent = torch.from_numpy(image.pixels() if on_device else np.array(resize_image(decoded, (width, height))))
        return Image(grid, key, pixels=staged(sent, self._device))

    def prepare(
        self,
        parts: Sequence[Part],
        *,
        ending: Sequence[Part] = (),
        max_length: int,
        index: int,
        what: str = "passage",
    ) -> QwenInput:
        """Tokenize a prompt and compute its positions; see `QwenTokenizer.encode`."""
        return self._input(
            self.tokenizer.encode(parts, ending=ending, max_length=max_length, index=index, what=what), parts
        )

    def prepare_keeping(self, parts: Sequence[Part], *, last: int, max_length: int, index: int) -> QwenInput:
        """The same for `QwenTokenizer.encode_keeping`."""
        return self._input(self.tokenizer.encode_keeping(parts, last=last, max_length=max_length, index=index), parts)

    def _input(self, ids: list[int], parts: Sequence[Part]) -> QwenInput:
        images = tuple(part for part in parts if isinstance(part, Image))
        grids = [image.grid for image in images]
        positions = mrope_positions(ids, image_token_id=self.config.image_token_id, grids=grids)
        return QwenInput(ids, positions, images)

    @torch.inference_mode()
    def _compute(self, batch: Sequence[QwenInput]) -> list[torch.Tensor]:
        """Compute and pool each sequence, float32 on the CPU; see `QwenPooling`."""
        lengths = [item.tokens for item in batch]
        ids = torch.tensor([i for item in batch for i in item.ids], device=self._device)  # (tokens,)
        positions = torch.from_numpy(np.concatenate([item.positions for item in batch], axis=1)).to(self._device)
        hidden = self._stack(ids, positions, lengths, self._image_tokens(batch))  # (tokens, hidden)
        if self._pooling == "colbert":
            return token_vectors(hidden, lengths)
        last = hidden[torch.tensor(lengths).cumsum(0) - 1]  # (sequences, hidden)
        return list(self._stack.language_model.norm(last).float().cpu())

    def _image_tokens(self, batch: Sequence[QwenInput]) -> torch.Tensor | None:
        """Return the image tokens of a batch in order, (image tokens, 1 + taps, hidden); None if it has no image."""
        images = [image for item in batch for image in item.images]
        if not images:
            return None
        features = image_features(images, self._encode, device=self._device)
        return torch.cat([features[image.key] for image in images])

    def _encode(self, images: Sequence[Image]) -> list[torch.Tensor]:
        """Run images through the vision tower in groups: (image tokens, 1 + taps, hidden) each."""
        settings = self.config.pixels
        merge = settings.merge_size
        features: list[torch.Tensor] = []
        for group in grouped(images, self._patches_at_once // merge**2):
            pixels = [self._resized(image.pixels, image.grid) for image in group if image.pixels is not None]
            patches = [patchify(part, settings) for part in pixels]
            grids = [(image.grid[0] * merge, image.grid[1] * merge) for image in group]
            tokens = self._stack.visual(torch.cat(patches), grids)
            features += tokens.split([image.tokens for image in group])
        return features

    def _resized(self, pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Move an image to the device and resize it to whole image tokens: (height, width, 3) uint8."""
        height, width = (tokens * self.config.pixels.token_side for tokens in grid)
        return resize(pixels.to(self._device, non_blocking=True), (width, height))


def load_qwen_model(
    folder: Path, *, generation: QwenGeneration, pooling: QwenPooling, device: str | None, dtype: str | None
) -> QwenModel:
    """Load a checkpoint or share it; see `load_packed`."""
    return load_packed(QwenModel, folder, device=device, dtype=dtype, generation=generation, pooling=pooling)
