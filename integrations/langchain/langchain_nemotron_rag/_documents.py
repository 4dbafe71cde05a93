"""LangChain's documents and their images, to and from the passages and pages of nemotron_rag.

The document contract: `page_content` is the text, or a label that our models never read as a text if
``metadata["text_is_placeholder"]`` is true; ``metadata[image_key]`` holds or names the image.
"""

from __future__ import annotations

import os
import re
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias, TypeVar, cast

from langchain_core.documents import Document
from langchain_core.documents.base import Blob

from nemotron_rag import Page, Passage
from nemotron_rag.documents.access import ImageAccess, UnreadableImage
from nemotron_rag.documents.files import one_line
from nemotron_rag.documents.images import ImageText
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.types import ImageReference, ImageSource

T = TypeVar("T")
Ids: TypeAlias = Iterable[str | None] | None
Metadatas: TypeAlias = Iterable[Mapping[str, Any]] | None

IMAGE_KEY = "image"
PLACEHOLDER_KEY = "text_is_placeholder"
_LABEL = "[page image] "
_ENCODED = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD")  # how PNG, JPEG, WebP and GIF begin in base64
_SHORTEST = 64  # characters; shorter ones are no image
_BASE64 = re.compile(r"[A-Za-z0-9+/]+")

_labelled: weakref.WeakValueDictionary[str, ImageText] = weakref.WeakValueDictionary()
"""Images of pages without text, by the label that stands in their place, while a document holds them."""

# Properties of a PDF: their names in nemotron_rag.documents.pdf -> those of LangChain's PDF loaders.
RENAMED = {"page_count": "total_pages", "created": "creationdate", "modified": "moddate", "label": "page_label"}


class FoundMetadata(dict[str, Any]):
    """Metadata of a document that was found, with its scores.

    Two of these are equal if they are so without their scores, which differ from query to query: what compares whole
    documents, such as LangChain's `MultiQueryRetriever`, then knows a document that several queries found. Compared
    with any other dict, all entries count.

    Args:
        metadata: all of it.
        scores: keys of the entries that do not count.

    Example:
        >>> one, other = (FoundMetadata({"page": 1, "relevance_score": n}, ["relevance_score"]) for n in (0.5, 0.7))
        >>> one == other, dict(one) == dict(other)
        (True, False)
    """

    def __init__(self, metadata: Mapping[str, Any] = {}, scores: Iterable[str] = ()) -> None:
        super().__init__(metadata)
        self.scores = frozenset(scores)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FoundMetadata):
            return super().__eq__(other)
        scores = self.scores | other.scores
        one, two = ({key: value for key, value in each.items() if key not in scores} for each in (self, other))
        return one == two

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # as of every dict


def describe(document: object, index: int) -> str:
    """What to call a document in a message: its place in the caller's list, and its source if it has one."""
    source = document.metadata.get("source") if isinstance(document, Document) else None
    return f"document {index} ({source})" if isinstance(source, str) and source else f"document {index}"


def text_of(document: Document) -> str:
    """The text that models read: `page_content`, or nothing if that is a placeholder, or an image in base64."""
    return "" if document.metadata.get(PLACEHOLDER_KEY) or _is_image(document.page_content) else document.page_content


def image_of(document: Document, *, image_key: str, access: ImageAccess) -> ImageReference | None:
    """The document's image as a reference, which is opened when something needs its pixels; None if it has none."""
    value = document.metadata.get(image_key)
    if value is None and _is_image(document.page_content):
        value = f"data:;base64,{document.page_content}"
    if value is None or (isinstance(value, str) and not value):
        return None
    if isinstance(value, ImageReference):  # only a program can have put it there
        return value
    return cast("ImageReference", readable(value, access.reference))


def _is_image(text: str) -> bool:
    """Whether a text is the base64 of an image, which stores such as Chroma put in the place of a text."""
    return text.startswith(_ENCODED) and len(text) >= _SHORTEST and _BASE64.fullmatch(text[:_SHORTEST]) is not None


def readable(value: Any, refer: Callable[[ImageSource], ImageSource]) -> ImageSource:
    """What models read of an image in any form; one that has none raises when it is opened, as a broken file does."""
    try:
        return refer(image_source(value))
    except ImageError as error:
        return UnreadableImage(error)
    except Exception as error:  # of a blob or path of somebody else's
        return UnreadableImage(ImageError(f"{type(value).__name__} cannot be read: {one_line(str(error))}"))


def labelled(document: Document, image: T) -> T:
    """An image that goes into a page's metadata; of a page without text its label stands for it, see `of_label`.

    Returns:
        The image, or an equal one that another document of the page holds already.
    """
    if not document.metadata.get(PLACEHOLDER_KEY) or not isinstance(image, ImageText):
        return image
    known = _labelled.get(document.page_content)
    if known == image:
        return cast("T", known)
    _labelled[document.page_content] = image
    return image


def is_label(text: str) -> bool:
    """Whether a text is the label of a page without text."""
    return text.startswith(_LABEL)


def of_label(text: str) -> Passage:
    """What a label stands for: the page's image while a document in this process holds it as a data URI, else nothing.

    Stores and filters of others pass on the texts of documents alone; so they embed the page all the same.
    """
    return Passage("", _labelled.get(text))


