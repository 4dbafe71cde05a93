"""Documents as they are stored: points laid out as langchain-qdrant does it or as in an index, and their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from langchain_core.documents import Document
from PIL import Image
from qdrant_client import models

from langchain_nemotron_rag._documents import RENAMED, describe, document_of_page, image_of, labelled, readable
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import ImageFormat, load_page_image
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.stores.filters import rename_keys
from nemotron_rag.stores.page_images import ImageForm, PageImages, StoredImage, show_images
from nemotron_rag.stores.qdrant import Layout, from_payload, point_id
from nemotron_rag.types import Filter, ImageReference, ImageSource, page_uuid

Point: TypeAlias = models.Record | models.ScoredPoint
NamedImage: TypeAlias = "tuple[str, ImageSource | None]"

_ID = "id"  # a payload key beside those of langchain-qdrant, like those of images; it passes them over

# What documents call a page's fields -> what an index calls them; `page` counts from 0 and is shifted besides.
_FIELDS = {"page": "page_number", "page_id": "id"} | {new: old for old, new in RENAMED.items()}


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """Where the parts of a document are in a point.

    Args:
        content_key: of the text, in the payload.
        metadata_key: of the metadata, in the payload.
        vector_name: empty for the unnamed vector.
        point_id: the Qdrant id of a document.
    """

    content_key: str
    metadata_key: str
    vector_name: str
    point_id: Callable[[str], int | str] = point_id

    @property
    def layout(self) -> Layout:
        """For a `ForeignCollection`: filters are over metadata keys, ``year`` or ``metadata.year``."""
        return Layout(vector_name=self.vector_name, metadata=self.metadata_key)

    def point(
        self,
        document: Document,
        *,
        id: str,
        vector: Sequence[float],
        image: StoredImage | None,
        image_key: str,
        content_hash: str | None = None,
    ) -> models.PointStruct:
        """A document as a point; an image that is stored is left out of the metadata."""
        metadata = {key: value for key, value in document.metadata.items() if image is None or key != image_key}
        text = document.page_content.encode("utf-8", "replace").decode()  # lone surrogates cannot be sent as JSON
        payload: dict[str, Any] = {self.content_key: text, self.metadata_key: metadata, _ID: id}
        if content_hash is not None:
            payload["content_hash"] = content_hash
        if image is not None:
            size = None if image.size is None else list(image.size)
            payload |= {"image": image.key, "image_size": size, "image_hash": image.pixel_hash}
        row: Any = {self.vector_name: list(vector)} if self.vector_name else list(vector)
        return models.PointStruct(id=self.point_id(id), vector=row, payload=payload)

    def document(self, point: Point, *, of_index: bool) -> Document:
        """A point as a new document, without its image.

        Args:
            point: with its payload.
            of_index: it is a page of an index, which is laid out in another way.
        """
        if of_index:
            return document_of_page(from_payload(point.payload).page)
        payload: Mapping[str, Any] = point.payload or {}
        text, metadata = payload.get(self.content_key), payload.get(self.metadata_key)
        return Document(
            id=str(payload.get(_ID, point.id)),
            page_content=text if isinstance(text, str) else "",
            metadata=dict(metadata) if isinstance(metadata, Mapping) else {},
        )


class DocumentImages:
    """Opens the images of documents that are added, and gives them to documents that are found.

    Args:
        images: where they are stored; None for nowhere.
        access: what documents may name.
        image_key: where in the metadata the image is.
        form: see `ImageForm`; "path" needs `images` in a local folder.

    Raises:
        InputError: there is no such form, or there are no paths to give.
    """

    def __init__(self, images: PageImages | None, *, access: ImageAccess, image_key: str, form: ImageForm) -> None:
        if form not in get_args(ImageForm):
            raise InputError(f"image_form must be one of {', '.join(get_args(ImageForm))}, got {form!r}")
        if form == "path" and images is not None and "://" in images.root:
            raise InputError(f"image_form='path' needs images in a local folder, got {images.root!r}; give images=")
        self.image_key, self.images = image_key, images
        self._access, self.form = access, form

    def giving(self, form: ImageForm) -> DocumentImages:
        """The same, with another form."""
        return DocumentImages(self.images, access=self._access, image_key=self.image_key, form=form)

    def of_documents(self, documents: Sequence[Document], first: int = 0) -> list[NamedImage]:
        """The images of documents, not opened, with what to call them in messages, counted from `first`."""
        images = [image_of(document, image_key=self.image_key, access=self._access) for document in documents]
        return [(describe(documents[index], first + index), image) for index, image in enumerate(images)]

    def of_caller(self, images: Sequence[Any]) -> list[NamedImage]:
        """The same of images that the caller, not a document, names: any path is allowed."""
        return [(f"image {index}", readable(image, self._access.of_caller)) for index, image in enumerate(images)]

    def open(self, images: Sequence[NamedImage]) -> list[Image.Image | None]:
        """Decode images; None where there is none.

        Raises:
            ImageError: an image may not be opened or cannot be read.
            InputError: there is an image but no place to store it.
        """
        return [None if image is None else self._open(name, image) for name, image in images]

    def write(self, points: Sequence[int | str], images: Sequence[Image.Image | None]) -> list[StoredImage | None]:
        """Store the images of points; None where there is none."""
        return [
            None if image is None else self._place().write(page_uuid(str(point)), image)
            for point, image in zip(points, images, strict=True)
        ]

    def keys_of(self, points: Sequence[Point]) -> set[str]:
        """Where the images of points are, as they say."""
        found = (from_payload(point.payload).image_key for point in points)
        return {key for key in found if key is not None}

    def delete(self, points: Sequence[int | str], keys: Iterable[str], *, used: Iterable[str]) -> None:
        """Remove the images of points; that there are none is no error.

        Args:
            points: their own images.
            keys: of further images, which they shared with others.
            used: keys of images that other points still have.
        """
        if self.images is None:
            return
        kept = {key.partition(".")[0] for key in used}
        pages = [page_uuid(str(point)) for point in points]
        pages += [key.rpartition("/")[2].partition(".")[0] for key in keys]
        for page in dict.fromkeys(pages):
            with suppress(InputError):  # a key that is none
                if self.images.key(page).partition(".")[0] not in kept:
                    self.images.delete(page)

    def show(self, documents: Sequence[Document], points: Sequence[Point]) -> list[Document]:
        """New documents with the images of their points, in the form that was chosen."""
        stored = [None if self.images is None else self.images.of(from_payload(point.payload)) for point in points]
        return with_images(list(zip(documents, stored, strict=True)), form=self.form, image_key=self.image_key)

    def _open(self, name: str, image: ImageSource) -> Image.Image:
        self._place()
        try:
            return load_page_image(image)
        except ImageError as error:
            raise error.named(name) from error

    def _place(self) -> PageImages:
        if self.images is None:
            raise InputError("a document has an image, but there is no place to store it; give images= a folder or URL")
        return self.images


def with_images(
    found: Sequence[tuple[Document, ImageReference | None]],
    *,
    form: ImageForm,
    image_key: str,
    image_format: ImageFormat | None = None,
    write_type: bool = False,
) -> list[Document]:
    """Documents with their images in a form; see `nemotron_rag.stores.page_images.show_images`.

    Args:
        found: new documents, which are changed, and their images.
        form: see `ImageForm`.
        image_key: where in the metadata images go.
        image_format: of data URIs; None for that of the stored file.
        write_type: write the ``mime_type`` of data URIs into the metadata too.
    """
    shown = show_images([image for _, image in found], form, image_format=image_format)
    for (document, _), image in zip(found, shown, strict=True):
        if image is not None:
            document.metadata[image_key] = labelled(document, image.value)
            if write_type and image.mime_type is not None:
                document.metadata["mime_type"] = image.mime_type
    return [document for document, _ in found]


def page_filter(filter: Filter | None) -> Filter | None:
    """A filter in the words of documents (``page`` from 0, ``page_number`` from 1) in those of an index."""
    return rename_keys(filter, lambda key, value: (_FIELDS.get(key, key), _next(value) if key == "page" else value))


def _next(value: Any) -> Any:
    """Pages counted from 0, counted from 1."""
    if isinstance(value, Mapping):
        return {operator: _next(page) for operator, page in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_next(page) for page in value]
    return value + 1 if isinstance(value, int) and not isinstance(value, bool) else value
