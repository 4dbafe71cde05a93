"""The plain loop of the model cards: batches as they come, padded on the left to their longest, one after the other.

Preprocessing is the published one: Pillow resizes, every tile becomes float32 on the CPU, `transformers` tokenises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerFast

from benchmarks.networks import TextNetwork, VLNetwork, load_published
from nemotron_rag import Passage
from nemotron_rag.models._llama import llama_config
from nemotron_rag.models._vl_config import read_vl_config
from nemotron_rag.runtime.checkpoint import read_json
from nemotron_rag.tiling import choose_grid

__all__ = ["PaddedLoop"]

_MAX_LENGTH = 10_240  # tokens; what the cards set for pictures with text
_Row = tuple[str, torch.Tensor | None]  # a prompt and its (tiles, 3, side, side)


class PaddedLoop:
    """An embedder or a reranker of the Llama families.

    Args:
        folder: the checkpoint.
        device: where it runs.
        dtype: number format of the weights.
        batch: inputs that are padded and computed together.
    """

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype, batch: int) -> None:
        fields = read_json(folder, "config.json")
        self._device, self._batch = device, batch
        self._vl = read_vl_config(folder) if "vision_config" in fields else None
        self._network = self._build(folder, fields, dtype)
        self._temperature = float(fields.get("temperature", 1.0))
        self._tokenizer = _tokenizer(folder)
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            names = set(file.keys())
            self._head = file.get_tensor("score.weight").to(device, dtype) if "score.weight" in names else None

    def embed_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """(queries, hidden) float32, each of length 1."""
        return self._embed([(f"query: {query}", None) for query in queries])

    def embed_passages(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """(passages, hidden) float32, each of length 1."""
        return self._embed(passages, self._passage)

    def score(self, query: str, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """(passages,) float32 raw logits."""
        assert self._head is not None
        pooled = torch.cat(list(self._pooled(passages, lambda passage: self._pair(query, passage))))
        logits = pooled.to(self._head.dtype) @ self._head.T / self._temperature  # (passages, 1)
        return logits.squeeze(-1).float().cpu().numpy()  # type: ignore[no-any-return]

    def tokens(self, passages: Sequence[Passage], *, query: str | None = None) -> list[int]:
        """How many tokens each input has, padding not counted; with a query those of the pair."""
        rows = [self._passage(passage) if query is None else self._pair(query, passage) for passage in passages]
        return [len(self._tokenizer(prompt)["input_ids"]) for prompt, _ in rows]

    def count_tiles(self, passage: Passage) -> int:
        """How many tiles its picture is cut into."""
        return 0 if passage.image is None else len(self._tiles(_picture(passage)))

    def _embed(self, inputs: Sequence[Any], prepare: Any = lambda row: row) -> NDArray[np.float32]:
        pooled = torch.cat(list(self._pooled(inputs, prepare)))  # (inputs, hidden)
        return normalize(pooled.float(), dim=-1).cpu().numpy()

    @torch.inference_mode()
    def _pooled(self, inputs: Sequence[Any], prepare: Any) -> Iterator[torch.Tensor]:
        """(batch, hidden) for each batch: the mean over the tokens that are not padding."""
        for start in range(0, len(inputs), self._batch):
            prompts, tiles = zip(*(prepare(item) for item in inputs[start : start + self._batch]), strict=True)
            padded = self._tokenizer(
                list(prompts), padding=True, truncation=True, max_length=_MAX_LENGTH, return_tensors="pt"
            ).to(self._device)
            pictures = [part for part in tiles if part is not None]
            given = {"pixel_values": torch.cat(pictures).to(self._device)} if pictures else {}
            hidden = self._network(padded["input_ids"], padded["attention_mask"], **given)
            real = padded["attention_mask"].unsqueeze(-1)  # (batch, length, 1)
            yield hidden.masked_fill(real == 0, 0).float().sum(1) / real.sum(1)

    def _passage(self, passage: Passage) -> _Row:
        if passage.image is None:
            return f"passage: {passage.text}", None
        tiles = self._tiles(_picture(passage).convert("RGB"))
        return f"passage: {_block(tiles)} {passage.text}", tiles

    def _pair(self, query: str, passage: Passage) -> _Row:
        question = f"question:{query} \n \n passage:{passage.text}"
        if passage.image is None:
            return question, None
        tiles = self._tiles(_picture(passage))
        return f"{_block(tiles)} {question}", tiles

    def _tiles(self, picture: Image.Image) -> torch.Tensor:
        """Cut a picture, and turn every tile into numbers on the CPU: (tiles, 3, side, side) bfloat16."""
        assert self._vl is not None
        side = self._vl.tile_size
        columns, rows = choose_grid(*picture.size, max_tiles=self._vl.max_input_tiles, tile_size=side)
        whole = picture.resize((columns * side, rows * side))
        corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
        tiles = [whole.crop((x, y, x + side, y + side)) for x, y in corners]
        if self._vl.use_thumbnail and len(tiles) > 1:
            tiles.append(picture.resize((side, side)))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self._vl.mean, self._vl.std))
        pixels = [torch.from_numpy(np.array(tile.convert("RGB"))).permute(2, 0, 1).float() / 255 for tile in tiles]
        return torch.stack([(tile - mean) / std for tile in pixels]).to(torch.bfloat16)

    def _build(self, folder: Path, fields: dict[str, Any], dtype: torch.dtype) -> TextNetwork:
        usual = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # not `.to`, which would round the rotary frequencies too
        try:
            with self._device:
                if self._vl is None:
                    network = TextNetwork(llama_config(fields))
                else:
                    network = VLNetwork(self._vl.llm, self._vl.vision, context=self._vl.image_context_id)
        finally:
            torch.set_default_dtype(usual)
        load_published(network, folder, prefix="language_model." if self._vl is None else "")
        return network.eval()


def _picture(passage: Passage) -> Image.Image:
    assert isinstance(passage.image, Image.Image)
    return passage.image


def _block(tiles: torch.Tensor) -> str:
    side = tiles.shape[-1] // 32  # image tokens: patches of 16 pixels, four joined into one
    return f"<img>{'<IMG_CONTEXT>' * (len(tiles) * side * side)}</img>"


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), padding_side="left")  # type: ignore[no-untyped-call]
    known = tokenizer.get_vocab()
    tokenizer.pad_token = next(token for token in ("<|finetune_right_pad_id|>", *known) if token in known)
    return tokenizer
