"""Nodes: where their images are, and pages of which an LLM sees image and text."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import BaseContentBlock, ImageBlock, TextBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, ImageNode, MetadataMode, Node

from nemotron_rag.documents.crops import REGIONS_KEY, encode_crops
from nemotron_rag.documents.files import is_data_uri, one_line
from nemotron_rag.documents.images import ImageFormat, read_image_bytes
from nemotron_rag.documents.llm_images import MAX_BYTES, MAX_SIDE, check_limits, encode_for_llm, within_limits
from nemotron_rag.errors import ImageError
from nemotron_rag.types import ImageReference, ImageSource

__all__ = ["ImageLimits", "NodeImage", "PageNode", "image_of", "named_files"]

_log = logging.getLogger("nemotron_rag")


@dataclass(frozen=True, slots=True)
class NodeImage:
    """Where a node's image is.

    Args:
        source: its bytes, data URI, path, URL or `ImageReference`.
        own: it is in the node's own fields, not in its metadata.
    """

    source: ImageSource
    own: bool


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large the images are that an LLM gets; see `nemotron_rag.documents.llm_images.encode_for_llm`.

    Args:
        image_format: None for the stored file, or a JPEG where that is smaller.
        max_side: the longer side, pixels; None for no limit.
        max_bytes: of an image, before base64; None for no limit.
    """

    image_format: ImageFormat | None = None
    max_side: int | None = MAX_SIDE
    max_bytes: int | None = MAX_BYTES

    def __post_init__(self) -> None:
        check_limits(self.image_format, self.max_side, self.max_bytes)


class PageNode(ImageNode):
    """An `ImageNode` whose text reaches the LLM too; stored, it is an `ImageNode` like any other.

    LlamaIndex builds the message of an `ImageNode` from its metadata and image alone. A URL is passed on to the LLM,
    not fetched; where a file is missing, the text remains. Images are made as small as `ImageLimits` says.

    Example:
        >>> node = PageNode(text="Revenue rose.", image="R0lGODdhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=")
        >>> [type(block).__name__ for block in node.get_content_blocks()]
        ['TextBlock', 'ImageBlock']
    """

    _stored: tuple[ImageReference, tuple[str | None, ...]] | None = PrivateAttr(default=None)
    _was_shown: bool = PrivateAttr(default=False)
    _is_found: bool = PrivateAttr(default=False)
    _is_over: bool = PrivateAttr(default=False)
    _crops: int = PrivateAttr(default=0)
    _limits: ImageLimits = PrivateAttr(default_factory=lambda: ImageLimits())

    @property
    def hash(self) -> str:
        """Of text and image; of a page that a `NemotronPageRetriever` found, of its file, number and text.

        LlamaIndex's fusions of retrievers know equal nodes by it, and the image of a page is in another place in each
        index.
        """
        source, number = self.metadata.get("file_path"), self.metadata.get("page_number")
        if not (self._is_found and isinstance(source, str) and isinstance(number, int)):
            return super().hash
        place = source if ":" in source else os.path.abspath(source)  # noqa: PTH100  # no link is followed
        return hashlib.sha256(json.dumps([place, number, self.text]).encode()).hexdigest()

    @property
    def stored_image(self) -> ImageReference | None:
        """The page's image in an index, while the node's own fields are as the index gave them.

        A model that has cached vision features of it opens nothing. It is copied with the node, but neither pickled nor
        part of `to_dict`.
        """
        return self._stored[0] if self._stored is not None and self._stored[1] == self._image_fields() else None

    def with_image(self, stored: ImageReference, **fields: str) -> PageNode:
        """A copy that shows a stored image.

        Args:
            stored: the image in an index.
            **fields: of an `ImageNode`, for those who do not know of `stored_image`.
        """
        node = self.model_copy(update=fields)
        node._stored = stored, node._image_fields()
        return node

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[BaseContentBlock]:
        """Metadata, text, image and crops, those that it has; not an image that another node of the answer shows."""
        texts = (self.get_metadata_str(metadata_mode).strip(), self.text)
        blocks: list[BaseContentBlock] = [TextBlock(text=text) for text in texts if text]
        image = None if self._was_shown or self._is_over else image_of(self, stored=False)
        shown = None if image is None else _shown(image.source, self.image_mimetype, self._limits)
        if image is None or shown is None:
            return blocks
        return [*blocks, shown, *_crops(image.source, self.metadata.get(REGIONS_KEY), self._crops, self._limits)]

    def _image_fields(self) -> tuple[str | None, ...]:
        return self.image, self.image_path, self.image_url


