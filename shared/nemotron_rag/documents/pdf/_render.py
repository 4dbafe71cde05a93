"""Render pages, extract text and metadata of one open PDF with PyMuPDF.

Imported only where rendering happens: in a worker process, or in the caller's for debugging.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import pymupdf as _untyped

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
from nemotron_rag.documents.pdf._formats import open_document
from nemotron_rag.documents.pdf._quality import is_undecodable, legible, quality_of
from nemotron_rag.documents.pdf._right_to_left import PlacedCharacter, has_right_to_left, in_reading_order
from nemotron_rag.documents.word_boxes import PlacedWord, encode_word_boxes, word_boxes_of

__all__ = ["Renderer"]

pymupdf: Any = _untyped  # only partly typed

# Ligatures are kept here and expanded by `clean`: MuPDF's own expansion puts the letters of Arabic ligatures in the
# wrong order; of those that the font itself expands, `_right_to_left` puts them right. `sort` stays off: it mixes
# columns.
_TEXT_FLAGS = pymupdf.TEXT_PRESERVE_LIGATURES | pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
_NAMES, _NAME = 10, 100  # files that are named, and characters of a name
_SPACE = 0.1  # heights of a line; smaller gaps part no words
_GAP = 1.5  # heights of a line; what is farther away is of another column


class Renderer:
    """Answers requests about at most one open document.

    Errors are replies too: ``{"error": "password" | "pdf", "reason": one line}``.
    """

    def __init__(self) -> None:
        self._document: Any = None

    def handle(self, request: dict[str, Any], body: bytes) -> Reply:
        """Answer one request: its ``op`` is open, render, languages or close."""
        operation = {"open": self._open, "render": self._render, "languages": _languages, "close": self._close}
        try:
            return operation[request["op"]](request, body)
        except Exception as error:  # MuPDF raises nearly any exception on malformed files
            return {"error": "pdf", "reason": reason_of(error)}, b""

    def _open(self, request: dict[str, Any], body: bytes) -> Reply:
        """Open ``path``, or `body` if it is None; replies with page_count and the document's metadata."""
        self._close(request, b"")
        document = open_document(request.get("kind", "pdf"), request["path"], body)
        if document.needs_pass:
            refused = _authenticate(document, request["password"])
            if refused:
                return {"error": "password", "reason": refused}, b""
        reply = {"page_count": int(document.page_count), "metadata": clean_metadata(_info(document))}
        if request.get("kind", "pdf") == "pdf":
            reply["notices"] = _notices(document)
        if request.get("outline"):
            reply["outline"] = _outline(document)
        self._document = document
        return reply, b""

    def _render(self, request: dict[str, Any], body: bytes) -> Reply:
        """Render page ``number``; replies with width and height in pixels, text and metadata, and the RGB bytes."""
        del body
        page = self._document.load_page(request["number"] - 1)
        width, height = page.rect.width, page.rect.height
        columns, rows = size_of_image(width, height, request)
        matrix = pymupdf.Matrix(columns / width, rows / height)
        pixmap = page.get_pixmap(matrix=matrix, colorspace=pymupdf.csRGB, alpha=False)
        metadata: dict[str, Any] = {"width": round(width, 2), "height": round(height, 2)}
        label = clean(_label(page))[:MAX_FIELD]
        if label:
            metadata["label"] = label
        text, metadata["text_source"], ocr_missing, textpage = _text(page, request)
        quality = quality_of(text if textpage is None else _layer(textpage))
        if quality < 1:
            metadata["text_quality"] = round(quality, 2)
        if len(text) > request["max_text"]:
            text, metadata["text_truncated"] = text[: request["max_text"]], True
        words = _word_boxes(page, textpage, request["max_text"])
        header = {"width": pixmap.width, "height": pixmap.height, "text": text, "metadata": metadata}
        return {**header, "ocr_missing": ocr_missing, "word_bytes": len(words)}, pixmap.samples + words

    def _close(self, request: dict[str, Any], body: bytes) -> Reply:
        """Close the document and free what MuPDF cached of it."""
        del request, body
        if self._document is not None:
            self._document.close()
            self._document = None
            pymupdf.TOOLS.store_shrink(100)
        return {}, b""


