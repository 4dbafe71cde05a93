"""Page pictures as files beside a collection: a folder or any fsspec URL. It knows keys, not Qdrant and no model."""

from __future__ import annotations

import io
import os
import re
import uuid
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from PIL import Image

from nemotron_rag._inputs import one_line
from nemotron_rag.errors import ImageError, InputError, MissingExtraError, StoreError
from nemotron_rag.images import DEFAULT_BUDGET, ImageBudget, load_image, to_rgb
from nemotron_rag.types import ImageSource

try:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem
except ImportError as error:  # pragma: no cover - covered in a subprocess
    raise MissingExtraError("fsspec", "qdrant") from error

__all__ = ["ImageFormat", "PageImages"]

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]

_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(?:png|webp|jpeg)")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# PNG at level 1: half the time of Pillow's default level for 13 % more bytes on a page of text, 1024 pixels wide.
_SAVE_OPTIONS = MappingProxyType({"png": {"compress_level": 1}, "webp": {"quality": 90}, "jpeg": {"quality": 90}})


class PageImages:
    """The pictures of pages, each under a key made from the page's id.

    Args:
        root: a folder, or a URL that fsspec knows (``memory://pages``, ``s3://bucket/pages``; other schemes need
            their own fsspec package). Made at the first write.
        image_format: ``png`` keeps every pixel; ``webp`` and ``jpeg`` are smaller and lose some.
        budget: the largest picture that is read back.

    Raises:
        InputError: `root` or `image_format` is none of these.

    Example:
        >>> images = PageImages("memory://example")
        >>> key = images.write("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", Image.new("RGB", (4, 3), "white"))
        >>> key
        '0b/0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10.png'
        >>> images.read(key).size
        (4, 3)
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
        self.root = os.fspath(root)
        self.image_format: ImageFormat = image_format
        self._budget = budget
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.root)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"images must be a folder or an fsspec URL, got {self.root!r}: {one_line(str(error))}"
            ) from error

    def key(self, page_id: str) -> str:
        """Where the picture of a page lies, relative to the root.

        Args:
            page_id: a UUID in its canonical form, such as the id of the page's point.

        Raises:
            InputError: `page_id` is something else.
        """
        if not _UUID.fullmatch(page_id):
            raise InputError(f"page_id must be a lower-case UUID, got {page_id!r}")
        return f"{page_id[:2]}/{page_id}.{self.image_format}"

    def write(self, page_id: str, image: ImageSource) -> str:
        """Keep a picture, over an older one of the same page; readers see the old one or the new one, whole.

        Returns:
            The key.

        Raises:
            ImageError: `image` cannot be read.
            StoreError: the picture cannot be written.
        """
        key = self.key(page_id)
        encoded = io.BytesIO()
        picture = to_rgb(load_image(image))
        picture.save(encoded, format=self.image_format, **_SAVE_OPTIONS[self.image_format])
        try:
            self._put(self._path(key), encoded.getvalue())
        except Exception as error:  # each file system has errors of its own
            raise StoreError(
                f"could not write picture {key} under {self.root}: {one_line(str(error))}; check space and rights"
            ) from error
        return key

    def read(self, key: str) -> Image.Image:
        """The decoded picture.

        Raises:
            ImageError: the key is none of ours, or the picture is missing, broken, or larger than the budget.
        """
        return load_image(self.read_bytes(key), budget=self._budget)

    def read_bytes(self, key: str) -> bytes:
        """The picture as it was written, for example to send it on without encoding it again.

        Raises:
            ImageError: the key is none of ours, or the picture is missing or larger than the budget.
        """
        path = self._path(key)
        try:
            data: bytes = self._fs.cat_file(path, end=self._budget.max_bytes + 1)
        except Exception as error:  # each file system has errors of its own
            raise ImageError(
                f"picture {key} under {self.root} cannot be read: {one_line(str(error)) or type(error).__name__}"
            ) from error
        return data

    def delete(self, page_id: str) -> None:
        """Remove a page's picture, whatever its format; that there is none is no error.

        Raises:
            InputError: `page_id` is no UUID; see `key`.
            StoreError: the picture cannot be removed.
        """
        stem = self.key(page_id).removesuffix(self.image_format)
        for image_format in get_args(ImageFormat):
            path = self._path(stem + image_format)
            try:
                self._fs.rm_file(path)
            except FileNotFoundError:
                continue
            except Exception as error:  # each file system has errors of its own
                raise StoreError(
                    f"could not remove {path}: {one_line(str(error))}; check the rights to do so"
                ) from error

    def clear(self) -> None:
        """Remove the root and everything in it."""
        if self._fs.exists(self._base):
            self._fs.rm(self._base, recursive=True)

    def _path(self, key: Any) -> str:
        # Keys come back from the collection, which others may write to: only the form made by `key` is followed.
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ImageError(f"picture key {one_line(repr(key))} is none of this index; the picture is not opened")
        return f"{self._base.rstrip('/')}/{key}"

    def _put(self, path: str, data: bytes) -> None:
        if not isinstance(self._fs, LocalFileSystem):
            self._put_remote(path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _put_remote(self, path: str, data: bytes) -> None:
        try:
            self._fs.pipe_file(path, data)  # object stores show an object only once it is whole
        except FileNotFoundError:  # a file system with real folders; asking an object store for one may be forbidden
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, data)
