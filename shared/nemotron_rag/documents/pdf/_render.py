"""Render pages, extract text and metadata of one open PDF with PyMuPDF.

Imported only where rendering happens: in a worker process, or in the caller's for debugging.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pymupdf as _untyped

from nemotron_rag.documents.pdf._common import (
    IS_XFA_FORM,
    Engine,
    Reply,
    clean,
    clean_metadata,
    clean_word,
    ocr_dpi,
    of_portfolio,
    saslprep,
    size_of_image,
)
from nemotron_rag.documents.pdf._formats import open_document
from nemotron_rag.documents.pdf._glyphs import PlacedCharacter
from nemotron_rag.documents.pdf._page_text import FoundText, placed_words, reply_of_page
from nemotron_rag.documents.pdf._right_to_left import has_right_to_left, in_reading_order
from nemotron_rag.documents.word_boxes import PlacedWord
from nemotron_rag.types import Box

__all__ = ["Renderer"]

pymupdf: Any = _untyped  # only partly typed

# Ligatures are kept here and expanded by `clean`: MuPDF's own expansion puts the letters of Arabic ligatures in the
# wrong order; of those that the font itself expands, `_right_to_left` puts them right. `sort` stays off: it mixes
# columns.
_TEXT_FLAGS = pymupdf.TEXT_PRESERVE_LIGATURES | pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
_SPACE = 0.1  # heights of a line; smaller gaps part no words
_GAP = 1.5  # heights of a line; what is farther away is of another column


class Renderer(Engine):
    """MuPDF, with at most one document open."""

    def __init__(self) -> None:
        self._document: Any = None

    def open(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """See `Engine`."""
        document = open_document(request.get("kind", "pdf"), request["path"], body)
        if document.needs_pass:
            refused = _authenticate(document, request["password"])
            if refused:
                return {"error": "password", "reason": refused}
        reply = {"page_count": int(document.page_count), "metadata": clean_metadata(_info(document))}
        if request.get("kind", "pdf") == "pdf":
            reply["notices"] = _notices(document)
        if request.get("outline"):
            reply["outline"] = _outline(document)
        self._document = document
        return reply

    def render(self, request: dict[str, Any]) -> Reply:
        """See `Engine`."""
        page = _Page(self._document.load_page(request["number"] - 1))
        width, height = page.size
        columns, rows = size_of_image(width, height, request)
        matrix = pymupdf.Matrix(columns / width, rows / height)
        pixmap = page.loaded.get_pixmap(matrix=matrix, colorspace=pymupdf.csRGB, alpha=False)
        return reply_of_page(page, request, pixmap.width, pixmap.height, pixmap.samples)

    def languages(self) -> list[str]:
        """See `Engine`."""
        return _installed()

    def close(self) -> None:
        """Close the document and free what MuPDF cached of it."""
        if self._document is not None:
            self._document.close()
            self._document = None
            pymupdf.TOOLS.store_shrink(100)


class _Page:
    """A `ReadablePage` of MuPDF."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded

    @property
    def size(self) -> tuple[float, float]:
        return self.loaded.rect.width, self.loaded.rect.height

    @property
    def label(self) -> str:
        try:
            return str(self.loaded.get_label())
        except Exception:  # a broken label table must not cost the page
            return ""

    def layer(self, longest: int) -> FoundText:
        del longest  # MuPDF reads all of it at once
        textpage = self.loaded.get_textpage(flags=_TEXT_FLAGS)
        text = str(textpage.extractText())
        if not has_right_to_left(text):
            return FoundText(text, lambda: self._words(textpage))
        lines = in_reading_order(_lines(textpage))
        return FoundText("\n".join(line.text for line in lines), lambda: placed_words(lines, self._place))

    def languages(self) -> list[str]:
        return _installed()

    def recognized(self, language: str, seconds: float) -> FoundText:
        del seconds  # the watchdog ends it with its process
        dpi = int(ocr_dpi(*self.size))
        try:
            textpage = self.loaded.get_textpage_ocr(language=language, dpi=dpi, full=True, tessdata=_tessdata())
            text = str(self.loaded.get_text("text", textpage=textpage))
        except Exception:
            return FoundText("", lambda: ())
        return FoundText(text, lambda: self._words(textpage))

    def _words(self, textpage: Any) -> Iterator[PlacedWord]:
        for *corners, word, block, line, _ in textpage.extractWORDS():
            yield PlacedWord(clean_word(word), self._place(corners), block, line)

    def _place(self, box: Any) -> Box:
        """MuPDF gives text as it lies on the page before this is turned."""
        left, top, right, bottom = pymupdf.Rect(*box) * self.loaded.rotation_matrix
        return left, top, right, bottom


