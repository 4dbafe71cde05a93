"""The last step: documents -> content blocks and messages that any chat model reads, with the pages' images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.messages.content import ContentBlock

from langchain_nemotron_rag._documents import IMAGE_KEY, describe, image_of, text_of
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import ImageFormat
from nemotron_rag.documents.llm_images import MAX_BYTES, MAX_SIDE, check_limits, encode_for_llm
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.ranking import check_count

__all__ = ["ContentOptions", "heading_of", "to_content_blocks", "to_human_message"]


class ContentOptions(TypedDict, total=False):
    """What the functions of this module take beside their subject; see `to_content_blocks`."""

    image_key: str
    image_roots: Sequence[str | os.PathLike[str]]
    image_hosts: Sequence[str]
    image_format: ImageFormat | None
    max_side: int | None
    max_bytes: int | None
    max_images: int | None
    on_image_error: Literal["raise", "text"]


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
    on_image_error: Literal["raise", "text"] = "raise",
) -> list[ContentBlock]:
    r"""Documents as LangChain's standard content blocks: for each a text, then its image if it has one.

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
        max_images: the first so many images; of the documents behind them the texts. None for all.
        on_image_error: an image may not be opened or is broken: "raise", or go on with the document's "text".

    Raises:
        InputError: an option cannot be used.
        ImageError: an image may not be opened or cannot be read; the message names the document.

    Example:
        >>> page = Document("Revenue rose.", metadata={"source": "report.pdf", "page": 2})
        >>> to_content_blocks([page])
        [{'type': 'text', 'text': '[1] report.pdf, page 3\nRevenue rose.'}]
    """
    check_limits(image_format, max_side, max_bytes)
    check_count("max_images", max_images)
    access = ImageAccess(roots=image_roots, hosts=image_hosts)
    blocks: list[Any] = []
    seen: set[Any] = set()
    images = 0
    for index, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InputError(f"document {index} must be a Document, got {type(document).__name__}")
        held = document.metadata.get(image_key)
        text, image = text_of(document), image_of(document, image_key=image_key, access=access)
        if _is_repeated(("document", document.id or heading_of(document), text, _key(held)), seen):
            continue
        blocks.append(_text_block("\n".join(filter(None, [f"[{index + 1}] {heading_of(document)}".rstrip(), text]))))
        if image is None or (max_images is not None and images >= max_images) or _is_repeated(_key(held), seen):
            continue
        try:
            sent = encode_for_llm(image, image_format=image_format, max_side=max_side, max_bytes=max_bytes)
        except ImageError as error:
            if on_image_error == "raise":
                raise error.named(describe(document, index)) from error
            continue
        blocks.append({"type": "image", "base64": sent.base64, "mime_type": sent.mime_type})
        images += 1
    return blocks


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
