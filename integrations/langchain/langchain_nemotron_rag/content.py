"""The last step: documents -> content blocks and messages that any chat model reads, with the pages' images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, cast

from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.messages.content import ContentBlock

from langchain_nemotron_rag._documents import IMAGE_KEY, describe, image_of, text_of
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.crops import REGIONS_KEY, check_max_crops, encode_crops, warn_of_no_regions
from nemotron_rag.documents.images import ImageFormat
from nemotron_rag.documents.llm_images import MAX_BYTES, MAX_SIDE, EncodedImage, check_limits, encode_for_llm
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.ranking import check_count
from nemotron_rag.types import ImageSource

__all__ = ["ContentOptions", "heading_of", "to_content_blocks", "to_human_message"]

OnImageError: TypeAlias = Literal["raise", "text"]
"""Whether an image that cannot be shown is an error, or its document goes on as a text."""


class ContentOptions(TypedDict, total=False):
    """What the functions of this module take beside their subject; see `to_content_blocks`."""

    image_key: str
    image_roots: Sequence[str | os.PathLike[str]]
    image_hosts: Sequence[str]
    image_format: ImageFormat | None
    max_side: int | None
    max_bytes: int | None
    max_images: int | None
    max_crops: int
    on_image_error: OnImageError


def to_content_blocks(
    documents: Sequence[Document],
    *,
    image_key: str = IMAGE_KEY,
    image_roots: Sequence[str | os.PathLike[str]] = (),
    image_hosts: Sequence[str] = (),
    image_format: ImageFormat | None = None,
    max_side: int | None = MAX_SIDE,
    max_bytes: int | None = MAX_BYTES,
    max_images: int | None = None,
    max_crops: int = 0,
    on_image_error: OnImageError = "raise",
) -> list[ContentBlock]:
    r"""Documents as LangChain's standard content blocks: for each a text, then its image if it has one, then crops.

    The text opens with the document's number, source and page, so that the answer can cite it; of a path only the
    file's name is said. A document that comes again is left out, and an image that several chunks share comes once.
    Equal documents give equal blocks. Whatever form an image had, the block holds an upright one of the stated type.

    Args:
        documents: from a retriever or reranker.
        image_key: where in the metadata the image is.
        image_roots: folders whose files may be opened because a document names them.
        image_hosts: hosts that images may be fetched from because a document names them.
        image_format: None for the smaller one of a JPEG and the image as it was; "png" keeps every pixel.
        max_side: of an image, pixels; larger ones are scaled down. None for no limit.
        max_bytes: of an image, before base64; larger ones lose quality, then size. None for no limit.
        max_images: the first so many images; of the documents behind them the texts. None for all. Crops count, too,
            but never take the place of a page.
        max_crops: behind the image of a page so many of its regions at most, cut out at full resolution, as far as the
            document says in ``metadata["regions"]`` where they are; `NemotronPageRetriever(regions=3)` does.
        on_image_error: an image may not be opened or is broken: "raise", or go on with the document's "text".

    Raises:
        InputError: an option cannot be used.
        ImageError: an image may not be opened or cannot be read, or a region has no box; the message names the
            document.

    Example:
        >>> page = Document("Revenue rose.", metadata={"source": "report.pdf", "page": 2})
        >>> to_content_blocks([page])
        [{'type': 'text', 'text': '[1] report.pdf, page 3\nRevenue rose.'}]
    """
    limits: dict[str, Any] = {"image_format": image_format, "max_side": max_side, "max_bytes": max_bytes}
    check_limits(**limits)
    check_count("max_images", max_images)
    check_max_crops(max_crops)
    access = ImageAccess(roots=image_roots, hosts=image_hosts)
    parts: list[_Part] = []
    seen: set[Any] = set()
    images = 0
    for index, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InputError(f"document {index} must be a Document, got {type(document).__name__}")
        held = document.metadata.get(image_key)
        text, image = text_of(document), image_of(document, image_key=image_key, access=access)
        if _is_repeated(("document", document.id or heading_of(document), text, _key(held)), seen):
            continue
        part = _Part(document, index, "\n".join(filter(None, [f"[{index + 1}] {heading_of(document)}".rstrip(), text])))
        parts.append(part)
        if image is None or (max_images is not None and images >= max_images) or _is_repeated(_key(held), seen):
            continue
        with _named(document, index, on_image_error):
            part.images.append(encode_for_llm(image, **limits))
            part.image = image
            images += 1
    _add_crops(parts, max_crops, None if max_images is None else max_images - images, limits, on_image_error)
    return [block for part in parts for block in part.blocks]


def to_human_message(query: str, documents: Sequence[Document], **options: Unpack[ContentOptions]) -> HumanMessage:
    """The message to send to a chat model: the documents' texts and images, then the query.

    Equal arguments give equal messages, so caches of model calls and snapshots hold.

    Args:
        query: the user's.
        documents: from a retriever or reranker.
        **options: those of `to_content_blocks`.

    Example:
        >>> message = to_human_message("Did revenue rise?", [Document("Revenue rose.")])
        >>> [block["type"] for block in message.content_blocks]
        ['text', 'text']
    """
    if not isinstance(query, str):
        raise InputError(f"query must be a str, got {type(query).__name__}")
    return HumanMessage(content_blocks=[*to_content_blocks(documents, **options), _text_block(query)])


@dataclass
class _Part:
    """What is shown of one document."""

    document: Document
    index: int
    text: str
    image: ImageSource | None = None
    images: list[EncodedImage] = field(default_factory=list)

    @property
    def blocks(self) -> list[Any]:
        shown = [{"type": "image", "base64": sent.base64, "mime_type": sent.mime_type} for sent in self.images]
        return [_text_block(self.text), *shown]


def _add_crops(
    parts: Sequence[_Part], max_crops: int, left: int | None, limits: Mapping[str, Any], on_image_error: OnImageError
) -> None:
    """Put the regions of pages behind the images that are shown of them, as long as images are left."""
    shown = [part for part in parts if part.image is not None]
    if not max_crops or not shown:
        return
    if not any(REGIONS_KEY in part.document.metadata for part in shown):
        warn_of_no_regions(max_crops)
    for part in shown:
        count = max_crops if left is None else min(max_crops, left)
        with _named(part.document, part.index, on_image_error):
            regions = part.document.metadata.get(REGIONS_KEY) or []
            crops = encode_crops(cast("ImageSource", part.image), regions, max_crops=count, **limits)
            part.images += crops
            left = None if left is None else left - len(crops)


@contextmanager
def _named(document: Document, index: int, on_image_error: OnImageError) -> Iterator[None]:
    """Errors of images with the document's name, or none where its text is enough."""
    try:
        yield
    except ImageError as error:
        if on_image_error == "raise":
            raise error.named(describe(document, index)) from error


def heading_of(document: Document) -> str:
    """``report.pdf, page 3``; what is not known is left out, and of a path all but the file's name."""
    source = document.metadata.get("source")
    parts = [Path(str(source)).name if Path(str(source)).is_absolute() else str(source)] if source else []
    page = document.metadata.get("page")
    if isinstance(page, int):
        parts.append(f"page {page + 1}")  # LangChain's loaders count from 0
    return ", ".join(parts)


def _text_block(text: str) -> ContentBlock:
    return {"type": "text", "text": text}  # LangChain's own function adds a random id, so that no two are equal


def _is_repeated(key: Any, seen: set[Any]) -> bool:
    """Whether a key was seen before; it is now."""
    known = key in seen
    seen.add(key)
    return known


def _key(image: Any) -> Any:
    """What equal images have in common, as far as their form says."""
    try:
        hash(image)
    except TypeError:
        return id(image)
    return image
