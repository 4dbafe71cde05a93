"""What a LlamaIndex node shows and says: its picture in any form, copies of it for events and for the LLM.

It knows no model, opens no file and asks no host. The postprocessor, reader and retriever packages use it too, so that
each node form is understood in one place; it imports nothing of theirs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import BaseContentBlock, ImageBlock, TextBlock
from llama_index.core.schema import BaseNode, ImageDocument, ImageNode, MediaResource, MetadataMode, Node, NodeWithScore

from nemotron_rag.types import ImageSource

__all__ = ["PageNode", "Picture", "for_llm", "is_picture_node", "light", "light_nodes", "picture_of", "without_picture"]


@dataclass(frozen=True, slots=True)
class Picture:
    """Where a node's picture is.

    Args:
        source: its bytes, or a reference: data URI, path or URL.
        own: it stands in the node's own fields, not in its metadata.
    """

    source: ImageSource
    own: bool


class PageNode(ImageNode):
    """An `ImageNode` whose text reaches the LLM too; stored, it is an `ImageNode` like any other.

    LlamaIndex builds the message of an `ImageNode` from its metadata and picture alone. A URL is passed on to the LLM,
    not fetched; a file that has gone leaves the text.

    Example:
        >>> node = PageNode(text="Revenue rose.", image="iVBORw0KGgo=")
        >>> [type(block).__name__ for block in node.get_content_blocks()]
        ['TextBlock', 'ImageBlock']
    """

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[BaseContentBlock]:
        """Metadata, text and picture, as far as they are there."""
        texts = (self.get_metadata_str(metadata_mode).strip(), self.text)
        blocks: list[BaseContentBlock] = [TextBlock(text=text) for text in texts if text]
        picture = picture_of(self)
        shown = None if picture is None else _shown(picture.source, self.image_mimetype)
        return blocks if shown is None else [*blocks, shown]


def picture_of(node: BaseNode, *, image_keys: Sequence[str] = ()) -> Picture | None:
    """The picture of a node in any form; its own fields come first, in LlamaIndex's order: data, path, URL.

    Args:
        node: `ImageNode`, `Node` or `Document` with an image resource, `ImageDocument`, or any other.
        image_keys: metadata keys under which a data URI, path, URL or bytes may stand.
    """
    source: ImageSource | None = None
    if isinstance(node, ImageNode):
        path = node.image_path and (node.image_path if _is_data(node.image_path) else Path(node.image_path))
        source = _first(node.image and _uri(node.image), path, node.image_url)
    elif isinstance(node, Node) and node.image_resource is not None:
        resource = node.image_resource
        source = _first(resource.data and _unpacked(resource.data), resource.path, resource.url and str(resource.url))
    if source is not None:
        return Picture(source, own=True)
    found = _first(*(node.metadata.get(key) for key in image_keys))
    return None if found is None else Picture(found, own=False)


def is_picture_node(node: BaseNode) -> bool:
    """Whether the node's class promises a picture."""
    return isinstance(node, ImageNode | ImageDocument)


def for_llm(node: BaseNode) -> BaseNode:
    """The node, or for a plain `ImageNode` with text a `PageNode` of the same content, which shows the LLM both."""
    return _page_node(node) if type(node) is ImageNode and node.text else node


def without_picture(node: BaseNode) -> BaseNode:
    """A copy that goes on as text, because its picture cannot be read."""
    if type(node) is ImageNode:
        node = _page_node(node)  # the base class insists on a picture
    if isinstance(node, ImageNode):
        return node.model_copy(update={"image": None, "image_path": None, "image_url": None})
    return node.model_copy(update={"image_resource": None} if isinstance(node, Node) else {})


def light(node: BaseNode) -> BaseNode:
    """A copy for events and traces: paths and URLs stay, the bytes of pictures go."""
    metadata = {key: value for key, value in node.metadata.items() if not _is_data(value)}
    update: dict[str, Any] = {"metadata": metadata}
    if isinstance(node, ImageNode):
        references = {"image_path": node.image_path, "image_url": node.image_url}
        update |= {"image": None, **{name: None for name, value in references.items() if _is_data(value)}}
    elif isinstance(node, Node) and node.image_resource is not None:
        update["image_resource"] = _light_resource(node.image_resource)
    return node.model_copy(update=update)


def light_nodes(nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """`light` for scored nodes; also, an event that was sent does not change with them."""
    return [NodeWithScore(node=light(item.node), score=item.score) for item in nodes]


def _page_node(node: ImageNode) -> PageNode:
    fields: dict[str, Any] = {name: copy(value) if isinstance(value, dict | list) else value for name, value in node}
    return PageNode.model_construct(**fields)


def _light_resource(resource: MediaResource) -> MediaResource:
    data_uri = resource.url is not None and _is_data(str(resource.url))
    return resource.model_copy(update={"data": None, "url": None if data_uri else resource.url})


def _first(*candidates: Any) -> Any:
    """The first that is neither None nor empty."""
    return next((candidate for candidate in candidates if candidate is not None and candidate != ""), None)


def _is_data(value: object) -> bool:
    return isinstance(value, bytes) or (isinstance(value, str) and value[:5].lower() == "data:")


def _uri(image: str) -> str:
    """Base64 or a data URI -> a data URI; the picture's kind is read from its bytes later."""
    return image if _is_data(image) else f"data:;base64,{image}"


def _shown(source: ImageSource, mimetype: str | None) -> ImageBlock | None:
    """The block for a picture of an `ImageNode`; None if its file has gone, where LlamaIndex would raise."""
    if isinstance(source, Path):
        return ImageBlock(path=source, image_mimetype=mimetype) if source.is_file() else None
    reference = str(source)
    if _is_data(reference):
        return ImageBlock(image=base64.b64decode(reference.partition(",")[2]), image_mimetype=mimetype)
    return ImageBlock(url=reference, image_mimetype=mimetype)


def _unpacked(data: bytes) -> bytes | str:
    """A resource's base64 -> bytes; LlamaIndex packs a data URI once more, so that it comes out as text."""
    try:
        raw = base64.b64decode(data)
    except binascii.Error:  # assigned past the validator; whoever reads it will say what is wrong
        return data
    return raw.decode("ascii", "replace") if raw[:5].lower() == b"data:" else raw
