"""The interfaces: what every embedder, reranker and page store implements.

Row i of a model's output belongs to input i, always, or the call raises naming the index. Every method may be called
from any thread; the ``a...`` twins may be called from any event loop and never block it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.types import (
    Filter,
    FloatArray,
    IndexedType,
    Kind,
    Modality,
    PageVectors,
    Passage,
    Query,
    Ranked,
    StoredPage,
    TokenStorage,
)

__all__ = [
    "AnyEmbedder",
    "Embedder",
    "FloatArray",
    "ImageQueries",
    "LocatingEmbedder",
    "MultiVectorEmbedder",
    "PageStore",
    "RepairableStore",
    "Reranker",
    "reads_image_queries",
]


class _Model(Protocol):
    @property
    def kind(self) -> Kind:
        """Which of these interfaces it implements."""

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
    """One L2-normalised vector for each input; of kind ``embedder``."""

    @property
    def dimensions(self) -> int:
        """Length of every vector."""

    def embed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """Embed queries: (n, dimensions) float32, each row of length 1.

        A query is a text. A `Passage` with an image is one too for a model that has `ImageQueries`; others raise.
        """

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Embed texts, images, or both: (n, dimensions) float32, each row of length 1."""

    async def aembed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """The same as `embed_queries`, without blocking the event loop."""

    async def aembed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """The same as `embed_passages`, without blocking the event loop."""


