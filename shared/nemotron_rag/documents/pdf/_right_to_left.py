"""Text of pages in Arabic, Hebrew and their like: from where the glyphs stand back to the order in which one reads.

A PDF draws glyphs; which of them come first is a guess of its reader's. The guesses split ligatures in the wrong
order, and lines that mix words with numbers or Latin ones. Here a line is put together anew, by the rules of the
Unicode bidirectional algorithm (UAX #9) read backwards. It knows characters and places alone, no PDF.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from nemotron_rag.documents.pdf._glyphs import THIN, Glyph, PlacedCharacter, Role, glyphs_of, role_of
from nemotron_rag.types import Box

__all__ = ["ReadLine", "has_right_to_left", "in_reading_order"]

_LETTERS = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_OPENING = dict(zip(")]}»", "([{«", strict=True))
_PREFIXES = "$€£¥₪+-\u2212#"  # signs that stand at the left of a number, in any script
_SPACES = re.compile(r" {2,}")


class ReadLine(NamedTuple):
    """A line as it is read.

    Args:
        text: all of it.
        words: each with the box around it.
    """

    text: str
    words: list[tuple[str, Box]]


class _Piece(NamedTuple):
    """A glyph in its place of a line."""

    text: str
    box: Box
    is_left_to_right: bool


class _Line(NamedTuple):
    """Glyphs in the order in which they are read; whether they were put so here."""

    pieces: list[_Piece]
    is_turned: bool


def has_right_to_left(text: str) -> bool:
    """Whether a text has letters that are read from right to left."""
    return _LETTERS.search(text) is not None


def in_reading_order(lines: Iterable[Sequence[PlacedCharacter]]) -> list[ReadLine]:
    """Return a page's lines in the order in which they are read; lines without such letters stay.

    Args:
        lines: each with its characters in any order that keeps those of one glyph together.
    """
    given = list(lines)
    strong = [role_of(character.text) for line in given for character in line]
    is_right = strong.count("right") >= strong.count("left")
    ordered = [_ordered(line, is_right=is_right) for line in given]
    found = [line.pieces for line in ordered if line.is_turned]
    as_it_is, mirrored = (sum(_unmatched(_joined(line, mirror=mirror)) for line in found) for mirror in (False, True))
    return [_read(line, mirror=mirrored < as_it_is) for line in ordered]


def _read(line: _Line, *, mirror: bool) -> ReadLine:
    mirror = mirror and line.is_turned
    text = _joined(line.pieces, mirror=mirror) if line.is_turned else "".join(piece.text for piece in line.pieces)
    words = []
    for is_space, group in groupby(line.pieces, key=lambda piece: piece.text.isspace()):
        if not is_space:
            pieces = list(group)
            left, top, right, bottom = zip(*(piece.box for piece in pieces), strict=True)
            words.append((_joined(pieces, mirror=mirror), (min(left), min(top), max(right), max(bottom))))
    return ReadLine(text, words)


def _ordered(line: Sequence[PlacedCharacter], *, is_right: bool) -> _Line:
    if not has_right_to_left("".join(character.text for character in line)):
        return _Line([_Piece(each.text, (each.left, each.top, each.right, each.bottom), True) for each in line], False)
    glyphs = _spaced(sorted(glyphs_of(line), key=lambda glyph: (glyph.left, glyph.right)))
    roles = _roles(glyphs)
    is_right = is_right or roles.count("right") >= roles.count("left")
    runs = _left_runs(roles) if is_right else _outside(_right_runs(roles), len(roles))
    pieces = [
        _Piece(glyph.text, glyph.box, any(first <= n < end for first, end in runs)) for n, glyph in enumerate(glyphs)
    ]
    return _Line(_turned(pieces, runs, is_right=is_right), True)


def _spaced(glyphs: Sequence[Glyph]) -> list[Glyph]:
    """Glyphs from left to right, with a space where there is room for a letter between them."""
    widths = sorted(glyph.right - glyph.left for glyph in glyphs if glyph.right - glyph.left > THIN)
    if not widths:
        return list(glyphs)
    room, spaced, edge = widths[len(widths) // 2], list[Glyph](), glyphs[0].left
    for glyph in glyphs:
        if glyph.left - edge > room and glyph.text != " " and spaced[-1].text != " ":
            spaced.append(Glyph(" ", (edge, glyph.box[1], glyph.left, glyph.box[3])))
        spaced.append(glyph)
        edge = max(edge, glyph.right)
    return spaced


def _turned(pieces: list[_Piece], runs: list[tuple[int, int]], *, is_right: bool) -> list[_Piece]:
    """Pieces in reading order: runs from left to right as they are, all else from right to left."""
    parts: list[list[_Piece]] = []
    place = 0
    for first, end in [*runs, (len(pieces), len(pieces))]:
        if place < first:
            parts.append(pieces[place:first][::-1])
        if first < end:
            parts.append(pieces[first:end])
        place = end
    return [piece for part in (reversed(parts) if is_right else parts) for piece in part]


def _roles(glyphs: Sequence[Glyph]) -> list[Role]:
    """What each glyph is, what is part of a number being one: the comma in 1,250, the signs in $5 and 4%."""
    roles: list[Role] = [glyph.role for glyph in glyphs]
    is_arabic = any("\u0600" <= glyph.text[0] <= "\u08ff" for glyph in glyphs)
    for place in range(len(roles)):
        before = roles[place - 1] if place else "neutral"
        after = glyphs[place + 1].role if place + 1 < len(roles) else "neutral"
        is_between = before == "number" and after == "number"
        is_sign = roles[place] == "sign" and _joins(glyphs[place].text[0], before, after, is_arabic=is_arabic)
        if is_sign or (roles[place] == "separator" and is_between):
            roles[place] = "number"
    return roles


def _joins(sign: str, before: Role, after: Role, *, is_arabic: bool) -> bool:
    """Whether a sign is part of the number beside it; after Arabic letters signs are written as other marks are."""
    if sign in _PREFIXES and after == "number" and before != "number":
        return not is_arabic or sign not in "+-\u2212"
    return not is_arabic and before == "number" and unicodedata.bidirectional(sign) == "ET"


def _left_runs(roles: Sequence[Role]) -> list[tuple[int, int]]:
    """Where in a line from right to left something is read from left to right: a number, or words with all between."""
    runs: list[tuple[int, int]] = []
    place = 0
    while place < len(roles):
        if roles[place] not in ("left", "number"):
            place += 1
            continue
        end = place + 1
        has_words = roles[place] == "left"
        look = end
        while look < len(roles) and roles[look] != "right":
            if roles[look] in ("left", "number") and (look == end or has_words):
                end = look + 1
                has_words = has_words or roles[look] == "left"
            look += 1
        runs.append((place, end))
        place = end
    return runs


def _right_runs(roles: Sequence[Role]) -> list[tuple[int, int]]:
    """Where in a line from left to right something is read from right to left."""
    runs: list[tuple[int, int]] = []
    for place, role in enumerate(roles):
        if role != "right":
            continue
        if runs and all(between not in ("left", "number") for between in roles[runs[-1][1] : place]):
            runs[-1] = runs[-1][0], place + 1
        else:
            runs.append((place, place + 1))
    return runs


def _outside(runs: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    edges = [0, *(edge for run in runs for edge in run), length]
    return [(first, end) for first, end in zip(edges[::2], edges[1::2], strict=True) if first < end]


def _joined(line: Sequence[_Piece], *, mirror: bool) -> str:
    text = "".join(
        piece.text.translate(_MIRRORED) if mirror and not piece.is_left_to_right else piece.text for piece in line
    )
    return _SPACES.sub(" ", unicodedata.normalize("NFC", _paired(text)))


def _paired(text: str) -> str:
    """A line without brackets that open or close twice: some readers have turned one of them round already."""
    for closing, opening in _OPENING.items():
        opened, closed = text.count(opening), text.count(closing)
        if opened != closed and (opened + closed) % 2 == 0:
            sides = iter((opening, closing) * (opened + closed))
            text = "".join(next(sides) if each in (opening, closing) else each for each in text)
    return text


def _unmatched(text: str) -> int:
    """How many brackets of a line close what is not open."""
    opened: list[str] = []
    wrong = 0
    for character in text:
        if character in _OPENING.values():
            opened.append(character)
        elif character in _OPENING:
            if opened and opened[-1] == _OPENING[character]:
                opened.pop()
            else:
                wrong += 1
    return wrong
