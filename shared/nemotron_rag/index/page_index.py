"""PageIndex: pages in, hits out."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, Unpack

from nemotron_rag._tracing import traced_retrieval
from nemotron_rag.batch.job import Engine
from nemotron_rag.batch.parquet import ParquetStage, is_stage
from nemotron_rag.batch.place import IndexPlace
from nemotron_rag.batch.workers import Workers
from nemotron_rag.documents.pdf import Ocr, OnError, Pages, PdfEngine
from nemotron_rag.errors import InputError
from nemotron_rag.index.finding import Finder, above, arank_hits, rank_hits
from nemotron_rag.index.found_sources import clean_source
from nemotron_rag.index.ingest import Ingest
from nemotron_rag.index.integrity import check
from nemotron_rag.index.models import IndexModels, Rerank
from nemotron_rag.index.plan import Plan
from nemotron_rag.index.region_search import regions_of, word_boxes_of_page
from nemotron_rag.index.regions import RegionsBy
from nemotron_rag.index.request import Mode, Request
from nemotron_rag.index.selection import Selection
from nemotron_rag.index.source_files import Sources, fold_sources
from nemotron_rag.index.spread import SpreadIngest, check_engine
from nemotron_rag.index.state import Images, IndexState, images_of
from nemotron_rag.index.vanished import check_places, places_of, vanished
from nemotron_rag.late_interaction.heatmap import Heatmap, compute_heatmap
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.models.load import LoadOptions, ModelName
from nemotron_rag.protocols import AnyEmbedder, PageStore, Reranker, reads_image_queries
from nemotron_rag.ranking import OnImageError, OnUnscored, RankingPolicy, ScoreTransform
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.stores.filters import is_empty, matching_files, parse_filter
from nemotron_rag.stores.server import Connection, HoldsSecret
from nemotron_rag.stores.tenant import Tenant, TenantKey
from nemotron_rag.types import (
    AddReport,
    CheckReport,
    Filter,
    Hit,
    ImageReference,
    ImageSource,
    IndexedType,
    Page,
    Passage,
    Query,
    Region,
    WordBoxes,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["PageIndex"]

_log = logging.getLogger("nemotron_rag")

AddEngine: TypeAlias = Literal["ray"] | Engine
"""What runs `PageIndex.add` on many processes: Ray, or a function of the caller's."""


