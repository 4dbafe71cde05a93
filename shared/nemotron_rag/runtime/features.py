"""Vision features kept from one call to the next: they depend on the picture, not on the query.

Encoding its picture is most of the work on a page (63 % of the operations for 7 tiles in the 1.7 B models), so that a
second question over the same pages costs only the language model. It knows no model: keys say whose features they are.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from PIL import Image
from torch import nn

from nemotron_rag.runtime.feature_folder import FeatureFolder
from nemotron_rag.vision_cache import DEFAULT_BYTES, DEFAULT_FOLDER_BYTES, FOLDER_VARIABLE, VisionCacheInfo

__all__ = ["FeatureCache", "TowerInput", "image_features", "picture_key", "vision_features", "weights_key"]

_SAMPLED = 256  # values read of each weight: enough to tell two trainings apart, quick for gigabytes
_FORMAT = b"2"  # of the keys: changes whenever the way from picture to features does
_UNWRITTEN = 16  # features that may wait for the disk; who wants to keep more has to wait


class _Kept(NamedTuple):
    """Features in host memory; on their way there from a GPU until `ready` has happened."""

    features: torch.Tensor
    ready: torch.cuda.Event | None = None

    def get(self) -> torch.Tensor:
        if self.ready is not None:
            self.ready.synchronize()
        return self.features


class FeatureCache:
    """The most recently used features, within a number of bytes. Any number of threads may use it.

    Args:
        max_bytes: what the features may take in host memory; 0 keeps nothing there.
        folder: where they are kept as files besides; None for nowhere.

    Example:
        >>> cache = FeatureCache(max_bytes=1_000)
        >>> cache.put(b"page 1", torch.zeros(2, 3))
        >>> cache.get(b"page 1").shape, cache.get(b"page 2"), cache.info().hits, cache.info().misses
        (torch.Size([2, 3]), None, 1, 1)
    """

    def __init__(self, *, max_bytes: int, folder: FeatureFolder | None = None) -> None:
        self.max_bytes = max_bytes
        self._folder = folder
        self._hits = self._folder_hits = self._misses = self._bytes = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._writer: ThreadPoolExecutor | None = None
        self._writing: deque[Future[None]] = deque()

    def configure(self, *, max_bytes: int, folder: FeatureFolder | None) -> None:
        """Set both anew, dropping from memory what is too much; what waits for the old folder is written first."""
        self.flush()
        with self._lock:
            self.max_bytes, self._folder = max_bytes, folder
            self._drop()

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `configure` that make another cache like this one."""
        return {"max_bytes": self.max_bytes, "folder": self._folder}

    def find(self, key: bytes) -> torch.Tensor | None:
        """The features under `key`, on the CPU, or None; not counted, for those who look early."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
            folder = self._folder
        if kept is not None:
            return kept.get()
        found = None if folder is None else folder.read(key)
        if found is not None:
            with self._lock:
                self._folder_hits += 1
            self._keep(key, _Kept(found))
        return found

    def get(self, key: bytes) -> torch.Tensor | None:
        """The same as `find`, counted as a hit or a miss."""
        return self.collect({key: None}).get(key)

    def collect(self, pictures: Mapping[bytes, torch.Tensor | None]) -> dict[bytes, torch.Tensor]:
        """What there is for the pictures of a batch, each counted as a hit or a miss.

        Args:
            pictures: by key what was found early, or None.
        """
        found = {key: self.find(key) if early is None else early for key, early in pictures.items()}
        there = {key: features for key, features in found.items() if features is not None}
        with self._lock:
            self._hits += len(there)
            self._misses += len(found) - len(there)
        return there

    def put(self, key: bytes, features: torch.Tensor) -> None:
        """Keep features, dropping those that were not used for longest; a GPU does not wait for it."""
        folder = self._folder
        if features.nbytes > self.max_bytes and folder is None:
            return
        kept = _to_host(features)
        self._keep(key, kept)
        if folder is not None:
            self._write(lambda: folder.write(key, kept.get()))

    def info(self) -> VisionCacheInfo:
        """Counts and sizes now."""
        with self._lock:
            return VisionCacheInfo(
                hits=self._hits,
                misses=self._misses,
                folder_hits=self._folder_hits,
                pictures=len(self._kept),
                bytes=self._bytes,
                max_bytes=self.max_bytes,
                folder=None if self._folder is None else str(self._folder.root),
            )

    def clear(self) -> None:
        """Forget everything in memory, the counts too; files stay."""
        with self._lock:
            self._kept.clear()
            self._bytes = self._hits = self._folder_hits = self._misses = 0

    def flush(self) -> None:
        """Wait until all that was put is in the folder."""
        with self._lock:
            writing = list(self._writing)
            self._writing.clear()
        for future in writing:
            future.result()

    def _keep(self, key: bytes, kept: _Kept) -> None:
        size = kept.features.nbytes
        with self._lock:
            if size > self.max_bytes:
                return
            old = self._kept.pop(key, None)
            self._bytes += size - (0 if old is None else old.features.nbytes)
            self._kept[key] = kept
            self._drop()

    def _drop(self) -> None:
        while self._bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.features.nbytes

    def _write(self, write: Callable[[], None]) -> None:
        """Write behind, in one thread; at the program's end it is waited for."""
        with self._lock:
            if self._writer is None:
                self._writer = ThreadPoolExecutor(1, thread_name_prefix="nemotron-rag features")
            self._writing.append(self._writer.submit(write))
            waiting = self._writing.popleft() if len(self._writing) > _UNWRITTEN else None
        if waiting is not None:
            waiting.result()


