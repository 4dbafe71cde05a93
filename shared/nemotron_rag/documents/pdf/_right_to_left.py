"""Text of pages in Arabic, Hebrew and their like: from where the glyphs stand back to the order in which one reads.

A PDF draws glyphs; which of them come first is a guess of its reader's. MuPDF's guess splits ligatures in the wrong
order, and lines that mix words with numbers or Latin ones. Here a line is put together anew, by the rules of the
Unicode bidirectional algorithm (UAX #9) read backwards. It knows characters and places alone, no PDF.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["PlacedCharacter", "has_right_to_left", "in_reading_order"]

_LETTERS = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_THIN = 0.01  # points
_LAM = "\u0644"
_ALEFS = "\u0627\u0622\u0623\u0625\u0671"
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_OPENING = dict(zip(")]}»", "([{«", strict=True))
_PREFIXES = "$€£¥₪+-\u2212#"  # signs that stand at the left of a number, in any script
_SPACES = re.compile(r" {2,}")

Role = Literal["right", "left", "number", "separator", "sign", "neutral"]


class PlacedCharacter(NamedTuple):
    """A character as MuPDF found it.

    Args:
        text: of one character.
        left: of its glyph's advance.
        right: the same as `left` for what has no advance of its own: further letters of a ligature, some marks.
        is_made: a space that MuPDF has put where it saw a gap.
    """

    text: str
    left: float
    right: float
    is_made: bool = False


@dataclass
class _Cluster:
    """A glyph: its character, what else it stands for, and the marks on it."""

    text: str
    left: float
    right: float

    @property
    def role(self) -> Role:
        return _role(self.text[0])


def has_right_to_left(text: str) -> bool:
    """Whether a text has letters that are read from right to left."""
    return _LETTERS.search(text) is not None


def in_reading_order(lines: Iterable[Sequence[PlacedCharacter]]) -> list[str]:
    """Return the texts of a page's lines in the order in which they are read; lines without such letters stay.

    Args:
        lines: each with its characters in MuPDF's order, which keeps those of one glyph together.
    """
    given = list(lines)
    strong = [_role(character.text) for line in given for character in line]
    is_right = strong.count("right") >= strong.count("left")
    ordered = [_ordered(line, is_right=is_right) for line in given]
    found = [line for line in ordered if not isinstance(line, str)]
    as_it_is, mirrored = (sum(_unmatched(_joined(line, mirror=mirror)) for line in found) for mirror in (False, True))
    return [line if isinstance(line, str) else _joined(line, mirror=mirrored < as_it_is) for line in ordered]


class _Piece(NamedTuple):
    text: str
    is_left_to_right: bool


def _ordered(line: Sequence[PlacedCharacter], *, is_right: bool) -> str | list[_Piece]:
    text = "".join(character.text for character in line)
    if not has_right_to_left(text):
        return text
    clusters = _spaced(sorted(_clusters(_with_widths(line)), key=lambda cluster: (cluster.left, cluster.right)))
    roles = _roles(clusters)
    is_right = is_right or roles.count("right") >= roles.count("left")
    runs = _left_runs(roles) if is_right else _outside(_right_runs(roles), len(roles))
    pieces = [_Piece(cluster.text, any(first <= n < end for first, end in runs)) for n, cluster in enumerate(clusters)]
    return _turned(pieces, runs, is_right=is_right)


def _spaced(clusters: Sequence[_Cluster]) -> list[_Cluster]:
    """Clusters from left to right, with a space where there is room for a letter between them."""
    widths = sorted(cluster.right - cluster.left for cluster in clusters if cluster.right - cluster.left > _THIN)
    if not widths:
        return list(clusters)
    room, spaced, edge = widths[len(widths) // 2], list[_Cluster](), clusters[0].left
    for cluster in clusters:
        if cluster.left - edge > room and cluster.text != " " and spaced[-1].text != " ":
            spaced.append(_Cluster(" ", edge, cluster.left))
        spaced.append(cluster)
        edge = max(edge, cluster.right)
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


def _with_widths(line: Sequence[PlacedCharacter]) -> list[PlacedCharacter]:
    """Letters without a width have that of the gap in which they stand, which is then no space.

    Some programs write letters with vowel marks so.
    """
    gaps = {character.left: character.right for character in line if character.is_made and character.text == " "}
    letters = {character.left for character in line if _is_thin(character) and _role(character.text) == "right"}
    filled = {left: right for left, right in gaps.items() if left in letters}
    kept = []
    for character in line:
        if character.is_made and character.text == " " and character.left in filled:
            continue
        if _is_thin(character) and _role(character.text) == "right" and character.left in filled:
            character = character._replace(right=filled.pop(character.left))
        kept.append(character)
    return kept


def _clusters(line: Sequence[PlacedCharacter]) -> list[_Cluster]:
    """Glyphs with all that belongs to them, which comes before or after them, as MuPDF has turned a line or not."""
    ligatures_after = _follow(line, _is_part)
    marks_after = _follow(line, _is_mark)
    clusters: list[_Cluster] = []
    waiting = ""
    for character in line:
        is_mark = _is_mark(character)
        if not is_mark and not _is_part(character):
            clusters.append(_Cluster(character.text + waiting, character.left, character.right))
            waiting = ""
        elif clusters and (marks_after if is_mark else ligatures_after):
            clusters[-1].text += character.text
        else:
            waiting = character.text + waiting
    if waiting and clusters:
        clusters[-1].text += waiting
    elif waiting:
        clusters.append(_Cluster(waiting, line[0].left, line[0].right))
    return clusters


def _follow(line: Sequence[PlacedCharacter], belongs: Callable[[PlacedCharacter], bool]) -> bool:
    """Whether what belongs to a glyph comes after it: nothing can belong to a space, and an alef does to a lam."""
    after = before = 0
    for place, character in enumerate(line):
        if not belongs(character):
            continue
        last = _neighbour(line[:place][::-1])
        following = _neighbour(line[place + 1 :])
        if character.text in _ALEFS:
            after, before = after + (last == _LAM), before + (following == _LAM)
        else:
            after, before = after + (not following.strip()), before + (not last.strip())
    return after >= before


def _neighbour(line: Sequence[PlacedCharacter]) -> str:
    """The first glyph, or nothing."""
    return next((each.text for each in line if not _is_mark(each) and not _is_part(each)), "")


def _is_thin(character: PlacedCharacter) -> bool:
    return character.right - character.left < _THIN


def _is_part(character: PlacedCharacter) -> bool:
    """Whether it is a further letter of a ligature."""
    return _is_thin(character) and _role(character.text) in ("right", "left", "number")


def _is_mark(character: PlacedCharacter) -> bool:
    """Whether it is a vowel mark, or what joins letters and parts them, without a place of its own."""
    return unicodedata.category(character.text) in ("Mn", "Me", "Cf")


def _role(character: str) -> Role:
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


def _roles(clusters: Sequence[_Cluster]) -> list[Role]:
    """What each glyph is, what is part of a number being one: the comma in 1,250, the signs in $5 and 4%."""
    roles: list[Role] = [cluster.role for cluster in clusters]
    is_arabic = any("\u0600" <= cluster.text[0] <= "\u08ff" for cluster in clusters)
    for place in range(len(roles)):
        before = roles[place - 1] if place else "neutral"
        after = clusters[place + 1].role if place + 1 < len(roles) else "neutral"
        is_between = before == "number" and after == "number"
        is_sign = roles[place] == "sign" and _joins(clusters[place].text[0], before, after, is_arabic=is_arabic)
        if is_sign or (roles[place] == "separator" and is_between):
            roles[place] = "number"
    return roles


def _joins(sign: str, before: Role, after: Role, *, is_arabic: bool) -> bool:
    """Whether a sign is part of the number beside it; after Arabic letters signs are written as other marks are."""
    if sign in _PREFIXES and after == "number" and before != "number":
        return not is_arabic or sign not in "+-\u2212"
    return not is_arabic and before == "number"


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
    return _SPACES.sub(" ", unicodedata.normalize("NFC", text))


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