class PageIndex:
    """Pages of documents, found by what they show and say.

    Every method may be called from any thread, and the ``a...`` twins from any event loop. All who open a folder in
    one process share it. One process writes, until it closes it; others read and follow what is written. Any
    number of processes may search, add and delete on one server at once.

    Args:
        location: None for memory, a folder, or the ``http(s)://`` url of a Qdrant server; or ``parquet://`` and a
            folder or fsspec URL, where pages are staged for `load_stage` and cannot be searched.
        store: any `PageStore` instead of `location`; it is closed with the index.
        client: an open `qdrant_client.QdrantClient` instead of `location`; it stays open when the index is closed.
        embedder: a catalog id, a local folder, the url of a model server, or a loaded `Embedder` or
            `MultiVectorEmbedder`; None for the one that wrote the index.
        reranker: for `search`; a catalog id, a local folder, or a loaded `Reranker`.
        collection: one location may hold several.
        api_key: of a Qdrant server that is given by its url; None for the environment variable ``QDRANT_API_KEY``. No
            message, repr or pickle shows it.
        headers: sent to such a server with every request, and as little shown.
        timeout: seconds that one request to such a server may take; None for 60.
        patience: seconds for which requests are tried again while a server is busy or does not answer: 3600 rides out
            an hour, 0 is never; None for 120, and for 5 at first contact. Searches wait for 5 at most.
        tenant: a metadata key and its value, such as ``("customer", "acme")``: the index is shared by many, and this
            object sees, changes and deletes the pages of this one alone, whatever filters and ids it is given. Equal
            pages of two tenants are stored twice. The key belongs to the collection, which cannot be opened without.
        collection_options: of a new collection: `CollectionOptions`, or a mapping of them.
        images: where page images are stored. True is beside the pages (``<location>/images/<collection>``, or in
            memory); with a server or a `client`, name a folder or URL. None stores none: hits have text only.
        create: False if the index must be there already.
        dpi: resolution for PDF pages; None for scaling each to `max_pixels`, or for what the index was written with.
        max_pixels: most pixels of a PDF page's image; None for the renderer's default, or as the index has it.
        pdf_engine: what renders PDFs, "auto", "mupdf" or "pdfium" (see `nemotron_rag.documents.pdf.PdfEngine`); None
            for "auto", or as the index was made. An index may hold pages of both: those of pdfium say so.
        token_vectors: how token vectors are pooled and stored; None for what fits, or as the index has it.
        reranker_options: for rerankers that are named, over `options`; see `LoadOptions`.
        **options: for models that are named: ``device``, ``dtype``, ``max_input_tiles`` and the others of
            `LoadOptions`. None is the model's own choice, or as the index has it. Those that a reranker has in common
            with the embedder (all but ``dimensions``, ``revision`` and ``max_length``) hold for both.

    Raises:
        IndexMismatchError: the index was written with another model or other settings.
        StoreError: the index is in use, was not written by this package, or its server cannot be reached.
        InputError: the arguments do not fit together, a new index is given no embedder, or with ``create=False`` there
            is none.
        UnknownModelError: a model's name is neither in the catalog nor a folder.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder, FakeReranker
        >>> from nemotron_rag.types import ImageReference, Page
        >>> with PageIndex(embedder=FakeEmbedder(), reranker=FakeReranker()) as index:
        ...     texts = {1: "apples", 2: "pears"}
        ...     index.add([Page(id=f"p{n}", number=n, text=text) for n, text in texts.items()], progress=False).added
        ...     [(hit.page.number, hit.score) for hit in index.search("pears", k=1)]
        2
        [(2, 5.0)]
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        store: PageStore | None = None,
        client: QdrantClient | None = None,
        embedder: ModelName | AnyEmbedder | None = None,
        reranker: ModelName | Reranker | None = None,
        collection: str = "pages",
        api_key: str | HoldsSecret | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        patience: float | None = None,
        tenant: TenantKey | None = None,
        collection_options: CollectionOptions | Mapping[str, Any] | None = None,
        images: Images = True,
        create: bool = True,
        dpi: float | None = None,
        max_pixels: int | None = None,
        pdf_engine: PdfEngine | None = None,
        token_vectors: TokenVectors | None = None,
        reranker_options: LoadOptions | None = None,
        **options: Unpack[LoadOptions],
    ) -> None:
        connection = Connection(api_key=api_key, headers=headers, timeout=timeout, patience=patience)
        opened = _store(
            location,
            store=store,
            client=client,
            connection=connection,
            settings={"collection": collection, "tenant": Tenant.of(tenant), "collection_options": collection_options},
        )
        self._tenant: Tenant | None = getattr(opened, "tenant", None)
        self._where = None if location is None else (os.fspath(location), collection, connection)
        try:
            models = IndexModels(str(opened), embedder, reranker, options=options, reranker_options=reranker_options)
            stored_images = images_of(images, opened)
            if stored_images is not None and self._tenant is not None:
                stored_images = stored_images.of_tenant(self._tenant)
            if not create and not opened.exists():
                named = opened.missing() if hasattr(opened, "missing") else opened
                raise InputError(
                    f"there is no index: {named}; make one with PageIndex(...).add or `nemotron-rag index`, or give "
                    "another collection; what a framework's vector store wrote is searched through that store"
                )
            self._state = IndexState(
                opened,
                stored_images,
                models,
                dpi=dpi,
                max_pixels=max_pixels,
                tokens=token_vectors,
                pdf_engine=pdf_engine,
            )
        except BaseException:
            opened.close()
            raise
        in_memory = images is True and stored_images is not None and stored_images.root.startswith("memory://")
        self._scratch = stored_images if in_memory else None
        self._finder = Finder(self._state)
        self._said_images = False

    def __repr__(self) -> str:
        """``PageIndex(collection 'pages' at ./index, embedder='starter-embed-vl')``."""
        models = self._state.models
        named = {"embedder": models.embedder_name, "reranker": models.reranker_name}
        if self._tenant is not None:
            named["tenant"] = str(self._tenant)
        return f"PageIndex({', '.join([str(self._state), *(f'{k}={v!r}' for k, v in named.items() if v)])})"

    @property
    def is_multivector(self) -> bool:
        """Whether a page has token vectors, so that searches are by late interaction and `heatmap` works."""
        return self._state.is_multivector

    def reranker(self, rerank: Rerank = True) -> LazyModel[Reranker] | None:
        """The reranker that `search` takes for a `rerank`, loaded at its first use; None if nothing is reranked.

        Raises:
            NemotronRagError: there is no such reranker.
        """
        return self._state.models.reranker(rerank)

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
        engine: AddEngine | None = None,
        workers: Workers | None = None,
    ) -> AddReport:
        """Read, embed and store pages, as a stream: memory does not grow with their number.

        Pages whose content is stored already are neither read nor embedded again. A file whose content has changed
        replaces its pages: the new ones are written first. Files of equal content share their pages, each with metadata
        of its own. Interrupted at any moment and called again, it ends with the same index as if it had not been
        interrupted. Any number of processes may add to one server at once, the same files included.

        Args:
            sources: a PDF, an image file, a folder (its PDFs, and those below), an fsspec URL of either
                (``s3://bucket/folder``, ``zip://::archive.zip``; see docs/documents.md), a `Page`, or an iterable of
                these, which is consumed as pages are stored. A file is called in the index as it is named here, ``./``
                and ``x/..`` folded; a `Page` is known by its id, and one whose text or image has changed is replaced.
            pages: of each PDF: numbers starting at 1, or a text such as "1-3,7,10-"; None for all.
            password: opens protected PDFs.
            ocr: see `read_pdf`.
            metadata: plain JSON values laid over those of every page, also of pages that are stored already. They
                belong to the pages in these files: an equal file keeps its own.
            on_error: "skip" reports what cannot be read and goes on; "raise" raises it.
            progress: show a bar on stderr.
            engine: "ray" for many processes, on one machine or many (extra `ray`): they render and embed, and with a
                server write too; or a function that runs a `nemotron_rag.batch.job.Job` elsewhere, such as on Spark;
                see docs/scale.md. The index is the same. None for the threads of this process.
            workers: how many processes, and where; None for what fits.

        Raises:
            InputError: an argument cannot be used; with "raise": something cannot be read.
            IndexMismatchError: the embedder is not the one that wrote the index.
            StoreError: the store failed for longer than its patience. As with every error that ends a run, `report` of
                the error says what is stored.
        """
        plan = self._plan(sources, pages, password, ocr, metadata, on_error)
        return self._carry_out(plan, progress=progress, engine=engine, workers=workers)

    async def aadd(
        self,
        sources: Sources,
        *,
        pages: Pages = None,
        password: str | None = None,
        ocr: Ocr = "auto",
        metadata: Mapping[str, Any] | None = None,
        on_error: OnError = "skip",
        progress: bool = True,
        engine: AddEngine | None = None,
        workers: Workers | None = None,
    ) -> AddReport:
        """`add` for event loops, which it does not block."""
        return await asyncio.to_thread(
            self.add,
            sources,
            pages=pages,
            password=password,
            ocr=ocr,
            metadata=metadata,
            on_error=on_error,
            progress=progress,
            engine=engine,
            workers=workers,
        )

    def sync(
        self,
        sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        pages: Pages = None,
        password: str | None = None,
        ocr: Ocr = "auto",
        metadata: Mapping[str, Any] | None = None,
        on_error: OnError = "skip",
        progress: bool = True,
        engine: AddEngine | None = None,
        workers: Workers | None = None,
    ) -> AddReport:
        """`add`, and what has vanished from these files and folders leaves the index.

        A file that was renamed keeps its pages under its new name. A file that is there but cannot be read stays as it
        is in the index. Nothing is removed unless everything was added, and only documents that `add` named like
        these folders do: call it with the same paths, from the same working folder.

        Args:
            sources: files, folders and URLs of either; an empty folder has lost all of its documents.
            pages: see `add`, as all that follows.
            password: opens protected PDFs.
            ocr: see `read_pdf`.
            metadata: of the pages in these files.
            on_error: "skip" or "raise".
            progress: show a bar on stderr.
            engine: see `add`.
            workers: of the engine.

        Returns:
            The report of `add`, in which `removed` counts the pages of vanished documents too.

        Raises:
            InputError: a folder of which there are documents is not there: nothing is done, for it may be a disk that
                is not mounted. Or as from `add`.
            NemotronRagError: as from `add`.
        """
        places = places_of(sources)
        if self._state.exists():
            check_places(self._state.store, places)
        plan = self._plan(places, pages, password, ocr, metadata, on_error)
        report = self._carry_out(plan, progress=progress, engine=engine, workers=workers)
        gone = vanished(self._state.store, places, plan.listings) if self._state.exists() else []
        removed = self._state.remove_matching({"source": gone})[0] if gone else 0
        return replace(report, removed=report.removed + removed)

    async def async_(
        self,
        sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        pages: Pages = None,
        password: str | None = None,
        ocr: Ocr = "auto",
        metadata: Mapping[str, Any] | None = None,
        on_error: OnError = "skip",
        progress: bool = True,
        engine: AddEngine | None = None,
        workers: Workers | None = None,
    ) -> AddReport:
        """`sync` for event loops, which it does not block."""
        return await asyncio.to_thread(
            self.sync,
            sources,
            pages=pages,
            password=password,
            ocr=ocr,
            metadata=metadata,
            on_error=on_error,
            progress=progress,
            engine=engine,
            workers=workers,
        )

    @traced_retrieval
    def search(
        self,
        query: Query,
        *,
        k: int = 10,
        candidates: int | None = None,
        rerank: Rerank = True,
        filter: Filter | None = None,
        mode: Mode | None = None,
        prefetch: int | None = None,
        min_score: float | None = None,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
        score_threshold: float | None = None,
        score_transform: ScoreTransform = None,
        on_image_error: OnImageError = "text",
        on_unscored: OnUnscored = "last",
        fuse: bool = False,
    ) -> list[Hit]:
        """Find the pages that answer a query.

        Args:
            query: in words; or a `Passage` with an image, with or without words, where embedder and reranker read such
                queries (Qwen3-VL-Embedding and -Reranker, jina-reranker-m0).
            k: pages returned.
            candidates: pages fetched for the reranker, which reads image and text of all of them, or to choose diverse
                ones from; None for 20, or k if that is more, or 4 k where diverse ones are chosen and not reranked.
            rerank: True for the index's own reranker if it has one, False for none, or the name of one, or a loaded
                `Reranker`.
            filter: which pages to look at: ``{"source": "a.pdf", "page_number": [1, 2], "year": {"gte": 2020}}`` over
                id, source, page_number, content_hash and metadata keys, with operators, and, or and not (see
                `nemotron_rag.stores.filters`); or the store's own kind of filter.
            mode: "dense" finds by one vector a page, "multi" by token vectors: projections of them find candidates,
                and exact MaxSim puts these in order. "hybrid" also finds by the words of the pages' text layers (BM25),
                and joins the two orders by their ranks. None is what the embedder gives. Where it gives token vectors,
                "dense" compares their mean: quick in the largest of indexes, and rough. Retrieval scores are cosines,
                MaxSim, or in hybrid mode fusion scores.
            prefetch: pages whose token vectors are compared exactly; None for the store's default, 200 in Qdrant. More
                find more, and take longer.
            min_score: smallest `Hit.retrieval_score` of a page, before anything is reranked: a cosine or MaxSim, not in
                hybrid mode.
            per_document: pages of one document (`Page.source`) that are returned at most; the store is asked for more
                until k are found. A reranker may see more of them, and so decides which these are.
            diversity: from 0 to 1: choose pages that are unlike each other, by maximal marginal relevance (see
                `nemotron_rag.index.selection`), and return them in the order in which they were chosen. None for 0.
            neighbours: so many pages before and after each hit in its document come with it, as `Hit.neighbours`, if
                the filter matches them too.
            score_threshold: smallest `Hit.score` that is kept: after reranking the reported score.
            score_transform: of the reranker's logits: "sigmoid", or a function; the order follows the logits.
            on_image_error: a page's image cannot be read when it is reranked: go on with its "text", "skip" the page,
                or "raise".
            on_unscored: the reranker cannot score a page, which has neither text nor image or makes it compute NaN: put
                it "last" with minus infinity, "skip" it, or "raise".
            fuse: join the reranker's order with the one in which the pages were found, by reciprocal rank fusion, for
                rerankers that are not trusted alone; `Hit.score` is then a fusion score.

        Returns:
            Best first. An index without pages gives none. Images are references: nothing is decoded here but what a
            reranker needs.

        Raises:
            InputError: an argument cannot be used.
            NemotronRagError: a model or the store failed.
        """
        reranker, request = self._request(
            Selection(k=k, per_document=per_document, diversity=diversity, neighbours=neighbours),
            candidates=candidates,
            rerank=rerank,
            filter=filter,
            mode=mode,
            prefetch=prefetch,
            min_score=min_score,
        )
        policy = RankingPolicy(
            score_threshold=score_threshold,
            score_transform=score_transform,
            on_image_error=on_image_error,
            on_unscored=on_unscored,
            fuse=fuse,
        )
        if not self._finder.can_search(query):
            return []
        embedder = self._state.embedder()
        rows = embedder.embed_queries([_checked_query(query, embedder)])
        hits = self._finder.nearest(rows[0], request, query=_words(query))
        if reranker is None or not hits:
            return self._finder.selected(above(hits, policy), request.selection, filter)
        return self._finder.selected(rank_hits(reranker.get(), query, hits, policy), request.selection, filter)

    @traced_retrieval
    async def asearch(
        self,
        query: Query,
        *,
        k: int = 10,
        candidates: int | None = None,
        rerank: Rerank = True,
        filter: Filter | None = None,
        mode: Mode | None = None,
        prefetch: int | None = None,
        min_score: float | None = None,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
        score_threshold: float | None = None,
        score_transform: ScoreTransform = None,
        on_image_error: OnImageError = "text",
        on_unscored: OnUnscored = "last",
        fuse: bool = False,
    ) -> list[Hit]:
        """`search` for event loops, which it does not block."""
        reranker, request = await asyncio.to_thread(
            self._request,
            Selection(k=k, per_document=per_document, diversity=diversity, neighbours=neighbours),
            candidates=candidates,
            rerank=rerank,
            filter=filter,
            mode=mode,
            prefetch=prefetch,
            min_score=min_score,
        )
        policy = RankingPolicy(
            score_threshold=score_threshold,
            score_transform=score_transform,
            on_image_error=on_image_error,
            on_unscored=on_unscored,
            fuse=fuse,
        )
        if not await asyncio.to_thread(self._finder.can_search, query):
            return []
        embedder = await asyncio.to_thread(self._state.embedder)
        rows = await embedder.aembed_queries([_checked_query(query, embedder)])
        hits = await asyncio.to_thread(self._finder.nearest, rows[0], request, query=_words(query))
        if reranker is None or not hits:
            return await asyncio.to_thread(self._finder.selected, above(hits, policy), request.selection, filter)
        ranked = await arank_hits(await reranker.aget(), query, hits, policy)
        return await asyncio.to_thread(self._finder.selected, ranked, request.selection, filter)

    @traced_retrieval
    def candidates(
        self,
        query: Query,
        *,
        k: int = 10,
        candidates: int | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        prefetch: int | None = None,
        min_score: float | None = None,
        per_document: int | None = None,
    ) -> list[Hit]:
        """The hits that `search` gives to a reranker: for those who rank them in another way, and then `select`.

        Args:
            query: in words.
            k: pages that are returned in the end.
            candidates: see `search`, as are all others.
            filter: see `search`.
            mode: see `search`.
            prefetch: see `search`.
            min_score: see `search`.
            per_document: see `search`.

        Returns:
            By their retrieval scores, best first.

        Raises:
            InputError, NemotronRagError: as from `search`.
        """
        selection = Selection(k=k, per_document=per_document)
        options: dict[str, Any] = {"filter": filter, "mode": mode, "prefetch": prefetch, "min_score": min_score}
        _, request = self._request(selection, candidates=candidates, rerank=None, **options)
        if not self._finder.can_search(query):
            return []
        embedder = self._state.embedder()
        rows = embedder.embed_queries([_checked_query(query, embedder)])
        return self._finder.nearest(rows[0], request, query=_words(query))

    async def acandidates(self, query: Query, **options: Any) -> list[Hit]:
        """`candidates` for event loops, which it does not block."""
        return await asyncio.to_thread(self.candidates, query, **options)

    def select(
        self,
        hits: Sequence[Hit],
        *,
        k: int = 10,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
        filter: Filter | None = None,
    ) -> list[Hit]:
        """Which of ranked hits `search` returns: for those who rank them in another way.

        Args:
            hits: of this index, best first by `Hit.score`.
            k: hits returned at most.
            per_document: see `search`, as are all others.
            diversity: see `search`.
            neighbours: see `search`.
            filter: with which the hits were found.

        Returns:
            New hits, with `Hit.rank` and `Hit.neighbours`.

        Raises:
            InputError: a value cannot be used.
            NemotronRagError: the store failed.
        """
        selection = Selection(k=k, per_document=per_document, diversity=diversity, neighbours=neighbours)
        return self._finder.selected(list(hits), selection, filter)

    async def aselect(self, hits: Sequence[Hit], **options: Any) -> list[Hit]:
        """`select` for event loops, which it does not block."""
        return await asyncio.to_thread(self.select, hits, **options)

    @traced_retrieval
    def search_image(
        self,
        image: ImageSource,
        *,
        k: int = 10,
        filter: Filter | None = None,
        min_score: float | None = None,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
    ) -> list[Hit]:
        """Find the k pages that look most like an image, in any form that `load_image` reads; nothing is reranked.

        The image is embedded as a query where the embedder reads such queries, else as a passage. The options are those
        of `search`.

        Raises:
            ImageError: the image cannot be read; or as from `search`.
        """
        selection = Selection(k=k, per_document=per_document, diversity=diversity, neighbours=neighbours)
        _, request = self._request(selection, rerank=False, filter=filter, min_score=min_score)
        if not self._finder.can_search(""):
            return []
        embedder, query = self._state.embedder(), Passage(image=image)
        as_query = self._reads_images(embedder)
        rows = embedder.embed_queries([query]) if as_query else embedder.embed_passages([query])
        return self._finder.selected(self._finder.nearest(rows[0], request), selection, filter)

    @traced_retrieval
    async def asearch_image(
        self,
        image: ImageSource,
        *,
        k: int = 10,
        filter: Filter | None = None,
        min_score: float | None = None,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
    ) -> list[Hit]:
        """`search_image` for event loops, which it does not block."""
        selection = Selection(k=k, per_document=per_document, diversity=diversity, neighbours=neighbours)
        _, request = await asyncio.to_thread(self._request, selection, rerank=False, filter=filter, min_score=min_score)
        if not await asyncio.to_thread(self._finder.can_search, ""):
            return []
        embedder = await asyncio.to_thread(self._state.embedder)
        query, as_query = Passage(image=image), self._reads_images(embedder)
        rows = await (embedder.aembed_queries([query]) if as_query else embedder.aembed_passages([query]))
        hits = await asyncio.to_thread(self._finder.nearest, rows[0], request)
        return await asyncio.to_thread(self._finder.selected, hits, selection, filter)

    def page_images(self, ids: Sequence[str]) -> dict[str, ImageReference]:
        """The images of pages, not opened, by page id; pages that are not here or have none are left out.

        Args:
            ids: of pages, as `Page.id` or as the metadata of a framework's documents have them.

        Raises:
            StoreError: the store cannot be reached.
        """
        found = {page_id: self._state.image_of(stored) for page_id, stored in self._state.lookup(ids).items()}
        return {page_id: image for page_id, image in found.items() if image is not None}

    def load(self) -> None:
        """Load the models now, not with the first search; without pages there is only a reranker to load.

        Raises:
            NemotronRagError: as from `search`.
        """
        if self._finder.can_search(""):
            self._state.embedder()
        if (reranker := self.reranker()) is not None:
            reranker.get()

    async def aload(self) -> None:
        """`load` for event loops, which it does not block."""
        await asyncio.to_thread(self.load)

    def heatmap(self, page: Passage, query: str) -> Heatmap:
        """Compute where on a page the words of a query match, by the late-interaction model of this index.

        The page's vectors are computed anew from its image, so pooled ones do no harm. `Heatmap.image` paints it.

        Args:
            page: of a hit, or any passage with an image.
            query: in words.

        Raises:
            InputError: the index has one vector a page, the page no image, or the query no word.
            NemotronRagError: the index was closed, or the model failed.
        """
        state = self._state
        _ = state.store
        if not state.exists():
            state.models.check(None)
        return compute_heatmap(state.embedder(), page, query)

    async def aheatmap(self, page: Passage, query: str) -> Heatmap:
        """`heatmap` for event loops, which it does not block."""
        return await asyncio.to_thread(self.heatmap, page, query)

    def regions(
        self, page: Passage, query: str, *, k: int = 3, by: RegionsBy = "auto", rerank: Rerank = False
    ) -> list[Region]:
        """Find where on a page a query is answered: boxes on its image, snapped to lines of its text.

        Lines are compared by the words that they share with the query, rare ones first; with a late-interaction model
        by its token vectors as well, which are computed anew from the page's image. Where the words of a page stand was
        noted when it was added; for pages of earlier versions see `word_boxes`.

        Args:
            page: of a hit. Of any other passage with an image, a late-interaction model shows where it is hot.
            query: in words.
            k: regions at most; what is much worse than the best one is left out.
            by: "words" alone, which takes milliseconds, or token "vectors" too; "auto" is what the embedder gives.
            rerank: as in `search`: a reranker scores crops of the regions, and puts them in order.

        Returns:
            Best first. None if the page has no word of the query, and no token vectors say more.

        Raises:
            InputError: an argument cannot be used.
            NemotronRagError: a model or the store failed, or the image cannot be read.
        """
        return regions_of(self._state, page, query, k=k, by=by, rerank=rerank)

    async def aregions(
        self, page: Passage, query: str, *, k: int = 3, by: RegionsBy = "auto", rerank: Rerank = False
    ) -> list[Region]:
        """`regions` for event loops, which it does not block."""
        return await asyncio.to_thread(self.regions, page, query, k=k, by=by, rerank=rerank)

    def word_boxes(self, page: Page) -> WordBoxes | None:
        """Where the words of a page stand in its image: those of its text layer, or of Tesseract.

        They are stored beside the image. Of a page without them, which an earlier version stored, they are read from
        its PDF, if that is still there and has not changed.

        Returns:
            None if that is not known; the first time, a warning says so.

        Raises:
            StoreError: the store cannot be reached, or what it has is damaged: see `repair`.
        """
        return word_boxes_of_page(self._state, page)

    def delete(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
        everything: bool = False,
    ) -> int:
        """Remove pages and their images.

        Args:
            source: a document, as `add` or `sources` names it. Pages that another document holds too stay with that.
            ids: of pages, instead; they go whatever documents hold them.
            filter: as in `search`, instead, but not one that every page meets. Pages that another document holds too,
                in which the filter does not match, stay with that; the store's own kind of filter knows whole pages
                only.
            everything: True for all pages, instead.

        Returns:
            How many pages were deleted.

        Raises:
            InputError: not exactly one of the four was given, or a filter that every page meets.
            StoreError: a write was not acknowledged.
        """
        if isinstance(ids, str):
            raise InputError("delete wants ids as a list of page ids, got a single str; put it into a list")
        if sum(value is not None for value in (source, ids, filter)) + bool(everything) != 1:
            raise InputError("delete wants exactly one of source, ids, filter and everything=True")
        if filter is not None and is_empty(filter):
            raise InputError(f"every page meets the filter {filter!r}; to remove all pages: delete(everything=True)")
        state = self._state
        if not state.exists():
            return 0
        if ids is not None:
            return state.remove(ids, None)
        if source is not None:
            return state.remove_matching({"source": sorted({os.fspath(source), clean_source(source)})})[0]
        filter = {} if everything else fold_sources(filter)
        removed, found = state.remove_matching(filter)
        self._finder.check_keys(filter, found=found)
        return removed

    async def adelete(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
        everything: bool = False,
    ) -> int:
        """`delete` for event loops, which it does not block."""
        return await asyncio.to_thread(self.delete, source, ids=ids, filter=filter, everything=everything)

    def count(self, filter: Filter | None = None) -> int:
        """How many pages there are, or a filter matches.

        Raises:
            NemotronRagError: the filter cannot be used, or the store cannot be reached.
        """
        store, filter = self._state.store, fold_sources(filter)
        found = store.count(filter) if self._state.exists() else 0
        self._finder.check_keys(filter, found=bool(found))
        return found

    async def acount(self, filter: Filter | None = None) -> int:
        """`count` for event loops, which it does not block."""
        return await asyncio.to_thread(self.count, filter)

    def sources(self, filter: Mapping[str, Any] | None = None) -> list[str]:
        """The documents in the index, sorted.

        Args:
            filter: a dict, as in `search`: only those with a page that it matches.

        Raises:
            InputError: `filter` is no such dict.
            StoreError: the store cannot be reached.
        """
        store, conditions = self._state.store, parse_filter(fold_sources(filter))
        if not self._state.exists():
            return []
        if filter is None:
            return store.sources()
        matching = (matching_files(conditions, stored) for stored in store.pages(fold_sources(filter)))
        return sorted({file.source for files in matching for file in files if file.source})

    def check(self) -> CheckReport:
        """Read every page and every image, and say what is missing, broken, or not what was stored; nothing is changed.

        Raises:
            StoreError: the store cannot be reached, or cannot be opened: see `repair` of the command line.
        """
        return check(self._state, repair=False)

    def repair(self) -> CheckReport:
        """Remove what `check` finds, so that the next `add` of the same files reads these pages again.

        Nobody else may add pages meanwhile.

        Raises:
            StoreError: the store cannot be reached, or a write was not acknowledged.
        """
        return check(self._state, repair=True)

    def index_metadata(self, key: str, kind: IndexedType) -> None:
        """Make filters on a metadata key fast, on a server or in a folder.

        Args:
            key: as in a filter.
            kind: what its values are, "keyword" for texts.

        Raises:
            NemotronRagError: the key cannot be used, the index has no pages yet, or the server refused.
        """
        self._state.store.index_metadata(key, kind)

    def close(self) -> None:
        """Close the store, and the models that were loaded by name; later calls raise `ClosedError`."""
        self._state.close()
        if self._scratch is not None:
            self._scratch.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def _plan(
        self,
        sources: Sources,
        pages: Pages,
        password: str | None,
        ocr: Ocr,
        metadata: Mapping[str, Any] | None,
        on_error: OnError,
    ) -> Plan:
        state = self._state
        _ = state.store
        return Plan(
            lookup=state.lookup,
            sources=sources,
            pages=pages,
            password=password,
            metadata=metadata or {},
            tenant=self._tenant,
            on_error=on_error,
            pdf_options={"ocr": ocr, **state.render_settings()},
            images=None if state.images is None else state.images.root,
        )

    def _carry_out(self, plan: Plan, *, progress: bool, engine: AddEngine | None, workers: Workers | None) -> AddReport:
        if engine is None and workers is None:
            return Ingest(plan, self._state, progress=progress).run()
        run = check_engine(engine)
        place, workers = self._place(), workers or Workers()
        return SpreadIngest(plan, self._state, place, workers=workers, progress=progress, engine=run).run()

    def _place(self) -> IndexPlace | None:
        """Where other processes find this index; None if they cannot."""
        if self._where is None:
            return None
        location, collection, connection = self._where
        images = self._state.images
        return IndexPlace(
            location,
            collection,
            connection,
            self._tenant,
            None if images is None else images.root,
            "png" if images is None else images.image_format,
        )

    def _request(
        self,
        selection: Selection,
        *,
        candidates: int | None = None,
        rerank: Rerank | None,
        filter: Filter | None,
        mode: Mode | None = None,
        prefetch: int | None = None,
        min_score: float | None = None,
    ) -> tuple[LazyModel[Reranker] | None, Request]:
        """The reranker that a search asks for, None for one of the caller's own, and its other arguments, checked."""
        state = self._state
        _ = state.store
        state.exists()
        reranker = None if rerank is None else state.models.reranker(rerank)
        request = Request(
            selection=selection,
            candidates=candidates,
            reranking=rerank is None or reranker is not None,
            mode=mode,
            prefetch=prefetch,
            filter=fold_sources(filter),
            min_score=min_score,
            is_multivector=state.is_multivector,
        )
        return reranker, request

    def _reads_images(self, embedder: AnyEmbedder) -> bool:
        """Whether the model reads images as queries; that it does not is said once."""
        reads = reads_image_queries(embedder)
        if not reads and not self._said_images:
            self._said_images = True
            _log.warning(
                "%s reads queries in words alone: the image is embedded as a page without text, and pages with text, "
                "its own too, may be far from it",
                embedder.name,
            )
        return reads


def _checked_query(query: Query, embedder: AnyEmbedder) -> Query:
    """The query, as a text if it is one.

    Raises:
        InputError: it has an image, and the embedder reads none in queries.
    """
    if isinstance(query, str) or query.image is None:
        return _words(query)
    if not reads_image_queries(embedder):
        raise InputError(
            f"{embedder.name} reads queries as words alone; give words, or find pages that look like the image with "
            "search_image"
        )
    return query


def _words(query: Query) -> str:
    return query if isinstance(query, str) else query.text


def _store(
    location: str | os.PathLike[str] | None,
    *,
    store: PageStore | None,
    client: QdrantClient | None,
    connection: Connection,
    settings: Mapping[str, Any],
) -> PageStore:
    if sum(value is not None for value in (location, store, client)) > 1:
        raise InputError("give one of location, store and client; each says where the pages are")
    if store is not None:
        given = [*connection.options, *(name for name in ("tenant", "collection_options") if settings[name])]
        if given:
            raise InputError(f"{', '.join(given)} belong to a location; give them to the store")
        return store
    if is_stage(location):
        if given := [*connection.options, *(name for name in ("tenant", "collection_options") if settings[name])]:
            raise InputError(f"{', '.join(given)} are of an index; give them when the stage is loaded into one")
        return ParquetStage(str(location))
    from nemotron_rag.stores.qdrant import QdrantStore  # noqa: PLC0415  needs the extra `qdrant`; other stores do not

    place = None if location is None else os.fspath(location)
    return QdrantStore(place, client=client, **settings, **connection.options)
