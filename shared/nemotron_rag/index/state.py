"""The state of one open index: its store, page images, models, and the record of what wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from nemotron_rag._forking import Lock
from nemotron_rag.batch.embedding import EmbedderFacts, page_vectors
from nemotron_rag.documents.pdf import DEFAULT_BUDGET, PAGE_PIXELS, PdfEngine, check_pdf_engine
from nemotron_rag.errors import ClosedError, InputError
from nemotron_rag.index.models import IndexModels
from nemotron_rag.index.record import IndexRecord
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.protocols import AnyEmbedder, PageStore
from nemotron_rag.stores.page_images import PageImages, StoredImage
from nemotron_rag.types import Filter, Page, PageVectors, StoredPage, page_uuid

__all__ = ["Images", "IndexState", "images_of"]

Images: TypeAlias = str | os.PathLike[str] | PageImages | Literal[True] | None
"""Where page images are stored: a folder, an fsspec URL or a `PageImages`; True: beside the store; None: nowhere."""


class IndexState:
    """What searching and adding share. Any number of threads may use it.

    Args:
        store: closed with the index.
        images: None to keep none.
        models: of the index.
        dpi: as given by the caller.
        max_pixels: as given by the caller.
        tokens: as given by the caller.
        pdf_engine: as given by the caller.

    Raises:
        IndexMismatchError: the index was written with another model or other settings.
        StoreError: the store holds something else, or cannot be reached.
        InputError: the index is new and there is no embedder, `tokens` is given for one vector a page, or there is no
            such `pdf_engine`.
    """

    def __init__(
        self,
        store: PageStore,
        images: PageImages | None,
        models: IndexModels,
        *,
        dpi: float | None,
        max_pixels: int | None,
        tokens: TokenVectors | None,
        pdf_engine: PdfEngine | None = None,
    ) -> None:
        if pdf_engine is not None:
            check_pdf_engine(pdf_engine)
        self._store, self.images, self.models = store, images, models
        self._given = {"dpi": dpi, "max_pixels": max_pixels}
        self._pdf_engine = pdf_engine
        self._given_tokens = tokens
        self._preparing = Lock()
        self._closed = False
        self._record = self._read_record()
        if self._record is None:
            models.check(None)
            if tokens is not None and not models.is_multivector(None):
                raise InputError("token_vectors= is for late-interaction models; leave it out, or choose one of those")

    def __str__(self) -> str:
        """The store, for messages."""
        return str(self._store)

    @property
    def store(self) -> PageStore:
        """The pages.

        Raises:
            ClosedError: the index was closed.
        """
        if self._closed:
            raise ClosedError(f"{self._store} was closed; open it again")
        return self._store

    @property
    def is_multivector(self) -> bool:
        """Whether a page has token vectors."""
        return self.models.is_multivector(self._record)

    def exists(self) -> bool:
        """Whether there are pages to search; once there are, the store is not asked any more."""
        if self._record is None:
            self._record = self._read_record()
        return self._record is not None

    def embedder(self) -> AnyEmbedder:
        """The embedder, loaded if need be."""
        return self.models.embedder(self._record)

    def render_settings(self) -> dict[str, Any]:
        """``dpi``, ``max_pixels`` and ``pdf_engine`` for `read_pdf`: the record's, or those of a new index."""
        if self._record is not None:
            engine = self._pdf_engine or self._record.pdf_engine
            return {"dpi": self._record.dpi, "max_pixels": self._record.max_pixels, "pdf_engine": engine}
        default = PAGE_PIXELS if self._given["dpi"] is None else DEFAULT_BUDGET.max_pixels
        most = self._given["max_pixels"] or default
        return {"dpi": self._given["dpi"], "max_pixels": most, "pdf_engine": self._pdf_engine or "auto"}

    def follow(self, record: IndexRecord) -> None:
        """Let a new index render pages as another one does, but for what the caller gave."""
        if all(value is None for value in self._given.values()):
            self._given = {"dpi": record.dpi, "max_pixels": record.max_pixels}
        self._pdf_engine = self._pdf_engine or record.pdf_engine

    def lookup(self, ids: Sequence[str]) -> Mapping[str, StoredPage]:
        """The stored ones of these pages, by id, without those whose image has gone: they are to be read again."""
        found = self.store.get(ids) if self.exists() else {}
        images = self.images
        return found if images is None else {id: page for id, page in found.items() if not images.is_lost(page)}

    @property
    def record(self) -> IndexRecord | None:
        """What wrote the index; None before anything has."""
        return self._record if self.exists() else None

    def prepare(self, facts: EmbedderFacts | None = None) -> None:
        """Make the index in the store if it is not there.

        Args:
            facts: of the embedder, if another process has it; None to load it here.
        """
        facts = facts or EmbedderFacts.of(self.embedder())
        with self._preparing:
            if not self.exists():
                tokens = self._new_tokens(facts)
                engine = getattr(self.store, "engine", None)
                record = IndexRecord.of(facts, tokens=tokens, engine=engine, **self.render_settings())
                self.store.create(
                    dimensions=facts.dimensions,
                    record=record.to_json(),
                    token_storage=None if tokens is None else tokens.storage,
                )
                first = self.store.read_record() == record.to_json()  # else another process was
                self._record = record if first else self._read_record()

    def embed(self, pages: Sequence[Page]) -> list[PageVectors]:
        """What is stored of each page: (dimensions,) or (rows, dimensions).

        Raises:
            InputError: the embedder returned an invalid vector.
        """
        return page_vectors(self.embedder(), self._record.tokens if self._record else None, pages)

    def image_of(self, stored: StoredPage) -> StoredImage | None:
        """Where a page's image is; nothing is opened."""
        return None if self.images is None else self.images.of(stored)

    def remove(self, ids: Sequence[str], filter: Filter | None) -> int:
        """Take pages from files; those that no file holds any more go with their images. See `PageStore.remove`.

        Images go last: whoever finds a page can open its image. They are announced before, so that an interrupted
        removal leaves none that nobody knows of; see `finish_removals`.
        """
        store, images = self.store, self.images
        if images is None or not ids:
            return store.remove(ids, filter=filter)

        def remove_images(removed: Sequence[StoredPage]) -> None:
            for stored in removed:
                if stored.image_key is not None:
                    images.delete(page_uuid(stored.page.id))

        note = images.announce([page_uuid(page_id) for page_id in ids])
        removed = store.remove(ids, filter=filter, after=remove_images)
        images.done(note)
        return removed

    def finish_removals(self) -> None:
        """Remove the images that an interrupted removal left: announced, and of no page any more."""
        images = self.images
        if images is None:
            return
        for note, ids in images.announced().items():
            stored = {page_uuid(page_id) for page_id in self.lookup(ids)}
            for page_id in set(ids) - stored:
                images.delete(page_id)
            images.done(note)

    def remove_matching(self, filter: Filter | None) -> tuple[int, bool]:
        """Take what a filter matches from the files in which it matches, all of it by the store's own kind of filter.

        Returns:
            How many pages were deleted, and whether any were found.
        """
        found = [stored.page.id for stored in self.store.pages(filter)]
        return self.remove(found, filter if isinstance(filter, Mapping) else None), bool(found)

    def close(self) -> None:
        """Close the store, and the models that were loaded by name; closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self._store.close()
            self.models.close()

    def _read_record(self) -> IndexRecord | None:
        stored = self.store.read_record()
        if stored is None:
            return None
        where = str(self._store)
        record = IndexRecord.from_json(stored, where=where)
        record.check_settings(where, **self._given)
        record.check_tokens(where, self._given_tokens)
        self.models.check(record)
        return record

    def _new_tokens(self, embedder: EmbedderFacts) -> TokenVectors | None:
        """How a new index stores token vectors; None for one vector a page."""
        if embedder.kind != "multivector_embedder":
            return None
        tokens = (self._given_tokens or TokenVectors()).resolved(embedder.dimensions)
        if tokens.pooling == "grid" and not embedder.locates:
            raise InputError(f"{embedder.name} cannot locate its vectors on the page; choose pooling='hierarchical'")
        return tokens


def images_of(images: Images, store: PageStore) -> PageImages | None:
    """Where the images of an index are stored.

    Raises:
        InputError: there is no such place beside the store, or `images` is none.
    """
    if images is None or isinstance(images, PageImages):
        return images
    if images is not True:
        return PageImages(images)
    root = store.image_root
    if root is None:
        raise InputError(
            f"images cannot lie beside {store}; give images= a folder or URL for them, or images=None to have none"
        )
    return PageImages(root)
