"""Llama-Nemotron VL rerank: a cross-encoder that reads a query with a text, a page picture, or both.

Prompts are those of the published `LlamaNemotronVLRerankProcessor`. It knows no file but those of its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nemotron_rag.errors import ClosedError, InputError
from nemotron_rag.models._prompt import Prompt
from nemotron_rag.models._vl_model import VLInput, VLModel, load_vl_model
from nemotron_rag.models._vl_settings import VLSettings, resolve_settings
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.checkpoint import fingerprint, load_tensor
from nemotron_rag.types import Passage, Ranked

__all__ = ["LlamaNemotronRerankVL", "load", "rerank_prompt"]

_NOTHING = np.empty(0, dtype=np.float32)


class LlamaNemotronRerankVL:
    """A `Reranker` over a Llama-Nemotron VL rerank checkpoint; `nemotron_rag.load_reranker` makes it.

    Args:
        model: the loaded weights; other objects may share them.
        head: (1, hidden) float32, the checkpoint's ``score.weight``.
        name: catalog id or folder.
        revision: of the weights.
        settings: tiles and lengths.

    Example:
        >>> from nemotron_rag import Passage, load_reranker
        >>> reranker = load_reranker("starter-rerank-vl")
        >>> best, *_ = reranker.rank("tornado warning", [Passage("Bread recipes."), Passage("A tornado warning.")])
        >>> best.index
        1
    """

    def __init__(self, model: VLModel, *, head: torch.Tensor, name: str, revision: str, settings: VLSettings) -> None:
        self._model: VLModel | None = model
        self._weight = head
        self._settings = settings
        self._revision = revision
        self.name = name

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the scores are."""
        return {"family": "llama_nemotron_rerank_vl", "revision": self._revision, **self._settings.identity}

    def score(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        """Raw logits: (n,) float32; higher is more relevant.

        Raises:
            ImageError: an image cannot be read; the message names its index.
            TokenLimitError: an image needs more tokens than max_length.
        """
        model, prepare = self._checked(query)
        return self._logits(model, model.run(passages, prepare)) if len(passages) else _NOTHING

    def rank(self, query: str, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The passages from best to worst, at most `top_n`; equal scores keep the caller's order.

        Raises:
            InputError: `top_n` is negative, or as for `score`.
        """
        _check_top_n(top_n)
        return _ranked(self.score(query, passages), passages, top_n)

    async def ascore(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        """The same as `score`, without blocking the event loop."""
        model, prepare = self._checked(query)
        return self._logits(model, await model.arun(passages, prepare)) if len(passages) else _NOTHING

    async def arank(self, query: str, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The same as `rank`, without blocking the event loop."""
        _check_top_n(top_n)
        return _ranked(await self.ascore(query, passages), passages, top_n)

    def close(self) -> None:
        """Let go of the weights; they are freed when nobody else shares them."""
        self._model = None

    def _checked(self, query: str) -> tuple[VLModel, Callable[[Passage, int], VLInput]]:
        if not isinstance(query, str):
            raise InputError(f"query is of type {type(query).__name__}, wanted str")
        return self._opened(), partial(self._prepare, query)

    def _prepare(self, query: str, passage: Passage, index: int) -> VLInput:
        model = self._opened()
        tiles, image_tokens = model.cut(passage, self._settings, index=index, keep_mode=True)
        template = model.config.prompt_template
        prompt = rerank_prompt(query, passage.text, template=template, image_tokens=image_tokens)
        return model.encode(prompt, tiles, max_length=self._settings.max_length[passage.modality], index=index)

    def _logits(self, model: VLModel, pooled: torch.Tensor) -> FloatArray:
        logits = pooled @ self._weight.T / model.config.temperature  # (passages, 1)
        return logits.squeeze(-1).numpy()

    def _opened(self) -> VLModel:
        if self._model is None:
            raise ClosedError(f"{self.name} was closed; load it again")
        return self._model


def _check_top_n(top_n: int | None) -> None:
    if top_n is not None and top_n < 0:
        raise InputError(f"top_n must not be negative, got {top_n}")


def _ranked(scores: FloatArray, passages: Sequence[Passage], top_n: int | None) -> list[Ranked]:
    order = np.argsort(-scores, kind="stable")[:top_n].tolist()
    return [Ranked(index=i, score=float(scores[i]), passage=passages[i]) for i in order]


def rerank_prompt(question: str, passage: str, *, template: str | None, image_tokens: int = 0) -> Prompt:
    """The published prompt: the image before the question; the odd spaces and line breaks are the model's own.

    Args:
        question: the query.
        passage: the text to judge; may be empty.
        template: ``v1`` for the labelled form, anything else for the bare one.
        image_tokens: 0 without an image.
    """
    text = f"question:{question} \n \n passage:{passage}" if template == "v1" else f"{question} \n {passage}"
    return Prompt("", image_tokens, f" {text}") if image_tokens else Prompt(text)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    max_input_tiles: int | None,
    use_thumbnail: bool | None,
    max_length: int | Mapping[str, int] | None,
) -> LlamaNemotronRerankVL:
    """Load a checkpoint folder; `nemotron_rag.load.load_reranker` explains the arguments."""
    model = load_vl_model(folder, device=device, dtype=dtype)
    settings = resolve_settings(
        model.config, max_input_tiles=max_input_tiles, use_thumbnail=use_thumbnail, max_length=max_length
    )
    revision = revision or fingerprint(folder)
    head = load_tensor(folder, "score.weight")
    return LlamaNemotronRerankVL(model, head=head, name=name, revision=revision, settings=settings)
