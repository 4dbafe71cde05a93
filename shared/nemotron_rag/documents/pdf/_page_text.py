"""The text of a page and where its words stand: from its layer or by OCR, clean and with a note of how good it looks.

The same for every engine that renders PDFs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from nemotron_rag.documents.pdf._common import MAX_FIELD, Reply, clean, clean_word
from nemotron_rag.documents.pdf._quality import is_undecodable, legible, quality_of
from nemotron_rag.documents.pdf._right_to_left import ReadLine
from nemotron_rag.documents.word_boxes import WORD_GAP, PlacedWord, encode_word_boxes, word_boxes_of
from nemotron_rag.types import Box

__all__ = ["FoundText", "ReadablePage", "placed_words", "reply_of_page"]


class FoundText(NamedTuple):
    """A text as it was found on a page.

    Args:
        text: in the order in which it is read, not cleaned.
        words: returns them with their places, in the unit of the page's width and height.
    """

    text: str
    words: Callable[[], Iterable[PlacedWord]]


_NO_TEXT = FoundText("", lambda: ())


class ReadablePage(Protocol):
    """A page as an engine reads it."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in points, as the page is shown."""

    @property
    def label(self) -> str:
        """The printed page number."""

    def layer(self, longest: int) -> FoundText:
        """Its text layer; of more than so many characters a part will do."""

    def languages(self) -> Collection[str]:
        """What OCR has data for."""

    def recognized(self, language: str, seconds: float) -> FoundText:
        """What OCR reads within a time; nothing if it fails, since the image matters more than the text."""


def reply_of_page(page: ReadablePage, request: dict[str, Any], columns: int, rows: int, pixels: bytes) -> Reply:
    """The reply to a request to render a page: its text, its word boxes and what is noted of it, with the image.

    Args:
        page: to be read.
        request: says ``ocr``, ``language``, ``max_text`` and ``seconds``.
        columns: of the image.
        rows: of the image.
        pixels: rows * columns * 3 bytes.
    """
    width, height = page.size
    metadata: dict[str, Any] = {"width": round(width, 2), "height": round(height, 2)}
    label = clean(page.label)[:MAX_FIELD]
    if label:
        metadata["label"] = label
    found, metadata["text_source"], ocr_missing = _find_text(page, request)
    text = clean(found.text)
    quality = quality_of(found.text)
    if quality < 1:
        metadata["text_quality"] = round(quality, 2)
    is_junk = metadata["text_source"] == "undecodable"
    text = legible(text) if is_junk else text
    if len(text) > request["max_text"]:
        text, metadata["text_truncated"] = text[: request["max_text"]], True
    words = _word_boxes(found if text else _NO_TEXT, width, height, request["max_text"], is_junk=is_junk)
    header = {"width": columns, "height": rows, "text": text, "metadata": metadata}
    return {**header, "ocr_missing": ocr_missing, "word_bytes": len(words)}, pixels + words


def placed_words(lines: Iterable[ReadLine], place: Callable[[Box], Box]) -> Iterator[PlacedWord]:
    """The words of lines that were put in order; what hangs together of a line is a block of its own.

    Args:
        lines: of a page.
        place: turns a box of theirs into one of the page as it is shown.
    """
    block = 0
    for line in lines:
        parts = _parts(line)
        for part in sorted(set(parts), key=parts.index):
            words = [word for word, of in zip(line.words, parts, strict=True) if of == part]
            for number, (word, box) in enumerate(words):
                yield PlacedWord(clean_word(word), place(box), block, 0, goes_on=number > 0)
            block += 1


def _parts(line: ReadLine) -> list[int]:
    """To which part of its line each word belongs: cells and columns stand apart."""
    parts = [0] * len(line.words)
    part, edge = 0, math.inf
    for number in sorted(range(len(parts)), key=lambda each: line.words[each][1][0]):
        left, top, right, bottom = line.words[number][1]
        part += left - edge > WORD_GAP * (bottom - top)
        parts[number] = part
        edge = right if edge == math.inf else max(edge, right)
    return parts


def _find_text(page: ReadablePage, request: dict[str, Any]) -> tuple[FoundText, str, bool]:
    """Return the text, its source, and whether OCR was asked for but its data is missing."""
    mode, language = request["ocr"], request["language"]
    found, source = _NO_TEXT, "none"
    if mode != "always":
        layer = page.layer(request["max_text"])
        if layer.text.strip() and is_undecodable(layer.text):
            found, source = layer, "undecodable"
        elif clean(layer.text):
            return layer, "layer", False
    if mode == "never":
        return found, source, False
    if not set(language.split("+")) <= set(page.languages()):
        return found, source, True
    read = page.recognized(language, request["seconds"])
    return (read, "ocr", False) if clean(read.text) else (found, source, False)


def _word_boxes(found: FoundText, width: float, height: float, longest: int, *, is_junk: bool) -> bytes:
    """Where the words of a page stand, as `encode_word_boxes` has them; nothing if that cannot be told."""
    try:
        words = found.words()
        if is_junk:
            words = (word._replace(text=legible(word.text)) for word in words)
        return encode_word_boxes(word_boxes_of(words, width, height, longest=longest))
    except Exception:  # the page matters more than the places of its words
        return b""
