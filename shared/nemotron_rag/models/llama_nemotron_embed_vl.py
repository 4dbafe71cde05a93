"""Llama-Nemotron VL embed: one vector for a query, a text, a page image, or an image with its text.

Prompts are those of the published `LlamaNemotronVLProcessor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nemotron_rag.models._base.embedder import SingleVectorModel
from nemotron_rag.models._llama.model import VLInput, VLModel, load_vl_model
from nemotron_rag.models._llama.settings import VLSettings, resolve_settings
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["LlamaNemotronEmbedVL", "load"]


class LlamaNemotronEmbedVL(SingleVectorModel[VLModel]):
    """An `Embedder` over a Llama-Nemotron VL embed checkpoint; `nemotron_rag.load_embedder` makes it.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        revision: of the weights.
        settings: tiles and lengths.
        dimensions: length of the vectors (Matryoshka: the first ones, normalised again); None for all of them.

    Example:
        >>> from nemotron_rag import Passage, load_embedder
        >>> embedder = load_embedder("starter-embed-vl")
        >>> embedder.embed_passages([Passage("Tornadoes form in thunderstorms.")]).shape
        (1, 1024)
    """

    def __init__(
        self, model: VLModel, *, name: str, revision: str, settings: VLSettings, dimensions: int | None = None
    ) -> None:
        super().__init__(model, name=name, full=model.config.llm.hidden_size, dimensions=dimensions)
        self._pooling = model.config.pooling
        self._settings = settings
        self._revision = revision

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the vectors are."""
        return {
            "family": "llama_nemotron_embed_vl",
            "revision": self._revision,
            "dimensions": self.dimensions,
            "pooling": self._pooling,
            **self._settings.identity,
        }

    def _prepare_query(self, model: VLModel, query: str, index: int) -> VLInput:
        return model.encode_query(query, self._settings, index=index)

    def _prepare_passage(self, model: VLModel, passage: Passage, index: int) -> VLInput:
        return model.encode_passage(passage, self._settings, index=index)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    dimensions: int | None = None,
    max_input_tiles: int | None = None,
    use_thumbnail: bool | None = None,
    max_length: int | Mapping[str, int] | None = None,
    compile: bool = False,
) -> LlamaNemotronEmbedVL:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_embedder` explains the arguments."""
    model = load_vl_model(folder, device=device, dtype=dtype, compile=compile)
    settings = resolve_settings(
        model.config, max_input_tiles=max_input_tiles, use_thumbnail=use_thumbnail, max_length=max_length
    )
    revision = revision or fingerprint(folder)
    return LlamaNemotronEmbedVL(model, name=name, revision=revision, settings=settings, dimensions=dimensions)
