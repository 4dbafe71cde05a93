"""Read files and streams within a size limit, write files atomically, and name sources in messages."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path
from typing import IO, Any

__all__ = [
    "TooManyBytesError",
    "is_data_uri",
    "name_of",
    "one_line",
    "read_file",
    "read_stream",
    "regular_file",
    "shown_url",
    "write_by_content",
    "write_whole",
]

_MAX_NAME = 200  # characters of a name shown in a message; data URIs and mistaken contents can be megabytes long


class TooManyBytesError(Exception):
    """A source has more bytes than allowed; the message says how many."""


def one_line(text: str, *, limit: int = _MAX_NAME) -> str:
    """Return `text` without control characters and line breaks, cut to `limit` characters."""
    cut = text[: limit + 1]
    clean = " ".join("".join(ch if ch.isprintable() else " " for ch in cut).split())
    return clean if len(text) <= limit else f"{clean[: limit - 3]}..."


def shown_url(url: str) -> str:
    """A url for messages: without user, password, query and fragment, where people put credentials."""
    if "::" in url:  # of fsspec, one inside the other
        return "::".join(map(shown_url, url.split("::")))
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    address = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = address.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def is_data_uri(value: object) -> bool:
    """Whether a value is a ``data:`` URI, which holds what it names."""
    return isinstance(value, str) and value[:5].lower() == "data:"


def name_of(source: Any) -> str:
    """Return a source's name for messages: its path, or its type in angle brackets."""
    if is_data_uri(source):
        return "<data URI>"
    if isinstance(source, str | os.PathLike):
        return one_line(shown_url(str(os.fspath(source))))
    name = getattr(source, "name", None)
    if isinstance(name, str) and hasattr(source, "read"):
        return one_line(name)
    return "<stream>" if hasattr(source, "read") else f"<{type(source).__name__}>"


def regular_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` if it is an existing regular file.

    Raises:
        OSError: it does not exist, or is a folder, a pipe or a device (reading those may never end).
    """
    file = Path(path)
    try:
        found, regular = file.exists(), file.is_file()
    except ValueError:  # a NUL character: no such name can exist
        found, regular = False, False
    if not found:
        raise FileNotFoundError("no such file")
    if not regular:
        raise OSError("not a regular file")
    return file


def read_file(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`."""
    with regular_file(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise TooManyBytesError(f"{size} bytes")
        return _read(file, max_bytes)


def read_stream(stream: IO[bytes], *, max_bytes: int | None) -> bytes:
    """Read a binary stream, from its beginning if it is seekable; the caller's position is restored."""
    if not _seekable(stream):
        return _read(stream, max_bytes)
    position = stream.tell()
    try:
        stream.seek(0)
        return _read(stream, max_bytes)
    finally:
        stream.seek(position)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically and flush it to disk; missing parent folders are created.

    Raises:
        OSError: it cannot be written; an older file of that name is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_by_content(folder: Path, data: bytes, *, suffix: str) -> Path:
    """Write a file that is named by the SHA-256 of its content, if it is not there; returns its absolute path.

    Contents may be confidential: a folder that is made here is open to its owner alone.

    Raises:
        OSError: it cannot be written.
    """
    digest = hashlib.sha256(data).hexdigest()
    path = folder.absolute() / digest[:2] / f"{digest}{suffix}"
    if not path.is_file():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, data)
    return path


def _seekable(stream: IO[bytes]) -> bool:
    seekable = getattr(stream, "seekable", None)
    return bool(seekable and seekable())


def _read(stream: IO[bytes], max_bytes: int | None) -> bytes:
    data = stream.read(-1 if max_bytes is None else max_bytes + 1)
    if not isinstance(data, bytes):
        raise OSError("opened as text, not as binary")
    if max_bytes is not None and len(data) > max_bytes:
        raise TooManyBytesError(f"more than {max_bytes} bytes")
    return data
