"""Vision features kept from one call to the next: they depend on the picture, not on the query.

Encoding its picture is most of the work on a page (63 % of the operations for 7 tiles in the 1.7 B models), so that a
second question over the same pages costs only the language model. It knows no model: keys say whose features they are.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["FeatureCache", "tiles_key", "vision_features", "weights_key"]

_SAMPLED = 256  # values read of each weight: enough to tell two trainings apart, quick for gigabytes


class FeatureCache:
    """The most recently used features, within a number of bytes. Any number of threads may use it.

    Args:
        max_bytes: what the features may take in host memory; 0 keeps nothing.

    Example:
        >>> cache = FeatureCache(max_bytes=1_000)
        >>> cache.put(b"page 1", torch.zeros(2, 3))
        >>> cache.get(b"page 1").shape, cache.get(b"page 2"), cache.hits, cache.misses
        (torch.Size([2, 3]), None, 1, 1)
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._bytes = 0
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> torch.Tensor | None:
        """The features under `key`, on the CPU, or None."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._kept.move_to_end(key)
            return found

    def put(self, key: bytes, features: torch.Tensor) -> None:
        """Keep features, dropping those that were not used for longest."""
        copy = features.cpu()
        if copy.nbytes > self.max_bytes:
            return
        if copy.untyped_storage().nbytes() > copy.nbytes:
            copy = copy.clone()  # a view would keep its whole batch alive
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes += copy.nbytes - (0 if old is None else old.nbytes)
            self._kept[key] = copy
            while self._bytes > self.max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes

    def clear(self) -> None:
        """Forget everything, the counts too."""
        with self._lock:
            self._kept.clear()
            self._bytes = self.hits = self.misses = 0


vision_features = FeatureCache(max_bytes=1 << 30)
"""The process's own: 1 GiB holds about 145 pages of 7 tiles of the 1.7 B models in bfloat16."""


def tiles_key(tiles: NDArray[np.uint8]) -> bytes:
    """A key of what the tower would see: the tiles' bytes, and so picture and tiling alike."""
    return hashlib.blake2b(np.ascontiguousarray(tiles).data, digest_size=16).digest()


def weights_key(*modules: nn.Module) -> bytes:
    """A key of a network's weights: equal towers of two checkpoints share their features."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        for name, weight in module.state_dict().items():
            flat = weight.detach().flatten()
            sample = flat[:: max(1, flat.numel() // _SAMPLED)].float().cpu()
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {weight.device.type}".encode())
            digest.update(sample.numpy().tobytes())
    return digest.digest()
