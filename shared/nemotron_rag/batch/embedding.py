"""Pages -> vectors; a page that cannot be embedded costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from nemotron_rag.batch.pages import NewPage
from nemotron_rag.errors import ClosedError, InputError, ItemTooLargeError
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.protocols import AnyEmbedder, LocatingEmbedder
from nemotron_rag.types import Failure, FloatArray, Kind, Page, PageVectors

__all__ = ["Embed", "EmbeddedPages", "EmbedderFacts", "embed_pages", "page_vectors"]

Embed: TypeAlias = Callable[[Sequence[Page]], Sequence[PageVectors]]


@dataclass(frozen=True, slots=True)
class EmbedderFacts:
    """What a new index must know of its embedder, which may be in another process.

    Args:
        kind: one vector a page, or many.
        name: of the model.
        identity: all that decides its outputs.
        dimensions: length of the vectors.
        locates: whether it knows where on the page its vectors are.
    """

    kind: Kind
    name: str
    identity: Mapping[str, str | int | bool | None]
    dimensions: int
    locates: bool

    @classmethod
    def of(cls, embedder: AnyEmbedder) -> EmbedderFacts:
        """Those of a loaded one."""
        locates = isinstance(embedder, LocatingEmbedder)
        return cls(embedder.kind, embedder.name, dict(embedder.identity), embedder.dimensions, locates)


@dataclass
class EmbeddedPages:
    """The pages that could be embedded, and the others.

    Args:
        pages: in the order they came in.
        vectors: of these, one by one.
        failures: of the others.
    """

    pages: list[NewPage] = field(default_factory=list)
    vectors: list[PageVectors] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def page_vectors(embedder: AnyEmbedder, tokens: TokenVectors | None, pages: Sequence[Page]) -> list[PageVectors]:
    """What is stored of each page: (dimensions,) or (rows, dimensions).

    Args:
        embedder: of the index.
        tokens: how token vectors are stored; None for one vector a page.
        pages: to embed.

    Raises:
        InputError: the embedder returned an invalid vector.
    """
    vectors: list[FloatArray] = list(embedder.embed_passages(pages))
    if len(vectors) != len(pages):
        raise InputError(f"the embedder returned {len(vectors)} results for {len(pages)} pages")
    if not all(np.isfinite(each).all() for each in vectors):
        raise InputError("the embedder returned a vector with NaN or infinity")
    if tokens is None:
        return list(vectors)
    boxes: Sequence[FloatArray | None] = [None] * len(pages)
    if tokens.pooling == "grid" and isinstance(embedder, LocatingEmbedder):
        boxes = embedder.locate_passages(pages)
    return [tokens.fit(each, where) for each, where in zip(vectors, boxes, strict=True)]


def embed_pages(embed: Embed, pages: Sequence[NewPage], *, raises: bool = False) -> EmbeddedPages:
    """Embed a batch; if that fails, its pages one by one.

    Args:
        embed: of one batch.
        pages: the batch.
        raises: raise the error of a page instead of reporting it.

    Raises:
        ClosedError: the model was closed.
        Exception: whatever the model raises about all of several pages.
    """
    if not pages:
        return EmbeddedPages()
    try:
        return EmbeddedPages(list(pages), list(embed([new.page for new in pages])))
    except ClosedError:
        raise
    except Exception as error:  # an embedder may raise anything about one page; the others must not suffer
        if raises:
            raise
        return _one_by_one(embed, pages, error)


def _one_by_one(embed: Embed, pages: Sequence[NewPage], last: Exception) -> EmbeddedPages:
    done = EmbeddedPages()
    for new in pages:
        try:
            done.vectors += embed([new.page])
            done.pages.append(new)
        except ClosedError:
            raise
        except Exception as error:  # see embed_pages
            done.failures.append(new.failure(error))
            last = error
    if len(pages) > 1 and not done.pages and not isinstance(last, InputError | ItemTooLargeError):
        raise last  # no page got through: the model is at fault, not the pages
    return done
