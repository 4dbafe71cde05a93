"""Decode images from any source within a size budget, encode them, and hash their pixels; no URL is fetched."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from nemotron_rag._forking import Lock
from nemotron_rag.documents.files import TooManyBytesError, is_data_uri, name_of, one_line, read_file, read_stream
from nemotron_rag.documents.held import admit
from nemotron_rag.documents.transparency import lay_on_white, transparent_value_of, with_transparent_value
from nemotron_rag.errors import ImageBudgetError, ImageError, InputError, NemotronRagError
from nemotron_rag.types import ImageReference, ImageSource

__all__ = [
    "DEFAULT_BUDGET",
    "ImageBudget",
    "ImageFormat",
    "ImageText",
    "count_frames",
    "encode_image",
    "load_image",
    "load_page_image",
    "on_white",
    "pixel_hash",
    "read_image_bytes",
    "to_data_uri",
    "to_rgb",
]

ImageFormat: TypeAlias = Literal["png", "jpeg", "webp"]
"""File formats for writing images: "png" is lossless; "jpeg" and "webp" are smaller and lossy."""

# PNG at level 1: half the time of Pillow's default level for 13 % more bytes on a page of text, 1024 pixels wide.
# JPEG keeps colour in full resolution, which small coloured text needs.
_SAVE_OPTIONS: Mapping[ImageFormat, Mapping[str, Any]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 90, "subsampling": 0},
    "webp": {"quality": 90},
}

# Formats whose decoders start no other program and contain no interpreter (unlike EPS, WMF, ...).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "PPM", "AVIF")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SCANS = 12  # of a progressive JPEG of the largest size; encoders make about 10
_BAND = 2**20  # pixels that are scaled or hashed at a time
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBudget:
    """The largest image that is decoded. Pillow's own limit (``2 * Image.MAX_IMAGE_PIXELS``) applies as well.

    Args:
        max_bytes: of the encoded file.
        max_pixels: width times height.
        max_side: the longer side, pixels.

    Raises:
        InputError: a limit is not a positive integer.

    Example:
        >>> ImageBudget(max_pixels=4_000_000).max_pixels
        4000000
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000
    max_side: int = 32_768

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"ImageBudget.{limit.name} must be a positive integer, got {value!r}")


DEFAULT_BUDGET = ImageBudget()


def load_image(source: ImageSource, *, budget: ImageBudget = DEFAULT_BUDGET, frame: int = 0) -> Image.Image:
    """Decode an image from any kind of source; the caller's object is not changed.

    EXIF orientation is applied; of several frames the first is used (of a PIL image, the current one). The mode is
    preserved (L, 1, P, RGB, RGBA, CMYK, ...), except that 16-bit, 32-bit and float images become 8-bit L: their full
    scale is the smallest of 1 (floats only), 255, 4095 and 65535 that no value exceeds; if there is none, or a value
    is negative, the smallest value becomes black and the largest white. They become LA if one value is transparent.

    Args:
        source: path, ``data:`` URI, encoded bytes, binary file, PIL image, or array of shape (height, width) or
            (height, width, 1 | 3 | 4) and dtype uint8, uint16, bool, or float from 0 to 1; or an `ImageReference`.
        budget: checked against the header, before anything is decoded; a reference is opened within its own.
        frame: which one of a file with several, starting at 0; see `count_frames`.

    Raises:
        ImageBudgetError: the image is larger than the budget.
        ImageError: the image cannot be read, or `source` is a URL (never fetched).
    """
    name = name_of(source)
    try:
        with _quiet_pillow():
            return _load(source, name, budget, frame)
    except NemotronRagError:
        raise
    except Exception as error:  # whatever a source of somebody else's raises, and too little memory
        raise ImageError(f"{name}: cannot be read: {_reason(error)}") from error


def count_frames(source: ImageSource, *, budget: ImageBudget = DEFAULT_BUDGET) -> int:
    """Return how many pages an image file has: all of a TIFF, as scanners and fax machines write them, else 1.

    Of an animation the first frame stands for the whole.

    Raises:
        ImageError: it cannot be read.
    """
    name = name_of(source)
    data = _read_bytes(source, name, budget)
    if not data.startswith(_TIFF):
        return 1
    try:
        with _quiet_pillow(), Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            return max(1, int(getattr(image, "n_frames", 1)))
    except Exception as error:  # see _decode
        raise ImageError(f"{name}: broken image: {_reason(error)}") from error


