"""Which lines of a page answer a query, by the words that both have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nemotron_rag.documents.text import content_words, one_line
from nemotron_rag.documents.word_boxes import TextLine
from nemotron_rag.documents.words import passage_bag, query_words
from nemotron_rag.types import Box, FloatArray

__all__ = ["Block", "Evidence", "find_blocks", "nearest_sentence", "word_evidence"]

_FUNCTION_WORD = 0.2  # weight of a short word of the query beside a content word; it tells equal lines apart
_STEM = 4  # letters at least that two forms of a word have in common
_STEM_SHARE = 0.7  # of the longer one
_SAME_STEM = 0.6  # how much another form of a word counts
_NEW = 0.2  # of all that was found of a query: what a line must add to join the lines beside it
_WORTH = 0.5  # of the best score: less is not shown
_HEIGHTS = 1.6  # how much higher one of two lines of a paragraph may be
_LEADING = 1.0  # heights of a line between it and the next one of its paragraph, at most
_IN_ROW = 0.6  # of the height of the higher one
_MOST_LINES = 6  # of a block
_STARTS = 64  # lines that blocks are grown from
_LEAST_HEAT = 0.1
_MARGIN = 0.07  # of the page's height, above and below, where running titles stand
_RUNNING = 0.5  # how much a line there counts
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f\u061f\u06d4\u0964]['\")\]\u201d\u2019\u00bb]*$")
_BROKEN = re.compile(r"(\w+)[-\u2010]$")
_SENTENCES = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+")
_LEAST_WORDS = 4  # of a sentence that is quoted
_FIRST = re.compile(r"^(\w+)")


class Evidence(NamedTuple):
    """How much of a query each line of a page shows.

    Args:
        found: (lines, terms) float32, from 0 to 1.
        weights: (terms,) float32, how much each term of the query says.
    """

    found: FloatArray
    weights: FloatArray


class Block(NamedTuple):
    """Lines that answer a query together.

    Args:
        lines: their indices, ascending.
        score: from 0 to 1.
    """

    lines: tuple[int, ...]
    score: float


def nearest_sentence(texts: Sequence[str], query: str) -> tuple[int, str] | None:
    """The sentence that has most content words of a query, for its length.

    It understands nothing; it is what a stand-in for a chat model can quote.

    Args:
        texts: of pages.
        query: in words.

    Returns:
        The index of its text, and the sentence on one line; None if none has a word of the query.

    Example:
        >>> nearest_sentence(["Whales eat krill.", "Red apples are sweet. Pears are not."], "Are red apples sweet?")
        (1, 'Red apples are sweet.')
    """
    wanted = content_words(query)
    best: tuple[float, int, str] | None = None
    for index, text in enumerate(texts):
        for sentence in _SENTENCES.split(one_line(text)):
            having = content_words(sentence)
            score = len(having & wanted) ** 2 / (len(having) + _LEAST_WORDS)
            if score and (best is None or score > best[0]):
                best = (score, index, sentence)
    return None if best is None else best[1:]


def word_evidence(lines: Sequence[TextLine], query: str) -> Evidence:
    """The words of a query in the lines of a page, rare ones on this page first: their weight is BM25's.

    Words are those of `documents.words`; one that is broken at the end of a line is found in both. Another form of a
    word, with the same beginning, counts in part. The weights of all terms, those that no line has among them, are 1.

    Args:
        lines: of a page, n of them.
        query: in words.
    """
    terms = query_words(query)
    content = content_words(query)
    bags = [_bag(lines, index) for index in range(len(lines))]
    found = np.zeros((len(lines), len(terms)), dtype=np.float32)
    alike = _alike(terms, set().union(*bags))
    for row, bag in zip(found, bags, strict=True):
        for column, forms in enumerate(alike):
            row[column] = max((forms[word] for word in bag & forms.keys()), default=0.0)
    having = (found > 0).sum(axis=0)  # (terms,)
    weights = np.log1p((len(lines) - having + 0.5) / (having + 0.5))
    is_content = np.array([term in content for term in terms], dtype=bool)
    weights *= np.where(is_content, 1.0, _FUNCTION_WORD)
    total = float(weights.sum())
    weights *= (having > 0) & bool(having[is_content].any())  # words like "the" alone say nothing
    return Evidence(found, (weights / (total or 1)).astype(np.float32))


def find_blocks(
    lines: Sequence[TextLine], evidence: Evidence, *, k: int, heat: FloatArray | None = None, aspect: float = 1.0
) -> list[Block]:
    """The lines with the most evidence, joined with those beside them that show more of the query.

    A line joins if it goes on with the sentence: it is of the same paragraph, there is no end of a sentence between
    them, and it adds words that the others have not. Cells of a table's row join in the same way.

    Args:
        lines: n lines of a page, in reading order.
        evidence: for them, by their words.
        k: blocks at most; those with less than half the score of the best one are left out. Running titles, at the
            edges of the page, count half.
        heat: (n,), from 0 to 1: how well each matches the query by token vectors. It counts for as much of the query
            as words do not tell, a tenth at least.
        aspect: height of the page by its width: lines are as high as they are, whichever way the page is turned.

    Returns:
        Best first; no line stands in two.
    """
    trust = np.array([_RUNNING if _is_in_margin(line.box, aspect) else 1 for line in lines], dtype=np.float32)
    values = evidence.found * evidence.weights * trust[:, None]  # (lines, terms)
    heat = None if heat is None else heat * trust
    alone = values.sum(axis=1) if heat is None else values.sum(axis=1) + heat
    starts = [int(index) for index in np.argsort(-alone, kind="stable")[:_STARTS] if alone[index] > 0]
    beside = _neighbours(lines, aspect)
    blocks = _weighed([_grown(index, values, beside) for index in starts], heat)
    taken: set[int] = set()
    kept: list[Block] = []
    for block in sorted(blocks, key=lambda block: (-block.score, len(block.lines))):
        if len(kept) == k or (kept and block.score < _WORTH * kept[0].score):
            break
        if not taken & set(block.lines):
            kept.append(block)
            taken.update(block.lines)
    return kept


def _weighed(blocks: Sequence[Block], heat: FloatArray | None) -> list[Block]:
    """Blocks with the heat of their lines in their scores."""
    if heat is None or not blocks:
        return list(blocks)
    told = max(block.score for block in blocks)
    share = max(_LEAST_HEAT, 1 - told)
    scores = [
        (1 - share) * block.score / (told or 1) + share * float(heat[list(block.lines)].mean()) for block in blocks
    ]
    return [Block(block.lines, score) for block, score in zip(blocks, scores, strict=True)]


def _bag(lines: Sequence[TextLine], index: int) -> set[str]:
    """The words of a line, and the whole ones of those that are broken at its ends."""
    text = lines[index].text
    words = set(passage_bag(text).counts)
    before = _BROKEN.search(lines[index - 1].text) if index else None
    after = _BROKEN.search(text) if index + 1 < len(lines) else None
    for first, second in ((before, _FIRST.search(text)), (after, after and _FIRST.search(lines[index + 1].text))):
        if first and second:
            words |= set(passage_bag(first[1] + second[1]).counts)
    return words


def _alike(terms: Sequence[str], words: set[str]) -> list[dict[str, float]]:
    """For each term the words of the page that stand for it, and how much they count."""
    result = []
    for term in terms:
        forms = {term: 1.0}
        if len(term) >= _STEM and term.isalpha():
            begins = term[:_STEM]
            forms |= {word: _SAME_STEM for word in words if word.startswith(begins) and _same_stem(term, word)}
            forms[term] = 1.0
        result.append(forms)
    return result


def _same_stem(one: str, other: str) -> bool:
    common = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return other.isalpha() and common >= max(_STEM, _STEM_SHARE * max(len(one), len(other)))


def _grown(start: int, values: FloatArray, beside: Sequence[Sequence[int]]) -> Block:
    """A line, and those beside it as long as they add something."""
    block, shown = [start], values[start].copy()  # shown: (terms,)
    while len(block) < _MOST_LINES:
        around = {index for each in block for index in beside[each]} - set(block)
        gains = {index: float(np.maximum(values[index] - shown, 0).sum()) for index in sorted(around)}
        best = max(gains, key=gains.__getitem__, default=None)
        if best is None or gains[best] <= _NEW * float(shown.sum()):
            break
        block.append(best)
        shown = np.maximum(shown, values[best])
    return Block(tuple(sorted(block)), min(1.0, float(shown.sum())))


def _neighbours(lines: Sequence[TextLine], aspect: float) -> list[list[int]]:
    """For each line those that can go on with it: the next one of its paragraph, and cells in its row.

    Of lines that stand, on a page that was turned, it is the same with the sides of the page exchanged.
    """
    beside: list[list[int]] = [[] for _ in lines]
    stands = [_stands(line.box, aspect) for line in lines]
    boxes = [_turned(line.box) if each else line.box for line, each in zip(lines, stands, strict=True)]
    for one, box in enumerate(boxes):
        near = range(one + 1, min(one + 1 + _MOST_LINES, len(lines)))
        near_by = [other for other in near if stands[other] == stands[one]]
        following = [other for other in near_by if _in_row(box, boxes[other])]
        if not _SENTENCE_END.search(lines[one].text):
            following += [other for other in near_by if _below(box, boxes[other], either=stands[one])][:1]
        for other in following:
            beside[one].append(other)
            beside[other].append(one)
    return beside


def _below(upper: Box, lower: Box, *, either: bool) -> bool:
    """Whether a line can be the next one of a paragraph; turned pages are read from either side."""
    if either and lower[1] < upper[1]:
        upper, lower = lower, upper
    heights = sorted((upper[3] - upper[1], lower[3] - lower[1]))
    if heights[1] > _HEIGHTS * heights[0]:
        return False
    across = min(upper[2], lower[2]) - max(upper[0], lower[0])
    return across > 0 and -0.5 * heights[1] <= lower[1] - upper[3] <= _LEADING * heights[1]


def _in_row(one: Box, other: Box) -> bool:
    """Whether two lines are cells of a row."""
    overlap = min(one[3], other[3]) - max(one[1], other[1])
    return overlap > _IN_ROW * max(one[3] - one[1], other[3] - other[1])


def _stands(box: Box, aspect: float) -> bool:
    return (box[3] - box[1]) * aspect > 2 * (box[2] - box[0])


def _is_in_margin(box: Box, aspect: float) -> bool:
    """Whether a line stands where titles are that run through all pages: they have words of many queries."""
    first, last = (box[0], box[2]) if _stands(box, aspect) else (box[1], box[3])
    return last < _MARGIN or first > 1 - _MARGIN


def _turned(box: Box) -> Box:
    return box[1], box[0], box[3], box[2]
