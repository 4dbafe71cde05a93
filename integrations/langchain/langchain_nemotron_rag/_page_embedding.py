"""What an embedding makes of documents with images, whatever it can read of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from PIL import Image

from langchain_nemotron_rag._documents import text_of
from nemotron_rag.errors import InputError
from nemotron_rag.stores.qdrant import Identity

__all__ = ["PageEmbedding"]

_log = logging.getLogger("nemotron_rag")


class PageEmbedding:
    """What an embedding makes of documents: of text and image if it reads both, else of the text.

    Of a wrapper that passes on texts alone, as LangChain's `CacheBackedEmbeddings` does, the embedding inside reads the
    pages with images; their vectors are not cached.

    Args:
        embedding: any.
    """

    def __init__(self, embedding: Embeddings) -> None:
        self._embedding = embedding
        inside = getattr(embedding, "underlying_embeddings", None)
        pages = next((each for each in (embedding, inside) if hasattr(each, "embed_pages")), None)
        self._pages: Any = pages
        self._said = False

    @property
    def identity(self) -> Identity | None:
        """What it computes, if it says; loads the model."""
        load = getattr(self._pages, "load", None)
        return None if load is None else getattr(load(), "identity", None)

    def check(self, document: Document, name: str, *, has_image: bool) -> None:
        """Raise if there is nothing of a document that it reads.

        Args:
            document: to embed.
            name: what to call it in messages.
            has_image: whether it has one.

        Raises:
            InputError: it is an image without a text, and images are not read.
        """
        if not has_image or self._pages is not None:
            return
        embedding = type(self._embedding).__name__
        if not text_of(document).strip():
            raise InputError(
                f"{name} is an image without a text, and {embedding} reads no images; open the store with "
                "NemotronEmbeddings"
            )
        if not self._said:
            self._said = True
            _log.warning("%s embeds texts alone: images are stored, but not searched by", embedding)

    def embed(self, documents: Sequence[Document], images: Sequence[Image.Image | None]) -> list[list[float]]:
        """One vector for each document, of its text and the image."""
        embedding: Any = self._embedding
        seen = [i for i, image in enumerate(images) if image is not None and self._pages is not None]
        if not seen:
            return self._embedding.embed_documents([text_of(document) for document in documents])
        if self._pages is embedding:
            return list(self._pages.embed_pages([self._page(*pair) for pair in zip(documents, images, strict=True)]))
        rows: dict[int, list[float]] = {}
        pages = self._pages.embed_pages([self._page(documents[i], images[i]) for i in seen])
        rows.update(zip(seen, pages, strict=True))
        rest = [i for i in range(len(documents)) if i not in rows]
        texts = self._embedding.embed_documents([text_of(documents[i]) for i in rest]) if rest else []
        rows.update(zip(rest, texts, strict=True))
        return [rows[i] for i in range(len(documents))]

    def _page(self, document: Document, image: Image.Image | None) -> Document:
        key = getattr(self._pages, "image_key", "image")
        return Document(document.page_content, metadata={**document.metadata, key: image})
