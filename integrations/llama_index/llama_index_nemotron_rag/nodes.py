"""Nodes: where their images are, what a model reads of them, and copies for the LLM."""

from __future__ import annotations

import base64
import logging
import os
import uuid
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypedDict, cast

from llama_index.core.base.llms.types import BaseContentBlock, ImageBlock, TextBlock
from llama_index.core.bridge.pydantic import BeforeValidator, Field, PrivateAttr
from llama_index.core.schema import BaseNode, ImageDocument, ImageNode, MetadataMode, Node, NodeWithScore, TextNode
from PIL import Image

from llama_index_nemotron_rag.settings import Component
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.files import is_data_uri, one_line
from nemotron_rag.documents.held import in_parts
from nemotron_rag.documents.images import DEFAULT_BUDGET, ImageBudget, load_image
from nemotron_rag.errors import ImageError
from nemotron_rag.ranking import OnImageError
from nemotron_rag.types import ImageReference, ImageSource, Modality, Passage

__all__ = [
    "NodeImage",
    "NodeReading",
    "PageNode",
    "ReadingSettings",
    "for_llm",
    "image_hint",
    "image_of",
    "named_files",
    "shown_nodes",
    "split_node",
    "with_named_image",
    "without_image",
]

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


class PageNode(ImageNode):
    """An `ImageNode` whose text reaches the LLM too; stored, it is an `ImageNode` like any other.

    LlamaIndex builds the message of an `ImageNode` from its metadata and image alone. A URL is passed on to the LLM,
    not fetched; where a file is missing, the text remains.

    Example:
        >>> node = PageNode(text="Revenue rose.", image="iVBORw0KGgo=")
        >>> [type(block).__name__ for block in node.get_content_blocks()]
        ['TextBlock', 'ImageBlock']
    """

    _stored: tuple[ImageReference, tuple[str | None, ...]] | None = PrivateAttr(default=None)
    _was_shown: bool = PrivateAttr(default=False)

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
        """Metadata, text and image, those that it has; not an image that another node of the answer shows."""
        texts = (self.get_metadata_str(metadata_mode).strip(), self.text)
        blocks: list[BaseContentBlock] = [TextBlock(text=text) for text in texts if text]
        image = None if self._was_shown else image_of(self, stored=False)
        shown = None if image is None else _shown(image.source, self.image_mimetype)
        return blocks if shown is None else [*blocks, shown]

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


def _as_strings(value: Any) -> Any:
    """One string or path, or several -> a list of strings."""
    several = [value] if isinstance(value, str | os.PathLike) else value
    return [os.fspath(item) for item in several] if isinstance(several, list | tuple | set | frozenset) else several


Strings: TypeAlias = Annotated[list[str], BeforeValidator(_as_strings)]


class ReadingSettings(TypedDict, total=False):
    """Keyword arguments of `NodeReading`."""

    modality: Modality
    metadata_mode: MetadataMode
    on_image_error: OnImageError
    image_keys: Sequence[str]
    image_roots: Sequence[str | os.PathLike[str]] | None
    image_hosts: Sequence[str]
    image_budget: ImageBudget


@dataclass(frozen=True, slots=True)
class Reading:
    """A node as it was read.

    Args:
        index: of the node in the caller's list.
        passage: for the model, its image decoded.
        image_lost: the image could not be read, and the text alone stands for the node.
    """

    index: int
    passage: Passage
    image_lost: bool = False


