"""Where on a page the words of a query match, for models with a vector for each token. It knows no architecture.

A model says which rectangle of the picture, and which characters of the query, each of its vectors stands for
(`LocatingEmbedder`); the rest is similarities and paint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nemotron_rag.errors import InputError
from nemotron_rag.heatmap._overlay import overlay
from nemotron_rag.heatmap._words import telling_places, word_tokens
from nemotron_rag.images import load_image, to_rgb
from nemotron_rag.protocols import Embedder, FloatArray, LocatingEmbedder, MultiVectorEmbedder
from nemotron_rag.types import Passage

__all__ = ["Heatmap", "compute_heatmap"]


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """How well each place of a page matches each word of a query.

    Args:
        page: the picture, RGB.
        words: of the query, in its order.
        similarities: (words, rows, columns) float32, cosines: of each word's vectors, on average, with the vector of
            each place. Row 0 is the top of the page.
    """

    page: Image.Image
    words: tuple[str, ...]
    similarities: FloatArray

    def heat(self, word: str | None = None) -> FloatArray:
        """How far each place stands out: (rows, columns) float32 from 0 to 1.

        A word's similarities count from their median over the page, and all words share one scale, so that a word that
        matches everywhere, or nowhere, stays pale.

        Args:
            word: only this one, in upper or lower case. None for all telling words, those that a report marks in a
                page's text: at each place the one that stands out most.

        Raises:
            InputError: the query has no such word.
        """
        above = self.similarities - np.median(self.similarities, axis=(1, 2), keepdims=True)
        telling = telling_places(self.words)
        chosen = (
            telling if word is None else [i for i, one in enumerate(self.words) if one.casefold() == word.casefold()]
        )
        if not chosen:
            raise InputError(f"the query has no word {word!r}; give one of: {', '.join(self.words)}")
        heat: FloatArray = above[chosen].max(axis=0) / (above[telling].max() or 1)
        return heat.clip(0, 1)

    def image(self, word: str | None = None) -> Image.Image:
        """The page in shades of grey with `heat` painted over it, from amber to purple: an RGB image of its size.

        Arguments and errors are those of `heat`.
        """
        return overlay(self.page, self.heat(word))

    def _places(self, word: str) -> list[int]:
        found = [place for place, each in enumerate(self.words) if each.casefold() == word.casefold()]
        if not found:
            raise InputError(f"the query has no word {word!r}; give one of: {', '.join(self.words)}")
        return found


def compute_heatmap(embedder: Embedder | MultiVectorEmbedder, page: Passage, query: str) -> Heatmap:
    """Compute where on a page a query's words match. The page's vectors are computed anew, whatever an index keeps.

    Where tokens of several sizes cover a place, the smallest count: a thumbnail beside tiles is left out, since it sees
    less than they do of every place. Tokens of text and prompt have no place.

    Args:
        embedder: a loaded model that is a `LocatingEmbedder`; the ColEmbed families are.
        page: with a picture.
        query: the question.

    Raises:
        InputError: the model has no places, the page no picture, or the query no word.
        NemotronRagError: the picture cannot be read, or the model failed.

    Example:
        >>> from nemotron_rag.testing import FakeMultiVectorEmbedder
        >>> page = Passage("red apples", Image.new("RGB", (40, 60), "white"))
        >>> heatmap = compute_heatmap(FakeMultiVectorEmbedder(), page, "Where are red apples?")
        >>> heatmap.words, heatmap.image().size
        (('Where', 'are', 'red', 'apples'), (40, 60))
    """
    if not isinstance(embedder, LocatingEmbedder):
        raise InputError(f"{embedder.name} does not say where its vectors stand; heatmaps need a ColEmbed model")
    if page.image is None:
        raise InputError("a heatmap needs a page with a picture, got one without; index it with its pictures kept")
    picture = to_rgb(load_image(page.image))
    seen = replace(page, image=picture)
    words = word_tokens(query, embedder.locate_queries([query])[0])
    if not words:
        raise InputError(f"a heatmap needs a query with words, got {query!r}")
    queries, passages = embedder.embed_queries([query])[0], embedder.embed_passages([seen])[0]
    places, cells = _finest(embedder.locate_passages([seen])[0])
    similarities = queries @ passages[places].T  # (query tokens, places)
    rows, columns = cells.max(axis=0) + 1
    grid = np.zeros((len(words), rows, columns), dtype=np.float32)
    for layer, (_, tokens) in zip(grid, words, strict=True):
        layer[cells[:, 0], cells[:, 1]] = similarities[tokens].mean(axis=0)
    return Heatmap(picture, tuple(word for word, _ in words), grid)


def _finest(boxes: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The (tokens,) with the smallest boxes, and the (tokens, 2) row and column of each."""
    sizes = boxes[:, 2:] - boxes[:, :2]  # (tokens, 2) width and height; NaN for text
    areas = sizes.prod(axis=1)
    places = np.flatnonzero(areas < 1.5 * np.nanmin(areas))  # the next size has twice the area or more
    cells = np.rint(boxes[places, :2] / sizes[places]).astype(np.intp)
    return places, cells[:, ::-1]
