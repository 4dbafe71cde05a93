"""How a document lies in a Qdrant collection: ids, payload, filters; as langchain-qdrant writes it, and more.

It knows no client and no model.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document
from qdrant_client import models

from nemotron_rag.errors import InputError
from nemotron_rag.stores.client import Filter, compile_filter
from nemotron_rag.stores.qdrant import point_id

__all__ = ["Layout", "check_ids", "picture_name"]

_ID, _IMAGE = "id", "image"  # payload keys beside those of langchain-qdrant, which passes them over
_DIGITS = 20  # of the largest id that is a whole number


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in a point a document's parts lie.

    Args:
        content_key: of the text, in the payload.
        metadata_key: of the metadata, in the payload.
        vector_name: empty for the unnamed vector.
        writable: whether documents may be added and removed.
    """

    content_key: str
    metadata_key: str
    vector_name: str
    writable: bool = True

    def point(
        self, document: Document, *, id: str, vector: Sequence[float], image: str | None, image_key: str
    ) -> models.PointStruct:
        """A document as a point; its picture is left out if it is kept under `image`."""
        metadata = {key: value for key, value in document.metadata.items() if image is None or key != image_key}
        payload = {self.content_key: document.page_content, self.metadata_key: metadata, _ID: id}
        if image is not None:
            payload[_IMAGE] = image
        row: Any = {self.vector_name: list(vector)} if self.vector_name else list(vector)
        return models.PointStruct(id=self.point_id(id), vector=row, payload=payload)

    def document(self, point: models.Record | models.ScoredPoint) -> tuple[Document, str | None]:
        """A point as a new document, and the key of its picture."""
        payload: Mapping[str, Any] = point.payload or {}
        text, metadata, image = payload.get(self.content_key), payload.get(self.metadata_key), payload.get(_IMAGE)
        document = Document(
            id=str(payload.get(_ID, point.id)),
            page_content=text if isinstance(text, str) else "",
            metadata=dict(metadata) if isinstance(metadata, Mapping) else {},
        )
        return document, image if isinstance(image, str) else None

    def vector(self, point: models.ScoredPoint) -> list[float]:
        """A point's vector."""
        row: Any = point.vector
        return list(row[self.vector_name] if isinstance(row, Mapping) else row)

    def filter(self, wanted: Filter | None) -> models.Filter | None:
        """A filter over metadata keys, ``year`` or ``metadata.year``; see `nemotron_rag`'s filters for the values.

        Raises:
            InputError: it cannot be translated.
        """
        return compile_filter(wanted, fields=(), metadata=self.metadata_key)

    def point_id(self, id: str) -> int | str:
        """The Qdrant id of a document: a UUID or whole number as it is, and a uuid5 of every other text."""
        if id.isascii() and id.isdigit() and len(id) <= _DIGITS and str(int(id)) == id and int(id) < 2**64:
            return int(id)
        return point_id(id)


def picture_name(id: str | int) -> str:
    """The UUID under which a document's picture is kept, by document id or point id."""
    return point_id(str(id))


def check_ids(documents: Sequence[Document], ids: Iterable[str | None] | None) -> list[str]:
    """One id for each document: that of `ids`, or the document's own, or a new one.

    Raises:
        InputError: there are not as many, or one is no text.
    """
    if isinstance(ids, str):
        raise InputError("ids must be a list of texts, got a single str; put it into a list")
    given = [None] * len(documents) if ids is None else list(ids)
    if len(given) != len(documents):
        raise InputError(f"{len(documents)} documents need as many ids, got {len(given)}")
    chosen = [id or document.id or str(uuid.uuid4()) for id, document in zip(given, documents, strict=True)]
    for index, id in enumerate(chosen):
        if not isinstance(id, str):
            raise InputError(f"id {index} must be a str, got {type(id).__name__}")
    return chosen
