"""Page images as files beside a store, a folder or any fsspec URL, and the forms in which results carry them."""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from PIL import Image

from nemotron_rag.documents.files import one_line, write_whole
from nemotron_rag.documents.held import holding_images
from nemotron_rag.documents.images import (
    DEFAULT_BUDGET,
    ImageBudget,
    ImageFormat,
    encode_image,
    load_image,
    on_white,
    pixel_hash,
    to_data_uri,
    to_rgb,
)
from nemotron_rag.documents.word_boxes import decode_word_boxes, encode_word_boxes
from nemotron_rag.errors import ImageBudgetError, ImageError, InputError, MissingExtraError, StoreError
from nemotron_rag.stores.tenant import Tenant
from nemotron_rag.types import ImageReference, ImageSource, StoredPage, WordBoxes

try:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("fsspec", "qdrant") from error

__all__ = ["ImageForm", "PageImages", "ShownImage", "StoredImage", "put_file", "show_images"]

ImageForm: TypeAlias = Literal["data_uri", "path", "reference", "none"]
"""How a result carries its image: in itself, as the path of a file, as an `ImageReference`, or not at all."""

_READERS = 8  # images read at the same time; object stores take long to answer
_log = logging.getLogger("nemotron_rag")
_STEM = r"[0-9a-f]{2}/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_KEY = re.compile(rf"{_STEM}\.(?:png|webp|jpeg)")
_WORDS = ".words"  # the ending of the file beside an image that says where the words of the page stand
_WORDS_KEY = re.compile(rf"{_STEM}\.words")
_LARGEST_WORDS = 2**22  # bytes of such a file
_REMOVING = "removing"  # folder of notes about images that are about to go
_UNFINISHED = re.compile(r"(?:^|/)\.[0-9a-f]{32}\.tmp$")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Where a page's image is: an `ImageReference`, which is read and decoded when it is opened.

    Args:
        root: a folder or an fsspec URL.
        key: of the image below it.
        size: its width and height, pixels; None if they are not known.
        pixel_hash: of its RGB pixels; None if it is not known.
        budget: the largest image that is read.
        data: the file's bytes, where they are here already.

    Example:
        >>> images = PageImages("memory://example")
        >>> image = images.write("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", Image.new("RGB", (4, 3), "white"))
        >>> str(image), image.size, image.open().getpixel((0, 0))
        ('memory://example/0b/0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10.png', (4, 3), (255, 255, 255))
    """

    root: str
    key: str
    size: tuple[int, int] | None = None
    pixel_hash: str | None = None
    budget: ImageBudget = field(default=DEFAULT_BUDGET, repr=False)
    data: bytes | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """The path or URL."""
        return f"{self.root.rstrip('/')}/{self.key}"

    @property
    def path(self) -> Path | None:
        """The absolute path, if the image is in a local folder."""
        _check_key(self.key)
        return None if "://" in self.root else Path(self.root, self.key).absolute()

    @property
    def image_format(self) -> ImageFormat:
        """How it is encoded."""
        return self.key.rpartition(".")[2]  # type: ignore[return-value]  # the key's form leaves nothing else

    def read_bytes(self) -> bytes:
        """The image file as it was written, for example to send it on without encoding it again.

        Raises:
            ImageError: the key is not one of an index, or the image is missing or larger than the budget.
        """
        _check_key(self.key)
        try:
            data = self._read() if self.data is None else self.data
        except Exception as error:  # each file system has errors of its own
            raise ImageError(f"image {self} cannot be read: {one_line(str(error)) or type(error).__name__}") from error
        if len(data) > self.budget.max_bytes:
            raise ImageBudgetError(f"image {self} has more than the {self.budget.max_bytes} bytes allowed")
        return data

    def _read(self) -> bytes:
        fs, base = _file_system(self.root)
        data: bytes = fs.cat_file(f"{base.rstrip('/')}/{self.key}", end=self.budget.max_bytes + 1)
        return data

    def open(self) -> Image.Image:
        """The decoded image, RGB.

        Raises:
            ImageError: as from `read_bytes`, or the image is broken or larger than the budget. That it is another one
                than was stored is a warning: its page may have been replaced just now.
        """
        data = self.read_bytes()
        try:
            image = to_rgb(load_image(data, budget=self.budget))
        except ImageError as error:
            raise type(error)(f"image {self}: {str(error).removeprefix('<bytes>: ')}") from error
        # Lossy formats are decoded a little otherwise by other versions of their libraries.
        if self.image_format == "png" and self.pixel_hash not in (None, pixel_hash(image)):
            _log.warning(
                "image %s is not the one that was stored; if its page was not replaced, repair the index", self
            )
        return image

    def _repr_png_(self) -> bytes:
        """How notebooks show it."""
        return encode_image(self.open(), "png")


class PageImages:
    """The images of pages, each under a key made from the page's id.

    Args:
        root: a folder, or a URL that fsspec knows (``memory://pages``, ``s3://bucket/pages``; other schemes need
            their own fsspec package). Made at the first write.
        image_format: ``png`` keeps every pixel; ``webp`` and ``jpeg`` are smaller and lose some.
        budget: the largest image that is read back.

    Raises:
        InputError: `root` or `image_format` cannot be used.

    Example:
        >>> images = PageImages("memory://example")
        >>> images.write("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", Image.new("RGB", (4, 3), "white")).key
        '0b/0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10.png'
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        image_format: ImageFormat = "png",
        budget: ImageBudget = DEFAULT_BUDGET,
    ) -> None:
        if image_format not in get_args(ImageFormat):
            raise InputError(f"image_format must be one of {', '.join(get_args(ImageFormat))}, got {image_format!r}")
        name = os.fspath(root)
        self.root = name if "://" in name else str(Path(name).absolute())  # the working folder may change
        self.image_format: ImageFormat = image_format
        self._budget = budget
        self._tenant: Tenant | None = None
        self._fs, self._base = _file_system(self.root)

    def of_tenant(self, tenant: Tenant) -> PageImages:
        """The same place for one tenant: its images are other files than those of others, whatever their pages' ids."""
        images = PageImages(self.root, image_format=self.image_format, budget=self._budget)
        images._tenant = tenant
        return images

    def key(self, page_id: str) -> str:
        """Where the image of a page lies, relative to the root.

        Args:
            page_id: a UUID in its canonical form; see `page_uuid`.

        Raises:
            InputError: `page_id` is something else.
        """
        if not _UUID.fullmatch(page_id):
            raise InputError(f"page_id must be a lower-case UUID, got {page_id!r}")
        name = page_id if self._tenant is None else self._tenant.uuid(page_id)
        return f"{name[:2]}/{name}.{self.image_format}"

    def reference(self, key: str, *, size: tuple[int, int] | None = None, pixel_hash: str | None = None) -> StoredImage:
        """The image under a key; nothing is opened, and the key is checked when it is."""
        return StoredImage(self.root, key, size, pixel_hash, self._budget)

    def of(self, stored: StoredPage) -> StoredImage | None:
        """The image of a stored page, if it has one; nothing is opened."""
        if stored.image_key is None:
            return None
        return self.reference(stored.image_key, size=stored.image_size, pixel_hash=stored.image_hash)

    def write(self, page_id: str, image: ImageSource) -> StoredImage:
        """Store an image, over an older one of the same page; readers see the old one or the new one, whole.

        A `StoredImage` of the same format is copied as it is, or, if it is the one that is here, only noted.

        Raises:
            ImageError: `image` cannot be read.
            StoreError: the image cannot be written.
        """
        key = self.key(page_id)
        if isinstance(image, StoredImage) and image.image_format == self.image_format:
            if (image.root, image.key) != (self.root, key):
                self._put_image(key, image.read_bytes())
            return self.reference(key, size=image.size, pixel_hash=image.pixel_hash)
        with holding_images():
            return self._write(key, image)

    def _write(self, key: str, image: ImageSource) -> StoredImage:
        rgb = on_white(load_image(image))
        data = encode_image(rgb, self.image_format)
        self._put_image(key, data)
        read_back = rgb if self.image_format == "png" else to_rgb(load_image(data))
        return self.reference(key, size=rgb.size, pixel_hash=pixel_hash(read_back))

    def _put_image(self, key: str, data: bytes) -> None:
        try:
            self._put(f"{self._base.rstrip('/')}/{key}", data)
        except Exception as error:  # each file system has errors of its own
            raise StoreError(
                f"could not write image {key} under {self.root}: {one_line(str(error))}; check space and rights"
            ) from error

    def has(self, image: StoredImage) -> bool:
        """Whether a file is there under the key of an image.

        Raises:
            StoreError: the place cannot be asked.
        """
        _check_key(image.key)
        try:
            return bool(self._fs.exists(f"{self._base.rstrip('/')}/{image.key}"))
        except Exception as error:  # each file system has errors of its own
            raise StoreError(f"could not look for image {image}: {one_line(str(error))}") from error

    def write_words(self, page_id: str, words: WordBoxes | None) -> None:
        """Store beside a page's image where its words stand, over what was there; None if that is not known.

        Raises:
            StoreError: it cannot be written, or what was there not be removed.
        """
        path = self._words_path(self.key(page_id))
        if words is None:
            self._remove_file(path)
            return
        try:
            self._put(path, encode_word_boxes(words))
        except Exception as error:  # each file system has errors of its own
            raise StoreError(f"could not write {path}: {one_line(str(error))}; check space and rights") from error

    def words(self, stored: StoredPage) -> WordBoxes | None:
        """Where the words of a stored page stand in its image; None if that was not stored.

        Raises:
            StoreError: it cannot be read, or is damaged.
        """
        if stored.image_key is None or not _KEY.fullmatch(stored.image_key):
            return None
        path = self._words_path(stored.image_key)
        try:
            return decode_word_boxes(self._fs.cat_file(path, end=_LARGEST_WORDS))
        except FileNotFoundError:
            return None
        except Exception as error:  # each file system has errors of its own
            raise StoreError(f"the words of page {stored.page.id}: {path}: {one_line(str(error))}") from error

    def _words_path(self, key: str) -> str:
        return f"{self._base.rstrip('/')}/{key.rpartition('.')[0]}{_WORDS}"

    def delete(self, page_id: str) -> None:
        """Remove a page's image, whatever its format, and what lies beside it; that there is none is no error.

        Raises:
            InputError: `page_id` is no UUID; see `key`.
            StoreError: the image cannot be removed.
        """
        stem = self.key(page_id).removesuffix(self.image_format)
        for ending in (*get_args(ImageFormat), _WORDS.lstrip(".")):
            self._remove_file(f"{self._base.rstrip('/')}/{stem}{ending}")

    def _remove_file(self, path: str) -> None:
        try:
            self._fs.rm_file(path)
        except FileNotFoundError:
            return
        except Exception as error:  # each file system has errors of its own
            raise StoreError(f"could not remove {path}: {one_line(str(error))}; check the rights to do so") from error

    def announce(self, page_ids: Sequence[str]) -> str:
        """Note which pages are about to go, so that whoever comes after an interruption removes their images.

        Returns:
            What to give to `done`.

        Raises:
            StoreError: it cannot be written.
        """
        path = f"{self._notes}/{uuid.uuid4()}.json"
        try:
            self._put(path, json.dumps(list(page_ids)).encode())
        except Exception as error:  # each file system has errors of its own
            raise StoreError(f"could not write {path}: {one_line(str(error))}; check space and rights") from error
        return path

    def announced(self) -> dict[str, list[str]]:
        """What `announce` noted and `done` has not taken back: lists of page ids."""
        try:
            paths = self._fs.ls(self._notes, detail=False)
        except FileNotFoundError:
            return {}
        return {path: self._note(path) for path in paths if path.endswith(".json")}

    def done(self, note: str) -> None:
        """Take back what `announce` noted; that it is not there is no error."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(note)

    @property
    def _notes(self) -> str:
        """Where such notes are; each tenant has its own."""
        whose = "" if self._tenant is None else f"/{self._tenant.uuid('')}"
        return f"{self._base.rstrip('/')}/{_REMOVING}{whose}"

    def _note(self, path: str) -> list[str]:
        try:
            found = json.loads(self._fs.cat_file(path))
        except (ValueError, OSError):  # taken back just now, or cut short
            return []
        ids = found if isinstance(found, list) else []
        return [each for each in ids if isinstance(each, str) and _UUID.fullmatch(each)]

    def is_lost(self, stored: StoredPage) -> bool:
        """Whether the image of a stored page should be in a local folder, and is not; other places are not asked."""
        image = self.of(stored)
        if image is None or not isinstance(self._fs, LocalFileSystem):
            return False
        return not Path(self._base, image.key).is_file()

    def fault(self, stored: StoredPage) -> str:
        """What is wrong with the image of a stored page, and what is beside it, read for that; empty if nothing is."""
        image = self.of(stored)
        if image is None:
            return ""
        try:
            pixels = image.open()
        except ImageError as error:
            return one_line(str(error))
        if stored.image_hash not in (None, pixel_hash(pixels)):
            return f"image {image} is not the one that was stored"
        try:
            self.words(stored)
        except StoreError as error:
            return one_line(str(error))
        return ""

    def leftovers(self, keys: Iterable[str]) -> list[str]:
        """The files below the root of images that no page has, and those that a killed process did not finish.

        Args:
            keys: of all images that pages have.
        """
        if self._tenant is not None or not self._fs.exists(self._base):
            return []  # those of other tenants lie beside them
        base = self._base.rstrip("/")
        files = [path.removeprefix(base).lstrip("/") for path in self._fs.find(base)]
        kept = {name for key in keys for name in (key, f"{key.rpartition('.')[0]}{_WORDS}")}
        mine = (name for name in files if _KEY.fullmatch(name) or _WORDS_KEY.fullmatch(name))
        return sorted({*mine, *filter(_UNFINISHED.search, files)} - kept)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files below the root, as `leftovers` names them.

        Raises:
            StoreError: one cannot be removed.
        """
        for name in names:
            try:
                self._fs.rm_file(f"{self._base.rstrip('/')}/{name}")
            except FileNotFoundError:
                continue
            except Exception as error:  # each file system has errors of its own
                raise StoreError(f"could not remove {name} under {self.root}: {one_line(str(error))}") from error

    def clear(self) -> None:
        """Remove the root and everything in it."""
        if self._fs.exists(self._base):
            self._fs.rm(self._base, recursive=True)

    def _put(self, path: str, data: bytes) -> None:
        put_file(self._fs, path, data)


