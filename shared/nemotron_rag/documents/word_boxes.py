"""Where the words of a page stand: as compact bytes, checked, and joined to lines."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.errors import InputError
from nemotron_rag.types import Box, FloatArray, WordBoxes

__all__ = [
    "WORD_GAP",
    "PlacedWord",
    "TextLine",
    "check_word_boxes",
    "decode_word_boxes",
    "encode_word_boxes",
    "text_lines",
    "union",
    "word_boxes_of",
]

_MAGIC = b"NRW1"
_STEPS = 65_535  # of a side: a sixth of a pixel on a page of 10,000 pixels
_LARGEST = 2**23  # bytes when unpacked: 100,000 characters and as many boxes are less
WORD_GAP = 2.0
"""Heights of a word: what is further apart on one line are columns or cells."""

_BESIDE = 0.6  # of the height of the lower word


class TextLine(NamedTuple):
    """A line of a page.

    Args:
        text: its words, a space between them.
        box: around all of them.
    """

    text: str
    box: Box


class PlacedWord(NamedTuple):
    """A word on a page.

    Args:
        text: without spaces; of one that is broken at the end of a line the hyphen too.
        corners: left, top, right and bottom, in any unit.
        block: words of two blocks are never on one line.
        line: in its block, as whoever read the page cut it.
        goes_on: with the line of the word before it, wherever it stands: where writing turns round, words that follow
            each other are not beside each other.
    """

    text: str
    corners: tuple[float, float, float, float]
    block: int
    line: int
    goes_on: bool = False


def word_boxes_of(words: Iterable[PlacedWord], width: float, height: float, *, longest: int) -> WordBoxes:
    """Word boxes from places on a page; what is not on the page at all is left out, the rest is cut at its edges.

    Args:
        words: in reading order. Pieces of one line are joined where they are near each other, and cut where they are
            not, as the cells of a table.
        width: of the page, in the unit of the words.
        height: of the page.
        longest: characters of all words; what is more is left out.

    Example:
        >>> words = [PlacedWord("Sales", (10, 20, 50, 30), 0, 0), PlacedWord("grew", (52, 20, 90, 30), 0, 1)]
        >>> found = word_boxes_of(words, 100, 200, longest=1000)
        >>> found.words, found.boxes[0].round(2).tolist(), found.lines.tolist()
        (('Sales', 'grew'), [0.1, 0.1, 0.5, 0.15], [0, 0])
    """
    kept: list[PlacedWord] = []
    lines: list[int] = []
    for word in words:
        left, top, right, bottom = word.corners
        if not (word.text and max(left, 0) < min(right, width) and max(top, 0) < min(bottom, height)):  # or NaN
            continue
        longest -= len(word.text)
        if longest < 0:
            break
        lines.append(lines[-1] + (not _on_one_line(kept[-1], word)) if kept else 0)
        kept.append(word)
    corners = np.array([word.corners for word in kept], dtype=np.float64).reshape(-1, 4)
    boxes = (corners / (width, height, width, height)).clip(0, 1).astype(np.float32)
    return WordBoxes(tuple(word.text for word in kept), boxes, np.array(lines, dtype=np.int32))


def check_word_boxes(found: WordBoxes) -> None:
    """Raise unless the parts of word boxes fit together.

    Raises:
        InputError: they do not, or a box is none.
    """
    if not isinstance(found, WordBoxes):
        raise InputError(f"word_boxes must be WordBoxes, got {type(found).__name__}")
    count = len(found.words)
    if found.boxes.shape != (count, 4) or found.lines.shape != (count,):
        raise InputError(
            f"{count} words need boxes of shape ({count}, 4) and lines of shape ({count},), "
            f"got {found.boxes.shape} and {found.lines.shape}"
        )
    first, last = found.boxes[:, :2], found.boxes[:, 2:]
    if not ((first >= 0) & (first <= last) & (last <= 1)).all():
        raise InputError("word boxes must be left, top, right, bottom from 0 to 1, in fractions of the image's sides")
    if count and (found.lines[0] < 0 or (np.diff(found.lines) < 0).any()):
        raise InputError("lines of word boxes must never descend; give the words in reading order")
    if any(not isinstance(word, str) or word.split() != [word] for word in found.words):
        raise InputError("words of word boxes must be texts without spaces, and not empty")


def encode_word_boxes(found: WordBoxes) -> bytes:
    """Word boxes as bytes: 8 or 9 for each word, 2 kB for a page.

    Magic, then deflated: the length of the words as JSON, 4 bytes; the words; then for all words their lines, lefts,
    tops, widths and heights, each as its difference from that of the word before, 2 bytes, in 65,535ths of the image's
    sides. All little-endian.
    """
    words = json.dumps(found.words, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    steps = np.diff(found.lines, prepend=0).astype("<u2")
    corners = np.rint(found.boxes * _STEPS).astype(np.int64)
    corners[:, 2:] -= corners[:, :2]  # width and height change less from word to word
    differences = np.diff(corners, axis=0, prepend=0).astype("<u2")  # modulo 65,536
    columns = np.column_stack([steps, differences]).T.tobytes()  # (5, words): like next to like
    return _MAGIC + zlib.compress(len(words).to_bytes(4, "little") + words + columns, 9)


def decode_word_boxes(data: bytes) -> WordBoxes:
    """What `encode_word_boxes` was given, corners rounded.

    Raises:
        InputError: the bytes are something else, or damaged.
    """
    try:
        if data[: len(_MAGIC)] != _MAGIC:
            raise ValueError("no word boxes")
        unpacking = zlib.decompressobj()
        plain = unpacking.decompress(data[len(_MAGIC) :], _LARGEST)
        if not unpacking.eof:
            raise ValueError(f"more than {_LARGEST} bytes, or cut short")
        end = 4 + int.from_bytes(plain[:4], "little")
        words = tuple(json.loads(plain[4:end]))
        found = _placed(words, np.frombuffer(plain, "<u2", offset=end).reshape(5, len(words)))
        check_word_boxes(found)
    except (ValueError, RecursionError, zlib.error) as error:  # InputError is a ValueError
        raise InputError(f"damaged word boxes: {error}") from error
    return found


def text_lines(found: WordBoxes) -> list[TextLine]:
    """The lines of a page in reading order.

    Example:
        >>> boxes = np.array([[0.1, 0.1, 0.2, 0.12], [0.21, 0.1, 0.3, 0.12]], np.float32)
        >>> [line.text for line in text_lines(WordBoxes(("Sales", "grew"), boxes, np.zeros(2, np.int32)))]
        ['Sales grew']
    """
    starts = [*np.flatnonzero(np.diff(found.lines, prepend=-1)).tolist(), len(found.words)]
    spans = [slice(first, end) for first, end in pairwise(starts)]
    return [TextLine(" ".join(found.words[span]), union(found.boxes[span])) for span in spans]


def union(boxes: FloatArray) -> Box:
    """The box around boxes: (n, 4)."""
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    return left, top, right, bottom


def _placed(words: tuple[str, ...], columns: NDArray[np.uint16]) -> WordBoxes:
    """Words and what is stored of their lines and corners, (5, words)."""
    lines, *corners = (np.cumsum(column, dtype=np.uint16).astype(np.int32) for column in columns)
    left, top, width, height = corners
    sides = np.stack([left, top, left + width, top + height], axis=1)  # (words, 4)
    return WordBoxes(words, (sides / _STEPS).astype(np.float32), lines)


def _on_one_line(one: PlacedWord, other: PlacedWord) -> bool:
    """Whether a word goes on with the line of the one before it."""
    if one.block != other.block or other.goes_on:
        return one.block == other.block
    (left, top, right, bottom), (left2, top2, right2, bottom2) = one.corners, other.corners
    height = min(bottom - top, bottom2 - top2)
    gap = max(left2 - right, left - right2)  # the second from right to left
    if one.line == other.line:
        return gap <= WORD_GAP * max(bottom - top, bottom2 - top2)
    beside = min(bottom, bottom2) - max(top, top2) >= _BESIDE * height
    lying = right - left + right2 - left2 > bottom - top + bottom2 - top2  # standing lines are beside each other too
    return beside and lying and 0 <= gap <= WORD_GAP * height
