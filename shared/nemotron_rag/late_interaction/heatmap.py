"""Heatmaps: where on a page the words of a query match, for late-interaction models.

The model says which box of the image, and which characters of the query, each of its vectors stands for
(`LocatingEmbedder`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nemotron_rag.documents.images import load_image, on_white
from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.overlay import overlay
from nemotron_rag.late_interaction.words import content_word_indices, word_tokens
from nemotron_rag.protocols import Embedder, FloatArray, LocatingEmbedder, MultiVectorEmbedder
from nemotron_rag.types import Passage

__all__ = ["Heatmap", "compute_heatmap"]


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """How well each cell of a page matches each word of a query.

    Args:
        page: the image, RGB.
        words: of the query, in its order.
        similarities: (words, rows, columns) float32: mean cosine of a word's vectors with the vector of each cell.
            Row 0 is the top of the page.
    """

    page: Image.Image
    words: tuple[str, ...]
    similarities: FloatArray

    @property
    def content_words(self) -> tuple[str, ...]:
        """Those of the words that count in `heat`."""
        return tuple(self.words[index] for index in content_word_indices(self.words))

    def heat(self, word: str | None = None) -> FloatArray:
        """Return how much each cell stands out: (rows, columns) float32 from 0 to 1.

        The similarities of a word count from their median over the page, and all words share one scale, so that a word
        that matches everywhere, or nowhere, stays pale.

        Args:
            word: only this word, case ignored. None for the maximum over all content words, those that a report
                marks in the text of a page.

        Raises:
            InputError: the query has no such word.
        """
        above = self.similarities - np.median(self.similarities, axis=(1, 2), keepdims=True)
        content = content_word_indices(self.words)
        chosen = content if word is None else [i for i, each in enumerate(self.words) if _equal(each, word)]
        if not chosen:
            raise InputError(f"the query has no word {word!r}; give one of: {', '.join(self.words)}")
        heat: FloatArray = above[chosen].max(axis=0) / (above[content].max() or 1)
        return heat.clip(0, 1)

    def image(self, word: str | None = None) -> Image.Image:
        """Return the page in grey with the heat painted over it, from amber to purple: an RGB image of the page's size.

        Arguments and errors are those of `heat`.
        """
        return overlay(self.page, self.heat(word))


def compute_heatmap(embedder: Embedder | MultiVectorEmbedder, page: Passage, query: str) -> Heatmap:
    """Compute where on a page the words of a query match. The page is embedded again, whatever an index has stored.

    Where boxes of several sizes overlap, only the smallest count: a thumbnail beside tiles is left out, since it shows
    less detail. Tokens of text and prompt have no box.

    Args:
        embedder: a loaded model that is a `LocatingEmbedder`, as the ColEmbed families are.
        page: with an image.
        query: the query.

    Raises:
        InputError: the model cannot locate its vectors, the page has no image, or the query no word.
        NemotronRagError: the image cannot be read, or the model failed.

    Example:
        >>> from nemotron_rag.testing import FakeMultiVectorEmbedder
        >>> page = Passage("red apples", Image.new("RGB", (40, 60), "white"))
        >>> heatmap = compute_heatmap(FakeMultiVectorEmbedder(), page, "Where are red apples?")
        >>> heatmap.words, heatmap.image().size
        (('Where', 'are', 'red', 'apples'), (40, 60))
    """
    if not isinstance(embedder, LocatingEmbedder):
        raise InputError(f"{embedder.name} cannot locate its vectors on a page; heatmaps need a ColEmbed model")
    if page.image is None:
        raise InputError("a heatmap needs a page with an image, got one without; index it with images")
    loaded = load_image(page.image)
    image, decoded = on_white(loaded), replace(page, image=loaded)
    words = word_tokens(query, embedder.locate_queries([query])[0])
    if not words:
        raise InputError(f"a heatmap needs a query with words, got {query!r}")
    queries, passages = embedder.embed_queries([query])[0], embedder.embed_passages([decoded])[0]
    places, cells = _finest(embedder.locate_passages([decoded])[0])
    similarities = queries @ passages[places].T  # (query tokens, places)
    rows, columns = cells.max(axis=0) + 1
    grid = np.zeros((len(words), rows, columns), dtype=np.float32)
    for layer, (_, tokens) in zip(grid, words, strict=True):
        layer[cells[:, 0], cells[:, 1]] = similarities[tokens].mean(axis=0)
    return Heatmap(image, tuple(word for word, _ in words), grid)


def _equal(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _finest(boxes: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the (tokens,) indices with the smallest boxes, and the (tokens, 2) row and column of each."""
    sizes = boxes[:, 2:] - boxes[:, :2]  # (tokens, 2) width and height; NaN for text
    areas = sizes.prod(axis=1)
    places = np.flatnonzero(areas < 1.5 * np.nanmin(areas))  # the next size has twice the area or more
    cells = np.rint(boxes[places, :2] / sizes[places]).astype(np.intp)
    return places, cells[:, ::-1]
