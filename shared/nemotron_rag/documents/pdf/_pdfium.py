"""Render pages, extract text and metadata of one open PDF with pdfium, which needs no AGPL.

Imported only where rendering happens: in a worker process, or in the caller's for debugging.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Collection, Iterator
from typing import Any

import pypdfium2 as _untyped
import pypdfium2.raw as _untyped_raw

from nemotron_rag.documents.pdf import _tesseract
from nemotron_rag.documents.pdf._common import (
    IS_XFA_FORM,
    Engine,
    Reply,
    clean,
    clean_metadata,
    ocr_dpi,
    of_attached,
    saslprep,
    size_of_image,
)
from nemotron_rag.documents.pdf._page_text import FoundText, placed_words, reply_of_page
from nemotron_rag.documents.pdf._pdfium_text import Sign, lines_of, text_of, words_of
from nemotron_rag.documents.pdf._right_to_left import has_right_to_left, in_reading_order
from nemotron_rag.documents.word_boxes import PlacedWord
from nemotron_rag.types import Box

__all__ = ["Renderer"]

pypdfium2: Any = _untyped
raw: Any = _untyped_raw

_FINE = 64  # steps of a point in which places of letters are measured
_SHARE_OF_TIME = 0.8  # of what a page may take, for reading a scan
_MOST_FILES = 1_000  # inside a document, that are counted


class Renderer(Engine):
    """pdfium, with at most one document open."""

    def __init__(self) -> None:
        self._document: Any = None
        self._body = b""  # pdfium reads of it as long as the document is open

    def open(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """See `Engine`."""
        if request.get("kind", "pdf") != "pdf":
            reason = "is no PDF, and pdfium reads no other format; take pdf_engine='auto' and PyMuPDF"
            return {"error": "pdf", "reason": reason}
        source = request["path"] if request["path"] is not None else body
        try:
            document = _opened(source, request["password"])
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) != raw.FPDF_ERR_PASSWORD:
                raise
            given = request["password"] is not None
            reason = "the password is wrong" if given else "needs a password; pass password="
            return {"error": "password", "reason": reason}
        self._document, self._body = document, body
        notices = _notices(document)
        with contextlib.suppress(Exception):  # forms are drawn if they can be; their scripts never run
            document.init_forms()
        reply = {"page_count": len(document), "metadata": _metadata(document), "notices": notices}
        if request.get("outline"):
            reply["outline"] = _outline(document)
        return reply

    def render(self, request: dict[str, Any]) -> Reply:
        """See `Engine`."""
        page = _Page(self._document, request["number"])
        try:
            columns, rows = size_of_image(*page.size, request)
            header, body = reply_of_page(page, request, columns, rows, page.pixels(columns, rows))
        finally:
            page.close()
        header["metadata"]["pdf_engine"] = "pdfium"
        return header, body

    def languages(self) -> list[str]:
        """See `Engine`."""
        return _tesseract.installed_languages()

    def close(self) -> None:
        """Close the document, if one is open."""
        if self._document is not None:
            self._document.close()
            self._document, self._body = None, b""


class _Page:
    """A `ReadablePage` of pdfium; it must be closed."""

    def __init__(self, document: Any, number: int) -> None:
        self._document, self._number, self._page = document, number, document[number - 1]

    @property
    def size(self) -> tuple[float, float]:
        width, height = self._page.get_size()
        return width, height

    @property
    def label(self) -> str:
        try:
            return str(self._document.get_page_label(self._number - 1))
        except Exception:  # a broken label table must not cost the page
            return ""

    def close(self) -> None:
        self._page.close()

    def pixels(self, columns: int, rows: int) -> bytes:
        """The page as RGB: columns * rows * 3 bytes."""
        bitmap = pypdfium2.PdfBitmap.new_native(columns, rows, raw.FPDFBitmap_BGR)
        try:
            bitmap.fill_rect((255, 255, 255, 255), 0, 0, columns, rows)
            place = (0, 0, columns, rows, 0, raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER)
            raw.FPDF_RenderPageBitmap(bitmap, self._page, *place)
            if self._document.formenv is not None:
                raw.FPDF_FFLDraw(self._document.formenv, bitmap, self._page, *place)
            image = bitmap.to_numpy()  # (rows, columns, 3), red first because of the flag
            return bytes(image.tobytes())
        finally:
            bitmap.close()

    def layer(self, longest: int) -> FoundText:
        signs = list(self._signs(longest))
        text = text_of(signs)
        if not has_right_to_left(text):
            return FoundText(text, lambda: words_of(signs, self._place))
        lines = in_reading_order(lines_of(signs))
        return FoundText("\n".join(line.text for line in lines), lambda: placed_words(lines, self._place))

    def languages(self) -> Collection[str]:
        return _tesseract.installed_languages()

    def recognized(self, language: str, seconds: float) -> FoundText:
        from PIL import Image  # noqa: PLC0415 - for scans alone

        width, height = self.size
        dpi = ocr_dpi(width, height)
        columns, rows = max(1, int(width * dpi / 72)), max(1, int(height * dpi / 72))
        try:
            image = Image.frombytes("RGB", (columns, rows), self.pixels(columns, rows))
            words = _tesseract.recognize(image, language, dpi=dpi, seconds=_SHARE_OF_TIME * seconds)
        except Exception:
            return FoundText("", lambda: ())
        lines: dict[tuple[int, int], list[str]] = {}
        for word in words:
            lines.setdefault((word.block, word.line), []).append(word.text)
        text = "\n".join(" ".join(line) for line in lines.values())
        return FoundText(text, lambda: (_scaled(word, width / columns, height / rows) for word in words))

    def _signs(self, longest: int) -> Iterator[Sign]:
        """The characters of a page in pdfium's order, with spaces and line ends that it finds between them."""
        textpage = self._page.get_textpage()
        box, x, y = raw.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
        try:
            for index in range(min(raw.FPDFText_CountChars(textpage), 2 * longest)):
                code = raw.FPDFText_GetUnicode(textpage, index)
                if raw.FPDFText_HasUnicodeMapError(textpage, index) == 1:  # pdfium gives the font's code for it
                    code = 0xFFFD
                has_place = raw.FPDFText_GetLooseCharBox(textpage, index, box)
                has_place &= raw.FPDFText_GetCharOrigin(textpage, index, x, y)
                corners = (box.left, -box.top, box.right, -box.bottom) if has_place else None
                yield Sign(code, corners, (x.value, -y.value))
        finally:
            textpage.close()

    def _place(self, box: Box) -> Box:
        """From points of the page as it lies, the vertical axis downwards, to points of the page as it is shown."""
        width, height = (int(_FINE * side) for side in self.size)
        x, y = ctypes.c_int(), ctypes.c_int()
        across, down = [], []
        for corner in ((box[0], -box[1]), (box[2], -box[3])):
            raw.FPDF_PageToDevice(self._page, 0, 0, width, height, 0, *corner, x, y)
            across.append(x.value / _FINE)
            down.append(y.value / _FINE)
        return min(across), min(down), max(across), max(down)


