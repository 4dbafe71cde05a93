"""Vision features as files in a folder, for the next process. It knows no model: keys say whose features they are."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

__all__ = ["FeatureFolder"]

_SUFFIX = ".safetensors"
_NAME, _DIGEST = "features", "sha256"
_ROOM = 0.9  # of the bytes are left when files are dropped, so that not every write has to look for some
_ABANDONED = 3600.0  # seconds after which an unfinished file is nobody's
_log = logging.getLogger("nemotron_rag")


class FeatureFolder:
    """One safetensors file for each picture, the least recently read or written dropped first.

    Any number of processes may share a folder: files appear whole or not at all. A file that is broken, to the last
    bit, is as good as none. Not being able to write is logged once and hurts nobody.

    Args:
        root: made at the first write.
        max_bytes: what the files may take; a file more than that for moments, with several writers a few more.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._bytes: int | None = None  # not looked at yet
        self._complained = False

    def read(self, key: bytes) -> torch.Tensor | None:
        """The features under `key`, on the CPU, or None."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                features = file.get_tensor(_NAME)
                whole = (file.metadata() or {}).get(_DIGEST) == _digest(features)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            whole = False
        with suppress(OSError):
            if whole:
                os.utime(path)  # read just now
                return features  # type: ignore[no-any-return]
            path.unlink()
        return features if whole else None

    def write(self, key: bytes, features: torch.Tensor) -> None:
        """Keep features, on the CPU, dropping files that were not used for longest."""
        if features.nbytes > self.max_bytes:
            return
        path = self._path(key)
        unfinished = self.root / f"{uuid.uuid4().hex}.tmp"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            save_file({_NAME: features.contiguous()}, unfinished, metadata={_DIGEST: _digest(features)})
            unfinished.replace(path)
            self._make_room(path.stat().st_size)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            if not self._complained:
                self._complained = True
                _log.warning("vision features cannot be kept in %s: %s", self.root, error)

    def _path(self, key: bytes) -> Path:
        return self.root / f"{key.hex()}{_SUFFIX}"

    def _make_room(self, written: int) -> None:
        if self._bytes is not None:
            self._bytes += written
        if self._bytes is not None and self._bytes <= self.max_bytes:
            return
        files = sorted(self._files(), key=lambda file: file[1].st_mtime)
        total = sum(stat.st_size for _, stat in files)
        if total > self.max_bytes:
            for path, stat in files:
                path.unlink(missing_ok=True)
                total -= stat.st_size
                if total <= self.max_bytes * _ROOM:
                    break
        self._bytes = total

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """The finished files; unfinished ones that somebody left behind are removed."""
        for path in self.root.iterdir():
            with suppress(FileNotFoundError):  # another process was faster
                stat = path.stat()
                if path.suffix == _SUFFIX:
                    yield path, stat
                elif path.suffix == ".tmp" and time.time() - stat.st_mtime > _ABANDONED:
                    path.unlink()


def _digest(features: torch.Tensor) -> str:
    return hashlib.sha256(features.contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()
