"""Characters of a page as pdfium gives them -> its text, and its lines and words with their places."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from nemotron_rag.documents.pdf._common import clean_word
from nemotron_rag.documents.pdf._glyphs import ALEFS, LAM, THIN, PlacedCharacter, role_of
from nemotron_rag.documents.word_boxes import PlacedWord
from nemotron_rag.types import Box

__all__ = ["Sign", "lines_of", "text_of", "words_of"]

_LIKELY = 0.3  # of a letter's width: how much wider a gap counts where pdfium has a space
_BROKEN = 2  # how pdfium gives the hyphen of a word that goes on in the next line, and the end of the line


class Sign(NamedTuple):
    """A character of a page.

    Args:
        code: as pdfium gives it.
        corners: left, top, right and bottom in points of the page as it lies, the vertical axis downwards; None for
            what has no place.
        origin: where its glyph begins, in the same points: to the right, and down.
    """

    code: int
    corners: Box | None
    origin: tuple[float, float]

    @property
    def text(self) -> str:
        """In the text of the page."""
        if self.code == _BROKEN:
            return "-\n"
        return chr(self.code) if 0 < self.code < 0x110000 else ""

    @property
    def in_word(self) -> str:
        """In its word; nothing if it parts words."""
        return "-" if self.code == _BROKEN else "" if self.text.isspace() else self.text


def text_of(signs: Sequence[Sign]) -> str:
    """The text in pdfium's order."""
    return "".join(sign.text for sign in signs)


def words_of(signs: Sequence[Sign], place: Callable[[Box], Box]) -> Iterator[PlacedWord]:
    """Letters between spaces; each line is a block of its own, since pdfium knows of no blocks."""
    for number, line in enumerate(_split(signs)):
        for word in _words(line):
            left, top, right, bottom = zip(*(sign.corners for sign in word if sign.corners), strict=True)
            text = clean_word("".join(sign.in_word for sign in word))
            yield PlacedWord(text, place((min(left), min(top), max(right), max(bottom))), number, 0)


def lines_of(signs: Sequence[Sign]) -> list[list[PlacedCharacter]]:
    """The lines of a page for `in_reading_order`, letters of a word together, in whatever order.

    pdfium puts some of the words and some of their letters the wrong way round, and spaces beside the wrong signs. It
    is right in where letters stand, and spaces that have a width. Where they have none, it is right in how many there
    are: these are put into the widest gaps.
    """
    found = []
    for line in _split(signs):
        words = _with_lost_marks([_letters(word) for word in _words(line)])
        spaces = [_space(sign) for sign in line if sign.text.isspace() and _width(sign) > THIN]
        if 2 * len(spaces) < len(words) - 1:
            spaces = _in_gaps(words)
        if words:
            found.append(_interleaved(words, spaces))
    return found


def _split(signs: Sequence[Sign]) -> Iterator[list[Sign]]:
    """The lines of a page."""
    line: list[Sign] = []
    for sign in signs:
        line.append(sign)
        if "\n" in sign.text:
            yield line
            line = []
    yield line


def _words(line: Sequence[Sign]) -> list[list[Sign]]:
    """The words of a line; those without any place are left out."""
    words: list[list[Sign]] = [[]]
    for sign in line:
        if sign.in_word and sign.corners:
            words[-1].append(sign)
        elif sign.text.isspace():
            words.append([])
    return [word for word in words if word]


def _width(sign: Sign) -> float:
    return sign.corners[2] - sign.corners[0] if sign.corners else 0.0


def _space(sign: Sign) -> PlacedCharacter:
    left = sign.origin[0]
    return PlacedCharacter(" ", left, left + _width(sign))


def _letters(word: Sequence[Sign]) -> list[PlacedCharacter]:
    """A word from right to left in the order in which it is read, letters of one glyph together."""
    glyphs = [list(group) for _, group in groupby(word, key=lambda sign: (round(sign.origin[0], 1), sign.origin[1]))]
    origins = [glyph[0].origin[0] for glyph in glyphs if role_of(glyph[0].in_word) == "right"]
    steps = [after - before for before, after in pairwise(origins)]
    if sum(step > 0 for step in steps) > sum(step < 0 for step in steps):
        glyphs = [_turned(glyph) for glyph in reversed(glyphs)]
    return [letter for glyph in glyphs for letter in _of_glyph(glyph)]


def _turned(glyph: list[Sign]) -> list[Sign]:
    return glyph[::-1] if role_of(glyph[0].in_word) == "right" else glyph


def _of_glyph(glyph: list[Sign]) -> Iterator[PlacedCharacter]:
    """The letters of a glyph; further ones have no width. A lam comes before its alef, whatever pdfium says."""
    first, last = glyph[0].in_word, glyph[-1].in_word
    if len(glyph) == 2 and first in ALEFS and last == LAM:
        glyph = glyph[::-1]
    has_width = True
    for sign in glyph:
        _, top, right, bottom = sign.corners or (0, 0, 0, 0)
        is_mark = unicodedata.combining(sign.in_word) > 0
        left = sign.origin[0]
        end = max(right, left) if has_width and not is_mark else left
        yield PlacedCharacter(sign.in_word, left, end, False, top, bottom)
        has_width = has_width and is_mark


def _interleaved(words: Sequence[list[PlacedCharacter]], spaces: Sequence[PlacedCharacter]) -> list[PlacedCharacter]:
    """The letters of a line, a space behind each word, wherever it stands."""
    line: list[PlacedCharacter] = []
    for number, word in enumerate(words):
        line += [*word, *spaces[number : number + 1]]
    return [*line, *spaces[len(words) :]]


def _with_lost_marks(words: Sequence[list[PlacedCharacter]]) -> list[list[PlacedCharacter]]:
    """Words, with the vowel marks that stand alone in pdfium's order behind the letters above which they are drawn."""
    kept = [[*word] for word in words if not all(unicodedata.combining(letter.text) for letter in word)]
    for mark in (mark for word in words for mark in word if all(unicodedata.combining(each.text) for each in word)):
        for word in kept:
            places = [place for place, letter in enumerate(word, 1) if letter.left <= mark.left < letter.right - THIN]
            if places:
                word.insert(places[0], mark)
                break
    return kept


def _in_gaps(words: Sequence[list[PlacedCharacter]]) -> list[PlacedCharacter]:
    """As many spaces as part the words of a line, in its widest gaps."""
    widest = sorted(_gaps(words), reverse=True)[: max(0, len(words) - 1)]
    return [PlacedCharacter(" ", place, place, True) for _, place in widest]


def _gaps(words: Sequence[list[PlacedCharacter]]) -> Iterator[tuple[float, float]]:
    """How wide each gap between two glyphs is, more where pdfium parts words, and a place in it."""
    if not words:
        return
    standing = sorted((letter.left, letter.right, number) for number, word in enumerate(words) for letter in word)
    widths = sorted(right - left for left, right, _ in standing)
    likely = _LIKELY * widths[len(widths) // 2]
    edge = standing[0][1]
    for (before, _, one), (left, right, other) in pairwise(standing):
        if left > before:
            yield left - edge + likely * (one != other), (before + left) / 2
        edge = max(edge, right)
