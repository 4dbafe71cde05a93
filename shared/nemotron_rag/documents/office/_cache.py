"""Converted documents, kept in a private folder by the content that they came from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
import uuid
from pathlib import Path

__all__ = ["cache_folder", "cached", "keep", "key_of"]

_VERSION = 1  # of how documents are converted; another one converts them anew
_YOUNG = 3600.0  # seconds; files used since are not removed, somebody may be reading them


def cache_folder() -> Path:
    """Where converted documents are kept: ``nemotron-rag/converted`` in the user's cache folder."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "nemotron-rag" / "converted"


def key_of(content_hash: str, program: str) -> str:
    """The name under which a document is kept: by its content and the program's file, which an upgrade replaces."""
    real = Path(program).resolve()
    with contextlib.suppress(OSError):
        found = real.stat()
        real = Path(f"{real}:{found.st_size}:{found.st_mtime_ns}")
    return hashlib.sha256(f"{_VERSION}/{content_hash}/{real}".encode()).hexdigest()


def cached(folder: Path, key: str) -> Path | None:
    """The PDF that is kept under a key; it stays for the next hour at least."""
    path = folder / key[:2] / f"{key}.pdf"
    try:
        os.utime(path)
    except OSError:
        return None
    return path


def keep(folder: Path, key: str, pdf: Path, *, max_bytes: int) -> Path:
    """Keep a PDF, whole or not at all, and remove the ones not used for longest while all are too many.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / key[:2] / f"{key}.pdf"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        shutil.copyfile(pdf, unfinished)
        unfinished.chmod(0o600)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _make_room(folder, max_bytes)
    return path


def _make_room(folder: Path, max_bytes: int) -> None:
    found = []
    for path in folder.glob("*/*.pdf"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= max_bytes or time.time() - used < _YOUNG:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
