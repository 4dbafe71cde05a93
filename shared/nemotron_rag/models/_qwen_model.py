"""What a loaded Qwen-VL checkpoint can do for its family: prepare prompts and run packed batches.

It knows neither wordings nor scores; one object holds the weights that all users of a checkpoint share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from nemotron_rag.errors import ImageError
from nemotron_rag.images import load_image, to_rgb
from nemotron_rag.models._packed import PackedModel, load_packed, token_bytes
from nemotron_rag.models._pooling import token_vectors
from nemotron_rag.models._qwen_config import QwenGeneration, read_qwen_config
from nemotron_rag.models._qwen_pixels import PixelSettings, patchify, smart_size
from nemotron_rag.models._qwen_prompt import Part, Picture, QwenTokenizer
from nemotron_rag.models._qwen_stack import load_qwen_stack, mrope_positions
from nemotron_rag.models._resize import resize, resize_image, resizes_there
from nemotron_rag.runtime.budget import tokens_at_once
from nemotron_rag.runtime.features import image_features, picture_key, vision_features, weights_key
from nemotron_rag.runtime.transfer import staged
from nemotron_rag.types import Passage

__all__ = ["QwenInput", "QwenModel", "QwenPooling", "load_qwen_model"]

QwenPooling: TypeAlias = Literal["colbert", "last"]
"""What each sequence gives: (tokens, hidden), each token before the final norm, at length 1, from attention in both
directions; or (hidden,), the last token behind the final norm, from causal attention."""


@dataclass(frozen=True, slots=True)
class QwenInput:
    """One sequence, ready for the device.

    Args:
        ids: token ids.
        positions: (3, tokens) int64.
        pictures: in the order of their tokens.
    """

    ids: list[int]
    positions: NDArray[np.int64]
    pictures: tuple[Picture, ...]

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.ids)


class QwenModel(PackedModel[QwenInput]):
    """Configuration, weights, tokenizer and worker of one checkpoint on one device.

    Args:
        folder: the checkpoint.
        generation: of the architecture.
        pooling: what each sequence gives.
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
        self.config = read_qwen_config(folder, generation=generation, causal=pooling == "last")
        self.tokenizer = QwenTokenizer(folder, image_token_id=self.config.image_token_id)
        self._stack = load_qwen_stack(folder, self.config, device=device, dtype=dtype)
        self._pooling = pooling
        self._tower_key = weights_key(self._stack.visual, settings=self.config.tower_settings)
        self._patches_at_once = tokens_at_once(device, token_bytes=self.config.patch_bytes(dtype))
        super().__init__(folder, device=device, token_bytes=token_bytes(self.config.text, dtype))

    def embedding_rows(self, ids: Sequence[int]) -> torch.Tensor:
        """Rows of the embedding table: (ids, hidden) float32 on the CPU."""
        return self._stack.language_model.embed_tokens.weight[list(ids)].float().cpu()

    def picture(self, passage: Passage, *, index: int, pixels: PixelSettings | None = None) -> Picture | None:
        """Read and resize a passage's image; None if it has none.

        Args:
            passage: what the caller gave.
            index: its place in the caller's list, for error messages.
            pixels: how to resize it; None for the checkpoint's own settings.

        Raises:
            ImageError: the image cannot be read or used.
        """
        if passage.image is None:
            return None
        settings = pixels or self.config.pixels
        try:
            image = to_rgb(load_image(passage.image))
            width, height = smart_size(image.width, image.height, settings)
        except ImageError as error:
            raise type(error)(f"passage {index}: {error}") from error
        grid = (height // settings.token_side, width // settings.token_side)
        key = self._tower_key + picture_key(image, f"{width}x{height}")
        features = vision_features.find(key)
        if features is not None:
            return Picture(grid, key, features=staged(features, self._device))
        there = resizes_there(image, pixels=width * height, device=self._device)
        sent = torch.from_numpy(np.array(image if there else resize_image(image, (width, height))))
        return Picture(grid, key, pixels=staged(sent, self._device))

    def prepare(self, parts: Sequence[Part], *, ending: Sequence[Part] = (), max_length: int, index: int) -> QwenInput:
        """Token ids and positions of a prompt; see `QwenTokenizer.encode`."""
        ids = self.tokenizer.encode(parts, ending=ending, max_length=max_length, index=index)
        pictures = tuple(part for part in parts if isinstance(part, Picture))
        grids = [picture.grid for picture in pictures]
        positions = mrope_positions(ids, image_token_id=self.config.image_token_id, grids=grids)
        return QwenInput(ids, positions, pictures)

    @torch.inference_mode()
    def _compute(self, batch: Sequence[QwenInput]) -> list[torch.Tensor]:
        """For each sequence what `QwenPooling` says, float32 on the CPU."""
        lengths = [item.tokens for item in batch]
        ids = torch.tensor([i for item in batch for i in item.ids], device=self._device)  # (tokens,)
        positions = torch.from_numpy(np.concatenate([item.positions for item in batch], axis=1)).to(self._device)
        hidden = self._stack(ids, positions, lengths, self._image_tokens(batch))  # (tokens, hidden)
        if self._pooling == "colbert":
            return token_vectors(hidden, lengths)
        last = hidden[torch.tensor(lengths).cumsum(0) - 1]  # (sequences, hidden)
        return list(self._stack.language_model.norm(last).float().cpu())

    def _image_tokens(self, batch: Sequence[QwenInput]) -> torch.Tensor | None:
        """Image tokens of a batch in document order, (image tokens, 1 + taps, hidden); None if it has no image."""
        pictures = [picture for item in batch for picture in item.pictures]
        if not pictures:
            return None
        features = image_features(pictures, self._encode, device=self._device)
        return torch.cat([features[picture.key] for picture in pictures])

    def _encode(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """Run pictures through the tower, many at once: (image tokens, 1 + taps, hidden) each."""
        settings = self.config.pixels
        merge = settings.merge_size
        features: list[torch.Tensor] = []
        for group in _groups(pictures, self._patches_at_once // merge**2):
            pixels = [self._resized(picture.pixels, picture.grid) for picture in group if picture.pixels is not None]
            patches = [patchify(part, settings) for part in pixels]
            grids = [(picture.grid[0] * merge, picture.grid[1] * merge) for picture in group]
            tokens = self._stack.visual(torch.cat(patches), grids)
            features += tokens.split([picture.tokens for picture in group])
        return features

    def _resized(self, pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Of one picture, on the device: (height, width, 3) uint8, whole image tokens."""
        height, width = (tokens * self.config.pixels.token_side for tokens in grid)
        return resize(pixels.to(self._device, non_blocking=True), (width, height))


def _groups(pictures: Sequence[Picture], room: int) -> Iterator[list[Picture]]:
    """Pictures in groups of at most `room` image tokens, that the tower takes at once; a larger one stands alone."""
    group: list[Picture] = []
    for picture in pictures:
        if group and sum(other.tokens for other in group) + picture.tokens > room:
            yield group
            group = []
        group.append(picture)
    if group:
        yield group


def load_qwen_model(
    folder: Path, *, generation: QwenGeneration, pooling: QwenPooling, device: str | None, dtype: str | None
) -> QwenModel:
    """Load a checkpoint or share it; see `load_packed`."""
    return load_packed(QwenModel, folder, device=device, dtype=dtype, generation=generation, pooling=pooling)
