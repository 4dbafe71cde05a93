"""Render pages, extract text and metadata of one open PDF with pdfium, which needs no AGPL.

Imported only where rendering happens: in a worker process, or in the caller's for debugging.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pypdfium2 as _untyped
import pypdfium2.raw as _untyped_raw

from nemotron_rag.documents.pdf import _tesseract
from nemotron_rag.documents.pdf._common import (
    MAX_FIELD,
    OCR_DPI,
    OCR_PIXELS,
    Reply,
    clean,
    clean_metadata,
    clean_word,
    reason_of,
    saslprep,
    size_of_image,
)
from nemotron_rag.documents.pdf._quality import is_undecodable, legible
from nemotron_rag.documents.word_boxes import PlacedWord, encode_word_boxes, word_boxes_of

__all__ = ["Renderer"]

pypdfium2: Any = _untyped
raw: Any = _untyped_raw

_FINE = 64  # steps of a point in which places of letters are measured
_BROKEN = 2  # how pdfium gives the hyphen of a word that goes on in the next line, and the end of the line
_SHARE_OF_TIME = 0.8  # of what a page may take, for reading a scan


class _Glyph(NamedTuple):
    """A character of a page, and where it stands in 64ths of a point from the upper left; no place if it is a space."""

    text: str
    corners: tuple[float, float, float, float] | None


class Renderer:
    """Answers requests about at most one open document; see the one of `nemotron_rag.documents.pdf._render`."""

    def __init__(self) -> None:
        self._document: Any = None
        self._body = b""  # pdfium reads of it as long as the document is open

    def handle(self, request: dict[str, Any], body: bytes) -> Reply:
        """Answer one request: its ``op`` is open, render, languages or close."""
        operation = {"open": self._open, "render": self._render, "languages": _languages, "close": self._close}
        try:
            return operation[request["op"]](request, body)
        except Exception as error:  # an error of pdfium, or anything that malformed files lead to
            return {"error": "pdf", "reason": reason_of(error)}, b""

    def _open(self, request: dict[str, Any], body: bytes) -> Reply:
        self._close(request, b"")
        if request.get("kind", "pdf") != "pdf":
            reason = "is no PDF, and pdfium reads no other format; take pdf_engine='auto' and PyMuPDF"
            return {"error": "pdf", "reason": reason}, b""
        source = request["path"] if request["path"] is not None else body
        try:
            document = _opened(source, request["password"])
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) != raw.FPDF_ERR_PASSWORD:
                raise
            given = request["password"] is not None
            reason = "the password is wrong" if given else "needs a password; pass password="
            return {"error": "password", "reason": reason}, b""
        self._document, self._body = document, body
        with contextlib.suppress(Exception):  # forms are drawn if they can be; their scripts never run
            document.init_forms()
        reply = {"page_count": len(document), "metadata": _metadata(document)}
        if request.get("outline"):
            reply["outline"] = _outline(document)
        return reply, b""

    def _render(self, request: dict[str, Any], body: bytes) -> Reply:
        del body
        page = self._document[request["number"] - 1]
        try:
            return self._rendered(page, request)
        finally:
            page.close()

    def _rendered(self, page: Any, request: dict[str, Any]) -> Reply:
        width, height = page.get_size()
        columns, rows = size_of_image(width, height, request)
        pixels = self._pixels(page, columns, rows)
        metadata: dict[str, Any] = {"width": round(width, 2), "height": round(height, 2)}
        label = clean(_label(self._document, request["number"]))[:MAX_FIELD]
        if label:
            metadata["label"] = label
        text, words, metadata["text_source"], ocr_missing = self._text(page, request)
        if len(text) > request["max_text"]:
            text, metadata["text_truncated"] = text[: request["max_text"]], True
        metadata["pdf_engine"] = "pdfium"
        header = {"width": columns, "height": rows, "text": text, "metadata": metadata}
        return {**header, "ocr_missing": ocr_missing, "word_bytes": len(words)}, pixels + words

    def _pixels(self, page: Any, columns: int, rows: int) -> bytes:
        """The page as RGB: columns * rows * 3 bytes."""
        bitmap = pypdfium2.PdfBitmap.new_native(columns, rows, raw.FPDFBitmap_BGR)
        try:
            bitmap.fill_rect((255, 255, 255, 255), 0, 0, columns, rows)
            place = (0, 0, columns, rows, 0, raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER)
            raw.FPDF_RenderPageBitmap(bitmap, page, *place)
            if self._document.formenv is not None:
                raw.FPDF_FFLDraw(self._document.formenv, bitmap, page, *place)
            image = bitmap.to_numpy()  # (rows, columns, 3), red first because of the flag
            return bytes(image.tobytes())
        finally:
            bitmap.close()

    def _text(self, page: Any, request: dict[str, Any]) -> tuple[str, bytes, str, bool]:
        """Return the text, its encoded word boxes, its source, and whether OCR was asked but its data is missing."""
        width, height = (_FINE * side for side in page.get_size())
        mode, language, longest = request["ocr"], request["language"], request["max_text"]
        found: tuple[str, bytes, str] = "", b"", "none"
        if mode != "always":
            glyphs = list(_glyphs(page, longest))
            layer = "".join(glyph.text for glyph in glyphs)
            text = clean(layer)
            if layer.strip() and is_undecodable(layer):
                found = legible(text), b"", "undecodable"
            elif text:
                return text, _boxes(_words(glyphs), width, height, longest), "layer", False
        if mode == "never":
            return *found, False
        if not set(language.split("+")) <= set(_tesseract.installed_languages()):
            return *found, True
        text, boxes = self._recognized(page, request)
        return (text, boxes, "ocr", False) if text else (*found, False)

    def _recognized(self, page: Any, request: dict[str, Any]) -> tuple[str, bytes]:
        from PIL import Image  # noqa: PLC0415 - for scans alone

        width, height = page.get_size()
        dpi = min(OCR_DPI, 72 * math.sqrt(OCR_PIXELS / (width * height)))
        columns, rows = max(1, int(width * dpi / 72)), max(1, int(height * dpi / 72))
        try:
            image = Image.frombytes("RGB", (columns, rows), self._pixels(page, columns, rows))
            seconds = _SHARE_OF_TIME * request["seconds"]
            words = _tesseract.recognize(image, request["language"], dpi=dpi, seconds=seconds)
        except Exception:  # the image matters more than the text: go on without text
            return "", b""
        lines: dict[tuple[int, int], list[str]] = {}
        for word in words:
            lines.setdefault((word.block, word.line), []).append(word.text)
        text = clean("\n".join(" ".join(line) for line in lines.values()))
        return text, _boxes(words, columns, rows, request["max_text"])

    def _close(self, request: dict[str, Any], body: bytes) -> Reply:
        del request, body
        if self._document is not None:
            self._document.close()
            self._document, self._body = None, b""
        return {}, b""


def _opened(source: str | bytes, password: str | None) -> Any:
    """Open a document with its password as given, then as PDF 2.0 prepares it."""
    try:
        return pypdfium2.PdfDocument(source, password=password)
    except pypdfium2.PdfiumError:
        if password is None or saslprep(password) == password:
            raise
    return pypdfium2.PdfDocument(source, password=saslprep(password))


def _glyphs(page: Any, longest: int) -> Iterator[_Glyph]:
    """The characters of a page in the order of its text, with spaces and line ends that pdfium finds between them."""
    textpage = page.get_textpage()
    width, height = (int(_FINE * side) for side in page.get_size())
    box, x, y = raw.FS_RECTF(), ctypes.c_int(), ctypes.c_int()
    try:
        for index in range(min(raw.FPDFText_CountChars(textpage), 2 * longest)):
            code = raw.FPDFText_GetUnicode(textpage, index)
            text = chr(code) if 0 < code < 0x110000 else ""
            if raw.FPDFText_HasUnicodeMapError(textpage, index) == 1:  # pdfium gives the font's code for it
                text = "\ufffd"
            if text.isspace() or not raw.FPDFText_GetLooseCharBox(textpage, index, box):
                yield _Glyph(text, None)
                continue
            across, down = [], []
            for corner in ((box.left, box.top), (box.right, box.bottom)):
                raw.FPDF_PageToDevice(page, 0, 0, width, height, 0, *corner, x, y)
                across.append(x.value)
                down.append(y.value)
            place = (min(across), min(down), max(across), max(down))
            yield _Glyph("-" if code == _BROKEN else text, place)
            if code == _BROKEN:
                yield _Glyph("\n", None)
    finally:
        textpage.close()


def _words(glyphs: list[_Glyph]) -> Iterator[PlacedWord]:
    """Letters between spaces; each line is a block of its own, since pdfium knows of no blocks."""
    line, letters = 0, list[_Glyph]()
    for glyph in [*glyphs, _Glyph("\n", None)]:
        if not glyph.text.isspace() and glyph.text:
            letters.append(glyph)
            continue
        placed = [letter.corners for letter in letters if letter.corners is not None]
        if placed:
            left, top, right, bottom = zip(*placed, strict=True)
            text = clean_word("".join(letter.text for letter in letters))
            yield PlacedWord(text, (min(left), min(top), max(right), max(bottom)), line, 0)
        letters = []
        line += "\n" in glyph.text


def _boxes(words: Any, width: float, height: float, longest: int) -> bytes:
    return encode_word_boxes(word_boxes_of(words, width, height, longest=longest))


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


def _label(document: Any, number: int) -> str:
    try:
        return str(document.get_page_label(number - 1))
    except Exception:  # a broken label table must not cost the page
        return ""


def _languages(request: dict[str, Any], body: bytes) -> Reply:
    del request, body
    return {"languages": _tesseract.installed_languages()}, b""
