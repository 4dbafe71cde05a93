"""Nemotron 3.5 Embed: one vector for a query, a text, a page image, or an image with its text.

Prompts are those of the checkpoint's own chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nemotron_rag.models._base.embedder import SingleVectorModel
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._mistral.model import Limits, MistralInput, MistralModel, load_mistral_model
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["Nemotron35Embed", "load"]


class Nemotron35Embed(SingleVectorModel[MistralModel]):
    """An `Embedder` over a Nemotron 3.5 Embed checkpoint; `nemotron_rag.load_embedder` makes it.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        revision: of the weights.
        limits: how large inputs may be.
        dimensions: length of the vectors (Matryoshka: the first ones, normalised again); None for all of them.

    Example:
        >>> from nemotron_rag import Passage, load_embedder
        >>> embedder = load_embedder("nemotron-3.5-embed-1b")  # doctest: +SKIP
        >>> embedder.embed_passages([Passage("Tornadoes form in thunderstorms.")]).shape  # doctest: +SKIP
        (1, 2048)
    """

    def __init__(
        self,
        model: MistralModel,
        *,
        name: str,
        revision: str,
        limits: Limits,
        dimensions: int | None = None,
    ) -> None:
        super().__init__(model, name=name, full=model.config.text.hidden_size, dimensions=dimensions)
        self._pooling = model.config.pooling
        self._revision = revision
        self._limits = limits

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the vectors are."""
        return {
            "family": "nemotron35_embed",
            "revision": self._revision,
            "dimensions": self.dimensions,
            "pooling": self._pooling,
            **self._limits.identity,
        }

    def _prepare_query(self, model: MistralModel, query: str, index: int) -> MistralInput:
        return model.encode_query(query, max_length=self._limits.max_length["query"], index=index)

    def _prepare_passage(self, model: MistralModel, passage: Passage, index: int) -> MistralInput:
        return model.encode_passage(passage, self._limits, index=index)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    dimensions: int | None = None,
    max_length: int | Mapping[str, int] | None = None,
    max_image_tokens: int | None = None,
) -> Nemotron35Embed:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_embedder` explains the arguments."""
    model = load_mistral_model(folder, device=device, dtype=dtype)
    defaults = dict.fromkeys(("text", "image", "image_text", "query"), model.config.max_length)
    return Nemotron35Embed(
        model,
        name=name,
        revision=revision or fingerprint(folder),
        limits=Limits(resolve_lengths(defaults, max_length), max_image_tokens),
        dimensions=dimensions,
    )
