"""Copies of documents behind URLs on this machine, for as long as they are read."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from nemotron_rag.documents.pdf import DEFAULT_BUDGET
from nemotron_rag.documents.urls import RemoteFile, errors_of, file_at
from nemotron_rag.errors import DocumentError

__all__ = ["Copies", "UrlCopy"]

_CHUNK = 2**20
_KEPT = 4  # copies
_YOUNG = 60  # seconds in which a folder may not be locked yet
_PREFIX, _LOCK = "nemotron-rag-copies-", ".in-use"


@dataclass(frozen=True, slots=True)
class UrlCopy:
    """A document on this machine.

    Args:
        path: of the copy.
        digest: sha256 of its bytes, hex.
    """

    path: Path
    digest: str


class Copies:
    """Copies of documents behind URLs, in a folder that is open to its owner alone, and goes when this is closed.

    It goes at the latest when nobody holds this any more; what killed processes have left is removed by the next one.

    Args:
        max_bytes: of one document.
        kept: copies that `get` keeps; older ones go.

    Example:
        >>> import fsspec
        >>> with fsspec.open("memory://example/storms.txt", "wb") as file:
        ...     _ = file.write(b"Tornadoes form in thunderstorms.")
        >>> with Copies() as copies:
        ...     copies.get("memory://example/storms.txt").path.read_text()
        'Tornadoes form in thunderstorms.'
    """

    def __init__(self, *, max_bytes: int = DEFAULT_BUDGET.max_bytes, kept: int = _KEPT) -> None:
        self._max_bytes, self._limit = max_bytes, kept
        self._folder: str | None = None
        self._remove: weakref.finalize[[str, int], Copies] | None = None
        self._known: OrderedDict[str, UrlCopy] = OrderedDict()
        self._count = 0
        self._making = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, url: str, *, digest: str | None = None) -> UrlCopy:
        """The copy of the document at a URL, from the last ones if it is among them.

        Args:
            url: of the document.
            digest: that a kept copy must have.

        Raises:
            InputError: it cannot be read, or is larger than allowed.
        """
        known = self._known.get(url)
        if known is not None and known.digest == digest:
            self._known.move_to_end(url)
            return known
        if known is not None:
            self.drop(self._known.pop(url))
        self._known[url] = self.fetch(file_at(url))
        while len(self._known) > self._limit:
            self.drop(self._known.popitem(last=False)[1])
        return self._known[url]

    def fetch(self, file: RemoteFile) -> UrlCopy:
        """Copy a document, and hash it on the way; whoever asked for it drops it.

        Raises:
            DocumentError: it cannot be read, or is larger than allowed, which is known before it is read where its file
                system says so.
        """
        if file.size is not None and file.size > self._max_bytes:
            raise self._too_large(file, f"{file.size} bytes")
        path = self._new_path(PurePosixPath(file.path).suffix)
        try:
            with errors_of(file.url, file.file_system), file.file_system.open(file.path, "rb") as source:
                return UrlCopy(path, self._write(file, source, path))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def drop(self, copy: UrlCopy) -> None:
        """Remove a copy."""
        copy.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all copies."""
        self._known.clear()
        if self._remove is not None:
            self._remove()
            self._folder = self._remove = None

    def _write(self, file: RemoteFile, source: Any, path: Path) -> str:
        digest, size = hashlib.sha256(), 0
        with path.open("xb") as target:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > self._max_bytes:
                    raise self._too_large(file, f"more than {self._max_bytes} bytes")
                digest.update(chunk)
                target.write(chunk)
        if not size:
            raise DocumentError(f"{file.url}: is empty")
        return digest.hexdigest()

    def _too_large(self, file: RemoteFile, size: str) -> DocumentError:
        return DocumentError(f"{file.url}: has {size}, more than the {self._max_bytes} allowed; make it smaller")

    def _new_path(self, ending: str) -> Path:
        with self._making:
            if self._folder is None:
                _sweep()
                self._folder = tempfile.mkdtemp(prefix=_PREFIX)
                held = os.open(Path(self._folder, _LOCK), os.O_CREAT | os.O_WRONLY)
                _lock(held)
                self._remove = weakref.finalize(self, _remove, self._folder, held)
            self._count += 1
            return Path(self._folder, f"{self._count}{ending}")


def _remove(folder: str, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _lock(file: Any) -> bool:
    """Hold a file as long as it is open; returns whether nobody else does."""
    try:
        import fcntl  # noqa: PLC0415  not on Windows
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep() -> None:
    """Remove the copies of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
                continue
            with (folder / _LOCK).open("rb") as held:
                if time.time() - folder.lstat().st_mtime > _YOUNG and _lock(held):
                    shutil.rmtree(folder, ignore_errors=True)
