"""The public face of the kept vision features: how much is kept, where, and how often it helped. It imports no torch.

What a vision tower makes of a page's picture does not depend on the question. It is kept in memory, for all models of
the process, so that reranking a page a second time, or after embedding it by an identical tower, runs the language
model alone. Kept in a folder as well, it is there for the next process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nemotron_rag.errors import InputError
from nemotron_rag.load import import_runtime

__all__ = ["DEFAULT_BYTES", "DEFAULT_FOLDER_BYTES", "FOLDER_VARIABLE", "VisionCacheInfo"]
__all__ += ["configure_vision_cache", "vision_cache_info"]

DEFAULT_BYTES = 1 << 30
DEFAULT_FOLDER_BYTES = 20 << 30
FOLDER_VARIABLE = "NEMOTRON_RAG_VISION_CACHE"
"""The environment variable that names a folder, where no code can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionCacheInfo:
    """What is kept, and what it was good for since the process began.

    Args:
        hits: pictures whose features were there.
        misses: pictures that a tower had to read.
        folder_hits: how often features came from the folder.
        pictures: kept in memory.
        bytes: what they take.
        max_bytes: what they may take.
        folder: where they are kept besides, or None.
    """

    hits: int
    misses: int
    folder_hits: int
    pictures: int
    bytes: int
    max_bytes: int
    folder: str | None

    @property
    def hit_rate(self) -> float:
        """Hits among all pictures asked for, 0 to 1; 0 before the first."""
        return self.hits / max(1, self.hits + self.misses)


def configure_vision_cache(
    *,
    max_bytes: int = DEFAULT_BYTES,
    folder: str | os.PathLike[str] | None = None,
    folder_bytes: int = DEFAULT_FOLDER_BYTES,
) -> None:
    """Say how much vision features may take; what is not given gets its default.

    A page of 7 tiles takes 7.3 MB with the 1.7 B models in bfloat16. Without this call features are kept in 1 GiB of
    memory, and in the folder that ``NEMOTRON_RAG_VISION_CACHE`` names, if it does.

    Args:
        max_bytes: of host memory; 0 keeps none there.
        folder: for files that later processes read; made if it is not there. Any number of processes may share it.
        folder_bytes: of the folder; files that were not used for longest go first.

    Raises:
        InputError: a size is negative, or the folder cannot be made.
        MissingExtraError: torch is not installed.

    Example:
        >>> configure_vision_cache(max_bytes=2 << 30)
        >>> vision_cache_info().max_bytes
        2147483648
        >>> configure_vision_cache()
    """
    for name, value in (("max_bytes", max_bytes), ("folder_bytes", folder_bytes)):
        if value < 0:
            raise InputError(f"{name} must not be negative, got {value}")
    root = None if folder is None else Path(folder).absolute()
    if root is not None:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"folder {root} cannot be made: {error.strerror or error}; name another one") from error
    files = import_runtime("feature_folder")
    kept = None if root is None else files.FeatureFolder(root, max_bytes=folder_bytes)
    import_runtime("features").vision_features.configure(max_bytes=max_bytes, folder=kept)


def vision_cache_info() -> VisionCacheInfo:
    """What is kept, and what it was good for.

    Raises:
        MissingExtraError: torch is not installed.
    """
    info: VisionCacheInfo = import_runtime("features").vision_features.info()
    return info
