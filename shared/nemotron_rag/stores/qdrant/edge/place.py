"""The folder in which Qdrant Edge keeps collections.

A collection is ``<folder>/edge/<name>/``: the engine's files in ``shard``, and ``collection.json`` for what it is. One
process has the files open, see `nemotron_rag.stores.qdrant.edge.turns`; others read a copy of their own.
"""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from nemotron_rag.documents.files import write_whole
from nemotron_rag.stores.qdrant.edge.copies import Copies
from nemotron_rag.stores.qdrant.edge.turns import Turns

__all__ = ["Place", "holds_edge"]


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
        self.turns = Turns(self._root)
        self.copies = Copies(self.turns, lambda name: self._folder(name) / "shard")
        self.turns.take()

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
        """The engine's folder: the collection itself, or if another process has that open, a copy of it."""
        return self._folder(name) / "shard" if self.turns.has_files else self.copies.path(name)

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

    def close(self) -> None:
        """Let others have the files, and write."""
        self.copies.forget()
        self.turns.let_go()

    def _folder(self, name: str) -> Path:
        return self._root / quote(name, safe="").replace(".", "%2E")
