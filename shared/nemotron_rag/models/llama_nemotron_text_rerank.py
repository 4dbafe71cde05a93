"""Llama-Nemotron text rerank: a cross-encoder that reads a query with a text.

The prompt is that of the model card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nemotron_rag.documents.passages import text_of
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._base.reranker import LinearCrossEncoder, load_head
from nemotron_rag.models._llama.prompts import rerank_prompt
from nemotron_rag.models._llama.text_model import MAX_LENGTH, TextInput, TextModel, load_text_model
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["LlamaNemotronTextRerank", "load"]


class LlamaNemotronTextRerank(LinearCrossEncoder[TextModel]):
    """A `Reranker` over a Llama-Nemotron text rerank checkpoint; `nemotron_rag.load_reranker` makes it.

    It reads the text of a passage: an image beside it is ignored, an image without text raises `InputError`.

    Args:
        model: the loaded weights; other objects may share them.
        head: (1, hidden) float32, the checkpoint's ``score.weight``.
        name: catalog id or folder.
        revision: of the weights.
        max_length: tokens under ``text``, of query and passage together.

    Example:
        >>> from nemotron_rag import Passage, load_reranker
        >>> reranker = load_reranker("llama-nemotron-rerank-1b-v2")  # doctest: +SKIP
        >>> reranker.score("tornadoes", [Passage("Tornadoes form in thunderstorms.")]).shape  # doctest: +SKIP
        (1,)
    """

    def __init__(
        self, model: TextModel, *, head: torch.Tensor, name: str, revision: str, max_length: Mapping[str, int]
    ) -> None:
        super().__init__(model, name=name, head=head, temperature=model.temperature)
        self._revision = revision
        self._max_length = max_length

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the scores are."""
        return {
            "family": "llama_nemotron_text_rerank",
            "revision": self._revision,
            "max_length_text": self._max_length["text"],
        }

    def _prepare(self, model: TextModel, query: str, passage: Passage, index: int) -> TextInput:
        prompt = rerank_prompt(query, text_of(passage, index=index, reader=self.name), template="v1")
        return model.encode(prompt, max_length=self._max_length["text"], index=index)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    max_length: int | Mapping[str, int] | None = None,
) -> LlamaNemotronTextRerank:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_reranker` explains the arguments."""
    lengths = resolve_lengths({"text": MAX_LENGTH}, max_length)
    model = load_text_model(folder, device=device, dtype=dtype)
    head = load_head(folder, hidden=model.hidden)
    revision = revision or fingerprint(folder)
    return LlamaNemotronTextRerank(model, head=head, name=name, revision=revision, max_length=lengths)
