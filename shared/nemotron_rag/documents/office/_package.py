"""What is looked at in an office file before LibreOffice opens it: its size unpacked, and whether it is encrypted."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.parsers import expat

from nemotron_rag.errors import DocumentError

__all__ = ["check_package", "read_part", "walk"]

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DEEPEST = 1_000  # levels of XML; documents of people have less than a hundred


def check_package(path: Path, *, max_unpacked: int, max_entries: int) -> None:
    """Raise if an office file is encrypted, broken, or unpacks to more than is allowed.

    Raises:
        DocumentError: it is; the message does not name it.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if head == _OLE:
        _check_ole(path)
    if not head.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            encrypted = any(entry.flag_bits & 1 for entry in entries) or _is_encrypted(archive)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DocumentError(f"is a broken package: {error}") from error
    if encrypted:
        raise DocumentError("is encrypted; save it without a password, or as a PDF and give that its password")
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > max_entries:
        raise DocumentError(f"holds {len(entries)} files, more than the {max_entries} allowed; raise OfficeBudget")
    if unpacked > max_unpacked:
        raise DocumentError(
            f"unpacks to {unpacked} bytes, more than the {max_unpacked} allowed; raise OfficeBudget.max_unpacked"
        )


def read_part(archive: zipfile.ZipFile, name: str, *, max_bytes: int) -> bytes:
    """Read one file of a package; empty if it is not there.

    Raises:
        DocumentError: it unpacks to more than `max_bytes`, whatever the archive says of it.
    """
    try:
        with archive.open(name) as part:
            data = part.read(max_bytes + 1)
    except KeyError:
        return b""
    if len(data) > max_bytes:
        raise DocumentError(f"its part {name} has more than {max_bytes} bytes")
    return data


def walk(data: bytes, reader: object) -> None:
    """Parse XML, calling ``start(name, attributes)``, ``end(name)`` and ``text(data)`` of a reader; none has entities.

    Names come as ``namespace name``, with a space between.

    Raises:
        DocumentError: it is no XML, too deep, or has a document type.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise DocumentError(f"its XML is nested more than {_DEEPEST} deep")
        reader.start(name, attributes)  # type: ignore[attr-defined]

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        reader.end(name)  # type: ignore[attr-defined]

    def refuse(*_: object) -> None:
        raise DocumentError("its XML has a document type, which office files have not")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = reader.text  # type: ignore[attr-defined]
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise DocumentError(f"its XML is broken: {error}") from error


def _check_ole(path: Path) -> None:
    """Old files and encrypted new ones have one container; the latter say so in its directory."""
    with path.open("rb") as file:
        if "EncryptedPackage".encode("utf-16-le") in file.read():
            raise DocumentError("is encrypted; save it without a password, or as a PDF and give that its password")


def _is_encrypted(archive: zipfile.ZipFile) -> bool:
    """Whether the manifest of an OpenDocument file lists keys."""
    return b"encryption-data" in read_part(archive, "META-INF/manifest.xml", max_bytes=2**24)