class TowerInput(Protocol):
    """A picture on its way to a tower."""

    @property
    def key(self) -> bytes:
        """Of its features."""

    @property
    def features(self) -> torch.Tensor | None:
        """What `FeatureCache.find` gave when the picture was prepared; with them it may lack its pixels."""


P = TypeVar("P", bound=TowerInput)


def image_features(
    pictures: Iterable[P], encode: Callable[[Sequence[P]], Sequence[torch.Tensor]], *, device: torch.device
) -> dict[bytes, torch.Tensor]:
    """The features of a batch's pictures by key, on the device; those that are not kept are computed, and kept.

    Args:
        pictures: equal ones are computed once.
        encode: runs pictures through the tower together, one tensor each.
        device: the tower's.
    """
    distinct = {picture.key: picture for picture in pictures}
    there = vision_features.collect({key: picture.features for key, picture in distinct.items()})
    missing = [picture for key, picture in distinct.items() if key not in there]
    encoded = {picture.key: part for picture, part in zip(missing, encode(missing), strict=True)} if missing else {}
    for key, part in encoded.items():
        vision_features.put(key, part)
    return {key: features.to(device, non_blocking=True) for key, features in there.items()} | encoded


def _to_host(features: torch.Tensor) -> _Kept:
    if features.is_cuda:
        host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        host.copy_(features, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(features.device))
        return _Kept(host, ready)
    copy = features.cpu()
    # A view would keep its whole batch alive.
    return _Kept(copy.clone() if copy.untyped_storage().nbytes() > copy.nbytes else copy)


def _from_environment() -> FeatureFolder | None:
    root = os.environ.get(FOLDER_VARIABLE)
    return FeatureFolder(Path(root), max_bytes=DEFAULT_FOLDER_BYTES) if root else None


vision_features = FeatureCache(max_bytes=DEFAULT_BYTES, folder=_from_environment())
"""The process's own: 1 GiB holds about 145 pages of 7 tiles of the 1.7 B models in bfloat16."""


def picture_key(image: Image.Image, settings: str) -> bytes:
    """A key of what a tower sees of a picture: its pixels, and how they are cut or resized."""
    digest = hashlib.sha256(f"{image.mode} {image.size} {settings}".encode())
    digest.update(image.tobytes())
    if image.mode in ("P", "PA"):
        digest.update(image.convert("RGBA").tobytes())  # equal indices mean other colours under another palette
    return digest.digest()[:16]


def weights_key(*modules: nn.Module, settings: str) -> bytes:
    """A key of a tower: equal ones of two checkpoints share their features.

    Args:
        modules: with all its weights.
        settings: what else decides its output, as its family writes it.
    """
    digest = hashlib.sha256(_FORMAT + settings.encode())
    for module in modules:
        for name, weight in module.state_dict().items():
            flat = weight.detach().flatten()
            sample = flat[:: max(1, flat.numel() // _SAMPLED)].float().cpu()
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {weight.device.type}".encode())
            digest.update(sample.numpy().tobytes())
    return digest.digest()[:16]
