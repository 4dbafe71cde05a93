"""Pictures of stored documents: opened once, kept as files outside the payload, given back. It knows no Qdrant."""

from __future__ import annotations

import logging
import os
import uuid
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias

from langchain_core.documents import Document
from PIL import Image

from langchain_nemotron_rag._convert import describe, image_of, image_source, to_data_uri
from nemotron_rag.access import ImageAccess
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.images import load_image
from nemotron_rag.stores.client import Qdrant
from nemotron_rag.stores.page_images import PageImages

__all__ = ["ImageForm", "Images", "Pictures", "open_images"]

Images: TypeAlias = "str | os.PathLike[str] | PageImages | Literal[True] | None"
"""Where pictures are kept: a folder, an fsspec URL or a `PageImages`; True: beside the collection; None: nowhere."""

ImageForm: TypeAlias = Literal["data_uri", "path", "none"]
"""How a found document carries its picture: in itself, as the path of a file, or not at all."""

_READERS = 8  # pictures read at the same time; object stores take long to answer
_log = logging.getLogger("nemotron_rag")


class Pictures:
    """Opens the pictures of documents that are added, and gives them to documents that are found.

    Args:
        images: None to keep none.
        access: what documents may name.
        image_key: where in the metadata the picture is.
        form: see `ImageForm`; "path" needs `images` in a local folder.

    Raises:
        InputError: there are no paths to give.
    """

    def __init__(self, images: PageImages | None, *, access: ImageAccess, image_key: str, form: ImageForm) -> None:
        if form == "path" and images is not None and "://" in images.root:
            raise InputError(f"image_form='path' needs pictures in a local folder, got {images.root!r}; give images=")
        self.image_key = image_key
        self._images, self._access, self._form = images, access, form

    def open(self, documents: Sequence[Document], first: int) -> list[Image.Image | None]:
        """The decoded pictures of documents, None for those without; the first document is number `first`.

        Raises:
            ImageError: a picture may not be opened or cannot be read.
            InputError: there is a picture but no place to keep it.
        """
        opened: list[Image.Image | None] = []
        for index, document in enumerate(documents, first):
            reference = image_of(document, self.image_key)
            try:
                opened.append(None if reference is None else self._open(image_source(reference)))
            except ImageError as error:
                raise type(error)(f"{describe(document, index)}: {error}") from error
        return opened

    def open_named(self, uris: Sequence[Any], first: int) -> list[Image.Image | None]:
        """The decoded pictures that the caller, not a document, names: any path is allowed; see `open`."""
        opened: list[Image.Image | None] = []
        for index, uri in enumerate(uris, first):
            try:
                source = image_source(uri)
                is_url = isinstance(source, str) and source[:7].lower() in ("http://", "https:/")
                opened.append(self._open(source) if is_url else load_image(source))
            except ImageError as error:
                raise type(error)(f"image {index}: {error}") from error
        self._place()
        return opened

    def keep(self, names: Sequence[str], pictures: Sequence[Image.Image | None]) -> list[str | None]:
        """Write the pictures; the keys under which they lie.

        Args:
            names: a UUID for each.
            pictures: None where there is none.
        """
        return [
            None if picture is None else self._place().write(name, picture)
            for name, picture in zip(names, pictures, strict=True)
        ]

    def forget(self, names: Sequence[str]) -> None:
        """Remove the pictures of these UUIDs; that there are none is no error."""
        if self._images is not None:
            for name in names:
                self._images.delete(name)

    def show(self, found: Sequence[tuple[Document, str | None]]) -> list[Document]:
        """Documents with their pictures; one whose picture is missing or broken comes without.

        Args:
            found: documents, new and ours, and the keys of their pictures.
        """
        if self._images is None or self._form == "none" or not any(key for _, key in found):
            return [document for document, _ in found]
        with ThreadPoolExecutor(min(_READERS, len(found))) as readers:
            shown = list(readers.map(self._reference, [key for _, key in found]))
        for (document, _), reference in zip(found, shown, strict=True):
            if reference is not None:
                document.metadata[self.image_key] = reference
        return [document for document, _ in found]

    def _reference(self, key: str | None) -> str | None:
        if key is None or self._images is None:
            return None
        if self._form == "path":
            return str(Path(self._images.root, key).absolute())
        try:
            return to_data_uri(self._images.read_bytes(key), f"image/{key.rpartition('.')[2]}")
        except ImageError as error:
            _log.warning("a document comes without its picture: %s", error)
            return None

    def _open(self, source: Any) -> Image.Image:
        self._place()
        return self._access.open(source)

    def _place(self) -> PageImages:
        if self._images is None:
            raise InputError("a document has a picture, but there is no place to keep it; give images= a folder or URL")
        return self._images


def open_images(images: Images, qdrant: Qdrant, collection: str) -> PageImages | None:
    """The picture store; with True: beside an embedded collection, in memory for one in memory, none for a server."""
    if images is None or isinstance(images, PageImages):
        return images
    if images is not True:
        return PageImages(images)
    if qdrant.folder is not None:
        return PageImages(qdrant.folder / "images" / collection)
    if not qdrant.in_memory:
        return None
    scratch = PageImages(f"memory://nemotron-rag-{uuid.uuid4().hex}")
    weakref.finalize(qdrant, scratch.clear)
    return scratch
