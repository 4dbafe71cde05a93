"""A page as LlamaIndex stores it: its class, its metadata, and which of these prompts may show."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Self

import platformdirs
from llama_index.core.bridge.pydantic import (
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    MediaResource,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)

from llama_index_nemotron_rag.nodes import image_of
from nemotron_rag.documents.files import is_data_uri
from nemotron_rag.types import Page

__all__ = [
    "INDEX_KEYS",
    "UNSTORED_KEYS",
    "PageDocument",
    "default_image_folder",
    "page_fields",
    "slot_id",
    "stored_nodes",
]

INDEX_KEYS = {"file_path": "source", "source": "source", "page_number": "page_number", "total_pages": "page_count"}
"""Metadata keys of nodes, and the keys under which filters of an index find the same."""

UNSTORED_KEYS = ("page_image_path", "page_image_sha256")
"""Metadata keys of nodes that an index does not store."""

_NAMESPACE = uuid.UUID("5b0f3c5e-8f0e-4a55-9d0c-6c1c2a1d4f7b")
_OF_THE_FILE = (  # say nothing of a page; those of PDFs, and those that SimpleDirectoryReader adds
    *("created", "modified", "total_pages", "page_image_path"),
    *("file_size", "file_type", "creation_date", "last_modified_date", "last_accessed_date"),
)
_FACTS = ("title", "author", "subject", "keywords", "created", "modified", "width", "height", "text_source")
_HIDDEN = (*INDEX_KEYS, "page_image_path", "page_image_sha256", *_FACTS, "text_truncated")


class PageDocument(ImageDocument):
    """A page that is a document until it is stored, and an `ImageNode` from then on.

    LlamaIndex's node parsers keep the image of an `ImageDocument` alone, and its stores that of an `ImageNode` alone.
    This is the first, and serialises as the second, so that the image survives whichever comes next. A page without
    text stays a page: LlamaIndex leaves out documents whose text is missing, not those whose text is empty.

    Its hash, by which pipelines and indexes know a page that has changed, follows from its text, its image and its
    metadata, less what is of the whole file: dates, size, number of pages. So of a file of which one page changed, one
    page is embedded again.

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

    @property
    def hash(self) -> str:
        """Of what is embedded and shown."""
        kept = {key: value for key, value in self.metadata.items() if key not in _OF_THE_FILE}
        image = self.metadata.get("page_image_sha256") or self.image or self.image_path or self.image_url
        content = json.dumps([self.text, str(image), kept], default=str, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def as_node(self) -> ImageNode:
        """The page as a node of its own, with the same id."""
        images = ("image", "image_path", "image_url", "image_mimetype")
        names = (*BaseNode.model_fields, "text", "text_template", *images)
        return ImageNode(**{name: getattr(self, name) for name in names})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, which becomes a node when its embedding is set."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__["_is_copy"] = True  # no attribute of pydantic's: a copy is equal to what was copied
        return copied

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; of a copy that gets an embedding, the page becomes the source.

        An index that is given pages as nodes stores such copies, and deletes and replaces nodes by their source.
        """
        super().__setattr__(name, value)
        if name == "embedding" and value is not None and "_is_copy" in self.__dict__:
            self.relationships = {**self.relationships, NodeRelationship.SOURCE: self.source_node or _info(self)}

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Dump what an `ImageNode` would."""
        fields: dict[str, Any] = {"include": info.include, "exclude": info.exclude}
        return self.as_node().model_dump(mode=info.mode, **fields)


def stored_nodes(nodes: Sequence[BaseNode]) -> list[BaseNode]:
    """Documents as nodes of their own, whose source is the document, as node parsers make them; others as they are.

    Pipelines and indexes find by its source what a changed or deleted document has left. The node's id follows from the
    document's, and is a UUID, which Qdrant wants.
    """
    return [_stored(node) if isinstance(node, Document) else node for node in nodes]


def _info(document: Document) -> RelatedNodeInfo:
    return RelatedNodeInfo(node_id=document.id_, node_type=document.get_type(), hash=document.hash)


def _stored(document: Document) -> BaseNode:
    fields = {name: getattr(document, name) for name in (*BaseNode.model_fields, "text_template")}
    fields |= {
        "id_": str(uuid.uuid5(_NAMESPACE, document.id_)),
        "text": document.text,
        "metadata": dict(document.metadata),
        "relationships": {NodeRelationship.SOURCE: _info(document)} | document.relationships,
    }
    image = image_of(document)
    if image is None or document.image_resource is None:
        return TextNode(**fields)
    fields["image_mimetype"] = document.image_resource.mimetype
    if isinstance(image.source, bytes):
        return ImageNode(**fields, image=base64.b64encode(image.source).decode("ascii"))
    if isinstance(image.source, Path):
        return ImageNode(**fields, image_path=str(image.source))
    header, _, data = str(image.source).partition(",")
    is_data = is_data_uri(header) and header.endswith(";base64")  # LlamaIndex decodes the data alone
    return ImageNode(**fields, **({"image": data} if is_data else {"image_url": str(image.source)}))


def slot_id(source: str, number: int) -> str:
    """The id of a page by its place: that of its new version too, which so replaces it."""
    return str(uuid.uuid5(_NAMESPACE, f"{source}\n{number}"))


def default_image_folder() -> Path:
    """Where `PDFPageReader` writes images unless it is told another folder."""
    return platformdirs.user_cache_path("nemotron-rag", appauthor=False) / "pages"


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
