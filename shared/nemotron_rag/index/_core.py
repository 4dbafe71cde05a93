"""What an open index consists of, and what searching and adding do with it. It knows nothing of asyncio and PDFs."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from nemotron_rag.errors import ClosedError, ImageError, InputError
from nemotron_rag.heatmap import Heatmap, compute_heatmap
from nemotron_rag.index._locate import Locate
from nemotron_rag.index._models import AnyEmbedder, IndexModels, Named, Rerank
from nemotron_rag.index._modes import Request
from nemotron_rag.index._record import IndexRecord
from nemotron_rag.pdf import DEFAULT_BUDGET, PAGE_PIXELS
from nemotron_rag.protocols import FloatArray, LocatingEmbedder, Reranker
from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.stores.qdrant import Filter, PageVectors, QdrantStore, StoredPage
from nemotron_rag.token_vectors import TokenVectors
from nemotron_rag.types import Hit, Page, Passage

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Images", "IndexCore", "open_images", "reranked"]

Images: TypeAlias = "Named | PageImages | Literal[True] | None"
"""Where pictures are kept: a folder, an fsspec URL or a `PageImages`; True: beside the index; None: nowhere."""

_READERS = 8  # threads that read and decode the pictures of hits
_log = logging.getLogger("nemotron_rag")


class IndexCore:
    """Store, pictures, models and record of one index.

    Args:
        store: open; closed with the index.
        images: None to keep none.
        models: see `IndexModels`.
        dpi: as given by the caller.
        max_pixels: as given by the caller.
        tokens: as given by the caller.

    Raises:
        IndexMismatchError: the index was written with another model or other settings.
        StoreError: the collection is not one of ours, or cannot be reached.
        InputError: the index is new and there is no embedder, or `tokens` is given for one vector a page.
    """

    def __init__(
        self,
        store: QdrantStore,
        images: PageImages | None,
        models: IndexModels,
        *,
        dpi: float | None,
        max_pixels: int | None,
        tokens: TokenVectors | None,
    ) -> None:
        self._store, self._images, self._models = store, images, models
        self._given = {"dpi": dpi, "max_pixels": max_pixels}
        self._given_tokens = tokens
        self._preparing = threading.Lock()
        self._closed = False
        self._record = self._read_record()
        if self._record is None:
            models.check(None)
            self._check_kind()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="nemotron-rag pictures")

    @property
    def store(self) -> QdrantStore:
        """The pages.

        Raises:
            ClosedError: the index was closed.
        """
        if self._closed:
            raise ClosedError(f"{self._store} was closed; open it again")
        return self._store

    @property
    def images(self) -> PageImages | None:
        """The pictures."""
        return self._images

    def exists(self) -> bool:
        """Whether the collection is there; once it is, nothing is asked any more."""
        if self._record is None:
            self._record = self._read_record()
        return self._record is not None

    def render_settings(self) -> dict[str, Any]:
        """``dpi`` and ``max_pixels`` for `read_pdf`: the record's, or those of a new index."""
        if self._record is not None:
            return {"dpi": self._record.dpi, "max_pixels": self._record.max_pixels}
        default = PAGE_PIXELS if self._given["dpi"] is None else DEFAULT_BUDGET.max_pixels
        return {"dpi": self._given["dpi"], "max_pixels": self._given["max_pixels"] or default}

    def embed(self, pages: Sequence[Page]) -> list[PageVectors]:
        """For each page what is stored of it: (dimensions,) or (rows, dimensions).

        Raises:
            InputError: the embedder gave what cannot be stored.
        """
        embedder = self._models.embedder(self._record)
        vectors: list[FloatArray] = list(embedder.embed_passages(pages))
        if len(vectors) != len(pages):
            raise InputError(f"the embedder gave {len(vectors)} results for {len(pages)} pages")
        if not all(np.isfinite(each).all() for each in vectors):
            raise InputError("the embedder gave a vector with NaN or infinity")
        tokens = self._record.tokens if self._record else None
        if tokens is None:
            return list(vectors)
        boxes: Sequence[FloatArray | None] = [None] * len(pages)
        if tokens.pooling == "grid" and isinstance(embedder, LocatingEmbedder):
            boxes = embedder.locate_passages(pages)
        return [tokens.fit(each, where) for each, where in zip(vectors, boxes, strict=True)]

    def prepare(self) -> None:
        """Make the collection if it is not there."""
        embedder = self._models.embedder(self._record)
        with self._preparing:
            if not self.exists():
                tokens = self._new_tokens(embedder)
                record = IndexRecord.of(embedder, tokens=tokens, **self.render_settings())
                self.store.create(dimensions=embedder.dimensions, record=record.to_json(), tokens=tokens)
                self._record = record

    def ready(
        self, request: Request, *, rerank: Rerank = False, top_n: int | None = None
    ) -> tuple[AnyEmbedder | None, Reranker | None]:
        """Check a search's arguments and load its models; no embedder if there is nothing to search."""
        _ = self.store
        there = self.exists()
        request.check(many=self._models.gives_many(self._record))
        if top_n is not None and (not isinstance(top_n, int) or top_n < 1):
            raise InputError(f"top_n must be a whole number from 1 on, got {top_n!r}")
        reranker = self._models.reranker(rerank)
        return (self._models.embedder(self._record) if there else None), reranker

    def nearest(self, vectors: PageVectors, request: Request, *, query: str = "", keep: int | None = None) -> list[Hit]:
        """The pages that a request finds, with their pictures.

        Args:
            vectors: of the question, (dimensions,) or (tokens, dimensions).
            request: checked before.
            query: the question, whose words hybrid mode looks for.
            keep: how many of the pages come back; None for all.
        """
        wanted = request.filter
        found = self.store.query(
            request.vectors(vectors),
            k=request.k,
            candidates=request.first_stage,
            words=request.words(query),
            wanted=wanted,
        )[:keep]
        pictures = self._readers.map(self._picture, [stored for stored, _ in found])
        locates = isinstance(self._models.embedder(self._record), LocatingEmbedder)
        return [
            Hit(
                page=replace(_as_asked(stored, wanted), image=picture),
                score=score,
                retrieval_score=score,
                rank=rank,
                image_path=None if picture is None else self._image_path(stored),
                locate=Locate(self.heatmap) if locates else None,
            )
            for rank, ((stored, score), picture) in enumerate(zip(found, pictures, strict=True), 1)
        ]

    def heatmap(self, page: Passage, query: str) -> Heatmap:
        """Where on a page a query's words match; see `compute_heatmap`.

        Raises:
            ClosedError: the index was closed.
            InputError: the index has no embedder yet, or one with one vector a page.
        """
        _ = self.store
        self.exists()
        self._models.check(self._record)
        return compute_heatmap(self._models.embedder(self._record), page, query)

    def close(self) -> None:
        """Close the store, and the models that were loaded by name; closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        self._readers.shutdown()
        self._store.close()
        self._models.close()

    def _read_record(self) -> IndexRecord | None:
        stored = self.store.read_record()
        if stored is None:
            return None
        record = IndexRecord.from_json(stored, where=str(self._store))
        record.check_settings(str(self._store), **self._given)
        record.check_tokens(str(self._store), self._given_tokens)
        self._models.check(record)
        return record

    def _check_kind(self) -> None:
        if self._given_tokens is not None and not self._models.gives_many(None):
            raise InputError("token_vectors= is for models that give many vectors a page; leave it out, or choose one")

    def _new_tokens(self, embedder: AnyEmbedder) -> TokenVectors | None:
        """How a new index stores its many vectors; None for one vector a page."""
        if not self._models.gives_many(None):
            return None
        tokens = (self._given_tokens or TokenVectors()).resolved(embedder.dimensions)
        if tokens.pooling == "grid" and not isinstance(embedder, LocatingEmbedder):
            raise InputError(f"{embedder.name} does not say where its vectors stand; choose pooling='hierarchical'")
        return tokens

    def _picture(self, stored: StoredPage) -> Image.Image | None:
        if self._images is None or stored.image_key is None:
            return None
        try:
            return self._images.read(stored.image_key)
        except ImageError as error:
            _log.warning("page %d of %s comes without its picture: %s", stored.page.number, stored.page.source, error)
            return None

    def _image_path(self, stored: StoredPage) -> str | None:
        return None if self._images is None else f"{self._images.root.rstrip('/')}/{stored.image_key}"


def open_images(
    images: Images, *, location: str | None, collection: str, client: object
) -> tuple[PageImages | None, PageImages | None]:
    """The picture store, and again if it lives in memory and goes with the index.

    Raises:
        InputError: there is no place beside the index, or `images` is no place.
    """
    if images is None or isinstance(images, PageImages):
        return images, None
    if images is not True:
        return PageImages(images), None
    if client is not None or (location is not None and "://" in location):
        raise InputError("with a server or a client, say where pictures are kept: images= a folder, a URL, or None")
    if location is not None:
        return PageImages(Path(location, "images", collection)), None
    scratch = PageImages(f"memory://nemotron-rag-{uuid.uuid4().hex}")
    return scratch, scratch


def _as_asked(stored: StoredPage, wanted: Filter | None) -> Page:
    """The page, under that of its sources which the filter names, if it names one."""
    asked = wanted.get("source") if isinstance(wanted, Mapping) else None
    names = [asked] if isinstance(asked, str) else asked or ()
    source = next((name for name in stored.sources if name in names), stored.page.source)
    return replace(stored.page, source=source)


def reranked(hits: Sequence[Hit], scores: FloatArray, top_n: int | None) -> list[Hit]:
    """The hits in the order of a reranker's logits (hits,); equal ones stay as they were."""
    order = sorted(range(len(hits)), key=lambda i: -float(scores[i]))[:top_n]
    return [replace(hits[i], score=float(scores[i]), rank=rank) for rank, i in enumerate(order, 1)]
