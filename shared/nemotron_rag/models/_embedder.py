"""What all embedders of this package do alike: check inputs, hand them to the model, shape what comes back.

It knows no prompt: a family says how a query and a passage become a sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from nemotron_rag.errors import ClosedError, InputError
from nemotron_rag.models._packed import PackedModel
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.maxsim import maxsim
from nemotron_rag.types import Passage

__all__ = ["ManyVectors", "OneVector", "check_passage"]

M = TypeVar("M", bound=PackedModel[Any])
R = TypeVar("R")


class _Embedder(ABC, Generic[M, R]):
    """Queries and passages in, rows out.

    Args:
        model: the loaded weights; other objects may share them.
        name: catalog id or folder.
        dimensions: length of the vectors.
    """

    def __init__(self, model: M, *, name: str, dimensions: int) -> None:
        self._model: M | None = model
        self.name = name
        self.dimensions = dimensions

    def embed_queries(self, queries: Sequence[str]) -> R:
        """Embed questions, each vector of length 1.

        Raises:
            InputError: an item is not a string.
        """
        model = self._opened(queries)
        return self._finish(model.run(queries, self._checked_query))

    def embed_passages(self, passages: Sequence[Passage]) -> R:
        """Embed passages, each vector of length 1.

        Raises:
            InputError: an item is not a passage, or not one that this model reads.
            ImageError: an image cannot be read; the message names its index.
            TokenLimitError: an image needs more tokens than max_length.
        """
        model = self._opened(passages)
        return self._finish(model.run(passages, self._checked_passage))

    async def aembed_queries(self, queries: Sequence[str]) -> R:
        """The same as `embed_queries`, without blocking the event loop."""
        model = self._opened(queries)
        return self._finish(await model.arun(queries, self._checked_query))

    async def aembed_passages(self, passages: Sequence[Passage]) -> R:
        """The same as `embed_passages`, without blocking the event loop."""
        model = self._opened(passages)
        return self._finish(await model.arun(passages, self._checked_passage))

    def close(self) -> None:
        """Let go of the weights; they are freed when nobody else shares them."""
        self._model = None

    @abstractmethod
    def _prepare_query(self, model: M, query: str, index: int) -> Any:
        """The sequence that `model` computes for a query."""

    @abstractmethod
    def _prepare_passage(self, model: M, passage: Passage, index: int) -> Any:
        """The sequence that `model` computes for a passage."""

    @abstractmethod
    def _finish(self, rows: list[torch.Tensor]) -> R:
        """What callers get, from what the model gives."""

    def _checked_query(self, query: str, index: int) -> Any:
        _check_query(query, index)
        return self._prepare_query(self._opened(), query, index)

    def _checked_passage(self, passage: Passage, index: int) -> Any:
        check_passage(passage, index)
        return self._prepare_passage(self._opened(), passage, index)

    def _opened(self, inputs: Sequence[object] = ()) -> M:
        if self._model is None:
            raise ClosedError(f"{self.name} was closed; load it again")
        if isinstance(inputs, str):
            raise InputError("wanted a list, got a single string; put it into a list")
        return self._model


class OneVector(_Embedder[M, FloatArray]):
    """An embedder whose model gives one pooled (hidden,) vector for each input.

    Args:
        model: the loaded weights.
        name: catalog id or folder.
        full: length of the model's vectors.
        dimensions: use the first ones only, normalised again (Matryoshka); None for all of them.

    Raises:
        InputError: `dimensions` is below 1 or above `full`.
    """

    def __init__(self, model: M, *, name: str, full: int, dimensions: int | None) -> None:
        if dimensions is not None and not 1 <= dimensions <= full:
            raise InputError(f"dimensions must be between 1 and {full}, got {dimensions}")
        super().__init__(model, name=name, dimensions=full if dimensions is None else dimensions)

    def _finish(self, rows: list[torch.Tensor]) -> FloatArray:
        pooled = torch.stack(rows) if rows else torch.empty(0, self.dimensions)  # (inputs, hidden)
        return normalize(pooled[:, : self.dimensions], dim=-1).numpy()  # (inputs, dimensions)


class ManyVectors(_Embedder[M, list[FloatArray]]):
    """An embedder whose model gives (tokens, dimensions) vectors of length 1 for each input."""

    def score(
        self, queries: Sequence[FloatArray], passages: Sequence[FloatArray], *, exact: bool = False
    ) -> FloatArray:
        """MaxSim: for each query token the best passage token, summed.

        By default what `get_scores` of the published models gives for the same lists: there all passages are padded
        to the longest one with rows of zeros that take part, so that a query token whose similarities with a shorter
        passage are all negative counts 0. With trained weights that is rare; the rest is the same.

        Args:
            queries: one (tokens, dimensions) array each.
            passages: likewise.
            exact: pad nothing, so that a passage's score does not depend on what else is in the list.

        Returns:
            (queries, passages) float32.

        Raises:
            InputError: an array is not (tokens, dimensions), or is empty.
        """
        return maxsim(queries, passages, padded=not exact)

    def locate_queries(self, queries: Sequence[str]) -> list[NDArray[np.int64]]:
        """Which characters of its query each vector of `embed_queries` stands for, without computing any.

        Returns:
            One (tokens, 2) int64 array each: the first character and the one behind the last. The two are equal where
            a token stands for none, but for the prompt.

        Raises:
            InputError: an item is not a string.
        """
        model = self._opened(queries)
        for index, query in enumerate(queries):
            _check_query(query, index)
        return [self._query_spans(model, query, index) for index, query in enumerate(queries)]

    def locate_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Which rectangle of its picture each vector of `embed_passages` stands for, without computing any.

        Returns:
            One (tokens, 4) float32 array each: left, top, right and bottom in fractions of the picture's width and
            height; NaN for tokens of text or prompt. Rectangles may overlap, as those of a thumbnail do.

        Raises:
            InputError: as from `embed_passages`.
        """
        model = self._opened(passages)
        for index, passage in enumerate(passages):
            check_passage(passage, index)
        return [self._passage_boxes(model, passage, index) for index, passage in enumerate(passages)]

    @abstractmethod
    def _query_spans(self, model: M, query: str, index: int) -> NDArray[np.int64]:
        """What `locate_queries` says of one query."""

    @abstractmethod
    def _passage_boxes(self, model: M, passage: Passage, index: int) -> FloatArray:
        """What `locate_passages` says of one passage."""

    def _finish(self, rows: list[torch.Tensor]) -> list[FloatArray]:
        return [row.numpy() for row in rows]


def _check_query(query: object, index: int) -> None:
    if not isinstance(query, str):
        raise InputError(f"query {index} is of type {type(query).__name__}, wanted str")


def check_passage(passage: Passage, index: int) -> None:
    """Raise unless the item is a passage.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(passage, Passage):
        raise InputError(f"passage {index} is of type {type(passage).__name__}, wanted nemotron_rag.Passage")
