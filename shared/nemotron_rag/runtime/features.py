"""The vision feature cache: features of an image are computed once, since they do not depend on the query.

Encoding the image is most of the work on a page (63 % of the operations for 7 tiles in the 1.7 B models), so that a
second query over the same pages costs only the language model. Keys combine the tower's weights and the image.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import nn

from nemotron_rag._forking import Lock, Threads, renewed_in_child
from nemotron_rag.runtime.feature_folder import FeatureFolder
from nemotron_rag.runtime.vision_cache import DEFAULT_BYTES, DEFAULT_FOLDER_BYTES, FOLDER_VARIABLE, VisionCacheInfo

__all__ = ["FeatureCache", "TowerInput", "image_features", "image_key", "vision_features", "weights_key"]

_SAMPLED = 256  # values hashed of each weight: enough to tell two trainings apart, quick for gigabytes
_FORMAT = b"4"  # version of the keys: changes whenever the computation from image to features does
_UNWRITTEN = 16  # features that may wait for the disk; above it `put` blocks


class _Entry(NamedTuple):
    """Features in host memory; still being copied from a GPU until the event `ready`."""

    features: torch.Tensor
    ready: torch.cuda.Event | None = None

    def get(self) -> torch.Tensor:
        if self.ready is not None:
            self.ready.synchronize()
        return self.features


class FeatureCache:
    """An LRU cache of vision features, limited by bytes. Any number of threads may use it.

    Args:
        max_bytes: limit in host memory; 0 caches nothing in memory.
        folder: a second cache of files; None for none.

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
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lock = Lock()
        self._writer = Threads(1, "nemotron-rag features")
        self._writing: deque[Future[None]] = deque()
        renewed_in_child(self)

    def configure(self, *, max_bytes: int, folder: FeatureFolder | None) -> None:
        """Change both settings and evict what is above the limit; pending writes to the old folder finish first."""
        self.flush()
        with self._lock:
            self.max_bytes, self._folder = max_bytes, folder
            self._evict()

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments for `configure` that give another cache the same settings."""
        return {"max_bytes": self.max_bytes, "folder": self._folder}

    def find(self, key: bytes) -> torch.Tensor | None:
        """Return the features cached under `key`, on the CPU, or None; does not count as a hit or a miss."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            folder = self._folder
        if entry is not None:
            return entry.get()
        found = None if folder is None else folder.read(key)
        if found is not None:
            with self._lock:
                self._folder_hits += 1
            self._store(key, _Entry(found))
        return found

    def get(self, key: bytes) -> torch.Tensor | None:
        """Return the features cached under `key`, on the CPU, or None; counts as a hit or a miss."""
        return self.collect({key: None}).get(key)

    def collect(self, images: Mapping[bytes, torch.Tensor | None]) -> dict[bytes, torch.Tensor]:
        """Look up the images of a batch; each counts as a hit or a miss.

        Args:
            images: by key the features that an earlier `find` returned, or None.

        Returns:
            The cached features by key, on the CPU; missing ones are left out.
        """
        found = {key: self.find(key) if early is None else early for key, early in images.items()}
        cached = {key: features for key, features in found.items() if features is not None}
        with self._lock:
            self._hits += len(cached)
            self._misses += len(found) - len(cached)
        return cached

    def put(self, key: bytes, features: torch.Tensor) -> None:
        """Cache features, evicting the least recently used ones; does not block the GPU."""
        folder = self._folder
        if features.nbytes > self.max_bytes and folder is None:
            return
        entry = _to_host(features)
        self._store(key, entry)
        if folder is not None:
            self._write(lambda: folder.write(key, entry.get()))

    def info(self) -> VisionCacheInfo:
        """Return the current counts and sizes."""
        with self._lock:
            return VisionCacheInfo(
                hits=self._hits,
                misses=self._misses,
                folder_hits=self._folder_hits,
                images=len(self._entries),
                bytes=self._bytes,
                max_bytes=self.max_bytes,
                folder=None if self._folder is None else str(self._folder.root),
            )

    def clear(self) -> None:
        """Empty the cache in memory and reset the counts; files stay."""
        with self._lock:
            self._entries.clear()
            self._bytes = self._hits = self._folder_hits = self._misses = 0

    def flush(self) -> None:
        """Wait until all pending writes to the folder are done."""
        with self._lock:
            writing = list(self._writing)
            self._writing.clear()
        for future in writing:
            future.result()

    def _store(self, key: bytes, entry: _Entry) -> None:
        size = entry.features.nbytes
        with self._lock:
            if size > self.max_bytes:
                return
            old = self._entries.pop(key, None)
            self._bytes += size - (0 if old is None else old.features.nbytes)
            self._entries[key] = entry
            self._evict()

    def _evict(self) -> None:
        while self._bytes > self.max_bytes:
            _, evicted = self._entries.popitem(last=False)
            self._bytes -= evicted.features.nbytes

    def _write(self, write: Callable[[], None]) -> None:
        """Write in a background thread, which the interpreter joins at exit."""
        with self._lock:
            self._writing.append(self._writer.submit(write))
            waiting = self._writing.popleft() if len(self._writing) > _UNWRITTEN else None
        if waiting is not None:
            waiting.result()

    def _after_fork(self) -> None:
        self._writing.clear()
        for key in [key for key, entry in self._entries.items() if entry.ready is not None]:  # were on a GPU
            del self._entries[key]
        self._bytes = sum(entry.features.nbytes for entry in self._entries.values())


