"""Nemotron 3 Embed: one vector for a query or a text.

Prompts are those of the checkpoint's ``config_sentence_transformers.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nemotron_rag.documents.passages import text_of
from nemotron_rag.models._base.embedder import SingleVectorModel
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._mistral.model import MistralInput, MistralModel, load_mistral_model
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["Nemotron3Embed", "load"]


class Nemotron3Embed(SingleVectorModel[MistralModel]):
    """An `Embedder` over a Nemotron 3 Embed checkpoint; `nemotron_rag.load_embedder` makes it.

    It reads the text of a passage: an image beside it is ignored, an image without text raises `InputError`.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        revision: of the weights.
        max_length: tokens by ``text`` and ``query``.
        dimensions: the first ones of each vector, normalised again; None for all of them.

    Example:
        >>> from nemotron_rag import Passage, load_embedder
        >>> embedder = load_embedder("nemotron-3-embed-1b")  # doctest: +SKIP
        >>> embedder.embed_passages([Passage("Tornadoes form in thunderstorms.")]).shape  # doctest: +SKIP
        (1, 2048)
    """

    def __init__(
        self,
        model: MistralModel,
        *,
        name: str,
        revision: str,
        max_length: Mapping[str, int],
        dimensions: int | None = None,
    ) -> None:
        super().__init__(model, name=name, full=model.config.text.hidden_size, dimensions=dimensions)
        self._pooling = model.config.pooling
        self._revision = revision
        self._max_length = max_length

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the vectors are."""
        return {
            "family": "nemotron3_embed",
            "revision": self._revision,
            "dimensions": self.dimensions,
            "pooling": self._pooling,
            **{f"max_length_{key}": value for key, value in self._max_length.items()},
        }

    def _prepare_query(self, model: MistralModel, query: str, index: int) -> MistralInput:
        return model.encode_query(query, max_length=self._max_length["query"], index=index)

    def _prepare_passage(self, model: MistralModel, passage: Passage, index: int) -> MistralInput:
        text = text_of(passage, index=index, reader=self.name)
        return model.encode_text(text, max_length=self._max_length["text"], index=index)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    dimensions: int | None = None,
    max_length: int | Mapping[str, int] | None = None,
) -> Nemotron3Embed:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_embedder` explains the arguments."""
    model = load_mistral_model(folder, device=device, dtype=dtype)
    defaults = dict.fromkeys(("text", "query"), model.config.max_length)
    return Nemotron3Embed(
        model,
        name=name,
        revision=revision or fingerprint(folder),
        max_length=resolve_lengths(defaults, max_length),
        dimensions=dimensions,
    )
