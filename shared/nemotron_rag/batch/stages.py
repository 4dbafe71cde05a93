"""The stages as callables over rows, for a loop, Ray, Daft or Spark: spans -> pages -> vectors -> written pages.

Each is made of plain values, so that a worker can make its own, and opens nothing before its first call. Errors of a
page are rows: none of them ends a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nemotron_rag.batch.embedding import EmbedderFacts, embed_pages, page_vectors
from nemotron_rag.batch.pages import NewPage
from nemotron_rag.batch.place import IndexPlace
from nemotron_rag.batch.rows import (
    Row,
    bare,
    failure_row,
    from_row,
    good_and_bad,
    to_row,
    vectors_of,
    with_vectors,
)
from nemotron_rag.batch.writing import PageWriter
from nemotron_rag.documents.copies import Copies
from nemotron_rag.documents.reading import Document
from nemotron_rag.documents.urls import is_url
from nemotron_rag.errors import DocumentError, ImageError, InputError, StoreError
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.models.lazy import Identity, LazyModel
from nemotron_rag.models.load import LoadOptions
from nemotron_rag.protocols import AnyEmbedder, PageStore
from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.types import Failure, Kind, Page, StoredPage

__all__ = ["EmbedPages", "RenderPages", "StoredPages", "WritePages", "span_rows"]

_EMBEDDERS: tuple[Kind, ...] = ("embedder", "multivector_embedder")


def span_rows(
    path: str,
    numbers: Sequence[int],
    *,
    source: str,
    content_hash: str,
    metadata: Mapping[str, Any],
    size: int,
) -> list[Row]:
    """Pages of one document, cut into spans, the unit of work: one row each.

    Args:
        path: of the document, a file or an fsspec URL.
        numbers: of the pages to read.
        source: how the index calls the document.
        content_hash: of its bytes.
        metadata: of its pages.
        size: pages of a span.
    """
    fixed = {"path": path, "source": source, "content_hash": content_hash, "metadata": json.dumps(dict(metadata))}
    return [{**fixed, "numbers": json.dumps(numbers[at : at + size])} for at in range(0, len(numbers), size)]


class RenderPages:
    """Spans of documents -> their pages.

    Args:
        password: of protected PDFs.
        **options: of `read_document`: ``ocr``, ``dpi``, ``max_pixels``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nemotron_rag.documents.pdf import content_hash
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "storms.txt")
        >>> _ = path.write_text("Tornadoes form in thunderstorms.")
        >>> of_file = {"source": "storms.txt", "content_hash": content_hash(path), "metadata": {}}
        >>> [row["text"] for row in RenderPages()(span_rows(str(path), [1], size=8, **of_file))]
        ['Tornadoes form in thunderstorms.']
        >>> folder.cleanup()
    """

    def __init__(self, *, password: str | None = None, **options: Any) -> None:
        self._password, self._options = password, options
        self._copies: Copies | None = None

    def __call__(self, spans: Sequence[Row]) -> list[Row]:
        """Rows of pages, and of what could not be read."""
        return [row for span in spans for row in self._pages(span)]

    def _pages(self, span: Row) -> list[Row]:
        failures: list[Failure] = []
        rows: list[Row] = []
        numbers = json.loads(span["numbers"])
        try:
            document = self._document(span)
            if document.content_hash != span["content_hash"]:
                raise DocumentError("has changed since it was listed; add it again")
            for page in document.pages(pages=numbers, report=failures.append, workers=1, **self._options):
                rows.append(to_row(NewPage(page, span["content_hash"], json.loads(span["metadata"]))))
        except InputError as error:
            failures.append(Failure.of(span["source"], error))
        return rows + [failure_row(failure) for failure in failures]

    def _document(self, span: Row) -> Document:
        if not is_url(span["path"]):
            return Document(span["path"], span["source"], password=self._password)
        if self._copies is None:
            self._copies = Copies()
        copy = self._copies.get(span["path"], digest=span["content_hash"])
        return Document(copy.path, span["source"], password=self._password, digest=copy.digest)


class StoredPages:
    """Ids of pages that are stored in an index -> these pages, with their images.

    Args:
        place: of the index.
    """

    def __init__(self, place: IndexPlace) -> None:
        self._place = place
        self._opened: tuple[PageStore, PageImages | None] | None = None

    def __call__(self, spans: Sequence[Row]) -> list[Row]:
        """Rows of pages, and of those whose image cannot be read.

        Args:
            spans: with ``ids``, a JSON list, in each row.

        Raises:
            StoreError: the store cannot be reached.
        """
        if self._opened is None:
            self._opened = self._place.open()
        store, images = self._opened
        ids = [page_id for span in spans for page_id in json.loads(span["ids"])]
        return [self._row(stored, images) for stored in store.pages({"id": ids}, texts=True)]

    def _row(self, stored: StoredPage, images: PageImages | None) -> Row:
        try:
            image = None if images is None else images.of(stored)
            words = None if images is None else images.words(stored)
            return to_row(NewPage.of_stored(stored, image, words))
        except (ImageError, StoreError) as error:
            return failure_row(Failure.of(stored.page.source, error, stored.page.number))


class EmbedPages:
    """Pages -> the same with their vectors; the model is loaded at the first call.

    Args:
        model: of an embedder, as `load_embedder` takes it; or a loaded one, for workers in this process.
        token_vectors: how an index stores token vectors, as its record says; None for one vector a page.
        identity: that the model must have, as the record of the index says; None for any.
        options: for a model that is named; see `LoadOptions`.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> from nemotron_rag.types import Page
        >>> row = to_row(NewPage(Page("red apples", id="p1"), "page:1"))
        >>> [len(row["vector"]) for row in EmbedPages(FakeEmbedder(dimensions=8))([row])]
        [8]
    """

    def __init__(
        self,
        model: Any,
        *,
        token_vectors: Mapping[str, Any] | None = None,
        identity: Identity | None = None,
        options: LoadOptions | None = None,
    ) -> None:
        self._model: LazyModel[AnyEmbedder] = LazyModel(model, *_EMBEDDERS, identity=identity, **(options or {}))
        self._tokens = None if token_vectors is None else TokenVectors(**token_vectors)

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with vectors; those of pages that cannot be embedded become failures, failures stay.

        Raises:
            Exception: whatever the model raises about all of several pages.
        """
        good, bad = good_and_bad(rows)
        pages = [from_row(row) for row in good]
        done = embed_pages(self._embed, pages)
        vectors = {id(new): rows for new, rows in zip(done.pages, done.vectors, strict=True)}
        embedded = [
            with_vectors(row, vectors[id(new)]) for row, new in zip(good, pages, strict=True) if id(new) in vectors
        ]
        return [*embedded, *bad, *map(failure_row, done.failures)]

    def facts(self) -> EmbedderFacts:
        """What a new index must know of the model, which is loaded for that."""
        return EmbedderFacts.of(self._model.get())

    def _embed(self, pages: Sequence[Page]) -> list[Any]:
        return page_vectors(self._model.get(), self._tokens, pages)


class WritePages:
    """Embedded pages -> an index; acknowledged when the call returns.

    Args:
        place: of the index, which is there already.
    """

    def __init__(self, place: IndexPlace) -> None:
        self._place = place
        self._writer: PageWriter | None = None

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of what was stored, without text, image and vectors; and failures.

        Raises:
            StoreError: the store cannot be reached, or refuses every page.
        """
        if self._writer is None:
            self._writer = PageWriter(*self._place.open())
        good, bad = good_and_bad(rows)
        pages = [from_row(row) for row in good]
        refused = self._writer.write(pages, [vectors_of(row) for row in good])
        lost = {id(new) for new, _ in refused}
        written = [bare(row) for row, new in zip(good, pages, strict=True) if id(new) not in lost]
        return [*written, *bad, *(failure_row(new.failure(error)) for new, error in refused)]
