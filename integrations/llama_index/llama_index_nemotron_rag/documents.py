"""A page as LlamaIndex stores it: its class, its metadata, and which of these prompts may show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from llama_index.core.bridge.pydantic import SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from llama_index.core.schema import BaseNode, ImageDocument, ImageNode, MediaResource

from nemotron_rag.types import Page

__all__ = ["INDEX_KEYS", "UNSTORED_KEYS", "PageDocument", "page_fields"]

INDEX_KEYS = {"file_path": "source", "source": "source", "page_number": "page_number", "total_pages": "page_count"}
"""Metadata keys of nodes, and the keys under which filters of an index find the same."""

UNSTORED_KEYS = ("file_name", "page_label", "page_image_path", "page_image_sha256")
"""Metadata keys of nodes that an index does not store."""

_FACTS = ("title", "author", "subject", "keywords", "created", "modified", "width", "height", "text_source")
_HIDDEN = (*INDEX_KEYS, "page_image_path", "page_image_sha256", *_FACTS, "text_truncated")


class PageDocument(ImageDocument):
    """A page that is a document until it is stored, and an `ImageNode` from then on.

    LlamaIndex's node parsers keep the image of an `ImageDocument` alone, and its stores that of an `ImageNode` alone.
    This is the first, and serialises as the second, so that the image survives whichever comes next. A page without
    text stays a page: LlamaIndex leaves out documents whose text is missing, not those whose text is empty.

    Example:
        >>> page = PageDocument(text="Revenue rose.", image="iVBORw0KGgo=", metadata={"page_label": "3"})
        >>> node = ImageNode.from_dict(page.to_dict())
        >>> node.text, node.image, node.metadata, node.id_ == page.id_
        ('Revenue rose.', 'iVBORw0KGgo=', {'page_label': '3'}, True)
    """

    def __init__(self, **fields: Any) -> None:
        text = fields.pop("text", None)
        if fields.get("text_resource") is None:
            fields["text_resource"] = MediaResource(text=text or "")
        path = fields.pop("image_path", None)
        if path and not fields.get("image"):  # LlamaIndex would open the file here
            fields["image_resource"] = MediaResource(path=path, mimetype=fields.pop("image_mimetype", None))
        super().__init__(**fields)

    @classmethod
    def class_name(cls) -> str:
        """The name under which stores find the class to restore: that of `ImageNode`."""
        return ImageNode.class_name()

    @classmethod
    def get_type(cls) -> str:
        """The type under which document stores find it: that of `ImageNode`."""
        return ImageNode.get_type()

    def as_node(self) -> ImageNode:
        """The page as a node of its own, with the same id."""
        images = ("image", "image_path", "image_url", "image_mimetype")
        names = (*BaseNode.model_fields, "text", "text_template", *images)
        return ImageNode(**{name: getattr(self, name) for name in names})

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Dump what an `ImageNode` would."""
        fields: dict[str, Any] = {"include": info.include, "exclude": info.exclude}
        return self.as_node().model_dump(mode=info.mode, **fields)


def page_fields(
    page: Page,
    *,
    extra: Mapping[str, Any] | None = None,
    image_path: str | None = None,
    image_sha256: str | None = None,
) -> dict[str, Any]:
    """Id, text and metadata of a page, as arguments for a node.

    Prompts show the page's label, its file's name, and what the caller added; never paths and hashes. Text and what the
    caller added are embedded; of a page without text its label, because LlamaIndex drops empty content.

    Args:
        page: the page; its image is ignored.
        extra: metadata of the caller; the page's own have priority.
        image_path: where the image's file is.
        image_sha256: of that file's bytes, hex.
    """
    facts = {key: value for key, value in page.metadata.items() if key not in ("label", "page_count")}
    fields = {
        "page_label": str(page.metadata.get("label") or page.number),
        "file_name": PurePath(page.source).name,
        "page_number": page.number,
        "file_path": page.source,
        "source": page.source,
        "total_pages": page.metadata.get("page_count"),
        "page_image_path": image_path,
        "page_image_sha256": image_sha256,
    }
    own = {key: value for key, value in fields.items() if value is not None}
    metadata = own | facts | dict(extra or {}) | own  # prompts show them in this order
    hidden = [key for key in metadata if key in _HIDDEN]
    label = ["page_label"] if page.text.strip() else []
    return {
        "id_": page.id,
        "text": page.text,
        "metadata": metadata,
        "excluded_embed_metadata_keys": [*hidden, "file_name", *label],
        "excluded_llm_metadata_keys": hidden,
    }
