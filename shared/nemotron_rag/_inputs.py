"""How any source of bytes is named in messages and read within a limit. It knows no format and decodes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

__all__ = ["TooManyBytesError", "name_of", "one_line", "read_file", "read_stream", "regular_file"]

_MAX_NAME = 200  # characters of a name shown in a message; data URIs and mistaken contents can be megabytes long


class TooManyBytesError(Exception):
    """A source holds more bytes than allowed; its text says how many were found."""


def one_line(text: str, *, limit: int = _MAX_NAME) -> str:
    """`text` without control characters or line breaks, cut to `limit` characters."""
    cut = text[: limit + 1]
    clean = " ".join("".join(ch if ch.isprintable() else " " for ch in cut).split())
    return clean if len(text) <= limit else f"{clean[: limit - 3]}..."


def name_of(source: Any) -> str:
    """What to call a source in a message: its path, or its kind in angle brackets."""
    if isinstance(source, str) and source[:5].lower() == "data:":
        return "<data URI>"
    if isinstance(source, str | os.PathLike):
        return one_line(str(os.fspath(source)))
    name = getattr(source, "name", None)
    if isinstance(name, str) and hasattr(source, "read"):
        return one_line(name)
    return "<stream>" if hasattr(source, "read") else f"<{type(source).__name__}>"


def regular_file(path: str | os.PathLike[str]) -> Path:
    """`path`, known to be an existing regular file.

    Raises:
        OSError: nothing is there, or it is a folder, a pipe or a device (reading those may never end).
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
    """The contents of a regular file of at most `max_bytes`."""
    with regular_file(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise TooManyBytesError(f"{size} bytes")
        return _read(file, max_bytes)


def read_stream(stream: IO[bytes], *, max_bytes: int | None) -> bytes:
    """Everything in a binary stream, from its beginning where it can seek; the caller's position is restored."""
    if not _seekable(stream):
        return _read(stream, max_bytes)
    position = stream.tell()
    try:
        stream.seek(0)
        return _read(stream, max_bytes)
    finally:
        stream.seek(position)


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
