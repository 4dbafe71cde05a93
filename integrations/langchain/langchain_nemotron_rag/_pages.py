"""Pages of a `nemotron_rag.PageIndex` in the words of LangChain's documents: metadata, filters, points.

It knows no client and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document
from qdrant_client import models

from langchain_nemotron_rag._convert import IMAGE_KEY, RENAMED, document_of_page
from langchain_nemotron_rag._points import Layout
from nemotron_rag import Page
from nemotron_rag.stores.client import Filter, compile_filter
from nemotron_rag.stores.qdrant import VECTOR, from_payload, point_id

__all__ = ["PageLayout", "bare_document", "index_filter"]

# What documents call a page's fields -> what the index calls them; `page` counts from 0 and is shifted besides.
_FIELDS = {"page": "number", "page_number": "number", "page_id": "id"} | {new: old for old, new in RENAMED.items()}


@dataclass(frozen=True, slots=True)
class PageLayout(Layout):
    """How `nemotron_rag.PageIndex` lays out its points; they are read, never written."""

    content_key: str = "text"
    metadata_key: str = "metadata"
    vector_name: str = VECTOR
    writable: bool = False

    def document(self, point: models.Record | models.ScoredPoint) -> tuple[Document, str | None]:
        """See `Layout`."""
        stored = from_payload(point.payload)
        return bare_document(stored.page), stored.image_key

    def filter(self, wanted: Filter | None) -> models.Filter | None:
        """See `index_filter`."""
        return compile_filter(index_filter(wanted))

    def point_id(self, id: str) -> int | str:
        """See `Layout`."""
        return point_id(id)


def bare_document(page: Page) -> Document:
    """A page as a document, without its picture."""
    document = document_of_page(page, image="", mime_type="", image_key=IMAGE_KEY)
    for key in (IMAGE_KEY, "mime_type"):
        del document.metadata[key]
    return document


def index_filter(wanted: Filter | None) -> Filter | None:
    """A filter in the words of documents (``page`` from 0, ``page_number`` from 1), in the words of the index."""
    if not isinstance(wanted, Mapping):
        return wanted
    return {_FIELDS.get(key, key): _next(value) if key == "page" else value for key, value in wanted.items()}


def _next(value: Any) -> Any:
    """Pages counted from 0, counted from 1."""
    if isinstance(value, Mapping):
        return {bound: _next(page) for bound, page in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_next(page) for page in value]
    return value + 1 if isinstance(value, int) else value
