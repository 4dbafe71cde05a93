"""What a vector store asks of an embedding, as steps; pictures where it reads them. It knows no store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from PIL import Image

from langchain_nemotron_rag._collection import Identity
from langchain_nemotron_rag._convert import describe, text_of
from langchain_nemotron_rag._steps import Step
from langchain_nemotron_rag.embeddings import NemotronEmbeddings
from nemotron_rag.errors import InputError

__all__ = ["documents_step", "identity_of", "image_step", "query_step"]


def query_step(embedding: Embeddings, query: str) -> Step:
    """A question's vector."""
    return Step(lambda: embedding.embed_query(query), lambda: embedding.aembed_query(query))


def image_step(embedding: Any, image: Any) -> Step:
    """A picture's vector.

    Raises:
        InputError: the embedding has no ``embed_images``.
    """
    if not hasattr(embedding, "embed_images"):
        raise InputError(f"{type(embedding).__name__} reads no pictures; open the store with NemotronEmbeddings")

    async def later() -> Any:
        return (await embedding.aembed_images([image]))[0]

    return Step(lambda: embedding.embed_images([image])[0], later)


def documents_step(
    embedding: Embeddings, documents: Sequence[Document], pictures: Sequence[Image.Image | None], first: int
) -> Step:
    """One vector for each document: of text and picture where the embedding reads both, else of the text.

    Args:
        embedding: any.
        documents: a batch.
        pictures: theirs, decoded.
        first: number of the first document, for messages.

    Raises:
        InputError: a document is a picture alone, which the embedding cannot read.
    """
    if isinstance(embedding, NemotronEmbeddings) and any(picture is not None for picture in pictures):
        key = embedding.image_key
        pages = [_with_picture(*pair, key) for pair in zip(documents, pictures, strict=True)]
        return Step(lambda: embedding.embed_pages(pages), lambda: embedding.aembed_pages(pages))
    for index, (document, picture) in enumerate(zip(documents, pictures, strict=True), first):
        if picture is not None and not text_of(document).strip():
            raise InputError(
                f"{describe(document, index)} is a picture without a text, and {type(embedding).__name__} reads "
                "no pictures; open the store with NemotronEmbeddings"
            )
    texts = [text_of(document) for document in documents]
    return Step(lambda: embedding.embed_documents(texts), lambda: embedding.aembed_documents(texts))


def identity_of(embedding: Embeddings) -> Identity | None:
    """What the embedding computes, if it tells; to be asked after it was used, when its model is loaded."""
    return embedding.load().identity if isinstance(embedding, NemotronEmbeddings) else None


def _with_picture(document: Document, picture: Image.Image | None, image_key: str) -> Document:
    return Document(document.page_content, metadata={**document.metadata, image_key: picture})
