"""A loaded Llama-Nemotron VL checkpoint: prepares queries and passages, and computes packed batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nemotron_rag.errors import ImageError
from nemotron_rag.models._base.images import PassageImage
from nemotron_rag.models._base.packed import PackedModel, head_dim, load_packed, token_bytes
from nemotron_rag.models._base.pooling import pool, token_vectors
from nemotron_rag.models._base.resize import resizes_on_device
from nemotron_rag.models._llama.config import Vectors, read_vl_config
from nemotron_rag.models._llama.network import load_vl_stack
from nemotron_rag.models._llama.pixels import Cut, cut_tiles, cut_tiles_on_device, normalise
from nemotron_rag.models._llama.prompts import embed_prompt
from nemotron_rag.models._llama.settings import VLSettings
from nemotron_rag.models._llama.tokenizer import Prompt, PromptTokenizer
from nemotron_rag.models._llama.tower import tower_patch_bytes
from nemotron_rag.runtime.attention import has_kernel, pack
from nemotron_rag.runtime.budget import tokens_at_once
from nemotron_rag.runtime.device import staged
from nemotron_rag.runtime.features import image_features, image_key, vision_features, weights_key
from nemotron_rag.runtime.graphs import Replay
from nemotron_rag.types import Passage

__all__ = ["VLInput", "VLModel", "load_vl_model"]


@dataclass(frozen=True, slots=True)
class VLImage:
    """A page image, prepared for the vision tower, or with cached features.

    Args:
        tokens: number of its image tokens.
        key: cache key of its vision features.
        cut: how it is cut into tiles.
        pixels: (tiles, side, side, 3) uint8, or (height, width, 3) still to be cut; None if `features` are cached.
        features: (tokens, hidden) cached features, or None.
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
        image: the image whose tokens they contain, or None.
    """

    ids: list[int]
    image: VLImage | None = None

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
        vectors: one for each input, or one for each of its tokens.
        compile: fuse the tower with torch.compile.
    """

    def __init__(
        self, folder: Path, *, device: torch.device, dtype: torch.dtype, vectors: Vectors, compile: bool
    ) -> None:
        self.config = read_vl_config(folder, vectors=vectors)
        self._vectors = vectors
        self._tokenizer = PromptTokenizer(folder, image_context_id=self.config.image_context_id)
        self._stack = load_vl_stack(folder, self.config, device=device, dtype=dtype)
        self._tower_key = weights_key(self._stack.vision_model, self._stack.mlp1, settings=self.config.tower_settings)
        if compile:
            self._stack.vision_model.compile(dynamic=True)  # the number of tiles varies, nothing else
        graphs = has_kernel(device, dtype, head_dim=head_dim(self.config.llm))
        self._replay = Replay(self._stack, device=device) if graphs else None
        tile = (self.config.tile_size // self.config.patch_size) ** 2  # patches
        patches = tokens_at_once(device, token_bytes=tower_patch_bytes(self.config.vision, dtype))
        self._tiles_at_once = max(1, patches // tile)
        super().__init__(folder, device=device, token_bytes=token_bytes(self.config.llm, dtype))

    def encode_query(self, query: str, settings: VLSettings, *, index: int) -> VLInput:
        """Tokenize a query for an embedder."""
        prompt = embed_prompt(self.config.query_prefix, query)
        return self.encode(prompt, None, max_length=settings.max_length["query"], index=index)

    def query_spans(self, query: str, settings: VLSettings) -> NDArray[np.int64]:
        """Return the characters that each token of `encode_query` stands for; see `PromptTokenizer.spans`."""
        prompt = embed_prompt(self.config.query_prefix, query)
        return self._tokenizer.spans(prompt, query, max_length=settings.max_length["query"])

    def encode_passage(self, passage: Passage, settings: VLSettings, *, index: int) -> VLInput:
        """Prepare a passage for an embedder; its image is converted to RGB before it is resized."""
        image = self.image(passage, settings, index=index, keep_mode=False)
        prompt = embed_prompt(self.config.passage_prefix, passage.text, image_tokens=image.tokens if image else 0)
        return self.encode(prompt, image, max_length=settings.max_length[passage.modality], index=index)

    def encode(self, prompt: Prompt, image: VLImage | None, *, max_length: int, index: int) -> VLInput:
        """Tokenize a prompt and attach its image; see `PromptTokenizer.encode`."""
        return VLInput(self._tokenizer.encode(prompt, max_length=max_length, index=index), image)

    def image(self, passage: Passage, settings: VLSettings, *, index: int, keep_mode: bool) -> VLImage | None:
        """Read a passage's image and cut it into tiles, unless its vision features are cached.

        Args:
            passage: with or without an image.
            settings: tiles and thumbnail.
            index: of the passage in the caller's list, for error messages.
            keep_mode: resize in the image's own mode instead of converting to RGB first.

        Returns:
            None if the passage has no image.

        Raises:
            ImageError: the image cannot be read.
        """
        if passage.image is None:
            return None
        try:
            return self._vl_image(PassageImage(passage.image, keep_mode=keep_mode), settings)
        except ImageError as error:
            raise error.at(index) from error

    def _vl_image(self, image: PassageImage, settings: VLSettings) -> VLImage:
        cut = Cut.of(
            image.size,
            max_tiles=settings.max_input_tiles,
            side=self.config.tile_size,
            use_thumbnail=settings.use_thumbnail,
        )
        key = self._tower_key + image_key(image.hash, f"{(cut.columns, cut.rows)} of {cut.side}, {cut.tiles} tiles")
        tokens, features = cut.tiles * self.config.tokens_per_tile, vision_features.find(key)
        if features is not None:
            return VLImage(tokens, key, cut, pixels=None, features=staged(features, self._device))
        if image.is_trusting:
            return self._vl_image(image.checked(), settings)
        decoded = image.decoded()
        on_device = resizes_on_device(decoded, pixels=cut.pixels, device=self._device)
        pixels = torch.from_numpy(image.pixels() if on_device else cut_tiles(decoded, cut))
        return VLImage(tokens, key, cut, pixels=staged(pixels, self._device), features=None)

    @torch.inference_mode()
    def _compute(self, batch: Sequence[VLInput]) -> list[torch.Tensor]:
        """Compute for each sequence its pooled vector (hidden,), or its token vectors (tokens, hidden)."""
        lengths = [item.tokens for item in batch]
        hidden = self._run(batch)  # (tokens, hidden)
        if self._vectors == "colbert":
            return token_vectors(hidden, lengths)
        return list(pool(hidden, lengths, self.config.pooling).cpu())

    def _run(self, batch: Sequence[VLInput]) -> torch.Tensor:
        """Compute the last hidden states of all tokens of a batch: (tokens, hidden)."""
        if self._replay and len(batch) == 1 and batch[0].image is None and self._replay.fits(batch[0].tokens):
            return self._replay(batch[0].ids)
        ids = torch.tensor([i for item in batch for i in item.ids], device=self._device)  # (tokens,)
        packing = pack([item.tokens for item in batch], self._device)
        return self._stack(ids, packing, self._image_tokens(batch))  # type: ignore[no-any-return]

    def _image_tokens(self, batch: Sequence[VLInput]) -> torch.Tensor | None:
        """Return the image tokens of a batch in order, (image tokens, hidden); None if it has no image."""
        images = [item.image for item in batch if item.image is not None]
        if not images:
            return None
        features = image_features(images, self._encode, device=self._device)
        return torch.cat([features[image.key] for image in images])

    def _encode(self, images: Sequence[VLImage]) -> list[torch.Tensor]:
        """Run images through the vision tower, all their tiles together: (tokens, hidden) each."""
        cut = [self._tiles(image.pixels, image.cut) for image in images if image.pixels is not None]
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
        """Move an image to the device and cut it if needed: (tiles, side, side, 3) uint8."""
        moved = pixels.to(self._device, non_blocking=True)
        return cut_tiles_on_device(moved, cut) if moved.ndim == 3 else moved


def load_vl_model(
    folder: Path, *, device: str | None, dtype: str | None, vectors: Vectors = "one", compile: bool = False
) -> VLModel:
    """Load a checkpoint or share it; see `load_packed`."""
    return load_packed(VLModel, folder, device=device, dtype=dtype, vectors=vectors, compile=compile)
