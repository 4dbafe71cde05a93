"""The writing half of `NemotronPageVectorStore`, as steps: documents in, documents out. It searches nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from PIL import Image

from langchain_nemotron_rag._collection import DocumentCollection
from langchain_nemotron_rag._convert import PLACEHOLDER_KEY
from langchain_nemotron_rag._embedding import documents_step, identity_of
from langchain_nemotron_rag._pictures import Pictures
from langchain_nemotron_rag._points import check_ids, picture_name
from langchain_nemotron_rag._steps import Steps, in_thread
from nemotron_rag.errors import InputError
from nemotron_rag.stores.client import Filter

__all__ = ["BATCH", "Writer", "text_documents"]

BATCH = 32
"""Documents whose pictures are in memory at the same time, unless the caller says otherwise."""

Opened: TypeAlias = list[Image.Image | None]
Opener: TypeAlias = Callable[[Sequence[Document], int], Opened]


class Writer:
    """Adds documents to a collection and removes them, their pictures with them.

    Args:
        embedding: of documents.
        collection: of documents.
        pictures: of documents.
    """

    def __init__(self, embedding: Embeddings, collection: DocumentCollection, pictures: Pictures) -> None:
        self._embedding, self._collection, self._pictures = embedding, collection, pictures

    def add(self, documents: Iterable[Document], ids: Iterable[str | None] | None, batch_size: int) -> Steps[list[str]]:
        """Add documents; gives their ids."""
        documents = list(documents)
        for index, document in enumerate(documents):
            if not isinstance(document, Document):
                raise InputError(f"document {index} is of type {type(document).__name__}, wanted Document")
        return (yield from self._write(documents, check_ids(documents, ids), batch_size, self._pictures.open))

    def add_images(
        self,
        uris: Iterable[Any],
        metadatas: Iterable[dict[str, Any]] | None,
        ids: Iterable[str | None] | None,
        batch_size: int,
    ) -> Steps[list[str]]:
        """Add pictures without texts; gives their ids."""
        sources = list(uris)
        documents = _matched([""] * len(sources), metadatas, "pictures")
        chosen = check_ids(documents, ids)
        labelled = [_labelled(document, uri, id) for document, uri, id in zip(documents, sources, chosen, strict=True)]

        def opened(part: Sequence[Document], first: int) -> Opened:
            return self._pictures.open_named(sources[first : first + len(part)], first)

        return (yield from self._write(labelled, chosen, batch_size, opened))

    def remove(self, ids: Sequence[str] | None, wanted: Filter | None) -> Steps[bool]:
        """Remove documents by id, or those that a filter matches, or all."""
        if isinstance(ids, str):
            raise InputError("delete wants ids as a list, got a single str; put it into a list")
        if ids is not None and wanted is not None:
            raise InputError("delete wants ids or filter=, got both")
        if ids is not None:
            points: list[int | str] = [self._collection.layout.point_id(id) for id in ids]
        else:
            points = yield from self._collection.matching(wanted)
        yield from self._collection.remove(points)
        yield in_thread(self._pictures.forget, [picture_name(point) for point in points])
        return True

    def _write(
        self, documents: Sequence[Document], ids: Sequence[str], batch_size: int, opener: Opener
    ) -> Steps[list[str]]:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
        for start in range(0, len(documents), batch_size):
            part, names = documents[start : start + batch_size], ids[start : start + batch_size]
            pictures: Opened = yield in_thread(opener, part, start)
            rows: list[list[float]] = yield documents_step(self._embedding, part, pictures, start)
            yield from self._collection.prepare(len(rows[0]), identity_of(self._embedding))
            # Pictures first: a point never names a picture that is not there.
            keys: list[str | None] = yield in_thread(self._pictures.keep, [picture_name(id) for id in names], pictures)
            layout, image_key = self._collection.layout, self._pictures.image_key
            yield self._collection.upsert(
                [
                    layout.point(document, id=id, vector=row, image=key, image_key=image_key)
                    for document, id, row, key in zip(part, names, rows, keys, strict=True)
                ]
            )
        return list(ids)


def text_documents(texts: Iterable[str], metadatas: Iterable[dict[str, Any]] | None) -> list[Document]:
    """Texts as documents.

    Raises:
        InputError: not one of `metadatas` for each.
    """
    if isinstance(texts, str):
        raise InputError("texts must be a list of texts, got a single str; put it into a list")
    return _matched(list(texts), metadatas, "texts")


def _matched(texts: Sequence[str], metadatas: Iterable[Mapping[str, Any]] | None, what: str) -> list[Document]:
    given: list[Mapping[str, Any]] = [{} for _ in texts] if metadatas is None else list(metadatas)
    if len(given) != len(texts):
        raise InputError(f"{len(texts)} {what} need as many metadatas, got {len(given)}")
    return [Document(text, metadata=dict(metadata)) for text, metadata in zip(texts, given, strict=True)]


def _labelled(document: Document, uri: Any, id: str) -> Document:
    """A document for a picture alone: equal texts are taken for one document by some retrievers."""
    is_path = isinstance(uri, os.PathLike) or (isinstance(uri, str) and uri[:5].lower() != "data:")
    known = {"source": os.fspath(uri)} if is_path else {}
    metadata = {**known, **document.metadata, PLACEHOLDER_KEY: True}
    return Document(f"[page image] {os.fspath(uri) if is_path else id}", metadata=metadata)
