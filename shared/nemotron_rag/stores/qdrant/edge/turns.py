"""Which process has the files of a folder open, and which one writes.

`.lock` belongs to the process that has the files open: the engine lets in one. `.writer` belongs besides to the one
that has written, until it closes the folder. Who wants to write while another process only reads notes it in `.wanted`,
and that one lets go of the files and goes on with a copy. `.busy` keeps writes and copies apart, so that a copy is what
a killed process would leave; its time is that of the last write.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import portalocker

from nemotron_rag._forking import renewed_in_child

__all__ = ["Turns"]

_EXCLUSIVE, _SHARED = portalocker.LockFlags.EXCLUSIVE, portalocker.LockFlags.SHARED
_NOW = portalocker.LockFlags.NON_BLOCKING
_PATIENCE = 10.0  # seconds for a reader to let go; it may be in the middle of a search
_POLL = 0.02  # seconds
_FORGOTTEN = 5.0  # seconds after which a note was left by a process that was killed


class Turns:
    """The locks of one folder.

    Args:
        root: where they are; made by the first that takes it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: IO[Any] | None = None
        self._writer: IO[Any] | None = None
        self._held = 0
        self.read_only = False  # whether the file system or the rights forbid to write
        renewed_in_child(self)

    @property
    def has_files(self) -> bool:
        """Whether this process is the one that has the files open."""
        return self._lock is not None

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return self._writer is not None

    def take(self) -> bool:
        """Have the files if nobody has, and nobody waits to write; returns whether this process has them.

        Raises:
            OSError: the folder cannot be made or read.
        """
        return self.has_files or (not self.is_wanted() and self._take())

    def take_to_write(self) -> bool:
        """Become the one that writes, if nobody is; whoever only reads lets go. Returns whether that worked.

        Raises:
            OSError: the folder cannot be made or read.
        """
        if self.writes:
            return True
        if not self._make_root():
            return False
        writer = _locked_now(self._root / ".writer")
        if writer is None:
            return False
        if not self._take_from_reader():
            _let_go(writer)
            return False
        self._writer = writer
        return True

    def is_wanted(self) -> bool:
        """Whether another process waits to write."""
        try:
            noted = (self._root / ".wanted").stat().st_mtime
        except OSError:
            return False
        return abs(time.time() - noted) < _FORGOTTEN

    def let_go(self) -> None:
        """Let others have the files, and write."""
        for held in (self._writer, self._lock):
            if held is not None:
                _let_go(held)
        self._writer = self._lock = None

    @property
    def last_write(self) -> int:
        """When pages were written last, for comparisons only; 0 if there is no telling."""
        try:
            return (self._root / ".busy").stat().st_mtime_ns
        except OSError:
            return 0

    @contextmanager
    def writing(self, *, changes: bool = True) -> Generator[None, None, None]:
        """Hold off those who copy; may be nested.

        Args:
            changes: whether there is something new for them afterwards.
        """
        self._held += 1
        try:
            if self._held > 1:
                yield
                return
            with (self._root / ".busy").open("a") as file, _locked(file, _EXCLUSIVE):
                yield
                if changes:
                    now = max(time.time_ns(), self.last_write + 1)
                    os.utime(file.name, ns=(now, now))
        finally:
            self._held -= 1

    @contextmanager
    def copying(self, *, wait: bool = True) -> Generator[bool, None, None]:
        """Hold off the one who writes; gives whether that is so.

        Args:
            wait: until that one has finished, which may be putting a large folder in order.
        """
        try:
            file = (self._root / ".busy").open()
        except FileNotFoundError:  # nobody has ever written, or files were copied here
            yield True
            return
        with file:
            try:
                portalocker.lock(file, _SHARED if wait else _SHARED | _NOW)
            except portalocker.exceptions.LockException:
                yield False
                return
            try:
                yield True
            finally:
                portalocker.unlock(file)

    def _take(self) -> bool:
        if not self._make_root():
            return False
        self._lock = _locked_now(self._root / ".lock")
        if self._lock is None:
            return False
        for left in self._root.glob(".old-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        return True

    def _take_from_reader(self) -> bool:
        """Only one process is here at a time: the one that has `.writer`."""
        if self.has_files or self._take():
            return True
        note, end = self._root / ".wanted", time.monotonic() + _PATIENCE
        try:
            while time.monotonic() < end:
                note.touch()
                time.sleep(_POLL)
                if self._take():
                    return True
            return False
        finally:
            note.unlink(missing_ok=True)

    def _make_root(self) -> bool:
        """Whether files may be written there."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            (self._root / ".lock").open("a").close()
        except OSError:
            if not self._root.is_dir():
                raise
            self.read_only = True
            return False
        return True

    def _after_fork(self) -> None:
        for held in (self._writer, self._lock):
            if held is not None:
                held.close()  # this process's copy: the parent goes on holding it
        self._writer = self._lock = None
        self._held = 0


def _locked_now(path: Path) -> IO[Any] | None:
    """A file with its lock; None if another process has it."""
    file = path.open("a")
    try:
        portalocker.lock(file, _EXCLUSIVE | _NOW)
    except portalocker.exceptions.LockException:
        file.close()
        return None
    return file


def _let_go(file: IO[Any]) -> None:
    with file:
        portalocker.unlock(file)  # to close it is not enough: a child that was forked meanwhile holds it open


@contextmanager
def _locked(file: IO[Any], flags: portalocker.LockFlags) -> Generator[None, None, None]:
    portalocker.lock(file, flags)
    try:
        yield
    finally:
        portalocker.unlock(file)