def _load(source: ImageSource, name: str, budget: ImageBudget, frame: int) -> Image.Image:
    if isinstance(source, Image.Image):
        return _finish(source, name, budget)
    if isinstance(source, ImageReference):
        image = source.open()
        if not isinstance(image, Image.Image):
            raise ImageError(f"{name}: expected a decoded image from its open(), got {type(image).__name__}")
        return image
    if isinstance(source, np.ndarray):
        return _from_array(source, name, budget)
    return _decode(_read_bytes(source, name, budget), name, budget, frame)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB with Pillow's ``convert("RGB")``: alpha is dropped, not blended.

    Args:
        image: of any mode; an RGB image is returned as it is.

    Raises:
        ImageError: Pillow cannot convert this mode to RGB.
    """
    if image.mode == "RGB":
        return image
    with _quiet_pillow():
        try:
            return _to_8_bit(image).convert("RGB")
        except Exception as error:  # a mode without RGB, or too little memory
            reason = _reason(error)
            raise ImageError(f"expected an image that converts to RGB, got mode {image.mode!r}: {reason}") from error


def on_white(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB, one that can be transparent laid on white, whatever its mode.

    Raises:
        ImageError: Pillow cannot convert this mode to RGB.
    """
    return to_rgb(lay_on_white(image))


def load_page_image(source: ImageSource, *, budget: ImageBudget = DEFAULT_BUDGET, frame: int = 0) -> Image.Image:
    """Decode the image of a page, as `load_image` does; one that can be transparent comes as RGB on white.

    Pages from files, blobs, nodes and metadata come in this way. The image of a `Passage` does not: a model treats its
    transparency as its reference code does.

    Raises:
        ImageError: as from `load_image`.
    """
    return lay_on_white(load_image(source, budget=budget, frame=frame))


def encode_image(image: Image.Image, image_format: ImageFormat) -> bytes:
    """Convert an image to RGB, on white where it is transparent, and encode it as a file.

    Raises:
        InputError: the format is not supported.
        ImageError: Pillow cannot convert the image's mode to RGB.
    """
    if image_format not in _SAVE_OPTIONS:
        raise InputError(f"image_format must be one of {', '.join(_SAVE_OPTIONS)}, got {image_format!r}")
    encoded = io.BytesIO()
    on_white(image).save(encoded, format=image_format, **_SAVE_OPTIONS[image_format])
    return encoded.getvalue()


class ImageText(str):
    """An encoded image as text, a data URI or base64: a str like any other, but for its short `repr`.

    So what holds it stays readable where it is printed. Its value is written as JSON, copied and compared like that of
    any str; a pickle contains a plain one.

    Example:
        >>> {"image": ImageText("data:image/png;base64,iVBORw0KGgo=")}
        {'image': <image/png, 34 characters>}
    """

    def __repr__(self) -> str:
        """``<image/png, 400022 characters>``."""
        kind = self[5:80].partition(";")[0] if is_data_uri(self) else "base64"
        return f"<{one_line(kind)}, {len(self)} characters>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def to_data_uri(data: bytes, image_format: ImageFormat) -> ImageText:
    """Return the ``data:`` URI of an encoded image."""
    return ImageText(f"data:image/{image_format};base64,{base64.b64encode(data).decode('ascii')}")


def read_image_bytes(source: ImageSource, *, budget: ImageBudget = DEFAULT_BUDGET) -> bytes | None:
    """The file that a source holds or names, as it is encoded; None if it is decoded already.

    Args:
        source: as for `load_image`. A reference is read by its own ``read_bytes``, within its own budget.
        budget: the most bytes.

    Raises:
        ImageBudgetError: the file is larger than the budget.
        ImageError: it cannot be read, or `source` is a URL (never fetched).
    """
    if isinstance(source, Image.Image | np.ndarray):
        return None
    if isinstance(source, ImageReference):
        read = getattr(source, "read_bytes", None)
        return None if read is None else cast("bytes | None", read())
    return _read_bytes(source, name_of(source), budget)


