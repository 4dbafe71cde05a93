"""Copies of collections, for a process that reads while another one has the files open."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nemotron_rag.stores.qdrant.edge.turns import Turns

__all__ = ["Copies", "size_of"]

_REST = 5  # times as long as a copy takes, none is made: most of the time is left for searches
_PART = 2**26  # bytes copied at once


@dataclass(frozen=True, slots=True)
class _Copy:
    path: Path
    written: int  # the last write that it holds
    seconds: float  # that it took
    made: float


class Copies:
    """Copies in the temporary folder, removed when they are not needed any more.

    Args:
        turns: of the folder that is copied.
        original: of a collection, by its name.
    """

    def __init__(self, turns: Turns, original: Callable[[str], Path]) -> None:
        self._turns, self._original = turns, original
        self._copies: dict[str, _Copy] = {}
        self._root: Path | None = None
        self._remove: Callable[[], object] | None = None

    def path(self, name: str) -> Path:
        """The copy of a collection, made if need be."""
        if name not in self._copies:
            with self._turns.copying():
                self._copies[name] = self._copied(name)
        return self._copies[name].path

    def is_behind(self, name: str) -> bool:
        """Whether there is something newer than the copy, and time for another one."""
        copy = self._copies.get(name)
        if copy is None or copy.written == self._turns.last_write:
            return False
        return time.monotonic() - copy.made > _REST * copy.seconds

    def renew(self, name: str) -> Path | None:
        """Copy anew; returns the old copy, to be removed by who has it open. None if this is no time for that."""
        with self._turns.copying(wait=False) as may_copy:
            if not may_copy:
                return None
            old, self._copies[name] = self._copies[name], self._copied(name)
        return old.path

    def forget(self) -> None:
        """Remove all."""
        self._copies.clear()
        if self._remove is not None:
            self._remove()
            self._root = self._remove = None

    def _copied(self, name: str) -> _Copy:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="nemotron-rag-"))
            self._remove = weakref.finalize(self, _remove_tree, self._root, os.getpid())
        path = self._root / f"{quote(name, safe='')[:100]}-{uuid.uuid4().hex}"
        start, written = time.monotonic(), self._turns.last_write
        try:
            _copy_tree(self._original(name), path)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        made = time.monotonic()
        return _Copy(path, written, made - start, made)


def size_of(folder: Path) -> int:
    """How many bytes of a disk a folder takes; holes in files take none."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(512 * stat.st_blocks if hasattr(stat, "st_blocks") else stat.st_size for stat in found)


def _remove_tree(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a forked child
        shutil.rmtree(folder, ignore_errors=True)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a folder's files and their holes, but not their rights."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            _copy_tree(path, target / path.name)
        else:
            _copy_file(path, target / path.name)


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file and its holes: the engine makes files of 32 MiB that are nearly empty."""
    with source.open("rb") as read, target.open("wb") as write:
        size = os.fstat(read.fileno()).st_size
        for start, end in _parts(read.fileno(), size):
            read.seek(start)
            write.seek(start)
            for at in range(start, end, _PART):
                write.write(read.read(min(_PART, end - at)))
        write.truncate(size)


def _parts(file: int, size: int) -> Generator[tuple[int, int], None, None]:
    """Where a file holds data; all of it on systems that cannot tell."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # a hole up to the end
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end
