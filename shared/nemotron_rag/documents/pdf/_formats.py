"""Open a PDF, or a document of another format that MuPDF reads: e-books, web pages, texts, drawings, comics, XPS."""

from __future__ import annotations

import codecs
import contextlib
import html
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pymupdf as _untyped

from nemotron_rag.documents.pdf._glyphs import role_of

__all__ = ["FormatError", "open_document"]

pymupdf: Any = _untyped  # only partly typed

_WIDTH, _HEIGHT, _FONT_SIZE = 595, 842, 11  # points: A4, for formats that have no pages of their own
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_DECLARED_WITHIN = 2048  # bytes, twice what browsers look through
_GUESSED_FROM = 65_536  # bytes


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
        data, kind = _as_utf8(data, kind)
    document = pymupdf.open(stream=data, filetype=kind)
    if document.is_reflowable:
        document.layout(width=_WIDTH, height=_HEIGHT, fontsize=_FONT_SIZE)
    return document


def _is_unicode(name: str) -> bool:
    return name.isascii() or name == name.encode("utf-8", "replace").decode()


def _as_utf8(data: bytes, kind: str) -> tuple[bytes, str]:
    """A text with the mark of UTF-8, and as what MuPDF opens it.

    One that is read from right to left for the most part is a page that says so: texts are laid out from the left.
    """
    text = _decoded(data, kind)
    turned = ' dir="rtl"' if _is_right_to_left(text) else ""
    if kind == "md":
        text, kind = _html_of_markdown(text, turned), "html"
    elif kind == "txt" and turned:
        pre = f'<pre style="white-space: pre-wrap">{html.escape(text, quote=False)}</pre>'
        text, kind = f"<html{turned}><body>{pre}</body></html>", "html"
    return codecs.BOM_UTF8 + text.encode("utf-8", "replace"), kind


def _is_right_to_left(text: str) -> bool:
    sides = Counter(role_of(character) for character in text[:_DECLARED_WITHIN])
    return sides["right"] > sides["left"]


def _decoded(data: bytes, kind: str) -> str:
    """A text as its mark, its declaration, UTF-8 or its bytes say, else as the Latin letters of Windows."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    declared = _CHARSET.search(data[:_DECLARED_WITHIN]) if kind == "html" else None
    for encoding in [*([declared[1].decode("ascii")] if declared else []), "utf-8"]:
        with contextlib.suppress(UnicodeError, LookupError):
            return data.decode(encoding)
    return data.decode(_encoding_of(data), "replace")


def _encoding_of(data: bytes) -> str:
    """The encoding of texts in other letters than Latin ones, whose languages cannot be told apart so surely."""
    from charset_normalizer import from_bytes  # noqa: PLC0415 - for few texts

    found = from_bytes(data[:_GUESSED_FROM]).best()
    letters = "" if found is None else "".join(filter(str.isalpha, str(found)))
    is_latin = sum(letter < "\u0250" for letter in letters) >= len(letters) / 2
    return "cp1252" if found is None or is_latin else found.encoding


def _html_of_markdown(text: str, turned: str) -> str:
    from markdown_it import MarkdownIt  # noqa: PLC0415 - of all formats, one needs it

    body = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    return f"<html{turned}><head><style>table, th, td {{ border: 1px solid }}</style></head><body>{body}</body></html>"
