"""Office documents -> PDFs, by LibreOffice in a process of its own: text documents, presentations, spreadsheets.

Nothing in a document is run or fetched: no macros, no links, no network where the system can take it away. Each
content is converted once and kept in a private folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

from nemotron_rag.documents.kinds import OFFICE_KINDS, Kind
from nemotron_rag.documents.office._cache import cache_folder, cached, keep, key_of
from nemotron_rag.documents.office._notes import speaker_notes
from nemotron_rag.documents.office._package import check_package
from nemotron_rag.documents.office._soffice import convert, find_soffice
from nemotron_rag.errors import DocumentError, InputError

__all__ = ["DEFAULT_BUDGET", "OfficeBudget", "is_converted", "office_available", "speaker_notes", "to_pdf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficeBudget:
    """Limits for converting one document.

    Args:
        max_bytes: of the file.
        max_unpacked: bytes of all that a packed file (.docx, .odt, ...) holds.
        max_entries: files that it holds.
        seconds: for its conversion.
        memory_bytes: address space of LibreOffice, where the system can limit it (not on Windows).
        disk_bytes: of what it writes, its PDF included.
        cache_bytes: of all PDFs that are kept; those not used for longest go first.

    Raises:
        InputError: a limit is not a positive number.

    Example:
        >>> OfficeBudget(seconds=30).max_entries
        20000
    """

    max_bytes: int = 256 * 2**20
    max_unpacked: int = 2 * 2**30
    max_entries: int = 20_000
    seconds: float = 120.0
    memory_bytes: int = 4 * 2**30
    disk_bytes: int = 2 * 2**30
    cache_bytes: int = 4 * 2**30

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            kinds = (int, float) if limit.name == "seconds" else (int,)
            if not isinstance(value, kinds) or not 0 < value < math.inf:
                raise InputError(f"OfficeBudget.{limit.name} must be a positive number, got {value!r}")


DEFAULT_BUDGET = OfficeBudget()


def office_available() -> bool:
    """Whether LibreOffice is found."""
    try:
        find_soffice()
    except DocumentError:
        return False
    return True


@contextmanager
def to_pdf(
    source: Path, kind: Kind, *, content_hash: str | None = None, budget: OfficeBudget = DEFAULT_BUDGET
) -> Iterator[Path]:
    """Convert an office document, unless that was done before; page n of the PDF is slide n of a presentation.

    Args:
        source: the document.
        kind: of `OFFICE_KINDS`; see `nemotron_rag.documents.kinds.kind_of`.
        content_hash: sha256 of its bytes in hex, if it is known.
        budget: see `OfficeBudget`.

    Yields:
        The path of the PDF, in the private cache; where that cannot be written, in a folder that goes with the block.

    Raises:
        DocumentError: it cannot be converted, or LibreOffice is not installed; the message does not name it.
    """
    if kind not in OFFICE_KINDS:
        raise InputError(f"kind must be one of {', '.join(OFFICE_KINDS)}, got {kind!r}")
    try:
        key = _key(source, content_hash)
        kept = cached(cache_folder(), key)
        if kept is not None:
            yield kept
            return
        _check_size(source, budget)
        check_package(source, max_unpacked=budget.max_unpacked, max_entries=budget.max_entries)
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror or error}") from error
    limits = {"seconds": budget.seconds, "memory_bytes": budget.memory_bytes, "disk_bytes": budget.disk_bytes}
    with convert(find_soffice(), source, kind, limits) as pdf:
        with suppress(OSError):  # no room, or no right: it is converted again next time
            pdf = keep(cache_folder(), key, pdf, max_bytes=budget.cache_bytes)
        yield pdf


def is_converted(source: Path, content_hash: str) -> bool:
    """Whether a document was converted before, so that `to_pdf` answers at once."""
    try:
        return cached(cache_folder(), _key(source, content_hash)) is not None
    except (DocumentError, OSError):
        return False


def _key(source: Path, content_hash: str | None) -> str:
    program = find_soffice()
    if content_hash is None:
        with source.open("rb") as file:
            content_hash = hashlib.file_digest(file, "sha256").hexdigest()
    return key_of(content_hash, program)


def _check_size(source: Path, budget: OfficeBudget) -> None:
    size = source.stat().st_size
    if size == 0:
        raise DocumentError("cannot be read: it is empty")
    if size > budget.max_bytes:
        raise DocumentError(f"has {size} bytes, more than the {budget.max_bytes} allowed; raise OfficeBudget.max_bytes")