class NodeReading(Component):
    """How a node becomes a passage.

    A node's own image file (`image_path`, `MediaResource.path`) is opened wherever it is, as LlamaIndex itself does,
    unless `image_roots` says where. An image named in metadata is opened only below `image_roots`, and URLs are
    fetched only from `image_hosts`. Base64 and data URIs are always read.

    Args:
        modality: ``image_text`` takes image and text together, ``image`` the text only of nodes without an image,
            ``text`` no images at all.
        metadata_mode: which metadata goes before the text; an image without text of its own goes alone.
        on_image_error: an image cannot be read: ``raise``, ``skip`` the node, or go on with its ``text``.
        image_keys: metadata keys that may hold an image's data URI, path or URL.
        image_roots: folders below which images may be opened; None as said above.
        image_hosts: hosts from which images may be fetched.
        image_budget: the largest image that is decoded.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> NodeReading().read([TextNode(text="Revenue rose.")])[0].passage.text
        'Revenue rose.'
    """

    modality: Modality = "image_text"
    metadata_mode: MetadataMode = MetadataMode.EMBED
    on_image_error: OnImageError = "raise"
    image_keys: Strings = Field(default_factory=list)
    image_roots: Strings | None = None
    image_hosts: Strings = Field(default_factory=list)
    image_budget: ImageBudget = DEFAULT_BUDGET

    def passages(self, nodes: Sequence[BaseNode]) -> list[Passage]:
        """A passage for each node, its image a reference: nothing is opened.

        An `ImageNode` with neither image nor text gives an empty passage.
        """
        references: dict[Hashable, ImageReference] = {}
        return [self._passage(node, references) for node in nodes]

    def read(self, nodes: Sequence[BaseNode], *, start: int = 0) -> list[Reading]:
        """Passages with decoded images, without those that the policy leaves out.

        An image that several nodes have one after the other is decoded once.

        Args:
            nodes: of any form.
            start: index of the first one in the caller's list.

        Raises:
            ImageError: an image cannot be read and the policy is ``raise``; the message names index and id.
        """
        return [reading for part in self.read_in_parts(nodes, start=start) for reading in part]

    def read_in_parts(self, nodes: Sequence[BaseNode], *, start: int = 0) -> Iterator[list[Reading]]:
        """`read` a part at a time, so that few images are decoded at once where they are large."""
        return in_parts(self._read(nodes, start), lambda reading: pixels_of(reading.passage))

    def _read(self, nodes: Sequence[BaseNode], start: int) -> Iterator[Reading]:
        last: tuple[ImageSource | None, Image.Image | None] = None, None
        with image_hint():
            for index, (node, passage) in enumerate(zip(nodes, self.passages(nodes), strict=True), start):
                try:
                    decoded = self._decoded(node, passage, *last)
                    last = passage.image, cast("Image.Image | None", decoded.image)
                    yield Reading(index, decoded)
                except ImageError as error:
                    reason = f"node {index} ({node.node_id}): {error}"
                    if self.on_image_error == "raise":
                        raise type(error)(reason) from error
                    _log.warning("%s; policy: %s", reason, self.on_image_error)
                    if self.on_image_error == "text":
                        yield Reading(index, Passage(node.get_content(self.metadata_mode)), image_lost=True)

    def _decoded(
        self, node: BaseNode, passage: Passage, last: ImageSource | None, image: Image.Image | None
    ) -> Passage:
        """The passage with its image decoded, which is that of the last one if they have the same."""
        if passage.image is None:
            if self.modality != "text" and isinstance(node, ImageNode | ImageDocument) and not passage.text:
                raise ImageError("has neither an image nor a text")
            return passage
        return replace(passage, image=image if passage.image is last else load_image(passage.image))

    def _passage(self, node: BaseNode, references: dict[Hashable, ImageReference]) -> Passage:
        has_text = bool(node.get_content(MetadataMode.NONE).strip())
        image = None if self.modality == "text" else image_of(node, image_keys=self.image_keys)
        if image is None:
            is_empty = self.modality != "text" and isinstance(node, ImageNode | ImageDocument) and not has_text
            return Passage() if is_empty else Passage(node.get_content(self.metadata_mode))
        key = image.own, image.source if isinstance(image.source, str | bytes | Path) else id(image.source)
        if key not in references:
            references[key] = self._reference(image)
        if self.modality == "image":
            return Passage(image=references[key])
        return Passage(node.get_content(self.metadata_mode if has_text else MetadataMode.NONE), references[key])

    def _reference(self, image: NodeImage) -> ImageReference:
        access = ImageAccess(roots=self.image_roots or (), hosts=self.image_hosts, budget=self.image_budget)
        source, is_free = image.source, image.own and self.image_roots is None
        if is_free and isinstance(source, ImageReference):
            return source
        if is_free and isinstance(source, Path):
            access = replace(access, roots=[source.absolute().anchor])
        return access.reference(source)


def pixels_of(passage: Passage) -> int:
    """Of its decoded image."""
    return passage.image.width * passage.image.height if isinstance(passage.image, Image.Image) else 0


@contextmanager
def image_hint() -> Iterator[None]:
    """Add to an `ImageError` which settings of `NodeReading` decide about it."""
    try:
        yield
    except ImageError as error:
        raise type(error)(f"{error}; see image_roots=, image_hosts= and on_image_error=") from error


def for_llm(node: BaseNode) -> BaseNode:
    """The node, or for a plain `ImageNode` with text a `PageNode` of the same content, which shows the LLM both."""
    return _page_node(node) if type(node) is ImageNode and node.text else node


