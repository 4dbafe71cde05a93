"""Vision features cached as files in a folder that several processes share."""

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
_ROOM = 0.9  # of max_bytes remain after an eviction, so that not every write evicts
_ABANDONED = 3600.0  # seconds after which a temporary file counts as left behind
_log = logging.getLogger("nemotron_rag")


class FeatureFolder:
    """One safetensors file for each image; the least recently used files are evicted first.

    Any number of processes may share a folder: files appear whole or not at all. A file whose checksum is wrong counts
    as missing and is deleted. A folder that cannot be written is logged once, and nothing fails.

    Args:
        root: created at the first write.
        max_bytes: limit for all files together; exceeded for a moment by one file for each writer.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._bytes: int | None = None  # not counted yet
        self._warned = False

    def read(self, key: bytes) -> torch.Tensor | None:
        """Read the features stored under `key`, on the CPU; None if there are none."""
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
                os.utime(path)  # recently used
                return features  # type: ignore[no-any-return]
            path.unlink()
        return features if whole else None

    def write(self, key: bytes, features: torch.Tensor) -> None:
        """Write features that are on the CPU, and evict the least recently used files above the limit."""
        if features.nbytes > self.max_bytes:
            return
        path = self._path(key)
        unfinished = self.root / f"{uuid.uuid4().hex}.tmp"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            save_file({_NAME: features.contiguous()}, unfinished, metadata={_DIGEST: _digest(features)})
            unfinished.replace(path)
            self._evict(path.stat().st_size)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            if not self._warned:
                self._warned = True
                _log.warning("vision features cannot be cached in %s: %s", self.root, error)

    def _path(self, key: bytes) -> Path:
        return self.root / f"{key.hex()}{_SUFFIX}"

    def _evict(self, written: int) -> None:
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
        """Yield the finished files; delete temporary files left behind by killed processes."""
        for path in self.root.iterdir():
            with suppress(FileNotFoundError):  # another process deleted it first
                stat = path.stat()
                if path.suffix == _SUFFIX:
                    yield path, stat
                elif path.suffix == ".tmp" and time.time() - stat.st_mtime > _ABANDONED:
                    path.unlink()


def _digest(features: torch.Tensor) -> str:
    return hashlib.sha256(features.contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()
