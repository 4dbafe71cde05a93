"""The folder in which Qdrant Edge keeps collections: who may write, and what others read meanwhile.

A collection is ``<folder>/edge/<name>/``: the engine's files in ``shard``, and ``collection.json`` for what it is. The
process that opens the folder first holds ``.lock`` and may write. Others read a copy of their own, as the collection
was when they opened it; ``.busy`` keeps writes and copies apart, so that a copy is what a killed process would leave.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

import portalocker

from nemotron_rag._forking import renewed_in_child
from nemotron_rag.documents.files import write_whole

__all__ = ["Place", "copy_tree", "holds_edge", "size_of"]

_EXCLUSIVE, _SHARED = portalocker.LockFlags.EXCLUSIVE, portalocker.LockFlags.SHARED
_NOW = portalocker.LockFlags.NON_BLOCKING
_PART = 2**26  # bytes copied at once


def holds_edge(folder: Path) -> bool:
    """Whether Qdrant Edge has a collection in a folder; looks, and leaves nothing there."""
    return any((folder / "edge").glob("*/collection.json"))


class Place:
    """A folder of collections.

    Args:
        folder: of the index.

    Raises:
        OSError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder / "edge"
        self._copies: str | None = None
        self._forget: Callable[[], object] | None = None
        self._lock: IO[Any] | None = None
        self._held = 0
        self.read_only = False  # whether the file system or the rights forbid to write
        self.claim()
        renewed_in_child(self)

    @property
    def may_write(self) -> bool:
        """Whether this process is the one that writes."""
        return self._lock is not None

    def claim(self) -> bool:
        """Become the one that writes, if nobody is; returns whether that worked."""
        if self._lock is None:
            try:
                self._root.mkdir(parents=True, exist_ok=True)
                lock = (self._root / ".lock").open("a")
            except OSError:
                if not self._root.is_dir():
                    raise
                self.read_only = True
                return False
            try:
                portalocker.lock(lock, _EXCLUSIVE | _NOW)
            except portalocker.exceptions.LockException:
                lock.close()
                return False
            self._lock = lock
            for left in self._root.glob(".old-*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        return True

    @contextmanager
    def writing(self) -> Generator[None, None, None]:
        """Hold off those who copy; may be nested."""
        self._held += 1
        try:
            if self._held > 1:
                yield
                return
            with (self._root / ".busy").open("a") as file, _locked(file, _EXCLUSIVE):
                yield
        finally:
            self._held -= 1

    def is_gone(self) -> bool:
        """Whether somebody has removed the folder."""
        return not self._root.is_dir()

    def check_space(self, needed: int) -> None:
        """Raise if the disk has less room left.

        Raises:
            OSError: it has.
        """
        free = shutil.disk_usage(self._root).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"no space left: {free >> 20} MiB of {needed >> 20} are free")

    def names(self) -> list[str]:
        """Of the collections."""
        return sorted(unquote(found.parent.name) for found in self._root.glob("*/collection.json"))

    def holds(self, name: str) -> bool:
        """Whether there is such a collection."""
        return self.description(name).is_file()

    def description(self, name: str) -> Path:
        """The file that tells what a collection is."""
        return self._folder(name) / "collection.json"

    def shard(self, name: str) -> Path:
        """The engine's folder: the collection itself, or if another process may write there, a copy of it."""
        if self.may_write:
            return self._folder(name) / "shard"
        if self._copies is None:
            self._copies = tempfile.mkdtemp(prefix="nemotron-rag-")
            self._forget = weakref.finalize(self, _remove_copies, self._copies, os.getpid())
        copy = Path(self._copies, quote(name, safe=""))
        if not copy.exists():
            unfinished = copy.with_name(f"{copy.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            with self._reading():
                copy_tree(self._folder(name) / "shard", unfinished)
            unfinished.rename(copy)
        return copy

    @contextmanager
    def new(self, name: str, description: bytes) -> Generator[Path, None, None]:
        """Make a collection: its engine's folder to fill, which is there under its name when the block has ended."""
        folder = self._folder(name)
        shutil.rmtree(folder, ignore_errors=True)  # what a process left that was killed here: it has no description
        folder.mkdir()
        yield folder / "shard"
        write_whole(folder / "collection.json", description)

    def remove(self, name: str) -> None:
        """Remove a collection whose engine was closed."""
        gone = self._root / f".old-{uuid.uuid4().hex}"
        self._folder(name).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def forget_copies(self) -> None:
        """Remove what was copied."""
        if self._forget is not None:
            self._forget()
            self._copies = self._forget = None

    def close(self) -> None:
        """Let others write."""
        self.forget_copies()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _after_fork(self) -> None:
        if self._lock is not None:
            self._lock.close()  # this process's copy: the parent goes on holding it
            self._lock = None

    @contextmanager
    def _reading(self) -> Generator[None, None, None]:
        busy = self._root / ".busy"
        if not busy.exists():  # nobody has ever written, or files were copied here
            yield
            return
        with busy.open() as file, _locked(file, _SHARED):
            yield

    def _folder(self, name: str) -> Path:
        return self._root / quote(name, safe="").replace(".", "%2E")


@contextmanager
def _locked(file: IO[Any], flags: portalocker.LockFlags) -> Generator[None, None, None]:
    portalocker.lock(file, flags)
    try:
        yield
    finally:
        portalocker.unlock(file)  # to close it is not enough: a child that was forked meanwhile holds it open


def size_of(folder: Path) -> int:
    """How many bytes of a disk a folder takes; holes in files take none."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(512 * stat.st_blocks if hasattr(stat, "st_blocks") else stat.st_size for stat in found)


def _remove_copies(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not a forked child
        shutil.rmtree(folder, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder's files and their holes, but not their rights."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            copy_tree(path, target / path.name)
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
