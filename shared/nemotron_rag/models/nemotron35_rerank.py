"""Nemotron 3.5 Rerank: a cross-encoder that reads a query with a text, a page image, or both.

Prompts are those of the checkpoint's own chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._base.reranker import LinearCrossEncoder
from nemotron_rag.models._mistral.model import Limits, MistralInput, MistralModel, load_mistral_model, load_score_head
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["Nemotron35Rerank", "load"]


class Nemotron35Rerank(LinearCrossEncoder[MistralModel]):
    """A `Reranker` over a Nemotron 3.5 Rerank checkpoint; `nemotron_rag.load_reranker` makes it.

    Args:
        model: the loaded weights; other objects may share them.
        head: (1, hidden) float32.
        temperature: logits are divided by it.
        name: catalog id or folder.
        revision: of the weights.
        limits: how large inputs may be, query and passage together.

    Example:
        >>> from nemotron_rag import Passage, load_reranker
        >>> reranker = load_reranker("nemotron-3.5-rerank-8b")  # doctest: +SKIP
        >>> reranker.score("tornadoes", [Passage("Tornadoes form in thunderstorms.")]).shape  # doctest: +SKIP
        (1,)
    """

    def __init__(
        self,
        model: MistralModel,
        *,
        head: torch.Tensor,
        temperature: float,
        name: str,
        revision: str,
        limits: Limits,
    ) -> None:
        super().__init__(model, name=name, head=head, temperature=temperature)
        self._revision = revision
        self._limits = limits

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the scores are."""
        return {"family": "nemotron35_rerank", "revision": self._revision, **self._limits.identity}

    def _prepare(self, model: MistralModel, query: str, passage: Passage, index: int) -> MistralInput:
        return model.encode_pair(query, passage, self._limits, index=index)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    max_length: int | Mapping[str, int] | None = None,
    max_image_tokens: int | None = None,
) -> Nemotron35Rerank:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_reranker` explains the arguments."""
    model = load_mistral_model(folder, device=device, dtype=dtype, is_reranker=True)
    config = model.config
    head, temperature = load_score_head(folder, hidden=config.text.hidden_size, temperature=config.temperature)
    defaults = dict.fromkeys(("text", "image", "image_text"), config.max_length)
    return Nemotron35Rerank(
        model,
        head=head,
        temperature=temperature,
        name=name,
        revision=revision or fingerprint(folder),
        limits=Limits(resolve_lengths(defaults, max_length), max_image_tokens),
    )
