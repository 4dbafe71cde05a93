"""What kind of document a file is: by its content, and by its name where the content does not say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal, TypeAlias

from nemotron_rag.documents.files import regular_file

__all__ = ["ENDINGS", "OFFICE_KINDS", "Kind", "kind_of", "kind_of_bytes", "suffixes"]

Kind: TypeAlias = str
"""``"pdf"``, ``"image"``, or the usual ending of a format without its dot, such as ``"docx"`` or ``"epub"``."""

Program: TypeAlias = Literal["writer", "impress", "calc", "draw"]

OFFICE_KINDS: Mapping[Kind, Program] = {
    **dict.fromkeys(["docx", "doc", "odt", "fodt", "rtf"], "writer"),
    **dict.fromkeys(["pptx", "ppt", "odp", "fodp"], "impress"),
    **dict.fromkeys(["xlsx", "xlsb", "xls", "ods", "fods"], "calc"),
    **dict.fromkeys(["odg", "fodg"], "draw"),
}
"""Kinds that LibreOffice turns into PDFs, and with which of its programs."""

_IMAGES = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "gif", "jp2", "j2k", "jpx", "avif")
_RAW_IMAGES = ("pbm", "pgm", "ppm", "pnm")
_OTHER_NAMES = {
    **dict.fromkeys(["docm", "dotx", "dotm"], "docx"),
    **dict.fromkeys(["pptm", "ppsx", "ppsm", "potx"], "pptx"),
    **dict.fromkeys(["xlsm", "xltx"], "xlsx"),
    **{"dot": "doc", "pps": "ppt", "ott": "odt", "otp": "odp", "ots": "ods", "htm": "html", "xhtml": "html"},
    **{"markdown": "md", "text": "txt", "csv": "txt", "tsv": "txt", "oxps": "xps", "prc": "mobi"},
}
_MUPDF = ("xps", "epub", "fb2", "mobi", "cbz", "svg", "html", "md", "txt")

ENDINGS: Mapping[str, Kind] = {
    "pdf": "pdf",
    **dict.fromkeys(_IMAGES + _RAW_IMAGES, "image"),
    **{kind: kind for kind in (*OFFICE_KINDS, *_MUPDF)},
    **_OTHER_NAMES,
}
"""Endings of the files that are read, in lower case and without dot, and the kinds that they name."""

_HEAD, _TAIL = 4096, 2**20  # bytes that are looked at; a ZIP archive lists its files at its end
_PDF_WITHIN = 1024  # bytes; where PDF readers look for %PDF
_IMAGE_STARTS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51",
)  # fmt: skip
_OPEN_DOCUMENT = {
    b"text": "odt", b"presentation": "odp", b"spreadsheet": "ods", b"graphics": "odg",
}  # fmt: skip
_DECLARED = rb"vnd\.oasis\.opendocument\.(text|presentation|spreadsheet|graphics)"  # the next file begins behind it
_OOXML = (
    (b"word/document", "docx"),
    (b"ppt/presentation", "pptx"),
    (b"xl/workbook.bin", "xlsb"),
    (b"xl/workbook", "xlsx"),
)
_OLE_STREAMS = (("WordDocument", "doc"), ("PowerPoint Document", "ppt"), ("Workbook", "xls"), ("Book", "xls"))
_XML_ROOT = re.compile(rb"<(?:\w+:)?(svg|FictionBook|html|document)\b")
_FLAT = re.compile(rb"office:mimetype\s*=\s*[\"']application/vnd\.oasis\.opendocument\.(\w+)")
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


def suffixes() -> list[str]:
    """Endings of all files that are read, with their dots: ``.pdf``, ``.docx``, ..., sorted."""
    return sorted(f".{ending}" for ending in ENDINGS)


def kind_of(path: str | os.PathLike[str]) -> Kind | None:
    """Return the kind of a file, or None if it is none that is read.

    Raises:
        OSError: it cannot be read.
    """
    with regular_file(path).open("rb") as file:
        return _kind(file, Path(path).name)


def kind_of_bytes(head: IO[bytes], name: str = "") -> Kind | None:
    """Return the kind of a seekable binary file, whose position is restored; see `kind_of`."""
    position = head.tell()
    try:
        return _kind(head, name)
    finally:
        head.seek(position)


def _kind(file: IO[bytes], name: str) -> Kind | None:
    file.seek(0)
    head = file.read(_HEAD)
    named = ENDINGS.get(name.rpartition(".")[2].lower() if "." in name else "")
    found = _by_start(head, file)
    is_told = b"vnd.oasis.opendocument" in head  # else its parts are those of any of them
    if found in _OPEN_DOCUMENT.values() and named in _OPEN_DOCUMENT.values() and not is_told:
        return named
    if found is not None:
        return found
    if named in ("pdf", "image") or not _is_text(head):
        return named
    return _of_text(head, named)


def _by_start(head: bytes, file: IO[bytes]) -> Kind | None:
    """The kind of a file that begins as no other one does."""
    if head.startswith(_IMAGE_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1"):
        return "image"
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if b"%PDF" in head[:_PDF_WITHIN]:
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(head, _tail(file))
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _of_ole(head + _tail(file))
    return "mobi" if head[60:68] in (b"BOOKMOBI", b"TEXtREAd") else None


def _tail(file: IO[bytes]) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    return file.read(_TAIL)


def _of_zip(head: bytes, tail: bytes) -> Kind | None:
    declared = re.match(rb".{30}mimetypeapplication/(?:epub\+zip|" + _DECLARED + rb")", head, re.DOTALL)
    if declared is not None:
        return _OPEN_DOCUMENT.get(declared[1]) if declared[1] else "epub"
    listed = tail + head
    for name, kind in _OOXML:
        if name in listed:
            return kind
    if b"content.xml" in listed and b"META-INF/manifest.xml" in listed:  # it does not begin with what it is
        told = re.search(_DECLARED, listed)
        return _OPEN_DOCUMENT.get(told[1] if told else b"text")
    if b"FixedDocSeq" in listed or b".fdseq" in listed or b".fpage" in listed:
        return "xps"
    if b"META-INF/container.xml" in listed:
        return "epub"
    return "cbz" if re.search(rb"\.(?:jpe?g|png|webp|gif)", listed, re.IGNORECASE) else None


def _of_ole(data: bytes) -> Kind | None:
    if "EncryptedPackage".encode("utf-16-le") in data:
        return "docx"  # whichever of the three it is: its reader says that it is encrypted
    return next((kind for stream, kind in _OLE_STREAMS if f"{stream}\0".encode("utf-16-le") in data), None)


def _is_text(head: bytes) -> bool:
    return bool(head.strip()) and (head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" not in head)


def _of_text(head: bytes, named: Kind | None) -> Kind | None:
    flat = _FLAT.search(head)
    if flat is not None:
        kind = _OPEN_DOCUMENT.get(flat[1])
        return None if kind is None else f"f{kind}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml") or named in ("svg", "fb2"):
        root = _XML_ROOT.search(head)
        kind = {b"svg": "svg", b"FictionBook": "fb2", b"html": "html"}.get(root[1]) if root else None
        if kind is not None:
            return kind
    if named not in ("md", "txt") and _HTML.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "html"
    if named is not None:
        return named if named in ("html", "md", "txt", "svg", "fb2") else "txt"
    return "txt" if _decodes(head) else None


def _decodes(head: bytes) -> bool:
    """Whether bytes are a text in UTF-8 or UTF-16, but for a character that is cut at their end."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and len(head) == _HEAD
    return True