def passage_of(document: Document, *, image_key: str, access: ImageAccess) -> Passage:
    """A document as what a model reads; see `image_of`."""
    return Passage(text_of(document), image_of(document, image_key=image_key, access=access))


def blob_source(blob: Blob) -> bytes | Path:
    """A blob's bytes, or the path where they are."""
    if blob.data is None and blob.path is not None:
        return Path(blob.path)
    return blob.as_bytes()


def image_source(value: Any) -> ImageSource:
    """Any form in which LangChain users hold an image, as a form that nemotron_rag reads; nothing is opened.

    Args:
        value: a `Blob`, a content block (``{"type": "image", ...}`` or ``{"type": "image_url", ...}``), or an
            `ImageSource` or URL, which are returned as they are.

    Raises:
        ImageError: the block holds neither data nor URL.
    """
    if isinstance(value, Blob):
        return blob_source(value)
    if isinstance(value, Mapping):
        return _block_source(value)
    return cast("ImageSource", value)


def document_of_page(page: Page) -> Document:
    """A page of a PDF as a document without its image, with the metadata names of LangChain's PDF loaders.

    Returns:
        A document with the page's id. Its metadata are plain JSON: `source`, `page` (from 0), `page_number` (from 1),
        `page_id`, and the properties of the PDF.
    """
    metadata = {
        **{RENAMED.get(key, key): value for key, value in page.metadata.items()},
        "source": page.source,
        "page": page.number - 1,
        "page_number": page.number,
        "page_id": page.id,
    }
    text = page.text
    if not text.strip():
        # Some take equal texts for one document, different ones for two: so it names the page, not where the file is.
        text = f"{_LABEL}{PurePath(page.source).name} p.{page.number} ({page.id[:8]})"
        metadata[PLACEHOLDER_KEY] = True
    return Document(id=page.id, page_content=text, metadata=metadata)


def check_ids(documents: Sequence[Document], ids: Ids, first: int = 0) -> list[str]:
    """One id for each document: that of `ids`, or the document's own, or a new one; `first` is the place of the first.

    Raises:
        InputError: an item is no document; there are not as many ids, or one is not a str.
    """
    for index, document in enumerate(documents, first):
        if not isinstance(document, Document):
            raise InputError(f"document {index} must be a Document, got {type(document).__name__}")
    if isinstance(ids, str):
        raise InputError("ids must be a list of str, got a single str; put it into a list")
    given = [None] * len(documents) if ids is None else list(ids)
    if len(given) != len(documents):
        raise InputError(f"{len(documents)} documents need as many ids, got {len(given)}")
    chosen = [id or document.id or str(uuid.uuid4()) for id, document in zip(given, documents, strict=True)]
    for index, id in enumerate(chosen, first):
        if not isinstance(id, str):
            raise InputError(f"id {index} must be a str, got {type(id).__name__}")
    return chosen


def text_documents(texts: Iterable[str], metadatas: Metadatas) -> list[Document]:
    """Texts as documents.

    Raises:
        InputError: not one of `metadatas` for each.
    """
    if isinstance(texts, str):
        raise InputError("texts must be a list of str, got a single str; put it into a list")
    return _with_metadata(list(texts), metadatas, "texts")


def image_documents(images: Sequence[Any], metadatas: Metadatas, ids: Ids) -> tuple[list[Document], list[str]]:
    """Documents that name images without texts, and their ids; some retrievers take equal texts for one document.

    Raises:
        InputError: not one of `metadatas` and `ids` for each.
    """
    for index, image in enumerate(images):
        if image is None:
            raise InputError(f"image {index} is None; leave it out")
    documents = _with_metadata([""] * len(images), metadatas, "images")
    chosen = check_ids(documents, ids)
    for document, image, id in zip(documents, images, chosen, strict=True):
        is_path = isinstance(image, os.PathLike) or (isinstance(image, str) and image[:5].lower() != "data:")
        known = {"source": os.fspath(image)} if is_path else {}
        document.page_content = f"{_LABEL}{os.fspath(image) if is_path else id}"
        document.metadata = {**known, **document.metadata, PLACEHOLDER_KEY: True}
    return documents, chosen


def _with_metadata(texts: Sequence[str], metadatas: Metadatas, items: str) -> list[Document]:
    given: list[Mapping[str, Any]] = [{} for _ in texts] if metadatas is None else list(metadatas)
    if len(given) != len(texts):
        raise InputError(f"{len(texts)} {items} need as many metadatas, got {len(given)}")
    return [Document(text, metadata=dict(metadata)) for text, metadata in zip(texts, given, strict=True)]


def _block_source(block: Mapping[str, Any]) -> ImageSource:
    kind = block.get("type")
    if kind == "image" and isinstance(block.get("base64"), str):
        return f"data:{block.get('mime_type', '')};base64,{block['base64']}"
    found = block.get("url") if kind == "image" else block.get("image_url") if kind == "image_url" else None
    if isinstance(found, Mapping):
        found = found.get("url")
    if isinstance(found, str) and found:
        return found
    raise ImageError(
        f"expected an image content block with 'base64' or 'url', got type {kind!r} with keys {sorted(map(str, block))}"
    )