class TowerInput(Protocol):
    """An image that is prepared for a vision tower."""

    @property
    def key(self) -> bytes:
        """Cache key of its features."""

    @property
    def features(self) -> torch.Tensor | None:
        """Cached features found when the image was prepared, or None; with them the image may have no pixels."""


P = TypeVar("P", bound=TowerInput)


def image_features(
    images: Iterable[P], encode: Callable[[Sequence[P]], Sequence[torch.Tensor]], *, device: torch.device
) -> dict[bytes, torch.Tensor]:
    """Return the features of a batch's images by key, on the device; missing ones are computed and cached.

    Args:
        images: equal ones are computed once.
        encode: runs images through the tower together and returns one tensor each.
        device: of the tower.
    """
    distinct = {image.key: image for image in images}
    cached = vision_features.collect({key: image.features for key, image in distinct.items()})
    missing = [image for key, image in distinct.items() if key not in cached]
    encoded = {image.key: part for image, part in zip(missing, encode(missing), strict=True)} if missing else {}
    for key, part in encoded.items():
        vision_features.put(key, part)
    return {key: features.to(device, non_blocking=True) for key, features in cached.items()} | encoded


def _to_host(features: torch.Tensor) -> _Entry:
    if features.is_cuda:
        host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        host.copy_(features, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(features.device))
        return _Entry(host, ready)
    copy = features.cpu()
    # A view would keep its whole batch alive.
    return _Entry(copy.clone() if copy.untyped_storage().nbytes() > copy.nbytes else copy)


def _from_environment() -> FeatureFolder | None:
    root = os.environ.get(FOLDER_VARIABLE)
    return FeatureFolder(Path(root), max_bytes=DEFAULT_FOLDER_BYTES) if root else None


vision_features = FeatureCache(max_bytes=DEFAULT_BYTES, folder=_from_environment())
"""The cache of this process: 1 GiB holds about 145 pages of 7 tiles of the 1.7 B models in bfloat16."""


def image_key(pixel_hash: str, settings: str) -> bytes:
    """Return the part of a cache key that stands for an image and how it is resized.

    Args:
        pixel_hash: see `nemotron_rag.documents.images.pixel_hash`.
        settings: how the image is cut into tiles or resized.
    """
    return hashlib.sha256(f"{pixel_hash} {settings}".encode()).digest()[:16]


def weights_key(*modules: nn.Module, settings: str) -> bytes:
    """Return the part of a cache key that stands for a vision tower; checkpoints with equal towers share features.

    Args:
        modules: all modules of the tower.
        settings: whatever else decides its output, as written by its family.
    """
    digest = hashlib.sha256(_FORMAT + settings.encode())
    for module in modules:
        for name, weight in module.state_dict().items():
            flat = weight.detach().flatten()
            sample = flat[:: max(1, flat.numel() // _SAMPLED)].float().cpu()
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {weight.device.type}".encode())
            digest.update(sample.numpy().tobytes())
    return digest.digest()[:16]
