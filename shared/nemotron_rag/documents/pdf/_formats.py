"""Open a PDF, or a document of another format that MuPDF reads: e-books, web pages, texts, drawings, comics, XPS."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any

import pymupdf as _untyped

__all__ = ["FormatError", "open_document"]

pymupdf: Any = _untyped  # only partly typed

_WIDTH, _HEIGHT, _FONT_SIZE = 595, 842, 11  # points: A4, for formats that have no pages of their own
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_DECLARED_WITHIN = 2048  # bytes, twice what browsers look through


class FormatError(Exception):
    """A document is not what it should be; the message says so in a line."""


def open_document(kind: str, path: str | None, body: bytes) -> Any:
    """Open a document of a kind (see `nemotron_rag.documents.kinds`) from its path, or from `body` if that is None.

    Of other formats than PDF MuPDF gets the bytes alone, so that no file beside it is read because it names it.

    Raises:
        FormatError: it is not of that kind.
    """
    if kind == "pdf":
        if path is not None and not _is_unicode(path):  # MuPDF takes no other names
            body = Path(path).read_bytes()
            path = None
        source = {"filename": path} if path is not None else {"stream": body}
        document = pymupdf.open(**source, filetype="pdf")
        if not document.is_pdf:
            raise FormatError("is not a PDF")
        return document
    data = body if path is None else Path(path).read_bytes()
    if kind in ("md", "txt", "html"):
        data = _as_utf8(data, kind)
    document = pymupdf.open(stream=data, filetype="html" if kind == "md" else kind)
    if document.is_reflowable:
        document.layout(width=_WIDTH, height=_HEIGHT, fontsize=_FONT_SIZE)
    return document


def _is_unicode(name: str) -> bool:
    return name.isascii() or name == name.encode("utf-8", "replace").decode()


def _as_utf8(data: bytes, kind: str) -> bytes:
    text = _decoded(data, kind)
    if kind == "md":
        text = _html_of_markdown(text)
    return (codecs.BOM_UTF8 if kind != "txt" else b"") + text.encode("utf-8", "replace")


def _decoded(data: bytes, kind: str) -> str:
    """A text as its mark, its declaration or UTF-8 says, else as the Latin letters of Windows."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    declared = _CHARSET.search(data[:_DECLARED_WITHIN]) if kind == "html" else None
    encodings = [declared[1].decode("ascii")] if declared else []
    for encoding in [*encodings, "utf-8", "cp1252"]:
        try:
            return data.decode(encoding)
        except (UnicodeError, LookupError):
            continue
    return data.decode("latin-1")


def _html_of_markdown(text: str) -> str:
    from markdown_it import MarkdownIt  # noqa: PLC0415 - of all formats, one needs it

    body = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    return f"<html><head><style>table, th, td {{ border: 1px solid }}</style></head><body>{body}</body></html>"
