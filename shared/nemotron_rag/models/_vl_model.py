"""What a loaded VL checkpoint can do for its family: prepare queries and passages, pool packed batches.

It knows no scores; one object holds the weights that all users of a checkpoint share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nemotron_rag.errors import ImageError
from nemotron_rag.images import load_image, to_rgb
from nemotron_rag.models._packed import PackedModel, head_dim, load_packed, token_bytes
from nemotron_rag.models._pixels import Cut, cut_tiles, cut_tiles_there, normalise
from nemotron_rag.models._pooling import mean_pool, token_vectors
from nemotron_rag.models._prompt import Prompt, PromptTokenizer
from nemotron_rag.models._resize import resizes_there
from nemotron_rag.models._vl_config import Pooling, read_vl_config
from nemotron_rag.models._vl_settings import VLSettings
from nemotron_rag.models._vl_stack import load_vl_stack, tower_patch_bytes
from nemotron_rag.models._wording import embed_prompt
from nemotron_rag.runtime.attention import has_kernel, pack
from nemotron_rag.runtime.budget import tokens_at_once
from nemotron_rag.runtime.features import image_features, picture_key, vision_features, weights_key
from nemotron_rag.runtime.graphs import Replay
from nemotron_rag.runtime.transfer import staged
from nemotron_rag.types import Passage

__all__ = ["VLInput", "VLModel", "load_vl_model"]


@dataclass(frozen=True, slots=True)
class VLPicture:
    """A page image, ready for the tower or past it.

    Args:
        tokens: image tokens it takes.
        key: of its vision features.
        cut: how it becomes tiles.
        pixels: (tiles, side, side, 3) uint8, or (height, width, 3) still to be cut; None if there are features.
        features: (tokens, hidden) kept from an earlier call, or None.
    """

    tokens: int
    key: bytes
    cut: Cut
    pixels: torch.Tensor | None
    features: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class VLInput:
    """One sequence, ready for the device.

    Args:
        ids: token ids.
        picture: whose tokens are among them, or None.
    """

    ids: list[int]
    picture: VLPicture | None = None

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.ids)


class VLModel(PackedModel[VLInput]):
    """Configuration, weights, tokenizer and worker of one checkpoint on one device.

    Args:
        folder: the checkpoint.
        device: where it runs.
        dtype: number format of the weights.
        pooling: what it computes: one mean for each input, or a vector for each of its tokens.
        compile: whether torch.compile is to fuse the tower, and CUDA graphs to replay the Llama for single questions.
    """

    def __init__(
        self, folder: Path, *, device: torch.device, dtype: torch.dtype, pooling: Pooling, compile: bool
    ) -> None:
        self.config = read_vl_config(folder, pooling=pooling)
        self._pooling = pooling
        self._tokenizer = PromptTokenizer(folder, image_context_id=self.config.image_context_id)
        self._stack = load_vl_stack(folder, self.config, device=device, dtype=dtype)
        self._tower_key = weights_key(self._stack.vision_model, self._stack.mlp1, settings=self.config.tower_settings)
        self._replay: Replay | None = None
        if compile:
            self._stack.vision_model.compile(dynamic=True)  # the number of tiles varies, nothing else
            if has_kernel(device, dtype, head_dim=head_dim(self.config.llm)):
                self._replay = Replay(self._stack, device=device)
        tile = (self.config.tile_size // self.config.patch_size) ** 2  # patches
        patches = tokens_at_once(device, token_bytes=tower_patch_bytes(self.config.vision, dtype))
        self._tiles_at_once = max(1, patches // tile)
        super().__init__(folder, device=device, token_bytes=token_bytes(self.config.llm, dtype))

    def encode_query(self, query: str, settings: VLSettings, *, index: int) -> VLInput:
        """An embedder's query, ready for the device."""
        prompt = embed_prompt(self.config.query_prefix, query)
        return self.encode(prompt, None, max_length=settings.max_length["query"], index=index)

    def query_spans(self, query: str, settings: VLSettings) -> NDArray[np.int64]:
        """Which characters of a query each token of `encode_query` stands for; see `PromptTokenizer.spans`."""
        prompt = embed_prompt(self.config.query_prefix, query)
        return self._tokenizer.spans(prompt, query, max_length=settings.max_length["query"])

    def encode_passage(self, passage: Passage, settings: VLSettings, *, index: int) -> VLInput:
        """An embedder's passage, ready for the device; its image is converted to RGB before it is resized."""
        picture = self.picture(passage, settings, index=index, keep_mode=False)
        prompt = embed_prompt(self.config.passage_prefix, passage.text, image_tokens=picture.tokens if picture else 0)
        return self.encode(prompt, picture, max_length=settings.max_length[passage.modality], index=index)

    def encode(self, prompt: Prompt, picture: VLPicture | None, *, max_length: int, index: int) -> VLInput:
        """Token ids of a prompt beside its picture; see `PromptTokenizer.encode`."""
        return VLInput(self._tokenizer.encode(prompt, max_length=max_length, index=index), picture)

    def picture(self, passage: Passage, settings: VLSettings, *, index: int, keep_mode: bool) -> VLPicture | None:
        """Read a passage's image, and make it ready for the tower unless its vision features are kept.

        Args:
            passage: what the caller gave.
            settings: tiles and thumbnail.
            index: its place in the caller's list, for error messages.
            keep_mode: resize in the image's own mode instead of converting to RGB first.

        Returns:
            None for a text.

        Raises:
            ImageError: the image cannot be read.
        """
        if passage.image is None:
            return None
        try:
            image = load_image(passage.image) if keep_mode else to_rgb(load_image(passage.image))
        except ImageError as error:
            raise type(error)(f"passage {index}: {error}") from error
        cut = Cut.of(
            image.size,
            max_tiles=settings.max_input_tiles,
            side=self.config.tile_size,
            use_thumbnail=settings.use_thumbnail,
        )
        key = self._tower_key + picture_key(image, f"{(cut.columns, cut.rows)} of {cut.side}, {cut.tiles} tiles")
        tokens, features = cut.tiles * self.config.tokens_per_tile, vision_features.find(key)
        if features is not None:
            return VLPicture(tokens, key, cut, pixels=None, features=staged(features, self._device))
        there = resizes_there(image, pixels=cut.pixels, device=self._device)
        pixels = torch.from_numpy(np.array(image) if there else cut_tiles(image, cut))
        return VLPicture(tokens, key, cut, pixels=staged(pixels, self._device), features=None)

    @torch.inference_mode()
    def _compute(self, batch: Sequence[VLInput]) -> list[torch.Tensor]:
        """For each sequence the mean of its last hidden states (hidden,), or its tokens' vectors (tokens, hidden)."""
        lengths = [item.tokens for item in batch]
        hidden = self._run(batch)  # (tokens, hidden)
        if self._pooling == "colbert":
            return token_vectors(hidden, lengths)
        return list(mean_pool(hidden, lengths).cpu())

    def _run(self, batch: Sequence[VLInput]) -> torch.Tensor:
        """The last hidden states of all tokens of a batch: (tokens, hidden)."""
        if self._replay and len(batch) == 1 and batch[0].picture is None and self._replay.fits(batch[0].tokens):
            return self._replay(batch[0].ids)
        ids = torch.tensor([i for item in batch for i in item.ids], device=self._device)  # (tokens,)
        packing = pack([item.tokens for item in batch], self._device)
        return self._stack(ids, packing, self._image_tokens(batch))  # type: ignore[no-any-return]

    def _image_tokens(self, batch: Sequence[VLInput]) -> torch.Tensor | None:
        """Image tokens of a batch in document order, (image tokens, hidden); None if it has no image."""
        pictures = [item.picture for item in batch if item.picture is not None]
        if not pictures:
            return None
        features = image_features(pictures, self._encode, device=self._device)
        return torch.cat([features[picture.key] for picture in pictures])

    def _encode(self, pictures: Sequence[VLPicture]) -> list[torch.Tensor]:
        """Run pictures through the tower, tiles of all of them together: (tokens, hidden) each."""
        cut = [self._tiles(picture.pixels, picture.cut) for picture in pictures if picture.pixels is not None]
        tiles = torch.cat(cut)  # (tiles, side, side, 3) uint8
        mean, std = self.config.mean, self.config.std
        tokens = torch.cat(
            [
                self._stack.encode_tiles(normalise(chunk, mean=mean, std=std, device=self._device))
                for chunk in tiles.split(self._tiles_at_once)
            ]
        )  # (tiles, tokens_per_tile, hidden)
        return [part.flatten(0, 1) for part in tokens.split([len(part) for part in cut])]

    def _tiles(self, pixels: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Of one picture, on the device: (tiles, side, side, 3) uint8."""
        there = pixels.to(self._device, non_blocking=True)
        return cut_tiles_there(there, cut) if there.ndim == 3 else there


def load_vl_model(
    folder: Path, *, device: str | None, dtype: str | None, pooling: Pooling = "avg", compile: bool = False
) -> VLModel:
    """Load a checkpoint or share it; see `load_packed`."""
    return load_packed(VLModel, folder, device=device, dtype=dtype, pooling=pooling, compile=compile)
