"""Llama-Nemotron VL embed: one vector for a query, a text, a page picture, or a picture with its text.

Prompts are those of the published `LlamaNemotronVLProcessor`. It knows no file but those of its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from nemotron_rag.errors import ClosedError, InputError
from nemotron_rag.models._prompt import Prompt
from nemotron_rag.models._vl_model import VLInput, VLModel, load_vl_model
from nemotron_rag.models._vl_settings import VLSettings, resolve_settings
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.checkpoint import fingerprint
from nemotron_rag.types import Passage

__all__ = ["LlamaNemotronEmbedVL", "embed_prompt", "load"]


class LlamaNemotronEmbedVL:
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
        full = model.config.llm.hidden_size
        if dimensions is not None and not 1 <= dimensions <= full:
            raise InputError(f"dimensions must be between 1 and {full}, got {dimensions}")
        self._model: VLModel | None = model
        self._settings = settings
        self._revision = revision
        self.name = name
        self.dimensions: int = full if dimensions is None else dimensions

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the vectors are."""
        return {
            "family": "llama_nemotron_embed_vl",
            "revision": self._revision,
            "dimensions": self.dimensions,
            "pooling": "avg",
            **self._settings.identity,
        }

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """Embed questions: (n, dimensions) float32, each row of length 1.

        Raises:
            InputError: an item is not a string.
        """
        model = self._opened()
        return self._finish(model.run(queries, self._prepare_query)) if _any(queries) else self._nothing()

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Embed texts, images, or both: (n, dimensions) float32, each row of length 1.

        Raises:
            ImageError: an image cannot be read; the message names its index.
            TokenLimitError: an image needs more tokens than max_length.
        """
        model = self._opened()
        return self._finish(model.run(passages, self._prepare_passage)) if _any(passages) else self._nothing()

    async def aembed_queries(self, queries: Sequence[str]) -> FloatArray:
        """The same as `embed_queries`, without blocking the event loop."""
        model = self._opened()
        return self._finish(await model.arun(queries, self._prepare_query)) if _any(queries) else self._nothing()

    async def aembed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """The same as `embed_passages`, without blocking the event loop."""
        model = self._opened()
        return self._finish(await model.arun(passages, self._prepare_passage)) if _any(passages) else self._nothing()

    def close(self) -> None:
        """Let go of the weights; they are freed when nobody else shares them."""
        self._model = None

    def _finish(self, pooled: torch.Tensor) -> FloatArray:
        return normalize(pooled[:, : self.dimensions], dim=-1).numpy()  # (inputs, dimensions)

    def _nothing(self) -> FloatArray:
        return np.empty((0, self.dimensions), dtype=np.float32)

    def _prepare_query(self, query: str, index: int) -> VLInput:
        model = self._opened()
        if not isinstance(query, str):
            raise InputError(f"query {index} is of type {type(query).__name__}, wanted str")
        prompt = embed_prompt(model.config.query_prefix, query)
        return model.encode(prompt, None, max_length=self._settings.max_length["query"], index=index)

    def _prepare_passage(self, passage: Passage, index: int) -> VLInput:
        model = self._opened()
        tiles, image_tokens = model.cut(passage, self._settings, index=index, keep_mode=False)
        prompt = embed_prompt(model.config.passage_prefix, passage.text, image_tokens=image_tokens)
        return model.encode(prompt, tiles, max_length=self._settings.max_length[passage.modality], index=index)

    def _opened(self) -> VLModel:
        if self._model is None:
            raise ClosedError(f"{self.name} was closed; load it again")
        return self._model


def _any(inputs: Sequence[object]) -> bool:
    if isinstance(inputs, str):
        raise InputError("wanted a list, got a single string; put it into a list")
    return len(inputs) > 0


def embed_prompt(prefix: str, text: str, *, image_tokens: int = 0) -> Prompt:
    """The published prompt: prefix, image, text, each set off by a space; the space stays when the text is empty.

    Args:
        prefix: ``query:`` or ``passage:``, or nothing.
        text: the query or passage.
        image_tokens: 0 without an image.
    """
    start = f"{prefix} " if prefix else ""
    return Prompt(start, image_tokens, f" {text}") if image_tokens else Prompt(start + text)


def load(
    folder: Path,
    *,
    name: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    dimensions: int | None,
    max_input_tiles: int | None,
    use_thumbnail: bool | None,
    max_length: int | Mapping[str, int] | None,
) -> LlamaNemotronEmbedVL:
    """Load a checkpoint folder; `nemotron_rag.load.load_embedder` explains the arguments."""
    model = load_vl_model(folder, device=device, dtype=dtype)
    settings = resolve_settings(
        model.config, max_input_tiles=max_input_tiles, use_thumbnail=use_thumbnail, max_length=max_length
    )
    revision = revision or fingerprint(folder)
    return LlamaNemotronEmbedVL(model, name=name, revision=revision, settings=settings, dimensions=dimensions)