def put_file(fs: Any, path: str, data: bytes) -> None:
    """Write a file of an fsspec file system, whole or not at all; each has errors of its own."""
    if isinstance(fs, LocalFileSystem):
        write_whole(Path(path), data)
        return
    try:
        fs.pipe_file(path, data)  # object stores show an object only once it is whole
    except FileNotFoundError:  # a file system with real folders; asking an object store for one may be forbidden
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, data)


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image in the form that was chosen.

    Args:
        value: a data URI, a path, or the `ImageReference` itself.
        mime_type: of a data URI, ``image/png``; else None.
    """

    value: str | ImageReference
    mime_type: str | None = None


def show_images(
    images: Sequence[ImageReference | None], form: ImageForm, *, image_format: ImageFormat | None = None
) -> list[ShownImage | None]:
    """Images of results in one form, several read at a time.

    Args:
        images: of the results; None for those without.
        form: see `ImageForm`.
        image_format: of data URIs; None for that of the stored file. A file of that format is passed on as it is.

    Returns:
        As many as there are images: None where there is none, and, with a warning, where one is missing or broken.

    Raises:
        InputError: `form` is "path", and an image is not in a local folder.

    Example:
        >>> image = PageImages("memory://example").write("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", Image.new("L", (4, 3)))
        >>> shown = show_images([image, None], "data_uri")
        >>> shown[0].value[:22], shown[0].mime_type, shown[1]
        ('data:image/png;base64,', 'image/png', None)
    """
    if form == "none" or not any(image is not None for image in images):
        return [None] * len(images)
    with ThreadPoolExecutor(min(_READERS, len(images))) as readers:
        return list(readers.map(lambda image: _shown(image, form, image_format), images))


def _shown(image: ImageReference | None, form: ImageForm, image_format: ImageFormat | None) -> ShownImage | None:
    if image is None or form == "reference":
        return None if image is None else ShownImage(image)
    try:
        if form == "path":
            return ShownImage(_path_of(image))
        with holding_images():
            data, written = _encoded(image, image_format)
    except ImageError as error:
        _log.warning("a result comes without its image: %s", error)
        return None
    return ShownImage(to_data_uri(data, written), f"image/{written}")


def _path_of(image: ImageReference) -> str:
    path = getattr(image, "path", None)
    if path is None:
        raise InputError(f"image_form='path' needs images in a local folder, got {image}; choose another form")
    return str(path)


def _encoded(image: ImageReference, image_format: ImageFormat | None) -> tuple[bytes, ImageFormat]:
    if isinstance(image, StoredImage) and image_format in (None, image.image_format):
        return image.read_bytes(), image.image_format
    return encode_image(image.open(), image_format or "png"), image_format or "png"


@lru_cache(maxsize=64)
def _file_system(root: str) -> tuple[Any, str]:
    try:
        fs, base = fsspec.core.url_to_fs(root)
    except (ValueError, ImportError) as error:
        raise InputError(f"images must be a folder or an fsspec URL, got {root!r}: {one_line(str(error))}") from error
    return fs, base


def _check_key(key: Any) -> None:
    """Keys come back from the store, which others may write to: only the form made by `PageImages.key` is followed."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ImageError(f"image key {one_line(repr(key))} does not belong to an index; not opening it")
