"""Page pictures as encoded bytes, and as files named by their content. It knows no node and no PDF."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from pathlib import Path
from typing import Literal, TypeAlias

from nemotron_rag.errors import StoreError
from nemotron_rag.images import load_image, to_rgb
from nemotron_rag.types import ImageSource

__all__ = ["ImageFormat", "default_folder", "encoded", "kept"]

ImageFormat: TypeAlias = Literal["png", "jpeg"]

_SUFFIXES = {"png": ".png", "jpeg": ".jpg"}  # by which LlamaIndex guesses the kind of a file
_OPTIONS = {"png": {"compress_level": 1}, "jpeg": {"quality": 90}}  # level 1: half the time, little more bytes


def default_folder() -> Path:
    """``nemotron-rag/pages`` in the user's cache folder: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(cache or Path.home() / ".cache") / "nemotron-rag" / "pages"


def encoded(picture: ImageSource, image_format: ImageFormat) -> bytes:
    """The picture as the bytes of an image file."""
    data = io.BytesIO()
    to_rgb(load_image(picture)).save(data, format=image_format, **_OPTIONS[image_format])
    return data.getvalue()


def kept(data: bytes, folder: Path, image_format: ImageFormat) -> Path:
    """Write the bytes under a name made from them, unless they are there; readers never see half a file.

    Returns:
        The absolute path.

    Raises:
        StoreError: the folder cannot be written to.
    """
    digest = hashlib.sha256(data).hexdigest()
    target = folder.absolute() / digest[:2] / f"{digest}{_SUFFIXES[image_format]}"
    if target.is_file():
        return target
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # pages may be confidential
        target.parent.mkdir(exist_ok=True)
        _write(data, target)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"could not keep a page's picture in {folder}: {reason}; pass another image_folder") from error
    return target


def _write(data: bytes, target: Path) -> None:
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
