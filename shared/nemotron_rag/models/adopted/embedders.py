"""`Embedder` and `MultiVectorEmbedder` over loaded models of sentence-transformers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.errors import ClosedError, InputError, NonFiniteError
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.models.adopted.identity import identity_of, name_of
from nemotron_rag.models.adopted.inputs import Reading, lock_of
from nemotron_rag.types import FloatArray, Kind, Modality, Passage, Query

__all__ = ["AdoptedEmbedder", "AdoptedMultiVectorEmbedder"]

_Side = Literal["query", "document"]


class _Adopted:
    """What both kinds have in common.

    Args:
        model: a loaded model of sentence-transformers; it stays the caller's, and closing this only lets go of it.
        name: for messages and records; None for the repository or folder it came from.
        modalities: what it reads; None asks the model.
        batch_size: inputs that it computes at once.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str | None = None,
        modalities: Sequence[Modality] | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size must be a positive integer, got {batch_size}")
        self.name = name_of(model) if name is None else name
        self._model: Any = model
        self._reading = Reading(model, name=self.name, modalities=modalities)
        self._batch_size = batch_size
        self._lock = lock_of(model)
        self._dimensions: int | None = _stated(model)
        self._identity: Mapping[str, str | int | bool | None] | None = None

    @property
    def query_modalities(self) -> tuple[Modality, ...]:
        """What a query may be: the same as a passage."""
        return self._reading.modalities

    @property
    def dimensions(self) -> int:
        """Length of every vector; if the model does not state it, it embeds a word to know."""
        if self._dimensions is None:
            self._dimensions = int(self._encode("document", [Passage("a")])[0].shape[-1])
        return self._dimensions

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the model computes; see `nemotron_rag.models.adopted.identity`."""
        if self._identity is None:
            self._identity = identity_of(self._opened(), dimensions=self.dimensions)
        return self._identity

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _opened(self) -> Any:
        if self._model is None:
            raise ClosedError(f"{self.name} was closed; load it again")
        return self._model

    def _encode(self, side: _Side, passages: Sequence[Passage]) -> list[NDArray[Any]]:
        """What the model computes for each input, as float32 of length 1."""
        what = "query" if side == "query" else "passage"
        rows: list[NDArray[Any]] = []
        for inputs in self._reading.parts(passages, what):
            with self._lock:
                rows += self._called(side, inputs)
        if len(rows) != len(passages):
            raise InputError(f"{self.name} computed {len(rows)} rows for {len(passages)} inputs; see to its encode()")
        return [_normalised(np.asarray(row, dtype=np.float32), f"{what} {index}") for index, row in enumerate(rows)]

    def _called(self, side: _Side, inputs: list[Any]) -> list[Any]:
        model = self._opened()
        options = {"batch_size": self._batch_size, "show_progress_bar": False, "convert_to_numpy": True}
        method = getattr(model, f"encode_{side}", None)
        computed = method(inputs, **options) if callable(method) else model.encode(inputs, **options)
        return list(computed)


class AdoptedEmbedder(_Adopted):
    """An `Embedder` over a loaded ``SentenceTransformer``.

    Queries go through its ``encode_query``, passages through ``encode_document``, with its own prompts.
    Vectors get the length 1.

    Args: see `adopt`; and ``name``, ``modalities`` and ``batch_size``.

    Example:
        >>> from sentence_transformers import SentenceTransformer  # doctest: +SKIP
        >>> embedder = AdoptedEmbedder(SentenceTransformer("BAAI/bge-m3"), batch_size=8)  # doctest: +SKIP
        >>> embedder.embed_queries(["Where do tornadoes form?"]).shape  # doctest: +SKIP
        (1, 1024)
    """

    kind: Kind = "embedder"

    def embed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """Embed queries: (n, dimensions) float32, each row of length 1.

        Raises:
            InputError: an item is neither a string nor a passage that the model reads.
            ImageError: an image cannot be read; the message names its index.
            NonFiniteError: the model computed NaN or infinity.
        """
        self._opened()
        return self._stacked("query", self._reading.queries(queries))

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Embed passages: (n, dimensions) float32, each row of length 1.

        Raises:
            InputError: an item is not a passage, or an image for a model that reads text only.
            ImageError: an image cannot be read; the message names its index.
            NonFiniteError: the model computed NaN or infinity.
        """
        self._opened()
        return self._stacked("document", self._reading.passages(passages))

    async def aembed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """Async `embed_queries`."""
        return await asyncio.to_thread(self.embed_queries, queries)

    async def aembed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Async `embed_passages`."""
        return await asyncio.to_thread(self.embed_passages, passages)

    def _stacked(self, side: _Side, passages: Sequence[Passage]) -> FloatArray:
        rows = self._encode(side, passages)
        return np.stack(rows) if rows else np.zeros((0, self.dimensions), dtype=np.float32)


class AdoptedMultiVectorEmbedder(_Adopted):
    """A `MultiVectorEmbedder` over a loaded ``MultiVectorEncoder``.

    Token vectors get the length 1. A model that divides its score by the number of query tokens (MeanMaxSim) has the
    plain sum here; the order of the passages is the same.

    Args: see `AdoptedEmbedder`.

    Example:
        >>> from sentence_transformers import MultiVectorEncoder  # doctest: +SKIP
        >>> model = MultiVectorEncoder("lightonai/GTE-ModernColBERT-v1")  # doctest: +SKIP
        >>> AdoptedMultiVectorEmbedder(model).embed_queries(["Where do tornadoes form?"])[0].shape[1]  # doctest: +SKIP
        128
    """

    kind: Kind = "multivector_embedder"

    def embed_queries(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Embed queries: one (tokens, dimensions) float32 array each; errors as of `AdoptedEmbedder`."""
        self._opened()
        return self._encode("query", self._reading.queries(queries))

    def embed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Embed passages: one (tokens, dimensions) float32 array each; errors as of `AdoptedEmbedder`."""
        self._opened()
        return self._encode("document", self._reading.passages(passages))

    def score(self, queries: Sequence[FloatArray], passages: Sequence[FloatArray]) -> FloatArray:
        """MaxSim: (queries, passages) float32; for each query token the best passage token, summed."""
        return maxsim(queries, passages)

    async def aembed_queries(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Async `embed_queries`."""
        return await asyncio.to_thread(self.embed_queries, queries)

    async def aembed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Async `embed_passages`."""
        return await asyncio.to_thread(self.embed_passages, passages)


def _stated(model: Any) -> int | None:
    """The dimensions that a model states; its methods for it were renamed once."""
    for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):
        method = getattr(model, name, None)
        stated = method() if callable(method) else None
        if stated is not None:
            return int(stated)
    return None


def _normalised(row: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    if not np.isfinite(row).all():
        raise NonFiniteError(f"the model's output for {what} is not finite; load it with another dtype")
    norms = np.maximum(np.linalg.norm(row, axis=-1, keepdims=True), 1e-12)
    unit: NDArray[np.float32] = (row / norms).astype(np.float32, copy=False)
    return unit