def _text(page: Any, request: dict[str, Any]) -> tuple[str, str, bool, Any]:
    """Return the text, its source, whether OCR was requested but its data is missing, and MuPDF's page of text."""
    mode, language = request["ocr"], request["language"]
    found: tuple[str, str, Any] = "", "none", None
    if mode != "always":
        textpage = page.get_textpage(flags=_TEXT_FLAGS)
        layer = _layer(textpage)
        text = clean(layer)
        if layer.strip() and is_undecodable(layer):
            found = legible(text), "undecodable", textpage
        elif text:
            return text, "layer", False, textpage
    text, textpage, ocr_missing = "", None, False
    if mode != "never":
        ocr_missing = not set(language.split("+")) <= set(_installed())
        text, textpage = ("", None) if ocr_missing else _recognize(page, language)
    text, source, textpage = (text, "ocr", textpage) if text else found
    return text, source, ocr_missing, textpage


def _layer(textpage: Any) -> str:
    """The text layer as it is; where it is read from right to left, put in order."""
    text = str(textpage.extractText())
    if not has_right_to_left(text):
        return text
    return "\n".join(in_reading_order(_lines(textpage)))


def _lines(textpage: Any) -> list[list[PlacedCharacter]]:
    """The lines of a page; pieces of one, which MuPDF parts where writing turns round, together."""
    lines: list[list[PlacedCharacter]] = []
    last = None
    found = (line for block in textpage.extractRAWDICT()["blocks"] for line in block.get("lines", ()))
    for line in found:
        characters = [
            PlacedCharacter(each["c"], each["bbox"][0], each["bbox"][2], bool(each.get("synthetic")))
            for span in line["spans"]
            for each in span["chars"]
        ]
        box = pymupdf.Rect(line["bbox"])
        if last is not None and _is_beside(last, box) and _turns([*lines[-1], *characters]):
            lines[-1] += [*_between(last, box), *characters]
            last |= box
        else:
            lines.append(characters)
            last = box
    return lines


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


def _recognize(page: Any, language: str) -> tuple[str, Any]:
    dpi = min(OCR_DPI, 72 * math.sqrt(OCR_PIXELS / (page.rect.width * page.rect.height)))
    try:
        textpage = page.get_textpage_ocr(language=language, dpi=max(1, int(dpi)), full=True, tessdata=_tessdata())
        return clean(str(page.get_text("text", textpage=textpage))), textpage
    except Exception:  # the image matters more than the text: go on without text
        return "", None


def _word_boxes(page: Any, textpage: Any, longest: int) -> bytes:
    """Where the words of a page stand, as `encode_word_boxes` has them: none if there is no text."""
    try:
        found = [] if textpage is None else textpage.extractWORDS()
        turned = page.rotation_matrix  # MuPDF gives text as it lies on the page before this is turned
        words = (
            PlacedWord(clean_word(word), tuple(pymupdf.Rect(*corners) * turned), block, line)
            for *corners, word, block, line, _ in found
        )
        return encode_word_boxes(word_boxes_of(words, page.rect.width, page.rect.height, longest=longest))
    except Exception:  # the page matters more than the places of its words
        return b""


@lru_cache(maxsize=1)
def _tessdata() -> str | None:
    try:
        return str(pymupdf.get_tessdata())
    except Exception:  # raised if no data is installed
        return None


def _installed() -> list[str]:
    folder = _tessdata()
    return sorted(file.stem for file in Path(folder).glob("*.traineddata")) if folder else []


def _languages(request: dict[str, Any], body: bytes) -> Reply:
    del request, body
    return {"languages": _installed()}, b""


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
        notices.append(
            "is an XFA form, of which only a cover page can be read; open it in Adobe's reader and print it as a PDF"
        )
    if document.xref_get_key(catalog, "Collection")[0] != "null":
        names = [clean(str(name))[:_NAME] for name in document.embfile_names()]
        shown = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
        notices.append(
            f"is a portfolio, of which only the cover is read; save its {len(names)} files and add them: {shown}"
        )
    return notices


def _outline(document: Any) -> list[list[Any]]:
    """The upper level of the outline: titles and page numbers."""
    return [[clean(str(title)), int(page)] for level, title, page in document.get_toc() if level == 1]


def _info(document: Any) -> dict[str, Any]:
    raw = document.metadata or {}
    return {**raw, "created": raw.get("creationDate"), "modified": raw.get("modDate")}


def _label(page: Any) -> str:
    try:
        return str(page.get_label())
    except Exception:  # a broken label table must not cost the page
        return ""
