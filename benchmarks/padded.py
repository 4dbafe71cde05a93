"""The loop of the model cards: batches in input order, padded on the left to the longest, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch.nn.functional import normalize

from benchmarks.networks import TextNetwork, VLNetwork, load_published
from benchmarks.processor import CardProcessor
from nemotron_rag import Passage
from nemotron_rag.models._llama.config import VLConfig, read_vl_config
from nemotron_rag.models._llama.layers import llama_config
from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["PaddedLoop"]

T = TypeVar("T")
Prepare: TypeAlias = Callable[[T], tuple[str, torch.Tensor | None]]


class PaddedLoop:
    """An embedder or a reranker of the Llama families.

    Args:
        folder: the checkpoint.
        device: where it runs.
        dtype: number format of the weights.
        batch: number of inputs padded and computed together.
    """

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype, batch: int) -> None:
        fields = read_json(folder, "config.json")
        vl = read_vl_config(folder) if "vision_config" in fields else None
        self._device, self._batch = device, batch
        self._network = _network(folder, fields, vl, device=device, dtype=dtype)
        self._temperature = float(fields.get("temperature", 1.0))
        self.processor = CardProcessor(folder, vl)
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            names = set(file.keys())
            self._head = file.get_tensor("score.weight").to(device, dtype) if "score.weight" in names else None

    def embed_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """(queries, hidden) float32, each of length 1."""
        return self._embed(queries, lambda query: (f"query: {query}", None))

    def embed_passages(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """(passages, hidden) float32, each of length 1."""
        return self._embed(passages, self.processor.passage)

    def score(self, query: str, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """(passages,) float32 raw logits."""
        assert self._head is not None
        pooled = torch.cat(list(self._pooled(passages, lambda passage: self.processor.pair(query, passage))))
        logits = pooled.to(self._head.dtype) @ self._head.T / self._temperature  # (passages, 1)
        return logits.squeeze(-1).float().cpu().numpy()  # type: ignore[no-any-return]

    def _embed(self, inputs: Sequence[T], prepare: Prepare[T]) -> NDArray[np.float32]:
        pooled = torch.cat(list(self._pooled(inputs, prepare)))  # (inputs, hidden)
        return normalize(pooled, dim=-1).cpu().numpy()

    @torch.inference_mode()
    def _pooled(self, inputs: Sequence[T], prepare: Prepare[T]) -> Iterator[torch.Tensor]:
        """(batch, hidden) float32 for each batch: the mean over the tokens that are not padding."""
        for start in range(0, len(inputs), self._batch):
            prompts, tiles = zip(*(prepare(item) for item in inputs[start : start + self._batch]), strict=True)
            padded = self.processor.tokenize(prompts).to(self._device)
            images = [part for part in tiles if part is not None]
            given = {"pixel_values": torch.cat(images).to(self._device)} if images else {}
            hidden = self._network(padded["input_ids"], padded["attention_mask"], **given)  # (batch, length, hidden)
            real = padded["attention_mask"].unsqueeze(-1)  # (batch, length, 1)
            yield hidden.masked_fill(real == 0, 0).float().sum(1) / real.sum(1)


def _network(
    folder: Path, fields: dict[str, Any], vl: VLConfig | None, *, device: torch.device, dtype: torch.dtype
) -> TextNetwork:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # not `.to`, which would round the rotary frequencies too
    try:
        with device:
            if vl is None:
                network = TextNetwork(llama_config(fields))
            else:
                network = VLNetwork(vl.llm, vl.vision, context=vl.image_context_id)
    finally:
        torch.set_default_dtype(usual)
    load_published(network, folder, prefix="language_model." if vl is None else "")
    return network.eval()