def pixel_hash(image: Image.Image, *, data: bytes | None = None) -> str:
    """Return the SHA-256 of a decoded image's mode, size and pixels, as 64 hex digits.

    Args:
        image: any mode.
        data: its ``tobytes()``, where they are at hand.
    """
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    for part in pixel_bytes(image) if data is None else [data]:
        digest.update(part)
    if image.mode in ("P", "PA"):  # the same indices are other colours in another palette
        for part in pixel_bytes(image, lambda band: band.convert("RGBA")):
            digest.update(part)
    return digest.hexdigest()


def pixel_bytes(
    image: Image.Image, convert: Callable[[Image.Image], Image.Image] = lambda band: band
) -> Iterator[bytes]:
    """The pixels as ``tobytes()`` of the converted image gives them, a band of rows at a time: few are held at once."""
    rows = max(1, _BAND // max(1, image.width))
    if rows >= image.height:
        yield convert(image).tobytes()
        return
    for top in range(0, image.height, rows):
        yield convert(image.crop((0, top, image.width, min(top + rows, image.height)))).tobytes()


def _read_bytes(source: Any, name: str, budget: ImageBudget) -> bytes:
    try:
        return _bytes_of(source, name, budget.max_bytes)
    except TooManyBytesError as error:
        raise ImageBudgetError(
            f"{name}: {error}, more than the {budget.max_bytes} allowed; raise ImageBudget.max_bytes"
        ) from error
    except ImageError:
        raise
    except Exception as error:  # of files, of streams of others, of texts that are no data URI
        raise ImageError(f"{name}: cannot be read: {_reason(error)}") from error


def _bytes_of(source: Any, name: str, max_bytes: int) -> bytes:
    if is_data_uri(source):
        return _read_data_uri(source, max_bytes)
    if isinstance(source, str) and _URL.match(source):
        raise ImageError(f"{name}: URLs are never fetched; download the image and pass its path or bytes")
    if isinstance(source, str | os.PathLike):
        return read_file(source, max_bytes=max_bytes)
    if isinstance(source, bytes | bytearray | memoryview):
        return _checked(bytes(source), max_bytes)
    if hasattr(source, "read"):
        return read_stream(source, max_bytes=max_bytes)
    raise ImageError(f"expected a path, data URI, bytes, binary file, PIL image or array, got {type(source).__name__}")


def _read_data_uri(uri: str, max_bytes: int) -> bytes:
    header, comma, payload = uri.partition(",")
    if not comma:
        raise OSError("a data URI needs a comma before its data")
    if len(payload) > 4 * max_bytes:  # more than any encoding of max_bytes needs
        raise TooManyBytesError(f"{len(payload)} characters")
    raw = urllib.parse.unquote_to_bytes(payload)
    if header.lower().endswith(";base64"):
        raw = b"".join(raw.split())
        raw = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    return _checked(raw, max_bytes)


def _checked(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise TooManyBytesError(f"{len(data)} bytes")
    return data


def _decode(data: bytes, name: str, budget: ImageBudget, frame: int) -> Image.Image:
    Image.init()
    formats = [entry for entry in _FORMATS if entry in Image.OPEN]  # AVIF came with Pillow 11.3
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if frame:
                image.seek(frame)
            _check_size(image.width, image.height, name, budget)
            _check_work(image, data, name, budget)
            transparent = transparent_value_of(image)
            if transparent is not None:
                image.info["transparency"] = transparent
            return _finish(image, name, budget)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageBudgetError(f"{name}: {_reason(error)}") from error
    except UnidentifiedImageError as error:
        supported = ", ".join(formats)
        raise ImageError(f"{name}: expected an image ({supported}), got {len(data)} bytes of another format") from error
    except Exception as error:  # Pillow's decoders raise nearly every built-in error on malformed files
        raise ImageError(f"{name}: broken image: {_reason(error)}") from error


def _finish(image: Image.Image, name: str, budget: ImageBudget) -> Image.Image:
    """Check the size, decode, apply EXIF orientation, and convert deep modes to 8 bits; returns a new image."""
    _check_size(image.width, image.height, name, budget)
    with admit(image.width * image.height):
        try:
            image.load()
        except Exception as error:  # see _decode
            raise ImageError(f"{name}: broken image: {_reason(error)}") from error
        _check_size(image.width, image.height, name, budget)  # a frame may be larger than the header says
        return _to_8_bit(_upright(image))


def _check_work(image: Image.Image, data: bytes, name: str, budget: ImageBudget) -> None:
    """Refuse files that take much more to decode than their size says.

    A tile of a TIFF is decoded as a whole, however small the image in it is; a JPEG may go over all its pixels again
    with each of thousands of scans.
    """
    tags = getattr(image, "tag_v2", {})
    width, height = (max((tag if isinstance(tag, int) else 0), 0) for tag in (tags.get(322, 0), tags.get(323, 0)))
    if width * height > budget.max_pixels:
        raise ImageBudgetError(
            f"{name}: has tiles of {width}x{height}, more than {budget.max_pixels} pixels; raise ImageBudget.max_pixels"
        )
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if scans * image.width * image.height > _SCANS * budget.max_pixels:
        raise ImageBudgetError(
            f"{name}: {image.width}x{image.height} in {scans} scans is more work than {_SCANS} times "
            f"{budget.max_pixels} pixels; raise ImageBudget.max_pixels"
        )


def _check_size(width: int, height: int, name: str, budget: ImageBudget) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: expected at least one pixel, got {width}x{height}")
    if max(width, height) > budget.max_side:
        raise ImageBudgetError(
            f"{name}: {width}x{height} has a side above {budget.max_side} pixels; raise ImageBudget.max_side"
        )
    if width * height > budget.max_pixels:
        raise ImageBudgetError(
            f"{name}: {width}x{height} is more than {budget.max_pixels} pixels; raise ImageBudget.max_pixels"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the EXIF data is broken: leave the image as it is stored
        return image.copy()


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        return with_transparent_value(Image.fromarray(_scale_deep(np.asarray(image))), image)
    return image


def _scale_deep(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale grey values of any depth to 0..255 by the rule of `load_image`; keeps the shape."""
    rows = max(1, _BAND // values[0].size)
    bands = [slice(top, top + rows) for top in range(0, len(values), rows)]
    ends = [(float(finite.min()), float(finite.max())) for finite in (_finite(values[band]) for band in bands)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    scales = (255.0, 4095.0, 65535.0) if values.dtype.kind in "iu" else (1.0, 255.0, 4095.0, 65535.0)
    full = next((scale for scale in scales if high <= scale), None)
    if low >= 0 and full is not None:
        low, high = 0.0, full
    gain = 255.0 / (high - low) if high > low else 0.0
    scaled = np.empty(values.shape, dtype=np.uint8)
    for band in bands:  # in float32, the whole image would take five times its memory
        scaled[band] = _round((_finite(values[band]) - np.float32(low)) * np.float32(gain))
    return scaled


def _finite(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.nan_to_num(values.astype(np.float32), copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _round(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return rounded


def _from_array(array: NDArray[Any], name: str, budget: ImageBudget) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"expected an array of shape (h, w) or (h, w, 1 | 3 | 4), got {array.shape}")
    _check_size(array.shape[1], array.shape[0], name, budget)
    pixels = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(_array_to_8_bit(pixels).copy())  # a later change of the array must not change the image


def _array_to_8_bit(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return cast("NDArray[np.uint8]", array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return _scale_deep(array)
    if array.dtype.kind != "f":
        raise ImageError(f"expected an array of uint8, uint16, bool or float, got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):  # also true for NaN
        raise ImageError(f"expected float pixels from 0 to 1, got {low} to {high}; scale them, or pass uint8")
    return _round(array.astype(np.float32) * np.float32(255))


def _reason(error: BaseException) -> str:
    message = getattr(error, "strerror", None) or str(error)  # str() of an OSError repeats the path
    return one_line(message) or type(error).__name__


_quiet_lock = Lock()
_quiet_users = 0
_quiet_filters: warnings.catch_warnings[Any] | None = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings; everything that matters is raised.

    `warnings.catch_warnings` alone is not thread-safe: the last thread to leave may restore another thread's filters
    for good. So the first thread to enter sets the filter, and the last one to leave removes it.
    """
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        _quiet_users += 1
        if _quiet_users == 1:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
                _quiet_filters = None
