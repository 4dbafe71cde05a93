"""Nodes as an LLM and others should see them: copies with text beside image, one image a page."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Hashable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, cast

from llama_index.core.schema import BaseNode, ImageNode, MetadataMode, Node, NodeWithScore, TextNode

from llama_index_nemotron_rag.nodes import ImageLimits, PageNode, image_of
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.crops import REGIONS_KEY, warn_of_no_regions
from nemotron_rag.errors import ImageError

__all__ = ["for_llm", "found_nodes", "limited_nodes", "shown_nodes", "split_node", "with_named_image", "without_image"]

_log = logging.getLogger("nemotron_rag")


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


def found_nodes(items: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """`shown_nodes` of a retriever, whose pages are known by file and number, wherever their images are."""
    result = []
    for item in shown_nodes(items):
        node = item.node
        if isinstance(node, ImageNode) and not (isinstance(node, PageNode) and node._is_found):
            node = node.model_copy() if isinstance(node, PageNode) else _page_node(node)
            node._is_found = True
        result.append(NodeWithScore(node=node, score=item.score))
    return result


def limited_nodes(
    items: Sequence[NodeWithScore], limits: ImageLimits, *, max_images: int | None = None, max_crops: int = 0
) -> list[NodeWithScore]:
    """`shown_nodes` whose images are within limits, the first `max_images` of them; of the others the texts remain.

    Behind each image come at most `max_crops` regions of its page, as long as images are left.
    """
    result, images, pages = [], 0, []
    for item in shown_nodes(items):
        node = item.node
        if isinstance(node, ImageNode) and image_of(node, stored=False) is not None:
            node = node.model_copy() if isinstance(node, PageNode) else _page_node(node)
            node._limits = limits
            images += not node._was_shown
            node._is_over = max_images is not None and images > max_images
            if not (node._was_shown or node._is_over):
                pages.append(node)
        result.append(NodeWithScore(node=node, score=item.score))
    _allow_crops(pages, max_crops, None if max_images is None else max(0, max_images - images))
    return result


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


def _allow_crops(pages: Sequence[PageNode], max_crops: int, left: int | None) -> None:
    """Say of each page that shows its image how many of its regions come behind it."""
    if max_crops and pages and not any(REGIONS_KEY in page.metadata for page in pages):
        warn_of_no_regions(max_crops)
    for page in pages:
        regions = page.metadata.get(REGIONS_KEY) or []
        page._crops = min(max_crops, len(regions) if isinstance(regions, list) else max_crops)  # else that is said
        if left is not None:
            page._crops = min(page._crops, left)
            left -= page._crops


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
