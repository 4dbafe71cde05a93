"""The image of a passage, decoded only if something needs its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nemotron_rag.documents.images import load_image, pixel_hash, to_rgb
from nemotron_rag.types import ImageReference, ImageSource

__all__ = ["PassageImage", "grouped"]


class PassageImage:
    """Size and hash of an image, from its reference if it has them, else from the pixels.

    Args:
        source: of a passage.
        keep_mode: keep the image's own mode instead of converting it to RGB.
        convert: how it is converted to RGB.

    Raises:
        ImageError: the image cannot be read; raised by any method, unless the image was decoded before.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        keep_mode: bool = False,
        convert: Callable[[Image.Image], Image.Image] = to_rgb,
    ) -> None:
        self._source = source
        self._keep_mode = keep_mode
        self._convert = convert
        self._image: Image.Image | None = None
        self._data: bytes | None = None
        known = (source.size, source.pixel_hash) if isinstance(source, ImageReference) else (None, None)
        self._size, self._hash = known if None not in known else (None, None)
        self.is_trusting = self._size is not None
        """Whether size and hash are what a reference says: nothing was decoded to check them."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.decoded().size if self._size is None else self._size

    @property
    def hash(self) -> str:
        """See `pixel_hash`."""
        if self._hash is None:
            self._hash = pixel_hash(self.decoded(), data=self._values())
        return self._hash

    def pixels(self) -> NDArray[np.uint8]:
        """Return the pixels of an RGB image: (height, width, 3) uint8."""
        width, height = self.decoded().size
        return np.frombuffer(self._values(), np.uint8).reshape(height, width, 3).copy()

    def checked(self) -> PassageImage:
        """Return the same image, with size and hash of its pixels: no other image is stored under a wrong hash."""
        return PassageImage(self.decoded(), keep_mode=self._keep_mode, convert=self._convert)

    def decoded(self) -> Image.Image:
        """Return the image, decoded at the first call."""
        if self._image is None:
            image = load_image(self._source)
            self._image = image if self._keep_mode else self._convert(image)
        return self._image

    def _values(self) -> bytes:
        # Once: Pillow holds the interpreter's lock meanwhile, so that threads would wait for each other.
        if self._data is None:
            self._data = self.decoded().tobytes()
        return self._data


class _Counted(Protocol):
    @property
    def tokens(self) -> int: ...


C = TypeVar("C", bound=_Counted)


def grouped(images: Sequence[C], budget: int) -> Iterator[list[C]]:
    """Cut images into groups of at most `budget` image tokens; a larger image is a group of its own."""
    group: list[C] = []
    for image in images:
        if group and sum(other.tokens for other in group) + image.tokens > budget:
            yield group
            group = []
        group.append(image)
    if group:
        yield group
