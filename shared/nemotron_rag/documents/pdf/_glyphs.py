"""Characters of a line of a page, as a reader of PDFs finds them -> glyphs with all that each of them stands for."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from nemotron_rag.types import Box

__all__ = ["ALEFS", "LAM", "THIN", "Glyph", "PlacedCharacter", "Role", "glyphs_of", "role_of"]

THIN = 0.01
"""Points: what is not wider has no advance of its own."""

LAM = "\u0644"
_NARROW = 0.9  # of a space
ALEFS = "\u0627\u0622\u0623\u0625\u0671"

Role = Literal["right", "left", "number", "separator", "sign", "neutral"]


class PlacedCharacter(NamedTuple):
    """A character as MuPDF or pdfium found it.

    Args:
        text: of one character.
        left: of its glyph's advance.
        right: the same as `left` for what has no advance of its own: further letters of a ligature, some marks.
        is_made: a space that was put where there is a gap.
        top: of its glyph, where places of words are wanted; the vertical axis points down.
        bottom: likewise.
    """

    text: str
    left: float
    right: float
    is_made: bool = False
    top: float = 0.0
    bottom: float = 0.0


@dataclass
class Glyph:
    """A glyph: its character, what else it stands for, and the marks on it; `box` is its place on the page."""

    text: str
    box: Box

    @property
    def left(self) -> float:
        """Where its advance begins."""
        return self.box[0]

    @property
    def right(self) -> float:
        """Where its advance ends."""
        return self.box[2]

    @property
    def role(self) -> Role:
        """Of its first character."""
        return role_of(self.text[0])


def role_of(character: str) -> Role:
    """What a character is for the order of reading."""
    match unicodedata.bidirectional(character):
        case "R" | "AL":
            return "right"
        case "L":
            return "left"
        case "EN" | "AN":
            return "number"
        case "CS":
            return "separator"
        case "ET" | "ES":
            return "sign"
        case _:
            return "neutral"


def glyphs_of(line: Sequence[PlacedCharacter]) -> list[Glyph]:
    """Glyphs with all that belongs to them, which comes before or after them, as a line was turned or not."""
    line = _with_widths(line)
    ligatures_after = _follow(line, _is_part)
    marks_after = _follow(line, _is_mark)
    found: list[Glyph] = []
    waiting = ""
    last: PlacedCharacter | None = None
    for place, character in enumerate(line):
        is_mark = _is_mark(character)
        if not is_mark and not _is_part(character):
            found.append(Glyph(character.text + waiting, _box(character)))
            waiting, last = "", character
            continue
        is_after = marks_after if is_mark else ligatures_after
        if is_mark:
            stands_before, stands_after = _stands_on(character, last), _stands_on(character, _next(line[place + 1 :]))
            is_after = is_after if stands_before == stands_after else stands_before
        if found and is_after:
            found[-1].text += character.text
        else:
            waiting = character.text + waiting
    if waiting and found:
        found[-1].text += waiting
    elif waiting:
        found.append(Glyph(waiting, _box(line[0])))
    return found


def _stands_on(mark: PlacedCharacter, glyph: PlacedCharacter | None) -> bool:
    return glyph is not None and glyph.left - THIN <= mark.left < glyph.right - THIN


def _next(line: Sequence[PlacedCharacter]) -> PlacedCharacter | None:
    """The first glyph."""
    return next((each for each in line if not _is_mark(each) and not _is_part(each)), None)


def _box(character: PlacedCharacter) -> Box:
    return character.left, character.top, character.right, character.bottom


def _with_widths(line: Sequence[PlacedCharacter]) -> list[PlacedCharacter]:
    """Letters without a width have that of the gap in which they stand, which is then no space.

    Some programs write letters with vowel marks so. Where a line has spaces of its own, narrower gaps are none.
    """
    widths = sorted(each.right - each.left for each in line if each.text == " " and not each.is_made)
    room = widths[len(widths) // 2] if widths else 0.0
    gaps = {character.left: character.right for character in line if character.is_made and character.text == " "}
    letters = {character.left for character in line if _is_thin(character) and role_of(character.text) == "right"}
    filled = {left: right for left, right in gaps.items() if left in letters}
    taken = set(filled)
    kept = []
    for character in line:
        if character.is_made and character.text == " " and (character.left in taken or _is_narrow(character, room)):
            continue
        if _is_thin(character) and role_of(character.text) == "right" and character.left in filled:
            character = character._replace(right=filled.pop(character.left))
        kept.append(character)
    return kept


def _is_narrow(space: PlacedCharacter, room: float) -> bool:
    return THIN < space.right - space.left < _NARROW * room


def _follow(line: Sequence[PlacedCharacter], belongs: Callable[[PlacedCharacter], bool]) -> bool:
    """Whether what belongs to a glyph comes after it: nothing can belong to a space, and an alef does to a lam."""
    after = before = 0
    for place, character in enumerate(line):
        if not belongs(character):
            continue
        last = _neighbour(line[:place][::-1])
        following = _neighbour(line[place + 1 :])
        if character.text in ALEFS:
            after, before = after + (last == LAM), before + (following == LAM)
        else:
            after, before = after + (not following.strip()), before + (not last.strip())
    return after >= before


def _neighbour(line: Sequence[PlacedCharacter]) -> str:
    """The first glyph, or nothing."""
    glyph = _next(line)
    return "" if glyph is None else glyph.text


def _is_thin(character: PlacedCharacter) -> bool:
    return character.right - character.left < THIN


def _is_part(character: PlacedCharacter) -> bool:
    """Whether it is a further letter of a ligature."""
    return _is_thin(character) and role_of(character.text) in ("right", "left", "number")


def _is_mark(character: PlacedCharacter) -> bool:
    """Whether it is a vowel mark, or what joins letters and parts them, without a place of its own."""
    return unicodedata.category(character.text) in ("Mn", "Me", "Cf")
