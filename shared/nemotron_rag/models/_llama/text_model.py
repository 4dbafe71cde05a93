"""A loaded Llama-Nemotron text checkpoint: tokenizes prompts and pools packed batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from nemotron_rag.errors import CheckpointError
from nemotron_rag.models._base.packed import PackedModel, head_dim, load_packed, token_bytes
from nemotron_rag.models._base.pooling import pool
from nemotron_rag.models._base.sentence import read_pooling
from nemotron_rag.models._base.weights import own_name
from nemotron_rag.models._llama.layers import BidirectionalLlama, llama_config
from nemotron_rag.models._llama.tokenizer import Prompt, PromptTokenizer
from nemotron_rag.runtime.attention import Packing, has_kernel, pack
from nemotron_rag.runtime.checkpoint import load_weights, read_json
from nemotron_rag.runtime.graphs import Replay

__all__ = ["MAX_LENGTH", "TextInput", "TextModel", "load_text_model"]

MAX_LENGTH = 8192
"""Most tokens of an input, by the model cards."""


@dataclass(frozen=True, slots=True)
class TextInput:
    """One sequence of token ids, ready for the device."""

    ids: list[int]

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.ids)


class TextModel(PackedModel[TextInput]):
    """Weights, tokenizer and worker of one checkpoint on one device.

    Args:
        folder: the checkpoint.
        device: where it runs.
        dtype: number format of the weights.

    Raises:
        CheckpointError: a file is missing or broken, or a setting is not implemented.
    """

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        config = read_json(folder, "config.json")
        try:
            self.pooling = read_pooling(folder, config)
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {folder} {error}") from None
        try:
            llm = llama_config(config)
            self.temperature = float(config.get("temperature", 1.0))
            with torch.device("meta"):
                self._llama = BidirectionalLlama(llm)
        except Exception as error:  # the validation errors of transformers share no base class
            raise CheckpointError(f"config.json of checkpoint {folder} cannot be used: {error!r}") from error
        self.hidden: int = llm.hidden_size
        self._tokenizer = PromptTokenizer(folder)
        load_weights(self._llama, folder, rename=_rename_weight, device=device, dtype=dtype)
        self._llama.rotary_emb.to(device)
        graphs = has_kernel(device, dtype, head_dim=head_dim(llm))
        self._forward = partial(_forward, self._llama)  # not a method: it would keep this object alive
        self._replay = Replay(self._forward, device=device) if graphs else None
        super().__init__(folder, device=device, token_bytes=token_bytes(llm, dtype))

    def encode(self, prompt: Prompt, *, max_length: int, index: int) -> TextInput:
        """Tokenize a prompt; see `PromptTokenizer.encode`."""
        return TextInput(self._tokenizer.encode(prompt, max_length=max_length, index=index))

    @torch.inference_mode()
    def _compute(self, batch: Sequence[TextInput]) -> list[torch.Tensor]:
        """Compute and pool the last hidden states of each sequence: (hidden,) float32 each."""
        return list(pool(self._run(batch), [item.tokens for item in batch], self.pooling).cpu())

    def _run(self, batch: Sequence[TextInput]) -> torch.Tensor:
        """Compute the last hidden states of all tokens of a batch: (tokens, hidden)."""
        if self._replay and len(batch) == 1 and self._replay.fits(batch[0].tokens):
            return self._replay(batch[0].ids)
        ids = torch.tensor([i for item in batch for i in item.ids], device=self._device)  # (tokens,)
        return self._forward(ids, pack([item.tokens for item in batch], self._device))


def _forward(llama: BidirectionalLlama, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
    """From (tokens,) ids to (tokens, hidden)."""
    return llama(llama.embed_tokens(ids), packing)  # type: ignore[no-any-return]


def load_text_model(folder: Path, *, device: str | None, dtype: str | None) -> TextModel:
    """Load a checkpoint or share it; see `load_packed`."""
    return load_packed(TextModel, folder, device=device, dtype=dtype)


def _rename_weight(name: str) -> str | None:
    """Map a published weight name to this module's; rerankers prefix everything with ``model.`` and add a head."""
    own = own_name(name)
    return None if own is None or own.startswith(("score.", "lm_head.")) else own
