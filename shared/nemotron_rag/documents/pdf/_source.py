"""Find and hash PDFs, and parse page ranges; nothing here opens a PDF."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from nemotron_rag.documents.files import TooManyBytesError, name_of, read_stream, regular_file
from nemotron_rag.errors import InputError, PdfError

__all__ = [
    "Pages",
    "PdfSource",
    "Ranges",
    "Source",
    "content_hash",
    "find_pdfs",
    "locate",
    "parse_pages",
    "resolve_pages",
]

PdfSource: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes]"
"""A PDF as a path, the file's bytes, or a binary file."""

Pages: TypeAlias = "str | Iterable[int] | None"
"""Page numbers starting at 1, a text such as "1-3,7,10-", or None for all pages."""

Ranges: TypeAlias = "list[tuple[int, int | None]]"
"""First and last page of each range; None for an open end."""

_CHUNK = 2**20
_HEADER_WITHIN = 1024  # bytes; where PDF readers look for %PDF
_PART = re.compile(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?\s*)?")


@dataclass(frozen=True, slots=True)
class Source:
    """A PDF that was found: a regular file, or bytes in memory.

    Args:
        path: absolute path, or None if the PDF is in memory.
        data: the bytes; empty if there is a path.
        hash: sha256 of the contents, hex.
    """

    path: str | None
    data: bytes
    hash: str


def locate(source: PdfSource, *, max_bytes: int | None = None) -> Source:
    """Find and hash a PDF; a stream is read into memory.

    Args:
        source: see `PdfSource`; a stream is read from its beginning and its position restored.
        max_bytes: most bytes allowed; None for no limit.

    Raises:
        InputError: `source` is of another type.
        PdfError: it cannot be read or is larger than `max_bytes`; the message does not name the source.
    """
    try:
        if isinstance(source, str | os.PathLike):
            file = regular_file(source)
            _check_size(file.stat().st_size, max_bytes)
            return Source(str(file.absolute()), b"", _hash(_chunks(file)))
        data = _in_memory(source, max_bytes)
    except TooManyBytesError as error:
        raise PdfError(f"has {error}, more than the {max_bytes} allowed; raise PdfBudget.max_bytes") from error
    except OSError as error:
        raise PdfError(f"cannot be read: {error.strerror or error}") from error
    return Source(None, data, _hash([data]))


def content_hash(source: PdfSource) -> str:
    """Return the SHA-256 of a document's bytes, in hex, from which `page_id` makes ids; the document is not parsed.

    Args:
        source: a path, the file's bytes, or a binary file, whose position is restored.

    Raises:
        InputError: `source` is of another type.
        PdfError: it cannot be read.
    """
    try:
        return locate(source).hash
    except PdfError as error:
        raise PdfError(f"{name_of(source)}: {error}") from error


def find_pdfs(path: str | os.PathLike[str]) -> list[Path]:
    """List the PDFs in a folder and its subfolders, sorted by path.

    A file is a PDF if its name ends in ``.pdf`` (in any case), or has no extension and its first KiB contains
    ``%PDF``. Hidden files and folders are left out, links to folders are not followed.

    Args:
        path: a folder; or a file, which is returned whatever its name.

    Raises:
        InputError: the path does not exist.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise InputError(f"expected a PDF or a folder of PDFs, but nothing is at {name_of(path)}")
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [entry for entry in folders if not entry.startswith(".")]
        found += [file for entry in files if _is_pdf(file := Path(folder, entry))]
    return sorted(found)


def parse_pages(pages: Pages) -> Ranges:
    """Parse a page selection such as "1-3,7,10-" into ranges.

    Args:
        pages: a text, page numbers, or None for all pages.

    Raises:
        InputError: it is not a page selection.
    """
    if pages is None:
        return [(1, None)]
    if isinstance(pages, str):
        return [_parse_part(part, pages) for part in pages.split(",")]
    if not isinstance(pages, Iterable):
        raise InputError(f"pages must be numbers or a text such as '1-3,7,10-', got {pages!r}")
    numbers = list(pages)
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise InputError(f"page numbers must be positive integers, got {number!r}")
    return [(number, number) for number in numbers]


def resolve_pages(ranges: Ranges, page_count: int) -> list[int]:
    """Return the page numbers that ranges select from a document, in ascending order, without duplicates.

    A range may end beyond the last page, so that "1-4" can be given for a whole folder, but must begin before it.

    Args:
        ranges: see `parse_pages`.
        page_count: pages of the document, at least 1.

    Raises:
        InputError: a range begins after the last page.
    """
    numbers: set[int] = set()
    for first, last in ranges:
        if first > page_count:
            raise InputError(f"page {first} does not exist, the last one is {page_count}; pass other pages")
        numbers.update(range(first, page_count + 1 if last is None else min(last, page_count) + 1))
    return sorted(numbers)


def _parse_part(part: str, whole: str) -> tuple[int, int | None]:
    match = _PART.fullmatch(part)
    if match is None:
        raise InputError(f"pages must be like '1-3,7,10-', got {whole!r}")
    first = int(match[1])
    last = int(match[3]) if match[3] else (None if match[2] else first)
    if first < 1 or (last is not None and last < first):
        raise InputError(f"page ranges must ascend from 1, got {part.strip()!r} in {whole!r}")
    return first, last


def _in_memory(source: Any, max_bytes: int | None) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        _check_size(memoryview(source).nbytes, max_bytes)
        return bytes(source)
    if hasattr(source, "read"):
        data = read_stream(source, max_bytes=max_bytes)
        _check_size(len(data), max_bytes)
        return data
    raise InputError(f"expected a PDF as path, bytes or binary file, got {type(source).__name__}")


def _check_size(size: int, max_bytes: int | None) -> None:
    if size == 0:
        raise OSError("it is empty")
    if max_bytes is not None and size > max_bytes:
        raise TooManyBytesError(f"{size} bytes")


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield chunk


def _hash(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _is_pdf(file: Path) -> bool:
    if file.name.startswith(".") or not file.is_file():
        return False
    if file.suffix.lower() == ".pdf":
        return True
    if file.suffix:
        return False
    try:
        with file.open("rb") as opened:
            return b"%PDF" in opened.read(_HEADER_WITHIN)
    except OSError:  # not readable: leave it out
        return False