def _lines(textpage: Any) -> list[list[PlacedCharacter]]:
    """The lines of a page; pieces of one, which MuPDF parts where writing turns round, together."""
    lines: list[list[PlacedCharacter]] = []
    last = None
    found = (line for block in textpage.extractRAWDICT()["blocks"] for line in block.get("lines", ()))
    for line in found:
        characters = [_placed(each) for span in line["spans"] for each in span["chars"]]
        box = pymupdf.Rect(line["bbox"])
        if last is not None and _is_beside(last, box) and _turns([*lines[-1], *characters]):
            lines[-1] += [*_between(last, box), *characters]
            last |= box
        else:
            lines.append(characters)
            last = box
    return lines


def _placed(character: dict[str, Any]) -> PlacedCharacter:
    left, top, right, bottom = character["bbox"]
    return PlacedCharacter(character["c"], left, right, bool(character.get("synthetic")), top, bottom)


def _turns(characters: list[PlacedCharacter]) -> bool:
    return has_right_to_left("".join(each.text for each in characters))


def _between(one: Any, other: Any) -> list[PlacedCharacter]:
    """A space, if there is room for one."""
    left, right = min(one.x1, other.x1), max(one.x0, other.x0)
    is_wide = right - left > _SPACE * min(one.height, other.height)
    return [PlacedCharacter(" ", left, right)] if is_wide else []


def _is_beside(one: Any, other: Any) -> bool:
    height = min(one.height, other.height)
    shared = min(one.y1, other.y1) - max(one.y0, other.y0)
    return bool(shared > height / 2 and max(other.x0 - one.x1, one.x0 - other.x1) < _GAP * height)


@lru_cache(maxsize=1)
def _tessdata() -> str | None:
    try:
        return str(pymupdf.get_tessdata())
    except Exception:  # raised if no data is installed
        return None


def _installed() -> list[str]:
    folder = _tessdata()
    return sorted(file.stem for file in Path(folder).glob("*.traineddata")) if folder else []


def _authenticate(document: Any, password: str | None) -> str:
    """Try the password as given, then SASLprep-normalized (RFC 4013, PDF 2.0); returns the reason for refusal or ''."""
    if password is None:
        return "needs a password; pass password="
    prepared = saslprep(password)
    if document.authenticate(password) or document.authenticate(prepared):
        return ""
    return "the password is wrong"


def _notices(document: Any) -> list[str]:
    """What the pages of a PDF do not show: forms that only Adobe's programs draw, and files of which it is a cover."""
    catalog = document.pdf_catalog()
    notices = []
    if document.xref_get_key(catalog, "NeedsRendering")[1] == "true":
        notices.append(IS_XFA_FORM)
    if document.xref_get_key(catalog, "Collection")[0] != "null":
        notices.append(of_portfolio([str(name) for name in document.embfile_names()]))
    return notices


def _outline(document: Any) -> list[list[Any]]:
    """The upper level of the outline: titles and page numbers."""
    return [[clean(str(title)), int(page)] for level, title, page in document.get_toc() if level == 1]


def _info(document: Any) -> dict[str, Any]:
    raw = document.metadata or {}
    return {**raw, "created": raw.get("creationDate"), "modified": raw.get("modDate")}
