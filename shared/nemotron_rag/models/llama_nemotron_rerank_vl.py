"""Llama-Nemotron VL rerank: a cross-encoder that reads a query with a text, a page image, or both.

Prompts are those of the published `LlamaNemotronVLRerankProcessor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nemotron_rag.models._base.reranker import LinearCrossEncoder, load_head
from nemotron_rag.models._llama.model import VLInput, VLModel, load_vl_model
from nemotron_rag.models._llama.prompts import rerank_prompt
from nemotron_rag.models._llama.settings import VLSettings, resolve_settings
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["LlamaNemotronRerankVL", "load"]


class LlamaNemotronRerankVL(LinearCrossEncoder[VLModel]):
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
        super().__init__(model, name=name, head=head, temperature=model.config.temperature)
        self._settings = settings
        self._revision = revision

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the scores are."""
        return {"family": "llama_nemotron_rerank_vl", "revision": self._revision, **self._settings.identity}

    def _prepare(self, model: VLModel, query: str, passage: Passage, index: int) -> VLInput:
        image = model.image(passage, self._settings, index=index, keep_mode=True)
        image_tokens = image.tokens if image else 0
        template = model.config.prompt_template
        prompt = rerank_prompt(query, passage.text, template=template, image_tokens=image_tokens)
        return model.encode(prompt, image, max_length=self._settings.max_length[passage.modality], index=index)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    max_input_tiles: int | None = None,
    use_thumbnail: bool | None = None,
    max_length: int | Mapping[str, int] | None = None,
    compile: bool = False,
) -> LlamaNemotronRerankVL:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_reranker` explains the arguments."""
    model = load_vl_model(folder, device=device, dtype=dtype, compile=compile)
    settings = resolve_settings(
        model.config, max_input_tiles=max_input_tiles, use_thumbnail=use_thumbnail, max_length=max_length
    )
    head = load_head(folder, hidden=model.config.llm.hidden_size)
    revision = revision or fingerprint(folder)
    return LlamaNemotronRerankVL(model, head=head, name=name, revision=revision, settings=settings)