def image_of(node: BaseNode, *, image_keys: Sequence[str] = (), stored: bool = True) -> NodeImage | None:
    """The image of a node in any form; its own fields come first, in LlamaIndex's order: data, path, URL.

    Args:
        node: `ImageNode`, `Node` or `Document` with an image resource, `ImageDocument`, or any other.
        image_keys: metadata keys that may hold a data URI, path, URL or bytes.
        stored: give the `PageNode.stored_image` instead, where there is one.
    """
    source: ImageSource | None = node.stored_image if stored and isinstance(node, PageNode) else None
    if source is not None:
        return NodeImage(source, own=True)
    if isinstance(node, ImageNode):
        data = node.image if not node.image or is_data_uri(node.image) else f"data:;base64,{node.image}"
        path = node.image_path and (node.image_path if is_data_uri(node.image_path) else Path(node.image_path))
        source = _first(data, path, node.image_url)
    elif isinstance(node, Node) and node.image_resource is not None:
        resource = node.image_resource
        source = _first(resource.data and _unpacked(resource.data), resource.path, resource.url and str(resource.url))
    if source is not None:
        return NodeImage(source, own=True)
    found = _first(*(node.metadata.get(key) for key in image_keys))
    return None if found is None else NodeImage(found, own=False)


def named_files(node: BaseNode) -> list[str | Path]:
    """The paths and URLs that a node's own fields name, of images and other media; nothing is opened."""
    if isinstance(node, ImageNode):
        paths, urls = [node.image_path], [node.image_url]
    else:
        resources = [getattr(node, f"{kind}_resource", None) for kind in ("image", "audio", "video")]
        paths = [resource.path and str(resource.path) for resource in resources if resource is not None]
        urls = [resource.url and str(resource.url) for resource in resources if resource is not None]
    files = [path if is_data_uri(path) else Path(path) for path in paths if path]
    return [*files, *(url for url in urls if url)]


def _first(*candidates: Any) -> Any:
    """The first that is neither None nor empty."""
    return next((candidate for candidate in candidates if candidate is not None and candidate != ""), None)


def _shown(source: ImageSource, mimetype: str | None, limits: ImageLimits) -> ImageBlock | None:
    """The block for an image of an `ImageNode`; None if it is missing or no image, where LlamaIndex would raise."""
    if isinstance(source, Path) and not source.is_file():
        return None
    if not isinstance(source, Path) and not is_data_uri(str(source)):
        return ImageBlock(url=str(source), image_mimetype=mimetype)
    try:
        data = read_image_bytes(source)
        if data is None or not within_limits(data, **asdict(limits)):
            sent = encode_for_llm(source if data is None else data, **asdict(limits))
            return ImageBlock(image=sent.data, image_mimetype=sent.mime_type)
    except ImageError as error:
        _log.warning("an image is left out of a prompt: %s", one_line(str(error)))
        return None
    given = {"path": source} if isinstance(source, Path) else {"image": data}
    return ImageBlock(**given, image_mimetype=mimetype)


def _crops(source: ImageSource, regions: Any, count: int, limits: ImageLimits) -> list[BaseContentBlock]:
    """Blocks of the first regions of a page; none of an image that the LLM fetches itself."""
    if not count or not (isinstance(source, Path) or is_data_uri(str(source))):
        return []
    try:
        crops = encode_crops(source, regions, max_crops=count, **asdict(limits))
    except ImageError as error:
        _log.warning("regions are left out of a prompt: %s", one_line(str(error)))
        return []
    return [ImageBlock(image=sent.data, image_mimetype=sent.mime_type) for sent in crops]


def _unpacked(data: bytes) -> bytes | str:
    """A resource's base64 -> bytes; LlamaIndex packs a data URI once more, so that it comes out as text."""
    try:
        raw = base64.b64decode(data)
    except ValueError:  # assigned past the validator; reading it will raise
        return data
    return raw.decode("ascii", "replace") if raw[:5].lower() == b"data:" else raw
