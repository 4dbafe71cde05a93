"""Between LangChain's documents and the passages and pages of nemotron_rag. It knows no model, chain or store.

The document contract: `page_content` is the text, or a label that the model never sees if
``metadata["text_is_placeholder"]`` is true; ``metadata[image_key]`` holds or names the picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from langchain_core.documents import Document
from langchain_core.documents.base import Blob
from PIL import Image

from nemotron_rag import Page, Passage
from nemotron_rag.access import ImageAccess
from nemotron_rag.errors import ImageError
from nemotron_rag.images import to_rgb
from nemotron_rag.types import ImageSource

__all__ = [
    "IMAGE_KEY",
    "PLACEHOLDER_KEY",
    "RENAMED",
    "ImageFormat",
    "blob_source",
    "describe",
    "document_of_page",
    "encode_image",
    "image_of",
    "image_source",
    "passage_of",
    "text_of",
    "to_data_uri",
]

ImageFormat: TypeAlias = Literal["jpeg", "png"]
"""How pictures are written: "png" keeps every pixel, "jpeg" stays small for scans and photographs."""

IMAGE_KEY = "image"
PLACEHOLDER_KEY = "text_is_placeholder"

# What nemotron_rag.pdf calls a document's properties -> what LangChain's PDF loaders call them.
RENAMED = {"page_count": "total_pages", "created": "creationdate", "modified": "moddate", "label": "page_label"}


def describe(document: Document, index: int) -> str:
    """What to call a document in a message: its place in the caller's list, and its source if it tells one."""
    source = document.metadata.get("source")
    return f"document {index} ({source})" if isinstance(source, str) and source else f"document {index}"


def text_of(document: Document) -> str:
    """The text that models read: `page_content`, or nothing where that is a placeholder."""
    return "" if document.metadata.get(PLACEHOLDER_KEY) else document.page_content


def image_of(document: Document, image_key: str) -> Any | None:
    """What the document says about its picture, not opened; None if it has none."""
    reference = document.metadata.get(image_key)
    return None if isinstance(reference, str) and not reference else reference


def passage_of(document: Document, *, image_key: str, access: ImageAccess) -> Passage:
    """A document as what a model reads, its picture decoded.

    Args:
        document: with or without a picture.
        image_key: where in the metadata the picture is.
        access: what may be opened.

    Raises:
        ImageError: the picture may not be opened or cannot be read.
    """
    reference = image_of(document, image_key)
    image = None if reference is None else access.open(image_source(reference))
    return Passage(text_of(document), image)


def blob_source(blob: Blob) -> bytes | Path:
    """A blob's bytes, or the path where they are."""
    if blob.data is None and blob.path is not None:
        return Path(blob.path)
    return blob.as_bytes()


def image_source(value: Any) -> ImageSource:
    """Any form in which LangChain users hold a picture, as a form that nemotron_rag reads; nothing is opened.

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


def document_of_page(page: Page, *, image: str, mime_type: str, image_key: str = IMAGE_KEY) -> Document:
    """A page of a PDF as a document, with the metadata names of LangChain's PDF loaders.

    Args:
        page: with text, provenance and metadata; its own picture is not looked at.
        image: data URI or path of its picture.
        mime_type: of that picture.
        image_key: where the picture goes.

    Returns:
        A document with the page's id. Its metadata is plain JSON: `source`, `page` (from 0), `page_number` (from 1),
        `page_id`, `mime_type`, the picture, and what the PDF tells of itself.
    """
    known = {RENAMED.get(key, key): value for key, value in page.metadata.items()}
    metadata = {
        **known,
        "source": page.source,
        "page": page.number - 1,
        "page_number": page.number,
        "page_id": page.id,
        image_key: image,
        "mime_type": mime_type,
    }
    text = page.text
    if not text.strip():
        text = f"[page image] {page.source} p.{page.number}"  # some retrievers take equal texts for one document
        metadata[PLACEHOLDER_KEY] = True
    return Document(id=page.id, page_content=text, metadata=metadata)


def encode_image(image: Image.Image, image_format: ImageFormat) -> tuple[bytes, str]:
    """A picture as the bytes of a file, and their MIME type.

    Args:
        image: of any mode; transparency is dropped.
        image_format: see `ImageFormat`.
    """
    buffer = io.BytesIO()
    if image_format == "png":
        to_rgb(image).save(buffer, "PNG", compress_level=1)  # higher ones take longer for 1 %
    else:
        to_rgb(image).save(buffer, "JPEG", quality=90, subsampling=0)  # full colour resolution keeps small text
    return buffer.getvalue(), f"image/{image_format}"


def to_data_uri(data: bytes, mime_type: str) -> str:
    """``data:`` URI of a picture's bytes."""
    return f"data:{mime_type};base64,{base64.b64encode(data).decode('ascii')}"


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
        f"wanted an image content block with 'base64' or 'url', got type {kind!r} with keys {sorted(map(str, block))}"
    )
