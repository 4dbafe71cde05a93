"""Llama-Nemotron ColEmbed VL (3B): one vector for each token of a query, a text or a page image; scored by MaxSim.

Network and prompts are those of embed-vl; the vectors are the last hidden states of all tokens, without a projection.
The published config.json says nothing useful of pooling: this family is chosen by a catalog row or by
``"pooling": "colbert"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.late_interaction.boxes import place_boxes, tile_boxes
from nemotron_rag.models._base.embedder import MultiVectorModel
from nemotron_rag.models._base.images import PassageImage
from nemotron_rag.models._llama.model import VLInput, VLModel, load_vl_model
from nemotron_rag.models._llama.settings import VLSettings, resolve_settings
from nemotron_rag.models._llama.tiling import choose_grid
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["LlamaNemotronColEmbedVL", "load"]


class LlamaNemotronColEmbedVL(MultiVectorModel[VLModel]):
    """A `MultiVectorEmbedder` over a Llama-Nemotron ColEmbed VL checkpoint; `load_multivector_embedder` makes it.

    All tokens have a vector, those of the prefix and around the image too, as in the published code.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        revision: of the weights.
        settings: tiles and lengths.

    Example:
        >>> from nemotron_rag import Passage, load_multivector_embedder
        >>> model = load_multivector_embedder("llama-nemotron-colembed-vl-3b-v2")  # doctest: +SKIP
        >>> pages = model.embed_passages([Passage(image="page.png")])  # doctest: +SKIP
        >>> model.score(model.embed_queries(["Where do tornadoes form?"]), pages).shape  # doctest: +SKIP
        (1, 1)
    """

    def __init__(self, model: VLModel, *, name: str, revision: str, settings: VLSettings) -> None:
        super().__init__(model, name=name, dimensions=model.config.llm.hidden_size)
        self._settings = settings
        self._revision = revision

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the vectors are."""
        return {
            "family": "llama_nemotron_colembed_vl",
            "revision": self._revision,
            "dimensions": self.dimensions,
            "pooling": "colbert",
            **self._settings.identity,
        }

    def _prepare_query(self, model: VLModel, query: str, index: int) -> VLInput:
        return model.encode_query(query, self._settings, index=index)

    def _prepare_passage(self, model: VLModel, passage: Passage, index: int) -> VLInput:
        return model.encode_passage(passage, self._settings, index=index)

    def _query_spans(self, model: VLModel, query: str, index: int) -> NDArray[np.int64]:
        return model.query_spans(query, self._settings)

    def _passage_boxes(self, model: VLModel, passage: Passage, index: int) -> FloatArray:
        item = self._prepare_passage(model, passage, index)
        in_image = np.array(item.ids) == model.config.image_context_id
        if passage.image is None:
            return place_boxes(in_image, np.empty((0, 4), np.float32))
        width, height = PassageImage(passage.image).size
        tile_size, max_tiles = model.config.tile_size, self._settings.max_input_tiles
        columns, rows = choose_grid(width, height, max_tiles=max_tiles, tile_size=tile_size)
        side = math.isqrt(model.config.tokens_per_tile)
        boxes = tile_boxes(columns, rows, side=side, thumbnail=self._settings.use_thumbnail and columns * rows > 1)
        return place_boxes(in_image, boxes)


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
) -> LlamaNemotronColEmbedVL:
    """Load a checkpoint folder; `nemotron_rag.models.load.load_multivector_embedder` explains the arguments."""
    model = load_vl_model(folder, device=device, dtype=dtype, vectors="colbert", compile=compile)
    settings = resolve_settings(
        model.config, max_input_tiles=max_input_tiles, use_thumbnail=use_thumbnail, max_length=max_length
    )
    return LlamaNemotronColEmbedVL(model, name=name, revision=revision or fingerprint(folder), settings=settings)
