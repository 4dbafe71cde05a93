"""A loaded Nemotron 3 or 3.5 checkpoint: prepares prompts and images, and computes packed batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nemotron_rag.errors import CheckpointError, ImageError
from nemotron_rag.models._base.images import PassageImage, grouped
from nemotron_rag.models._base.packed import PackedModel, load_packed, token_bytes
from nemotron_rag.models._base.pooling import pool
from nemotron_rag.models._base.resize import resize, resize_image, resizes_on_device
from nemotron_rag.models._base.sentence import renders_chats
from nemotron_rag.models._base.weights import find_weight
from nemotron_rag.models._mistral.config import read_mistral_config
from nemotron_rag.models._mistral.network import load_mistral_stack
from nemotron_rag.models._mistral.pixels import blend_on_white, fitted_size, patchify
from nemotron_rag.models._mistral.prompts import Prompts
from nemotron_rag.models._mistral.tokenizer import Grid, MistralTokenizer
from nemotron_rag.runtime.attention import has_kernel, pack
from nemotron_rag.runtime.budget import tokens_at_once
from nemotron_rag.runtime.checkpoint import find_tensor
from nemotron_rag.runtime.device import staged
from nemotron_rag.runtime.features import image_features, image_key, vision_features, weights_key
from nemotron_rag.runtime.graphs import Replay
from nemotron_rag.types import Passage

__all__ = ["Limits", "MistralInput", "MistralModel", "load_mistral_model", "load_score_head"]

_DENSE = "2_Dense"
_ANY_LENGTH = 1 << 30  # tokens
_HEADS = ("language_model.score.weight", "score.weight")


@dataclass(frozen=True, slots=True)
class Limits:
    """How large inputs may be.

    Args:
        max_length: tokens by ``text``, ``image`` and ``image_text``, of an embedder also by ``query``.
        max_image_tokens: images of more image tokens are shrunk; None for the checkpoint's size.
    """

    max_length: Mapping[str, int]
    max_image_tokens: int | None = None

    @property
    def identity(self) -> Mapping[str, int | None]:
        """The limits as plain values, for a model's `identity`."""
        lengths = {f"max_length_{key}": value for key, value in self.max_length.items()}
        return {"max_image_tokens": self.max_image_tokens, **lengths}


@dataclass(frozen=True, slots=True)
class MistralImage:
    """A page image, prepared for the vision tower, or with cached features.

    Args:
        grid: rows and columns of its image tokens.
        key: cache key of its vision features.
        pixels: (height, width, 3) uint8, resized or not yet; None if `features` are cached.
        features: (tokens, hidden) cached features, or None.
    """

    grid: Grid
    key: bytes
    pixels: torch.Tensor | None = None
    features: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Number of image tokens."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, slots=True)
class MistralInput:
    """One sequence, ready for the device.

    Args:
        ids: token ids.
        image: the image whose tokens they contain, or None.
    """

    ids: list[int]
    image: MistralImage | None = None

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.ids)


