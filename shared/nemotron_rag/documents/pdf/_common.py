"""What the engines that render PDFs share: sizes of images, clean texts, metadata, and one-line reasons."""

from __future__ import annotations

import math
import re
import stringprep
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

__all__ = [
    "IS_XFA_FORM",
    "MAX_FIELD",
    "OCR_DPI",
    "Engine",
    "Reply",
    "clean",
    "clean_metadata",
    "clean_word",
    "ocr_dpi",
    "of_attached",
    "of_portfolio",
    "reason_of",
    "saslprep",
    "size_of_image",
]

Reply: TypeAlias = "tuple[dict[str, Any], bytes]"
"""Header and body."""

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\ud800-\udfff]")  # \xad: a place where one may hyphenate
_LINE_BREAK = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_BROKEN_WORD = re.compile(r"(?<=[^\W\d_])[-\xad] ?\n(?=([^\W\d_]))")
_PRESENTATION_FORM = re.compile(r"[\ufb00-\ufdff\ufe70-\ufefc]")
_DATE = re.compile(r"D:(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:Z|([+-]\d\d)'?(\d\d)?)?")
MAX_FIELD = 1_000
"""Characters of one metadata field."""

OCR_DPI = 300.0
"""The resolution that Tesseract was trained for."""

_OCR_PIXELS = 9e6  # A4 at 300 dpi

IS_XFA_FORM = "is an XFA form, of which only a cover page can be read; open it in Adobe's reader and print it as a PDF"
"""What is said of such a document."""

_NAMES, _NAME = 10, 100  # files that are named, and characters of a name


class Engine:
    """Answers requests about at most one open document.

    Errors are replies too: ``{"error": "password" | "pdf", "reason": one line}``.
    """

    def handle(self, request: dict[str, Any], body: bytes) -> Reply:
        """Answer one request: its ``op`` is open, render, languages or close."""
        try:
            match request["op"]:
                case "open":
                    self.close()
                    return self.open(request, body), b""
                case "render":
                    return self.render(request)
                case "languages":
                    return {"languages": self.languages()}, b""
            self.close()
        except Exception as error:  # malformed files lead to nearly any exception
            return {"error": "pdf", "reason": reason_of(error)}, b""
        return {}, b""

    def open(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Open ``path``, or `body` if it is None; returns page_count and the document's metadata, or an error."""
        raise NotImplementedError

    def render(self, request: dict[str, Any]) -> Reply:
        """Render page ``number``; replies with width and height in pixels, text and metadata, and the RGB bytes."""
        raise NotImplementedError

    def languages(self) -> list[str]:
        """What OCR has data for."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the document, if one is open."""
        raise NotImplementedError


def ocr_dpi(width: float, height: float) -> float:
    """The resolution in which a page of `width` x `height` points is read."""
    return max(1.0, min(OCR_DPI, 72 * math.sqrt(_OCR_PIXELS / (width * height))))


def size_of_image(width: float, height: float, request: dict[str, Any]) -> tuple[int, int]:
    """Return the size in pixels of a page of `width` x `height` points: its aspect ratio, within the limits."""
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"has no area: {width:g} x {height:g} points")
    largest = math.sqrt(request["max_pixels"] / width / height)
    scale = largest if request["dpi"] is None else min(request["dpi"] / 72, largest)
    scale = min(scale, request["max_side"] / max(width, height))
    columns, rows = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    return min(columns, request["max_pixels"]), min(rows, request["max_pixels"])


def clean(text: str) -> str:
    """Return valid UTF-8 without control characters; words hyphenated at line ends are joined, ligatures expanded."""
    text = _LINE_BREAK.sub("\n", text)
    text = _BROKEN_WORD.sub(lambda match: "" if match[1].islower() else match[0], text)
    text = _CONTROL.sub("", text)
    return _PRESENTATION_FORM.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text).strip()


def clean_word(word: str) -> str:
    """Return a word without what `clean` drops; a place where it may be broken at the end of its line is a hyphen."""
    if word.isascii() and word.isprintable():
        return word
    return "".join(clean(word.replace("\xad", "-")).split())


def clean_metadata(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the document's own metadata under our names; dates of PDF as ISO 8601, without what is empty.

    Args:
        found: of the names title, author, subject, keywords, created and modified those that the document has.
    """
    texts = ("title", "author", "subject", "keywords")
    cleaned = {key: clean(str(found.get(key) or ""))[:MAX_FIELD] for key in texts}
    cleaned |= {key: _date(found.get(key)) for key in ("created", "modified")}
    return {key: value for key, value in cleaned.items() if value}


def of_portfolio(names: Sequence[str]) -> str:
    """What is said of a document that is a cover for files inside it."""
    return f"is a portfolio, of which only the cover is read; {_save(names)}"


def of_attached(names: Sequence[str]) -> str:
    """What is said of a document with files inside it, where the engine does not tell a portfolio from others."""
    return f"holds files that are not read; {_save(names)}"


def _save(names: Sequence[str]) -> str:
    shown = ", ".join(clean(name)[:_NAME] for name in names[:_NAMES])
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    those = "its file and add it" if len(names) == 1 else f"its {len(names)} files and add them"
    return f"save {those}: {shown}{more}"


def saslprep(password: str) -> str:
    """Return a password as PDF 2.0 wants it (RFC 4013)."""
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    return unicodedata.normalize("NFKC", mapped)


def reason_of(error: BaseException) -> str:
    """Return the innermost error message on one line, without MuPDF's error codes."""
    message = str(error.__cause__ or error) or type(error).__name__
    return " ".join(clean(re.sub(r"\bcode=\d+: ", "", message)).split())[:300]


def _date(value: str | None) -> str:
    """Convert a PDF date to ISO 8601; '' if it is not one."""
    match = _DATE.match(value or "")
    if match is None:
        return ""
    year, month, day, hour, minute, second, zone_hours, zone_minutes = match.groups()
    zone = f"{zone_hours}:{zone_minutes or '00'}" if zone_hours else ""
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}{zone}"
