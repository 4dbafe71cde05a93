"""Images for chat models: of a size and format that they read, and never larger than the file they came from."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from PIL import Image

from nemotron_rag.documents.images import (
    DEFAULT_BUDGET,
    ImageBudget,
    ImageFormat,
    ImageText,
    encode_image,
    load_page_image,
    read_image_bytes,
    to_data_uri,
    to_rgb,
)
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.types import ImageSource

__all__ = [
    "MAX_BYTES",
    "MAX_SIDE",
    "EncodedImage",
    "as_it_is",
    "check_limits",
    "encode_for_llm",
    "encode_part",
    "scaled_size",
    "within_limits",
]

MAX_SIDE = 2048
"""Default for the longer side of an image, pixels: models scale larger ones down themselves (OpenAI's fit every image
into 2048 x 2048, Anthropic's into 1568 x 1568)."""

MAX_BYTES = 3_750_000
"""Default for the bytes of an image: as base64 they are the 5 MB that Anthropic takes at most; others take more."""

# Quality and chroma subsampling, tried in this order until the image is small enough.
_LOSSY: tuple[dict[str, Any], ...] = (
    {"quality": 90, "subsampling": 0},
    {"quality": 80},
    {"quality": 65},
    {"quality": 50},
)
_SMALLEST_SIDE = 16  # pixels; below it nothing is scaled down further
_LOSSY_FILES = ((None, "jpeg"), (None, "webp"))  # encoding these again would only lose quality
_SENT_AS_THEY_ARE = {"PNG": ("1", "L", "P", "RGB"), "JPEG": ("L", "RGB"), "WEBP": ("RGB",)}


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as a file in memory.

    Args:
        data: the file.
        image_format: how it is encoded.
    """

    data: bytes = field(repr=False)
    image_format: ImageFormat

    @property
    def mime_type(self) -> str:
        """``image/png``."""
        return f"image/{self.image_format}"

    @property
    def data_uri(self) -> ImageText:
        """The image as a ``data:`` URI."""
        return to_data_uri(self.data, self.image_format)

    @property
    def base64(self) -> ImageText:
        """The image as base64, without a header."""
        return ImageText(self.data_uri.partition(",")[2])


def encode_for_llm(
    source: ImageSource,
    *,
    image_format: ImageFormat | None = None,
    max_side: int | None = MAX_SIDE,
    max_bytes: int | None = MAX_BYTES,
    budget: ImageBudget = DEFAULT_BUDGET,
) -> EncodedImage:
    """Encode an image for a chat model: upright, without EXIF data, within limits, and no larger than its source.

    A file that is a PNG, JPEG or WebP already and within the limits is sent as it is, unless the wanted format makes
    it smaller.

    Args:
        source: as for `nemotron_rag.documents.images.load_image`.
        image_format: wanted; the file's own is kept where another one would be larger, except for "png", which keeps
            every pixel. None takes the smaller one of "jpeg" and the file itself, which is not encoded again if it is
            a JPEG or WebP.
        max_side: the longer side, pixels; larger images are scaled down. None for no limit.
        max_bytes: of the encoded image; larger ones lose quality, then size. None for no limit.
        budget: for reading and decoding the source.

    Raises:
        InputError: a limit or the format cannot be used.
        ImageError: the image cannot be read, or not be made small enough.

    Example:
        >>> encode_for_llm(Image.new("RGB", (4000, 1000), "white"), max_side=1000)
        EncodedImage(image_format='png')
    """
    check_limits(image_format, max_side, max_bytes)
    data = read_image_bytes(source, budget=budget)
    try:
        image = load_page_image(source if data is None else data, budget=budget)
    except ImageError as error:
        raise type(error)(str(error).removeprefix("<bytes>: ")) from error
    scaled = _scaled(image, max_side)
    fits = data is not None and (max_bytes is None or len(data) <= max_bytes)
    kept = as_it_is(data, _SENT_AS_THEY_ARE) if data is not None and fits and scaled is image else None
    if kept is not None and (
        image_format == kept.image_format or (image_format is None and kept.image_format != "png")
    ):
        return kept
    return _encoded(scaled, image_format, max_bytes, kept, None if data is None else len(data))


def encode_part(
    image: Image.Image, *, of: int | None, image_format: ImageFormat | None, max_side: int | None, max_bytes: int | None
) -> EncodedImage:
    """`encode_for_llm` for a part of a decoded image.

    Args:
        image: the part.
        of: bytes of the file of the whole: the part loses quality to stay below them, except as "png"; None if there
            is no file.
        image_format: see `encode_for_llm`.
        max_side: of the part, pixels.
        max_bytes: of the encoded part.
    """
    return _encoded(_scaled(image, max_side), image_format, max_bytes, None, of)


def within_limits(
    data: bytes,
    *,
    image_format: ImageFormat | None = None,
    max_side: int | None = MAX_SIDE,
    max_bytes: int | None = MAX_BYTES,
) -> bool:
    """Whether an image file may go to a chat model as it is; arguments are those of `encode_for_llm`.

    Example:
        >>> within_limits(encode_for_llm(Image.new("RGB", (40, 10)), image_format="png").data, max_side=20)
        False
    """
    kept = as_it_is(data, _SENT_AS_THEY_ARE)
    if kept is None or image_format not in (None, kept.image_format):
        return False
    with Image.open(io.BytesIO(data), formats=list(_SENT_AS_THEY_ARE)) as image:
        is_small = max_side is None or max(image.size) <= max_side
    return is_small and (max_bytes is None or len(data) <= max_bytes)


def scaled_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Width and height, pixels, to which `encode_for_llm` scales an image for `max_side`; `max_bytes` may take more.

    Example:
        >>> scaled_size((4000, 1000), 1000), scaled_size((40, 10), 1000)
        ((1000, 250), (40, 10))
    """
    if max_side is None or max(size) <= max_side:
        return size
    factor = max_side / max(size)
    width, height = (max(1, round(length * factor)) for length in size)
    return width, height


def check_limits(image_format: ImageFormat | None, max_side: int | None, max_bytes: int | None) -> None:
    """Raise unless these can be given to `encode_for_llm`.

    Raises:
        InputError: one cannot.
    """
    if image_format is not None and image_format not in get_args(ImageFormat):
        raise InputError(
            f"image_format must be one of {', '.join(get_args(ImageFormat))} or None, got {image_format!r}"
        )
    for name, value in (("max_side", max_side), ("max_bytes", max_bytes)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InputError(f"{name} must be a positive integer or None, got {value!r}")


def as_it_is(data: bytes, modes: Mapping[str, Sequence[str]], *, transparent: bool = False) -> EncodedImage | None:
    """A file that may be sent as it is: upright, of one frame, and of a format and mode that its reader knows.

    Args:
        data: the file, which was decoded before.
        modes: Pillow's modes by its name of the format.
        transparent: whether parts of it may be.
    """
    try:
        with Image.open(io.BytesIO(data), formats=list(modes)) as image:
            known = image.mode in modes.get(image.format or "", ()) and getattr(image, "n_frames", 1) == 1
            if not known or image.getexif() or (not transparent and "transparency" in image.info):
                return None
            return EncodedImage(data, image.format.lower())  # type: ignore[union-attr,arg-type]  # a key of the table
    except Exception:  # it was decoded, but not everything in it can be read, as broken EXIF data
        return None


def _encoded(
    image: Image.Image, wanted: ImageFormat | None, max_bytes: int | None, kept: EncodedImage | None, source: int | None
) -> EncodedImage:
    """An image in the wanted format, or as it is if that is smaller, scaled down until it is small enough."""
    limit = None if wanted == "png" else min((n for n in (max_bytes, source) if n is not None), default=None)
    tries = _tries(image, wanted)
    best = next(tries) if wanted is None and kept is not None else _first_within(tries, limit)
    if kept is not None and wanted != "png" and len(kept.data) <= len(best.data):
        return kept
    while max_bytes is not None and len(best.data) > max_bytes:
        if max(image.size) < _SMALLEST_SIDE:
            raise ImageError(f"expected an image that fits into max_bytes={max_bytes}, which no size does; allow more")
        image = _scaled(image, int(max(image.size) * 0.8))
        best = _first_within(_tries(image, wanted), max_bytes)
    return best


def _tries(image: Image.Image, wanted: ImageFormat | None) -> Iterator[EncodedImage]:
    """The image in falling quality; text and drawings are often smaller as PNG, which loses nothing."""
    png = EncodedImage(encode_image(image, "png"), "png") if wanted in (None, "png") else None
    if png is not None and wanted == "png":
        yield png
        return
    rgb = to_rgb(image)
    for options in _LOSSY:
        file = io.BytesIO()
        rgb.save(file, format=wanted or "jpeg", **options)
        lossy = EncodedImage(file.getvalue(), wanted or "jpeg")
        yield lossy if png is None or len(lossy.data) < len(png.data) else png


def _first_within(tries: Iterator[EncodedImage], limit: int | None) -> EncodedImage:
    """The first that is small enough, else the smallest."""
    seen = []
    for encoded in tries:
        if limit is None or len(encoded.data) <= limit:
            return encoded
        seen.append(encoded)
    return min(seen, key=lambda encoded: len(encoded.data))


def _scaled(image: Image.Image, side: int | None) -> Image.Image:
    """An image whose longer side is at most so long; the same object if it is already."""
    size = scaled_size(image.size, side)
    return image if size == image.size else to_rgb(image).resize(size, Image.Resampling.LANCZOS)
