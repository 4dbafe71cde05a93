"""Where on a page a query is answered: lines of its text, by their words, by token vectors, and by a reranker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from nemotron_rag.documents.crops import crop
from nemotron_rag.documents.evidence import find_blocks, word_evidence
from nemotron_rag.documents.images import load_image, to_rgb
from nemotron_rag.documents.word_boxes import TextLine, text_lines, union
from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.heatmap import Heatmap
from nemotron_rag.protocols import Reranker
from nemotron_rag.ranking import RankingPolicy, rank
from nemotron_rag.types import Box, FloatArray, Passage, Region, RegionEvidence, WordBoxes

__all__ = ["RegionsBy", "check_by", "crop", "find_regions", "line_heat", "rerank_regions"]

RegionsBy: TypeAlias = Literal["auto", "words", "vectors"]
"""What regions are found by: "words" of the text, token "vectors" and words, or "auto": vectors where the index has
them."""

_HOT = 0.6  # of the strongest heat: what of a page without text is shown


def find_regions(
    words: WordBoxes | None, query: str, *, k: int = 3, heatmap: Heatmap | None = None, aspect: float = 1.0
) -> list[Region]:
    """Where on a page a query is answered.

    Args:
        words: of the page; None or empty for a page without text, which has regions with a heatmap only.
        query: in words.
        k: regions at most.
        heatmap: of the page and the query.
        aspect: height of the page by its width.

    Returns:
        Best first, none over another; nothing if the page has no word of the query.

    Example:
        >>> boxes = np.array([[0.1, 0.1, 0.3, 0.12], [0.1, 0.5, 0.3, 0.52]], np.float32)
        >>> page = WordBoxes(("apples", "pears"), boxes, np.array([0, 1], np.int32))
        >>> [(region.text, region.score) for region in find_regions(page, "Where are pears?")]
        [('pears', 1.0)]
    """
    lines = [] if words is None else text_lines(words)
    if not lines:
        return [] if heatmap is None else _hot_places(heatmap.heat(), k)
    heat = None if heatmap is None else line_heat(lines, heatmap)
    found_by: RegionEvidence = "words" if heat is None else "vectors"
    regions = []
    for block in find_blocks(lines, word_evidence(lines, query), k=k, heat=heat, aspect=aspect):
        chosen = [lines[index] for index in block.lines]
        box = union(np.array([line.box for line in chosen], dtype=np.float32))
        regions.append(Region(box, block.score, "\n".join(line.text for line in chosen), found_by))
    return regions


def line_heat(lines: Sequence[TextLine], heatmap: Heatmap) -> FloatArray:
    """How well each line matches a query by token vectors: MaxSim over the cells of the line, (lines,) from 0 to 1.

    As in `Heatmap.heat`, similarities count from their median over the page, and all words share one scale.

    Args:
        lines: n lines of the page.
        heatmap: of the page and the query.
    """
    above = np.stack([heatmap.heat(word) for word in heatmap.content_words])  # (words, rows, columns)
    shape = above.shape[1:]
    found = np.array([(above * _share_of_line(line.box, shape)).max(axis=(1, 2)).sum() for line in lines])
    heat: FloatArray = (found / (found.max(initial=0) or 1)).astype(np.float32)
    return heat


def rerank_regions(reranker: Reranker, query: str, page: Passage, regions: Sequence[Region], *, k: int) -> list[Region]:
    """Regions in the order in which a reranker puts their crops and texts.

    Args:
        reranker: loaded.
        query: in words.
        page: with an image.
        regions: of the page.
        k: kept at most.

    Raises:
        ImageError: the image cannot be read.
    """
    if not regions:
        return []
    image = None if page.image is None else to_rgb(load_image(page.image))
    passages = [Passage(region.text, None if image is None else crop(image, region.box)) for region in regions]
    places = rank(reranker, query, passages, policy=RankingPolicy(top_n=k, on_unscored="skip"))
    return [
        Region(regions[place.index].box, place.score, regions[place.index].text, "reranker")
        for place in places
        if place.score is not None
    ]


def check_by(by: str) -> None:
    """Raise unless it is a `RegionsBy`.

    Raises:
        InputError: it is not.
    """
    if by not in get_args(RegionsBy):
        raise InputError(f"by must be one of {', '.join(map(repr, get_args(RegionsBy)))}, got {by!r}")


def _share_of_line(box: Box, shape: tuple[int, ...]) -> FloatArray:
    """How much of a line's height, or of a cell's if that is less, each cell of a grid shares with it: (rows, columns).

    Cells that a line only touches would give it what is above or below it.
    """
    rows, columns = shape
    tall = np.clip(np.minimum(box[3] * rows, np.arange(1, rows + 1)) - np.maximum(box[1] * rows, np.arange(rows)), 0, 1)
    wide = np.clip(
        np.minimum(box[2] * columns, np.arange(1, columns + 1)) - np.maximum(box[0] * columns, np.arange(columns)), 0, 1
    )
    shares = (tall / (tall.max() or 1))[:, None] * (wide / (wide.max() or 1))[None, :]
    gentle: FloatArray = np.sqrt(shares).astype(np.float32)  # a word may stand on the border of two cells
    return gentle


def _hot_places(heat: FloatArray, k: int) -> list[Region]:
    """The hottest places of a page without text: cells side by side are one."""
    rows, columns = heat.shape
    hot = heat >= _HOT
    regions = []
    while hot.any():
        start = tuple(int(i) for i in np.unravel_index(np.argmax(np.where(hot, heat, -1)), heat.shape))
        place = _spread(hot, start)
        down, across = np.array(place).T
        left, top = float(across.min() / columns), float(down.min() / rows)
        right, bottom = float((across.max() + 1) / columns), float((down.max() + 1) / rows)
        regions.append(Region((left, top, right, bottom), float(heat[start]), "", "vectors"))
        hot[down, across] = False
    return regions[:k]


def _spread(hot: np.ndarray, start: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The cells that hang together with one."""
    waiting, place = [start], {start}
    while waiting:
        row, column = waiting.pop()
        for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= near[0] < hot.shape[0] and 0 <= near[1] < hot.shape[1]
            if inside and hot[near] and near not in place:
                place.add(near)
                waiting.append(near)
    return sorted(place)
