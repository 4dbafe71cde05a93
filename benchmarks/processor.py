"""Preprocessing of the model cards: Pillow resizes, every tile becomes float32 on the CPU.

Prompts are strings with one ``<IMG_CONTEXT>`` for each image token. Only the tiling rule is shared with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from nemotron_rag import Passage
from nemotron_rag.models._llama.config import VLConfig
from nemotron_rag.models._llama.tiling import choose_grid, count_tiles

__all__ = ["CardProcessor"]

_MAX_LENGTH = 10_240  # tokens; the cards' limit for images with text


class CardProcessor:
    """Turns inputs into prompts and pixels.

    Args:
        folder: the checkpoint.
        vl: its configuration; None for a model that reads no images.
    """

    def __init__(self, folder: Path, vl: VLConfig | None) -> None:
        self._vl = vl
        tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_file=str(folder / "tokenizer.json"), padding_side="left"
        )
        known = tokenizer.get_vocab()
        tokenizer.pad_token = next(token for token in ("<|finetune_right_pad_id|>", *known) if token in known)
        self._tokenizer = tokenizer

    def passage(self, passage: Passage) -> tuple[str, torch.Tensor | None]:
        """An embedder's prompt, and (tiles, 3, side, side) bfloat16 or None."""
        tiles = None if passage.image is None else self._cut(_image(passage).convert("RGB"))
        return f"passage: {self._block(passage)}{passage.text}", tiles

    def pair(self, query: str, passage: Passage) -> tuple[str, torch.Tensor | None]:
        """A reranker's prompt, and its tiles."""
        tiles = None if passage.image is None else self._cut(_image(passage))
        return f"{self._block(passage)}question:{query} \n \n passage:{passage.text}", tiles

    def tokenize(self, prompts: Sequence[str]) -> Any:
        """Padded ``input_ids`` and ``attention_mask``, (prompts, length) each."""
        return self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=_MAX_LENGTH, return_tensors="pt"
        )

    def count_tokens(self, passage: Passage) -> int:
        """Count the tokens of an embedder's prompt; a short query adds about ten."""
        return len(self._tokenizer(f"passage: {self._block(passage)}{passage.text}")["input_ids"])

    def count_tiles(self, passage: Passage) -> int:
        """Count the tiles of a passage's image; 0 without one."""
        if passage.image is None:
            return 0
        assert self._vl is not None
        return count_tiles(self._grid(_image(passage)), use_thumbnail=self._vl.use_thumbnail)

    def _block(self, passage: Passage) -> str:
        tiles = self.count_tiles(passage)
        if not tiles:
            return ""
        assert self._vl is not None
        return f"<img>{'<IMG_CONTEXT>' * (tiles * self._vl.tokens_per_tile)}</img> "

    def _grid(self, image: Image.Image) -> tuple[int, int]:
        assert self._vl is not None
        return choose_grid(*image.size, max_tiles=self._vl.max_input_tiles, tile_size=self._vl.tile_size)

    def _cut(self, image: Image.Image) -> torch.Tensor:
        assert self._vl is not None
        side, (columns, rows) = self._vl.tile_size, self._grid(image)
        whole = image.resize((columns * side, rows * side))
        corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
        tiles = [whole.crop((x, y, x + side, y + side)) for x, y in corners]
        if self._vl.use_thumbnail and len(tiles) > 1:
            tiles.append(image.resize((side, side)))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self._vl.mean, self._vl.std))
        pixels = [torch.from_numpy(np.array(tile.convert("RGB"))).permute(2, 0, 1).float() / 255 for tile in tiles]
        return torch.stack([(tile - mean) / std for tile in pixels]).to(torch.bfloat16)


def _image(passage: Passage) -> Image.Image:
    assert isinstance(passage.image, Image.Image)
    return passage.image