def _scaled(word: PlacedWord, across: float, down: float) -> PlacedWord:
    left, top, right, bottom = word.corners
    return word._replace(corners=(left * across, top * down, right * across, bottom * down))


def _opened(source: str | bytes, password: str | None) -> Any:
    """Open a document with its password as given, then as PDF 2.0 prepares it."""
    try:
        return pypdfium2.PdfDocument(source, password=password)
    except pypdfium2.PdfiumError:
        if password is None or saslprep(password) == password:
            raise
    return pypdfium2.PdfDocument(source, password=saslprep(password))


def _notices(document: Any) -> list[str]:
    """What the pages do not show; pdfium does not say what is a portfolio: one page with files inside may be one."""
    notices = [IS_XFA_FORM] if raw.FPDF_GetFormType(document) == raw.FORMTYPE_XFA_FULL else []
    with contextlib.suppress(pypdfium2.PdfiumError):  # a broken list of them must not cost the document
        count = document.count_attachments() if len(document) == 1 else 0
        names = [str(document.get_attachment(number).get_name()) for number in range(min(count, _MOST_FILES))]
        notices += [of_attached(names)] if names else []
    return notices


def _metadata(document: Any) -> dict[str, str]:
    found = document.get_metadata_dict()
    named = {key.lower(): value for key, value in found.items()}
    return clean_metadata({**named, "created": named.get("creationdate"), "modified": named.get("moddate")})


def _outline(document: Any) -> list[list[Any]]:
    """The upper level of the outline: titles and page numbers."""
    items = []
    for mark in document.get_toc(max_depth=1):
        target = mark.get_dest()
        index = None if target is None else target.get_index()
        if index is not None:
            items.append([clean(mark.get_title()), index + 1])
    return items
