"""Llama-Nemotron text embed: one vector for a query or a text, in 26 languages.

Prompts are those of the checkpoint's ``config_sentence_transformers.json``, or the published ones where it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from nemotron_rag.documents.passages import text_of
from nemotron_rag.models._base.embedder import SingleVectorModel
from nemotron_rag.models._base.lengths import resolve_lengths
from nemotron_rag.models._base.sentence import Prefixes, read_prefixes
from nemotron_rag.models._llama.text_model import MAX_LENGTH, TextInput, TextModel, load_text_model
from nemotron_rag.models._llama.tokenizer import Prompt
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["LlamaNemotronTextEmbed", "load"]

_PUBLISHED = Prefixes(query="query: ", passage="passage: ")


class LlamaNemotronTextEmbed(SingleVectorModel[TextModel]):
    """An `Embedder` over a Llama-Nemotron text embed checkpoint; `nemotron_rag.load_embedder` makes it.

    It reads the text of a passage: an image beside it is ignored, an image without text raises `InputError`.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        revision: of the weights.
        max_length: tokens by ``text`` and ``query``.
        prefixes: what stands before queries and passages.
        dimensions: length of the vectors (Matryoshka: the first ones, normalised again); None for all of them.

    Example:
        >>> from nemotron_rag import Passage, load_embedder
        >>> embedder = load_embedder("llama-nemotron-embed-1b-v2", dimensions=384)  # doctest: +SKIP
        >>> embedder.embed_passages([Passage("Tornadoes form in thunderstorms.")]).shape  # doctest: +SKIP
        (1, 384)
    """

    def __init__(
        self,
        model: TextModel,
        *,
        name: str,
        revision: str,
        max_length: Mapping[str, int],
        prefixes: Prefixes = _PUBLISHED,
        dimensions: int | None = None,
    ) -> None:
        super().__init__(model, name=name, full=model.hidden, dimensions=dimensions)
        self._pooling = model.pooling
        self._revision = revision
        self._max_length = max_length
        self._prefixes = prefixes

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the vectors are."""
        other = (
            {}
            if self._prefixes == _PUBLISHED
            else {f"{key}_prefix": text for key, text in asdict(self._prefixes).items()}
        )
        return {
            "family": "llama_nemotron_text_embed",
            "revision": self._revision,
            "dimensions": self.dimensions,
            "pooling": self._pooling,
            **other,
            **{f"max_length_{key}": value for key, value in self._max_length.items()},
        }

    def _prepare_query(self, model: TextModel, query: str, index: int) -> TextInput:
        return model.encode(Prompt(self._prefixes.query + query), max_length=self._max_length["query"], index=index)

    def _prepare_passage(self, model: TextModel, passage: Passage, index: int) -> TextInput:
        prompt = Prompt(self._prefixes.passage + text_of(passage, index=index, reader=self.name))
        return model.encode(prompt, max_length=self._max_length["text"], index=index)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    dimensions: int | None = None,
    max_length: int | Mapping[str, int] | None = None,
) -> LlamaNemotronTextEmbed:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_embedder` explains the arguments."""
    lengths = resolve_lengths({"text": MAX_LENGTH, "query": MAX_LENGTH}, max_length)
    model = load_text_model(folder, device=device, dtype=dtype)
    revision = revision or fingerprint(folder)
    prefixes = read_prefixes(folder, without=_PUBLISHED)
    return LlamaNemotronTextEmbed(
        model, name=name, revision=revision, max_length=lengths, prefixes=prefixes, dimensions=dimensions
    )
