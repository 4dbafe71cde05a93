"""sentence-transformers on our checkpoints, where possible: an optional peer."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nemotron_rag import Passage

__all__ = ["WHY_TEXT_ONLY", "SentenceTransformersLoop", "installed"]

WHY_TEXT_ONLY = (
    "sentence-transformers reads the image models with remote code only, and its text cross-encoder pools the last "
    "token instead of all: not comparable here"
)


def installed() -> bool:
    """Whether sentence-transformers can be imported."""
    return importlib.util.find_spec("sentence_transformers") is not None


class SentenceTransformersLoop:
    """A text embedder: its own sorting, batches and padding over the Llama of `transformers`.

    The checkpoint is loaded as a plain Llama; the attention in both directions, for which it would need remote code, is
    set on the loaded layers here.

    Args:
        folder: a checkpoint of the text family.
        device: where it runs.
        dtype: number format of the weights.
        batch: its `batch_size`.
    """

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype, batch: int) -> None:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]  # noqa: PLC0415
        from sentence_transformers.sentence_transformer.modules import (  # type: ignore[import-not-found]  # noqa: PLC0415
            Normalize,
            Pooling,
            Transformer,
        )

        plain = _as_plain_llama(folder)
        kwargs = {"dtype": dtype, "attn_implementation": "sdpa"}
        body = Transformer(str(plain), model_kwargs=kwargs, max_seq_length=8192)
        for layer in body.auto_model.layers:
            layer.self_attn.is_causal = False
        modules = [body, Pooling(body.get_embedding_dimension(), "mean"), Normalize()]
        self._model: Any = SentenceTransformer(modules=modules, device=str(device))
        self._batch = batch

    def embed_passages(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """(passages, hidden) float32, each of length 1."""
        texts = [f"passage: {passage.text}" for passage in passages]
        found = self._model.encode(texts, batch_size=self._batch, convert_to_tensor=True, show_progress_bar=False)
        return found.float().cpu().numpy()  # type: ignore[no-any-return]


def _as_plain_llama(folder: Path) -> Path:
    """The same weights under a config that needs no remote code; ``is_causal`` takes the mask of the future away."""
    plain = folder.with_name(f"{folder.name}_plain")
    plain.mkdir(exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "llama", "architectures": ["LlamaModel"], "is_causal": False}
    (plain / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(folder / "tokenizer.json", plain)
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "pad_token": "<|finetune_right_pad_id|>",
        "padding_side": "left",
    }
    (plain / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    (plain / "model.safetensors").symlink_to(folder / "model.safetensors")
    return plain