@runtime_checkable
class MultiVectorEmbedder(_Model, Protocol):
    """One L2-normalised vector for each token of each input (late interaction); of kind ``multivector_embedder``."""

    @property
    def dimensions(self) -> int:
        """Length of every token vector."""

    def embed_queries(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Embed queries, as those of `Embedder`: one (tokens, dimensions) float32 array each."""

    def embed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Embed passages: one (tokens, dimensions) float32 array each."""

    def score(self, queries: Sequence[FloatArray], passages: Sequence[FloatArray]) -> FloatArray:
        """MaxSim: (queries, passages) float32; for each query token the best passage token, summed.

        A model may treat a query token that matches nothing (all similarities negative) as its published code does.
        """

    async def aembed_queries(self, queries: Sequence[Query]) -> list[FloatArray]:
        """The same as `embed_queries`, without blocking the event loop."""

    async def aembed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """The same as `embed_passages`, without blocking the event loop."""


@runtime_checkable
class LocatingEmbedder(MultiVectorEmbedder, Protocol):
    """A `MultiVectorEmbedder` that knows what each of its vectors stands for: all that a heatmap needs."""

    def locate_queries(self, queries: Sequence[str]) -> list[NDArray[np.int64]]:
        """Which characters of its query each vector stands for: one (tokens, 2) int64 array each.

        A half-open span, [first, last); empty for tokens of the prompt, which stand for none.
        """

    def locate_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Which rectangle of its image each vector stands for: one (tokens, 4) float32 array each.

        Left, top, right and bottom in fractions of the image's width and height; NaN for tokens of text or prompt.
        """


@runtime_checkable
class Reranker(_Model, Protocol):
    """A cross-encoder: reads a query and a passage together and scores how well they match; of kind ``reranker``."""

    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Raw logits: (n,) float32; higher is more relevant.

        The query is a text, or for a model that has `ImageQueries` a `Passage` with an image; other models raise.
        """

    def rank(self, query: Query, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The passages from best to worst, at most `top_n`; equal scores keep the caller's order."""

    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """The same as `score`, without blocking the event loop."""

    async def arank(self, query: Query, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The same as `rank`, without blocking the event loop."""


@runtime_checkable
class ImageQueries(Protocol):
    """A model of any kind that says what its queries may be."""

    @property
    def query_modalities(self) -> tuple[Modality, ...]:
        """``("text",)`` for words alone; with ``image``, a query may be an image, with ``image_text`` both."""


def reads_image_queries(model: object) -> bool:
    """Whether a query of this model may be a `Passage` with an image."""
    return isinstance(model, ImageQueries) and "image" in model.query_modalities


AnyEmbedder: TypeAlias = Embedder | MultiVectorEmbedder
"""One vector a page, or many; its `kind` tells which."""


class PageStore(Protocol):
    """Keeps pages with their vectors, and finds them: all that a `PageIndex` needs of a store.

    Constructing one opens nothing and leaves nothing behind; the first call opens it. Every method may be called from
    any thread. Writes are acknowledged when they return, and safe to repeat. Errors are `StoreError`, and `ClosedError`
    after `close`.
    """

    def __str__(self) -> str:
        """For messages, such as ``collection 'pages' at ./index``."""

    @property
    def image_root(self) -> str | None:
        """Where page images can lie beside the pages: a folder or an fsspec URL; None if there is no such place."""

    def exists(self) -> bool:
        """Whether there is an index to search."""

    def read_record(self) -> dict[str, Any] | None:
        """The record given to `create`; None if there is no index yet."""

    def create(self, *, dimensions: int, record: Mapping[str, Any], token_storage: TokenStorage | None = None) -> None:
        """Make the index, if it is not there; pages that are there already stay.

        Args:
            dimensions: length of the vectors.
            record: plain JSON, given back by `read_record`. Under ``words`` it says how the words of texts are found,
                see `nemotron_rag.documents.words`; without it as in analysis 1.
            token_storage: number format of token vectors; None for one vector a page.
        """

    def put(self, pages: Sequence[StoredPage], vectors: Sequence[PageVectors]) -> None:
        """Write pages; one whose id and content are stored already stays with the other files that hold it.

        Args:
            pages: n pages.
            vectors: n arrays of (dimensions,), or of (tokens, dimensions); row i belongs to page i.
        """

    def attach(self, ids: Sequence[str], *, source: str, metadata: Mapping[str, Any]) -> int:
        """Note that `source` holds stored pages too; what others say of them stays as it is.

        Args:
            ids: of pages; unknown ones are passed over.
            source: a document.
            metadata: of the pages in this document: laid over what they have there, or over that of their content.

        Returns:
            How many of the ids are stored.
        """

    def remove(
        self,
        ids: Sequence[str],
        *,
        filter: Filter | None = None,
        after: Callable[[Sequence[StoredPage]], None] = lambda removed: None,
    ) -> int:
        """Take pages away from the files that hold them; pages that no file holds any more are deleted.

        Args:
            ids: of pages; unknown ones are passed over.
            filter: a dict, which of the files lose their pages: ``{"source": "a.pdf"}``; None for all.
            after: called with pages that were deleted.

        Returns:
            How many pages were deleted.
        """

    def get(self, ids: Sequence[str]) -> dict[str, StoredPage]:
        """The stored ones of these pages by id; their texts may be left out."""

    def pages(self, filter: Filter | None = None, *, texts: bool = False) -> Iterator[StoredPage]:
        """The pages that a filter matches, in no particular order, read as they are consumed.

        Args:
            filter: which pages; a tuple of filters for pages that match all of them.
            texts: False if the pages' texts may be left out.
        """

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Of the stored ones of these pages the vector, or the mean of the token vectors, by id: (dimensions,)."""

    def sources(self) -> list[str]:
        """The documents that have pages here, sorted."""

    def count(self, filter: Filter | None = None) -> int:
        """How many pages a filter matches."""

    def query(
        self,
        vectors: PageVectors,
        *,
        k: int,
        prefetch: int | None = None,
        words: str = "",
        filter: Filter | None = None,
    ) -> list[tuple[StoredPage, float]]:
        """The k pages nearest to a query, best first, each with its score.

        Args:
            vectors: (dimensions,), compared by cosine similarity; or (tokens, dimensions), compared by MaxSim.
            k: at most so many.
            prefetch: pages whose token vectors are compared exactly; None for the store's default.
            words: a query whose words are looked for in the pages' texts as well; the two orders are joined by
                reciprocal rank fusion, and the scores only tell an order. Empty for none.
            filter: which pages to look at.
        """

    def index_metadata(self, key: str, kind: IndexedType) -> None:
        """Make filters on a metadata key fast, where the store knows such a thing."""

    def optimize(self) -> bool:
        """Bring to the disk what was written, and make searches fast; called once after many writes.

        Returns:
            Whether there was something to make faster.
        """

    def close(self) -> None:
        """Let go of what was opened; closing twice is allowed."""


@runtime_checkable
class RepairableStore(PageStore, Protocol):
    """A `PageStore` that can look at what it has stored, and let go of what is damaged."""

    def salvage(self) -> list[str]:
        """Put aside damaged files that keep the store from being opened, and name them; empty if it can be opened."""

    def damaged(self) -> dict[str, str]:
        """The pages that cannot be read, or are not whole: what is wrong, by a key for `discard`."""

    def discard(self, keys: Sequence[str]) -> None:
        """Delete what `damaged` found."""