class MistralModel(PackedModel[MistralInput]):
    """Configuration, weights, tokenizer and worker of one checkpoint on one device.

    Args:
        folder: the checkpoint.
        device: where it runs.
        dtype: number format of the weights.
        is_reranker: whether it reads a query and a passage together.
    """

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype, is_reranker: bool) -> None:
        self.config = read_mistral_config(folder)
        vision = self.config.vision
        is_chat = vision is not None or renders_chats(folder)
        self._tokenizer = MistralTokenizer(folder, image_token_id=self.config.image_token_id, is_chat=is_chat)
        self._prompts = Prompts(folder, is_chat=is_chat, is_reranker=is_reranker, protect=self._tokenizer.protect)
        self._check_prompts(is_reranker=is_reranker)
        self._query_ending: list[int] = []
        self._text_ending: list[int] = []
        if is_chat and not is_reranker:
            self._query_ending = self._fixed_ending(self._prompts.query)
            self._text_ending = self._fixed_ending(partial(self._prompts.passage, has_image=False))
        self._stack = load_mistral_stack(folder, self.config, device=device, dtype=dtype)
        graphs = has_kernel(device, dtype, head_dim=self.config.text.head_dim)
        self._replay = Replay(self._stack, device=device) if graphs else None
        self._tower_key = b""
        self._patches_at_once = 0
        if vision is not None:
            tower, projector = self._stack.vision_tower, self._stack.multi_modal_projector
            self._tower_key = weights_key(tower, projector, settings=self.config.tower_settings)
            self._patches_at_once = tokens_at_once(device, token_bytes=vision.patch_bytes(dtype))
        super().__init__(folder, device=device, token_bytes=token_bytes(self.config.text, dtype))

    def encode_query(self, query: str, *, max_length: int, index: int) -> MistralInput:
        """Prepare a query for an embedder."""
        prompt = self._prompts.query(query)
        ids = self._tokenizer.encode(prompt, max_length=max_length, index=index, ending=self._query_ending)
        return MistralInput(ids)

    def encode_text(self, text: str, *, max_length: int, index: int) -> MistralInput:
        """Prepare a passage for an embedder that reads text only."""
        prompt = self._prompts.passage(text, has_image=False)
        ids = self._tokenizer.encode(prompt, max_length=max_length, index=index, ending=self._text_ending)
        return MistralInput(ids)

    def encode_passage(self, passage: Passage, limits: Limits, *, index: int) -> MistralInput:
        """Prepare a passage for an embedder."""
        if passage.image is None:
            return self.encode_text(passage.text, max_length=limits.max_length["text"], index=index)
        return self._encode_with_image(self._prompts.passage(passage.text, has_image=True), passage, limits, index)

    def encode_pair(self, query: str, passage: Passage, limits: Limits, *, index: int) -> MistralInput:
        """Prepare a query and a passage for a reranker."""
        prompt = self._prompts.pair(query, passage.text, has_image=passage.image is not None)
        return self._encode_with_image(prompt, passage, limits, index)

    def _encode_with_image(self, prompt: str, passage: Passage, limits: Limits, index: int) -> MistralInput:
        image = self._image(passage, limits, index=index)
        grid, most = image.grid if image else None, limits.max_length[passage.modality]
        return MistralInput(self._tokenizer.encode(prompt, grid=grid, max_length=most, index=index), image)

    def _image(self, passage: Passage, limits: Limits, *, index: int) -> MistralImage | None:
        """Read and resize a passage's image, unless its vision features are cached; None if it has none."""
        if passage.image is None:
            return None
        try:
            return self._prepare_image(PassageImage(passage.image, convert=blend_on_white), limits.max_image_tokens)
        except ImageError as error:
            raise error.at(index) from error

    def _prepare_image(self, image: PassageImage, max_tokens: int | None) -> MistralImage:
        settings = self.config.pixels
        assert settings is not None  # a family that reads images has them
        width, height = fitted_size(*image.size, settings, max_tokens=max_tokens)
        grid = (height // settings.token_side, width // settings.token_side)
        key = self._tower_key + image_key(image.hash, f"{width}x{height}")
        features = vision_features.find(key)
        if features is not None:
            return MistralImage(grid, key, features=staged(features, self._device))
        if image.is_trusting:
            return self._prepare_image(image.checked(), max_tokens)
        decoded = image.decoded()
        on_device = resizes_on_device(decoded, pixels=width * height, device=self._device)
        sent = torch.from_numpy(image.pixels() if on_device else np.array(resize_image(decoded, (width, height))))
        return MistralImage(grid, key, pixels=staged(sent, self._device))

    @torch.inference_mode()
    def _compute(self, batch: Sequence[MistralInput]) -> list[torch.Tensor]:
        """Compute and pool each sequence: (hidden,) float32 each."""
        lengths = [item.tokens for item in batch]
        return list(pool(self._run(batch), lengths, self.config.pooling).cpu())

    def _run(self, batch: Sequence[MistralInput]) -> torch.Tensor:
        """Compute the last hidden states of all tokens of a batch: (tokens, hidden)."""
        if self._replay and len(batch) == 1 and batch[0].image is None and self._replay.fits(batch[0].tokens):
            return self._replay(batch[0].ids)
        ids = torch.tensor([i for item in batch for i in item.ids], device=self._device)  # (tokens,)
        packing = pack([item.tokens for item in batch], self._device)
        return self._stack(ids, packing, self._image_tokens(batch))  # type: ignore[no-any-return]

    def _image_tokens(self, batch: Sequence[MistralInput]) -> torch.Tensor | None:
        """Return the image tokens of a batch in order, (image tokens, hidden); None if it has no image."""
        images = [item.image for item in batch if item.image is not None]
        if not images:
            return None
        features = image_features(images, self._encode, device=self._device)
        return torch.cat([features[image.key] for image in images])

    def _encode(self, images: Sequence[MistralImage]) -> list[torch.Tensor]:
        """Run images through the vision tower in groups: (tokens, hidden) each."""
        settings = self.config.pixels
        assert settings is not None
        merge = settings.merge_size
        features: list[torch.Tensor] = []
        for group in grouped(images, self._patches_at_once // merge**2):
            patches = [patchify(self._resized(image), settings) for image in group]
            grids = [(image.grid[0] * merge, image.grid[1] * merge) for image in group]
            tokens = self._stack.encode_images(torch.cat(patches), grids)
            features += tokens.split([image.tokens for image in group])
        return features

    def _resized(self, image: MistralImage) -> torch.Tensor:
        """Move an image to the device and resize it to whole image tokens: (height, width, 3) uint8."""
        assert image.pixels is not None
        assert self.config.pixels is not None
        rows, columns = (tokens * self.config.pixels.token_side for tokens in image.grid)
        return resize(image.pixels.to(self._device, non_blocking=True), (columns, rows))

    def _check_prompts(self, *, is_reranker: bool) -> None:
        """Raise now, not at the first input, if the chat template does not fit.

        Raises:
            CheckpointError: it does not.
        """
        grids: list[Grid | None] = [None] if self.config.vision is None else [None, (1, 1)]
        for grid in grids:
            has_image = grid is not None
            if is_reranker:
                prompt = self._prompts.pair("a", "b", has_image=has_image)
            else:
                prompt = self._prompts.passage("b", has_image=has_image)
            self._tokenizer.encode(prompt, grid=grid, max_length=_ANY_LENGTH, index=0)

    def _fixed_ending(self, render: Callable[[str], str]) -> list[int]:
        """The ids that the template puts after every text; sentence-transformers keeps them when it cuts a text."""
        first, second = (
            self._tokenizer.encode(render(text), max_length=_ANY_LENGTH, index=0) for text in ("0", "1 2 3 4")
        )
        equal = [one == other for one, other in zip(reversed(first), reversed(second), strict=False)]
        count = equal.index(False) if False in equal else 0
        return first[len(first) - count :]


def load_mistral_model(
    folder: Path, *, device: str | None, dtype: str | None, is_reranker: bool = False
) -> MistralModel:
    """Load a checkpoint or share it; see `load_packed`."""
    return load_packed(MistralModel, folder, device=device, dtype=dtype, is_reranker=is_reranker)


def load_score_head(folder: Path, *, hidden: int, temperature: float) -> tuple[torch.Tensor, float]:
    """Load the head of a reranker, and by what its logits are divided.

    A checkpoint holds it among its weights, or only in the module that sentence-transformers reads, where it is divided
    already.

    Args:
        folder: the checkpoint.
        hidden: width of the language model.
        temperature: of its config.json.

    Returns:
        (1, hidden) float32 on the CPU, and the temperature to use.

    Raises:
        CheckpointError: it is missing, or has another shape.
    """
    found = next((head for head in (find_weight(folder, name) for name in _HEADS) if head is not None), None)
    if found is None and (folder / _DENSE).is_dir():
        found, temperature = find_tensor(folder / _DENSE, "linear.weight"), 1.0
    if found is None:
        raise CheckpointError(f"checkpoint {folder} has no score.weight, and no head in {_DENSE}")
    if found.shape != (1, hidden):
        raise CheckpointError(
            f"score.weight of checkpoint {folder} has shape {tuple(found.shape)}, its config.json needs {(1, hidden)}"
        )
    return found, temperature
