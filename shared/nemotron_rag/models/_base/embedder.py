"""Base classes of all embedders: check inputs, run the model, shape the results.

A family adds how a query and a passage become a token sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from nemotron_rag._tracing import traced_embedding
from nemotron_rag.documents.passages import check_list, check_passage, check_query, check_words
from nemotron_rag.errors import ClosedError, InputError
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.models._base.packed import PackedModel
from nemotron_rag.protocols import FloatArray
from nemotron_rag.types import Kind, Modality, Passage, Query

__all__ = ["MultiVectorModel", "SingleVectorModel"]

M = TypeVar("M", bound=PackedModel[Any])
R = TypeVar("R")


class _Embedder(ABC, Generic[M, R]):
    """Turns queries and passages into rows of numbers.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        dimensions: length of the vectors.
    """

    query_modalities: tuple[Modality, ...] = ("text",)

    def __init__(self, model: M, *, name: str, dimensions: int) -> None:
        self._model: M | None = model
        self.name = name
        self.dimensions = dimensions

    @traced_embedding("query")
    def embed_queries(self, queries: Sequence[Query]) -> R:
        """Embed queries, each vector of length 1.

        Raises:
            InputError: an item is neither a string nor a passage, or has an image and this model's `query_modalities`
                have none.
            ImageError: an image cannot be read; the message names its index.
            TokenLimitError: an image needs more tokens than max_length.
        """
        model = self._opened(queries)
        return self._finish(model.run(queries, self._checked_query))

    @traced_embedding("passage")
    def embed_passages(self, passages: Sequence[Passage]) -> R:
        """Embed passages, each vector of length 1.

        Raises:
            InputError: an item is not a passage, or of a modality that this model does not read.
            ImageError: an image cannot be read; the message names its index.
            TokenLimitError: an image needs more tokens than max_length.
        """
        model = self._opened(passages)
        return self._finish(model.run(passages, self._checked_passage))

    @traced_embedding("query")
    async def aembed_queries(self, queries: Sequence[Query]) -> R:
        """Async `embed_queries`."""
        model = self._opened(queries)
        return self._finish(await model.arun(queries, self._checked_query))

    @traced_embedding("passage")
    async def aembed_passages(self, passages: Sequence[Passage]) -> R:
        """Async `embed_passages`."""
        model = self._opened(passages)
        return self._finish(await model.arun(passages, self._checked_passage))

    def close(self) -> None:
        """Release the weights; they are freed when no other object shares them."""
        self._model = None

    @abstractmethod
    def _prepare_query(self, model: M, query: str, index: int) -> Any:
        """Build the token sequence of a query."""

    def _prepare_image_query(self, model: M, query: Passage, index: int) -> Any:
        """Build the token sequence of a query with an image; for models whose `query_modalities` have images."""
        raise NotImplementedError

    @abstractmethod
    def _prepare_passage(self, model: M, passage: Passage, index: int) -> Any:
        """Build the token sequence of a passage."""

    @abstractmethod
    def _finish(self, rows: list[torch.Tensor]) -> R:
        """Convert the model's rows to the result."""

    def _checked_query(self, query: Query, index: int) -> Any:
        checked = check_query(query, f"query {index}", reader=self.name, modalities=self.query_modalities)
        if isinstance(checked, str):
            return self._prepare_query(self._opened(), checked, index)
        return self._prepare_image_query(self._opened(), checked, index)

    def _checked_passage(self, passage: Passage, index: int) -> Any:
        check_passage(passage, index)
        return self._prepare_passage(self._opened(), passage, index)

    def _opened(self, inputs: Sequence[object] = ()) -> M:
        if self._model is None:
            raise ClosedError(f"{self.name} was closed; load it again")
        check_list(inputs)
        return self._model


class SingleVectorModel(_Embedder[M, FloatArray]):
    """An embedder whose model computes one pooled (hidden,) vector for each input.

    Args:
        model: the loaded weights.
        name: catalog id or folder.
        full: dimensions of the model's vectors.
        dimensions: how many to use, normalized again (Matryoshka); None for all.

    Raises:
        InputError: `dimensions` is below 1 or above `full`.
    """

    kind: Kind = "embedder"

    def __init__(self, model: M, *, name: str, full: int, dimensions: int | None) -> None:
        if dimensions is not None and not 1 <= dimensions <= full:
            raise InputError(f"dimensions must be between 1 and {full}, got {dimensions}")
        super().__init__(model, name=name, dimensions=full if dimensions is None else dimensions)

    def _finish(self, rows: list[torch.Tensor]) -> FloatArray:
        pooled = torch.stack(rows) if rows else torch.empty(0, self.dimensions)  # (inputs, hidden)
        return normalize(pooled[:, : self.dimensions], dim=-1).numpy()  # (inputs, dimensions)


class MultiVectorModel(_Embedder[M, list[FloatArray]]):
    """An embedder whose model computes (tokens, dimensions) vectors of length 1 for each input."""

    kind: Kind = "multivector_embedder"

    def score(
        self, queries: Sequence[FloatArray], passages: Sequence[FloatArray], *, exact: bool = False
    ) -> FloatArray:
        """MaxSim: for each query token the best passage token, summed.

        By default the result equals `get_scores` of the published models, which pads all passages to the longest one
        with rows of zeros that take part: a query token whose similarities with a shorter passage are all negative
        counts 0. With trained weights that is rare.

        Args:
            queries: one (tokens, dimensions) array each.
            passages: one (tokens, dimensions) array each.
            exact: disable the padding, so that a passage's score does not depend on the other passages.

        Returns:
            (queries, passages) float32.

        Raises:
            InputError: an array is not (tokens, dimensions), or is empty.
        """
        return maxsim(queries, passages, padded=not exact)

    def locate_queries(self, queries: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the span of characters that each vector of `embed_queries` stands for; no vector is computed.

        Returns:
            One (tokens, 2) int64 array each: half-open spans [start, end). Tokens of the prompt have empty spans.

        Raises:
            InputError: an item is not a string.
        """
        model = self._opened(queries)
        for index, query in enumerate(queries):
            check_words(query, f"query {index}")
        return [self._query_spans(model, query, index) for index, query in enumerate(queries)]

    def locate_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Return the box of the image that each vector of `embed_passages` stands for; no vector is computed.

        Returns:
            One (tokens, 4) float32 array each: left, top, right and bottom in fractions of the image's width and
            height; NaN for tokens of text or prompt. Boxes may overlap, as those of a thumbnail do.

        Raises:
            InputError: as from `embed_passages`.
        """
        model = self._opened(passages)
        for index, passage in enumerate(passages):
            check_passage(passage, index)
        return [self._passage_boxes(model, passage, index) for index, passage in enumerate(passages)]

    @abstractmethod
    def _query_spans(self, model: M, query: str, index: int) -> NDArray[np.int64]:
        """`locate_queries` of one query."""

    @abstractmethod
    def _passage_boxes(self, model: M, passage: Passage, index: int) -> FloatArray:
        """`locate_passages` of one passage."""

    def _finish(self, rows: list[torch.Tensor]) -> list[FloatArray]:
        return [row.numpy() for row in rows]
