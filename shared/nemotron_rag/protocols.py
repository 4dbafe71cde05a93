"""THE SEAM: all that a model owes to the rest of the package and to the adapters. It knows no implementation.

Row i of every output belongs to input i, always, or the call raises naming the index. Every method may be called
from any thread; the ``a...`` twins may be called from any event loop and never block it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.types import Passage, Ranked

__all__ = ["Embedder", "FloatArray", "LocatingEmbedder", "MultiVectorEmbedder", "Reranker"]

FloatArray: TypeAlias = NDArray[np.float32]


class _Model(Protocol):
    @property
    def name(self) -> str:
        """Catalog id, or the local folder the model was loaded from."""

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Everything that decides what the model computes: model, revision, tiles, dimensions, pooling, lengths.

        Plain JSON values. Two vectors are comparable only if the identities of their embedders are equal.
        """

    def close(self) -> None:
        """Free the model's memory; later calls raise `ClosedError`. Closing twice is allowed."""


@runtime_checkable
class Embedder(_Model, Protocol):
    """One L2-normalised vector for each input."""

    @property
    def dimensions(self) -> int:
        """Length of every vector."""

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """Embed questions: (n, dimensions) float32, each row of length 1."""

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Embed texts, images, or both: (n, dimensions) float32, each row of length 1."""

    async def aembed_queries(self, queries: Sequence[str]) -> FloatArray:
        """The same as `embed_queries`, without blocking the event loop."""

    async def aembed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """The same as `embed_passages`, without blocking the event loop."""


@runtime_checkable
class MultiVectorEmbedder(_Model, Protocol):
    """One L2-normalised vector for each token of each input (late interaction)."""

    @property
    def dimensions(self) -> int:
        """Length of every token vector."""

    def embed_queries(self, queries: Sequence[str]) -> list[FloatArray]:
        """Embed questions: one (tokens, dimensions) float32 array each."""

    def embed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Embed passages: one (tokens, dimensions) float32 array each."""

    def score(self, queries: Sequence[FloatArray], passages: Sequence[FloatArray]) -> FloatArray:
        """MaxSim: (queries, passages) float32; for each query token the best passage token, summed.

        A model may treat a query token that matches nothing (all similarities negative) as its published code does.
        """

    async def aembed_queries(self, queries: Sequence[str]) -> list[FloatArray]:
        """The same as `embed_queries`, without blocking the event loop."""

    async def aembed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """The same as `embed_passages`, without blocking the event loop."""


@runtime_checkable
class LocatingEmbedder(MultiVectorEmbedder, Protocol):
    """A `MultiVectorEmbedder` that knows what each of its vectors stands for: all that a heatmap needs."""

    def locate_queries(self, queries: Sequence[str]) -> list[NDArray[np.int64]]:
        """Which characters of its query each vector stands for: one (tokens, 2) int64 array each.

        First character and the one behind the last; the two are equal for tokens of the prompt, which stand for none.
        """

    def locate_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Which rectangle of its picture each vector stands for: one (tokens, 4) float32 array each.

        Left, top, right and bottom in fractions of the picture's width and height; NaN for tokens of text or prompt.
        """


@runtime_checkable
class Reranker(_Model, Protocol):
    """A cross-encoder: reads a query and a passage together and says how well they match."""

    def score(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        """Raw logits: (n,) float32; higher is more relevant."""

    def rank(self, query: str, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The passages from best to worst, at most `top_n`; equal scores keep the caller's order."""

    async def ascore(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        """The same as `score`, without blocking the event loop."""

    async def arank(self, query: str, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The same as `rank`, without blocking the event loop."""