def shown_nodes(items: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """The nodes of an answer as an LLM should see them: text beside image, one image a page, the name of its file.

    Of several chunks of a page, the first shows the image; the others keep it, for rerankers, and show their text.
    SimpleDirectoryReader hides `file_name` from prompts, so that an LLM cannot say which of several PDFs it read.
    """
    seen: set[Hashable] = set()
    return [
        NodeWithScore(node=_shown_once(_with_file_name(for_llm(item.node)), seen), score=item.score) for item in items
    ]


def split_node(node: BaseNode) -> list[BaseNode]:
    """A page as two nodes, its text and its image, for those who take the text of no `ImageNode`."""
    if not isinstance(node, ImageNode):
        return [node]
    image = None if isinstance(node, PageNode) and node._was_shown else image_of(node, stored=False)
    if image is not None and isinstance(image.source, Path) and not image.source.is_file():
        image = None
    if not node.get_content(MetadataMode.LLM).strip():
        return [node] if image is not None else []
    fields: dict[str, Any] = {name: getattr(node, name) for name in TextNode.model_fields}
    text = TextNode(**fields | {"id_": str(uuid.uuid5(uuid.NAMESPACE_OID, node.node_id))})
    return [text] if image is None else [text, node]


def with_named_image(node: BaseNode, keys: Sequence[str], access: ImageAccess) -> BaseNode:
    """Of a text whose metadata names an image that may be opened, a `PageNode` with both; else the node as it is."""
    if type(node) is not TextNode or not keys:
        return node
    image = image_of(node, image_keys=keys)
    if image is None or not isinstance(image.source, str):
        return node
    try:
        path = access.path(image.source)
    except ImageError as error:
        _log.warning("node %s comes without its image: %s", node.node_id, error)
        return node
    fields: dict[str, Any] = {name: getattr(node, name) for name in TextNode.model_fields}
    return PageNode(**fields, image_path=str(path))


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


def without_image(node: BaseNode) -> BaseNode:
    """A copy that goes on as text, because its image cannot be read."""
    if type(node) is ImageNode:
        node = _page_node(node)  # the base class insists on an image
    if isinstance(node, ImageNode):
        copied = node.model_copy(update={"image": None, "image_path": None, "image_url": None})
        if isinstance(copied, PageNode):
            copied._stored = None
        return copied
    media = dict.fromkeys(("image_resource", "audio_resource", "video_resource"))
    return node.model_copy(update=media if isinstance(node, Node) else {})


def _shown_once(node: BaseNode, seen: set[Hashable]) -> BaseNode:
    image = image_of(node, stored=False) if isinstance(node, ImageNode) else None
    if image is None or not isinstance(image.source, Hashable):
        return node
    was_shown = image.source in seen
    seen.add(image.source)
    if was_shown == (isinstance(node, PageNode) and node._was_shown):
        return node
    copied = node.model_copy() if isinstance(node, PageNode) else _page_node(cast("ImageNode", node))
    copied._was_shown = was_shown
    return copied


def _with_file_name(node: BaseNode) -> BaseNode:
    hidden = node.excluded_llm_metadata_keys
    if "file_name" not in hidden or "page_label" not in node.metadata:
        return node
    return node.model_copy(update={"excluded_llm_metadata_keys": [key for key in hidden if key != "file_name"]})


def _page_node(node: ImageNode) -> PageNode:
    fields: dict[str, Any] = {name: copy(value) if isinstance(value, dict | list) else value for name, value in node}
    return PageNode.model_construct(**fields)


def _first(*candidates: Any) -> Any:
    """The first that is neither None nor empty."""
    return next((candidate for candidate in candidates if candidate is not None and candidate != ""), None)


def _shown(source: ImageSource, mimetype: str | None) -> ImageBlock | None:
    """The block for an image of an `ImageNode`; None if it is missing or no image, where LlamaIndex would raise."""
    if isinstance(source, Path):
        return ImageBlock(path=source, image_mimetype=mimetype) if source.is_file() else None
    reference = str(source)
    if is_data_uri(reference):
        try:
            return ImageBlock(image=base64.b64decode(reference.partition(",")[2]), image_mimetype=mimetype)
        except ValueError as error:
            _log.warning("an image is left out of a prompt: %s", one_line(str(error)))
            return None
    return ImageBlock(url=reference, image_mimetype=mimetype)


def _unpacked(data: bytes) -> bytes | str:
    """A resource's base64 -> bytes; LlamaIndex packs a data URI once more, so that it comes out as text."""
    try:
        raw = base64.b64decode(data)
    except ValueError:  # assigned past the validator; reading it will raise
        return data
    return raw.decode("ascii", "replace") if raw[:5].lower() == b"data:" else raw
