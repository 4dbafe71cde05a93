"""PageIndex: pages in, hits out. It joins the parts (read, embed, store, search, rerank) and holds no tensor code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from nemotron_rag.errors import InputError
from nemotron_rag.index._core import Images, IndexCore, open_images
from nemotron_rag.index._documents import Sources, clean_source
from nemotron_rag.index._ingest import Ingest
from nemotron_rag.index._ingest_plan import OnError, Plan
from nemotron_rag.index._models import AnyEmbedder, IndexModels, Named
from nemotron_rag.index._modes import Mode
from nemotron_rag.index._removal import remove_document, remove_pages
from nemotron_rag.index._search import PageSearch
from nemotron_rag.pdf import Ocr, Pages
from nemotron_rag.protocols import Reranker
from nemotron_rag.stores.qdrant import Filter, IndexedType, QdrantStore
from nemotron_rag.token_vectors import TokenVectors
from nemotron_rag.types import AddReport

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["Mode", "PageIndex"]


class PageIndex(PageSearch):
    """Pages of documents, found by what they show and say.

    Every method may be called from any thread, and the ``a...`` twins from any event loop. An embedded index belongs
    to one process at a time. Many processes may search on one server, and one at a time add and delete: which files
    share a page is read and written back. Open only index folders that you trust (see `stores.qdrant`).

    Args:
        location: None for memory, a folder, or the ``http(s)://`` url of a Qdrant server.
        embedder: a catalog id, a local folder, or a loaded `Embedder` or `MultiVectorEmbedder`; None for the one that
            wrote the index.
        reranker: for `search`; a catalog id, a local folder, or a loaded `Reranker`.
        collection: one location may hold several.
        client: an open `qdrant_client.QdrantClient` instead of `location`; it stays open when the index is closed.
        images: where page pictures are kept. True is beside an embedded index (``<location>/images/<collection>``)
            or in memory; with a server or a `client`, name a folder or URL. None keeps none: hits have text only.
        dpi: resolution for PDF pages; None for scaling each to `max_pixels`, or for what the index was written with.
        max_pixels: most pixels of a PDF page's picture; None for the renderer's default, or as the index has it.
        device: where models that are named are loaded; ``cuda:0,cuda:1`` uses both, see `load_embedder`.
        dtype: in which number format.
        max_input_tiles: tiles per picture, for models that are named; None for the model's own, or the index's.
        token_vectors: how many vectors a page are pooled and stored; None for what fits, or as the index has it.

    Raises:
        IndexMismatchError: the index was written with another model or other settings.
        StoreError: the index is in use, is not one of ours, or its server cannot be reached.
        InputError: the arguments do not fit together, a new index is given no embedder, or a model is not known.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder, FakeReranker
        >>> from nemotron_rag.types import Page
        >>> with PageIndex(embedder=FakeEmbedder(), reranker=FakeReranker()) as index:
        ...     texts = {1: "apples", 2: "pears"}
        ...     index.add([Page(id=f"p{n}", number=n, text=text) for n, text in texts.items()], progress=False).added
        ...     [(hit.page.number, hit.score) for hit in index.search("pears", top_n=1)]
        2
        [(2, 5.0)]
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        embedder: Named | AnyEmbedder | None = None,
        reranker: Named | Reranker | None = None,
        collection: str = "pages",
        client: QdrantClient | None = None,
        images: Images = True,
        dpi: float | None = None,
        max_pixels: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_input_tiles: int | None = None,
        token_vectors: TokenVectors | None = None,
    ) -> None:
        place = None if location is None else os.fspath(location)
        kept, self._scratch = open_images(images, location=place, collection=collection, client=client)
        store = QdrantStore(place, client=client, collection=collection)
        try:
            models = IndexModels(
                str(store), embedder, reranker, device=device, dtype=dtype, max_input_tiles=max_input_tiles
            )
            self._core = IndexCore(store, kept, models, dpi=dpi, max_pixels=max_pixels, tokens=token_vectors)
        except BaseException:
            store.close()
            raise

    def add(
        self,
        sources: Sources,
        *,
        pages: Pages = None,
        password: str | None = None,
        ocr: Ocr = "auto",
        metadata: Mapping[str, Any] | None = None,
        on_error: OnError = "skip",
        progress: bool = True,
    ) -> AddReport:
        """Read, embed and store pages, as a stream: memory does not grow with their number.

        Pages whose content is stored already are neither read nor embedded again. A file whose content has changed
        replaces its pages: the new ones are written first. Files of equal content share their pages. Interrupted at
        any moment and called again, it ends with the same index as if it had not been interrupted.

        Args:
            sources: a PDF, an image file, a folder (its PDFs, and those below), a `Page`, or an iterable of these,
                which is consumed as pages are stored. A file is called in the index as it is named here, ``./`` and
                ``x/..`` folded; a `Page` is known by its id, and one whose text or picture has changed is replaced.
            pages: of each PDF: numbers starting at 1, or a text such as "1-3,7,10-"; None for all.
            password: opens protected PDFs.
            ocr: see `read_pdf`.
            metadata: plain JSON values laid over those of every page, also of pages that are stored already.
            on_error: "skip" reports what cannot be read and goes on; "raise" raises it.
            progress: show a bar on stderr.

        Raises:
            InputError: an argument cannot be used; with "raise": something cannot be read.
            IndexMismatchError: the embedder is not the one that wrote the index.
            StoreError: a write was not acknowledged.
        """
        core = self._core
        store = core.store
        plan = Plan(
            lookup=lambda page_ids: store.get(page_ids) if core.exists() else {},
            sources=sources,
            pages=pages,
            password=password,
            metadata=metadata or {},
            on_error=on_error,
            pdf_options={"ocr": ocr, **core.render_settings()},
        )
        run = Ingest(plan, embed=core.embed, prepare=core.prepare, store=store, images=core.images, progress=progress)
        return run.run()

    def delete(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
    ) -> int:
        """Remove pages and their pictures.

        Args:
            source: a document, as `add` or `sources` names it. Pages that another document holds too stay with that.
            ids: of pages, instead.
            filter: as in `search`, instead.

        Returns:
            How many pages are gone from the index.

        Raises:
            InputError: not exactly one of the three was given.
            StoreError: a write was not acknowledged.
        """
        if isinstance(ids, str):
            raise InputError("delete wants ids as a list of page ids, got a single str; put it into a list")
        if sum(value is not None for value in (source, ids, filter)) != 1:
            raise InputError("delete wants exactly one of source, ids and filter; to remove all pages: filter={}")
        store, images = self._core.store, self._core.images
        if not self._core.exists():
            return 0
        if source is None:
            found = ids if ids is not None else [stored.page.id for stored in store.pages(filter)]
            return remove_pages(store, images, found, source=None)
        return sum(remove_document(store, images, name) for name in {os.fspath(source), clean_source(source)})

    def count(self, filter: Filter | None = None) -> int:
        """How many pages there are, or a filter matches.

        Raises:
            NemotronRagError: the filter cannot be used, or the store cannot be reached.
        """
        store = self._core.store
        return store.count(filter) if self._core.exists() else 0

    def sources(self) -> list[str]:
        """The documents in the index, sorted.

        Raises:
            StoreError: the store cannot be reached.
        """
        store = self._core.store
        return store.sources() if self._core.exists() else []

    def index_metadata(self, key: str, kind: IndexedType) -> None:
        """Make filters on a metadata key fast on a server; an embedded index has no need of it.

        Args:
            key: as in a filter.
            kind: what its values are, "keyword" for texts.

        Raises:
            NemotronRagError: the key cannot be used, the index has no pages yet, or the server refused.
        """
        self._core.store.index_metadata(key, kind)

    async def aadd(self, sources: Sources, **options: Any) -> AddReport:
        """The same as `add`, with the same arguments, without blocking the event loop."""
        return await asyncio.to_thread(self.add, sources, **options)

    async def adelete(self, source: str | os.PathLike[str] | None = None, **selection: Any) -> int:
        """The same as `delete`, with the same arguments, without blocking the event loop."""
        return await asyncio.to_thread(self.delete, source, **selection)

    async def acount(self, filter: Filter | None = None) -> int:
        """The same as `count`, without blocking the event loop."""
        return await asyncio.to_thread(self.count, filter)

    def close(self) -> None:
        """Close the store, and the models that were loaded by name; later calls raise `ClosedError`."""
        self._core.close()
        if self._scratch is not None:
            self._scratch.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
