"""What a loaded VL checkpoint can do for its family: prepare passages and pool packed batches.

It knows neither prompts nor scores; one object holds the weights that all users of a checkpoint share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.images import load_image, to_rgb
from nemotron_rag.models._pixels import cut_tiles, normalise
from nemotron_rag.models._prompt import Prompt, PromptTokenizer
from nemotron_rag.models._vl_config import read_vl_config
from nemotron_rag.models._vl_settings import VLSettings
from nemotron_rag.models._vl_stack import load_vl_stack, mean_pool
from nemotron_rag.runtime.device import resolve_device, resolve_dtype
from nemotron_rag.runtime.features import tiles_key, vision_features, weights_key
from nemotron_rag.runtime.sharing import shared
from nemotron_rag.runtime.windows import arun_windows, run_windows
from nemotron_rag.runtime.worker import Worker
from nemotron_rag.types import Passage

__all__ = ["VLInput", "VLModel", "load_vl_model"]

T = TypeVar("T")

_TILES_AT_ONCE = 32  # tiles per pass through the tower: bounds its memory
_TOKEN_BUDGET = {"cuda": 32_768}  # tokens per batch, memory permitting: see compute_batch


@dataclass(frozen=True, slots=True)
class VLInput:
    """One sequence, ready for the device.

    Args:
        ids: token ids.
        tiles: (tiles, side, side, 3) uint8, or None.
        key: of the picture's kept vision features; empty without tiles.
    """

    ids: list[int]
    tiles: NDArray[np.uint8] | None = None
    key: bytes = b""

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.ids)


class VLModel:
    """Configuration, weights, tokenizer and worker of one checkpoint on one device.

    Args:
        folder: the checkpoint.
        device: where it runs.
        dtype: number format of the weights.
    """

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        self.config = read_vl_config(folder)
        self._tokenizer = PromptTokenizer(folder, image_context_id=self.config.image_context_id)
        self._stack = load_vl_stack(folder, self.config, device=device, dtype=dtype)
        self._device = device
        self._tower_key = weights_key(self._stack.vision_model, self._stack.mlp1)
        self._worker = Worker(folder.name, self._pool, budget=_TOKEN_BUDGET.get(device.type, 8_192))

    def encode(self, prompt: Prompt, tiles: NDArray[np.uint8] | None, *, max_length: int, index: int) -> VLInput:
        """Token ids of a prompt beside its tiles; see `PromptTokenizer.encode`."""
        ids = self._tokenizer.encode(prompt, max_length=max_length, index=index)
        return VLInput(ids) if tiles is None else VLInput(ids, tiles, self._tower_key + tiles_key(tiles))

    def cut(
        self, passage: Passage, settings: VLSettings, *, index: int, keep_mode: bool
    ) -> tuple[NDArray[np.uint8] | None, int]:
        """Read and tile a passage's image.

        Args:
            passage: what the caller gave.
            settings: tiles and thumbnail.
            index: its place in the caller's list, for error messages.
            keep_mode: resize in the image's own mode instead of converting to RGB first.

        Returns:
            (tiles, side, side, 3) uint8 and the number of its image tokens; None and 0 for a text.

        Raises:
            InputError: the item is not a passage.
            ImageError: its image cannot be read.
        """
        if not isinstance(passage, Passage):
            raise InputError(f"passage {index} is of type {type(passage).__name__}, wanted nemotron_rag.Passage")
        if passage.image is None:
            return None, 0
        try:
            image = load_image(passage.image)
        except ImageError as error:
            raise type(error)(f"passage {index}: {error}") from error
        tiles = cut_tiles(
            image if keep_mode else to_rgb(image),
            max_tiles=settings.max_input_tiles,
            tile_size=self.config.tile_size,
            use_thumbnail=settings.use_thumbnail,
        )
        return tiles, len(tiles) * self.config.tokens_per_tile

    def run(self, inputs: Sequence[T], prepare: Callable[[T, int], VLInput]) -> torch.Tensor:
        """Prepare inputs and pool their last hidden states, in batches shared with all other callers.

        Args:
            inputs: at least one.
            prepare: from an input and its index to a sequence.

        Returns:
            (inputs, hidden) float32 on the CPU.
        """
        return run_windows(inputs, prepare=prepare, worker=self._worker)

    async def arun(self, inputs: Sequence[T], prepare: Callable[[T, int], VLInput]) -> torch.Tensor:
        """The same as `run`, without blocking the event loop."""
        return await arun_windows(inputs, prepare=prepare, worker=self._worker)

    @torch.inference_mode()
    def _pool(self, batch: Sequence[VLInput]) -> torch.Tensor:
        """The mean of each sequence's last hidden states: (batch, hidden) float32."""
        lengths = [item.tokens for item in batch]
        ids = torch.tensor([i for item in batch for i in item.ids], device=self._device)  # (tokens,)
        hidden = self._stack(ids, lengths, self._image_tokens(batch))  # (tokens, hidden)
        return mean_pool(hidden, lengths)

    def _image_tokens(self, batch: Sequence[VLInput]) -> torch.Tensor | None:
        """Image tokens of a batch in document order, (image tokens, hidden); None if it has no image."""
        images = {item.key: item.tiles for item in batch if item.tiles is not None}
        if not images:
            return None
        features = {key: found for key in images if (found := vision_features.get(key)) is not None}
        features |= self._encode({key: tiles for key, tiles in images.items() if key not in features})
        ordered = [features[item.key].to(self._device) for item in batch if item.key]  # each (tokens, hidden)
        return torch.cat(ordered)

    def _encode(self, images: Mapping[bytes, NDArray[np.uint8]]) -> dict[bytes, torch.Tensor]:
        """Run pictures through the tower, tiles of all of them together, and keep their (tokens, hidden)."""
        if not images:
            return {}
        chunks = torch.from_numpy(np.concatenate(list(images.values()))).split(_TILES_AT_ONCE)
        mean, std = self.config.mean, self.config.std
        tokens = torch.cat(
            [self._stack.encode_tiles(normalise(chunk, mean=mean, std=std, device=self._device)) for chunk in chunks]
        )  # (tiles, tokens_per_tile, hidden)
        parts = tokens.split([len(tiles) for tiles in images.values()])
        encoded = {key: part.flatten(0, 1) for key, part in zip(images, parts, strict=True)}
        for key, part in encoded.items():
            vision_features.put(key, part)
        return encoded


def load_vl_model(folder: Path, *, device: str | None, dtype: str | None) -> VLModel:
    """Load a checkpoint, or share it with whoever has loaded the same one in the same format on the same device."""
    place = resolve_device(device)
    number_format = resolve_dtype(dtype, place)
    return shared((VLModel, folder, place, number_format), lambda: VLModel(folder, device=place, dtype=number_format))
