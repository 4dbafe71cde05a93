"""`NemotronPageRetriever`: pages found by their vectors and ranked by a reranker, in one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self, cast, get_args

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PlainValidator, SecretStr

from langchain_nemotron_rag._counts import K, counts_of
from langchain_nemotron_rag._documents import IMAGE_KEY
from langchain_nemotron_rag._found import FoundDocuments, Search, page_id_of
from langchain_nemotron_rag._settings import Component, Unchecked
from langchain_nemotron_rag._sources import CHOICES, IndexSource, SearchType, Source, StoreSource, Wanted
from langchain_nemotron_rag.reranking import NemotronRerank
from langchain_nemotron_rag.vectorstores import NemotronPageVectorStore
from nemotron_rag import Embedder, LoadOptions, MultiVectorEmbedder, PageIndex, Reranker
from nemotron_rag.documents.images import ImageFormat
from nemotron_rag.errors import InputError
from nemotron_rag.index import Mode
from nemotron_rag.index.models import IndexModels
from nemotron_rag.index.state import Images, images_of
from nemotron_rag.late_interaction.heatmap import Heatmap
from nemotron_rag.models.adopted import adopt
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.ranking import DEFAULT_CANDIDATES, check_count
from nemotron_rag.stores.page_images import ImageForm
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.stores.server import Connection
from nemotron_rag.types import Filter

__all__ = ["NemotronPageRetriever", "SearchType"]

_COLLECTION = "pages"


def _hidden(value: Any) -> Any:
    """A key in a wrapper that does not show it; what is no text is refused where the fields are checked together."""
    return SecretStr(value) if isinstance(value, str) else value


def _place(value: Any) -> Any:
    if isinstance(value, str | Path | PageIndex | VectorStore):
        return value
    raise ValueError(
        f"index must be the folder or url of an index, a PageIndex or a vector store, got {type(value).__name__}"
    )


class NemotronPageRetriever(Component, BaseRetriever):
    """Find pages by their vectors and put them in order with a reranker.

    Searches an index made by `nemotron_rag.PageIndex` or ``nemotron-rag index``, with the hits and scores of
    `PageIndex.search`; or any LangChain vector store. Documents have the page's id and text; in their metadata,
    ``source``, ``page`` (from 0), ``page_number`` (from 1), the image as a data URI, ``relevance_score`` (what they are
    ordered by; not there if the reranker could not score the page) and ``retrieval_score`` (of the vectors; of a store
    that gives distances, its own relevance, so that the largest is the best). A page
    that two queries find gives equal documents, whatever its scores, so that LangChain's retrievers over several
    queries return it once.

    Constructing opens nothing; the first use does. `k`, `fetch_k`, `top_n` and `filter` can be given here and in each
    call: ``retriever.invoke(query, k=2)``. Copies and pickles hold the settings and open again; an open `PageIndex`
    is shared with copies, and cannot be pickled.

    Args:
        index: folder or ``http(s)://`` url of an index, an open `PageIndex`, or a vector store.
        reranker: catalog id, local folder, or loaded `nemotron_rag.Reranker`; or a document compressor such as
            `NemotronRerank`, with its own settings. None or True: that of the open `PageIndex`, if it has one. False:
            none.
        k: documents returned; None for `top_n`, or that of a `NemotronRerank` which was given one, or 4.
        fetch_k: `candidates` of `PageIndex.search`: documents fetched for the reranker; None for 20, or as many as are
            returned if that is more.
        top_n: documents kept by the reranker; None for `k`. With both, the smaller counts, and a log line says so.
        filter: ``{"source": "a.pdf", "page": [0, 1]}`` in the words of the documents' metadata, or a
            `qdrant_client.models.Filter`, or what the vector store takes.
        include_scores: False leaves scores out, for what takes documents as they are written, such as a fusion of
            several queries by ``dumps(document)``.
        include_images: False leaves images out of the documents; the reranker sees them all the same.
        image_form: how documents of an index carry images: "data_uri", "path", "reference" or "none"; see
            `NemotronPageVectorStore`, whose own form counts unless one is given here.
        image_format: of data URIs; None for the stored file as it is, which is not decoded.
        image_key: where in the metadata images are.
        embedder: of an index by location; None for the one that wrote it.
        mode: of an index: "dense", "multi" or "hybrid"; None for what its model gives. See `PageIndex.search`. Of a
            `NemotronPageVectorStore`: "dense" or "hybrid"; it takes the four that follow as well.
        min_score: of an index: smallest ``retrieval_score``, before anything is reranked. Not in mode "hybrid".
        per_document: of an index: so many documents of one ``source`` at most.
        diversity: of an index: from 0, by the scores alone, to 1: documents that are unlike each other.
        neighbours: of an index: so many pages before and after each page found come behind it, without a score and with
            its id as ``neighbour_of`` in their metadata. They are not counted by `k`. All four are those of
            `PageIndex.search`.
        regions: of an index: so many places on each page where it answers the query, at most, as ``regions`` in the
            metadata: a list of ``box`` (left, top, right, bottom in fractions of the image), ``score``, ``text`` and
            ``evidence``; see `PageIndex.regions`. With a late-interaction model each page is embedded again for that.
        collection: of an index by location.
        api_key: of a Qdrant server, for an index by url; None for the environment variable ``QDRANT_API_KEY``. Neither
            it nor `headers` is in a repr, a dump, a trace or a pickle.
        headers: sent to such a server with every request.
        timeout: seconds that one request to such a server may take; None for 60.
        patience: seconds for which requests are tried again while the server is busy or does not answer; None for 5.
        tenant: of an index by location: whose pages are seen, such as ``("customer", "acme")``; see `PageIndex`.
        search_type: "similarity"; "mmr" for documents that are unlike each other, with `diversity` or the
            ``lambda_mult`` of `search_kwargs` (1 is the nearest, 0 as unlike as can be); or
            "similarity_score_threshold", which needs `score_threshold`.
        score_threshold: smallest ``relevance_score`` that is returned: of the reranker, else of the vectors. It is not
            LangChain's relevance from 0 to 1, which ``as_retriever`` of a vector store makes of a cosine.
        search_kwargs: further options of the search, as `PageIndex.search` or the vector store takes them, such as
            ``prefetch``, ``offset`` or ``lambda_mult``.
        images: where the images of an index by location are stored; see `PageIndex`. With a server, name a folder or
            URL, or None to have none.
        reranker_options: for a reranker that is named, over those that follow; see `nemotron_rag.LoadOptions`.
        device, dtype, revision, dimensions, compile: for models that are named, as in `PageIndex`; over anything but an
            index by location, for the reranker.
        max_input_tiles, use_thumbnail, max_length, max_image_tokens, instruction: for the same models.
        base_url, dialect, endpoint: of a server that has the same models, see `nemotron_rag.LoadOptions`.

    Raises:
        UnknownModelError: there is no such model.
        InputError: settings contradict each other, or a model is of the wrong kind or has no use for an option.
        pydantic.ValidationError: another field has an impossible value.

    Example:
        >>> from nemotron_rag import Page, PageIndex
        >>> from nemotron_rag.testing import FakeEmbedder, FakeReranker
        >>> index = PageIndex(embedder=FakeEmbedder())
        >>> texts = {1: "red apples", 2: "blue whales"}
        >>> report = index.add([Page(id=f"p{n}", number=n, text=text) for n, text in texts.items()], progress=False)
        >>> retriever = NemotronPageRetriever(index=index, reranker=FakeReranker(), k=1)
        >>> [(page.metadata["page"], page.metadata["relevance_score"]) for page in retriever.invoke("blue whales")]
        [(1, 5.0)]
    """

    # Over that of BaseRetriever; errors do not show what was given, for it may be a key under a misspelt name.
    model_config = ConfigDict(**{**Component.model_config, "hide_input_in_errors": True})

    index: Annotated[str | Path | PageIndex | VectorStore, PlainValidator(_place)]
    reranker: Unchecked[str | Path | BaseDocumentCompressor | Reranker | bool | None] = None
    k: int | None = Field(default=None, ge=1)
    fetch_k: int | None = Field(default=None, ge=1)
    top_n: int | None = Field(default=None, ge=1)
    filter: Any = None
    include_images: bool = True
    include_scores: bool = True
    image_form: ImageForm = "data_uri"
    image_format: ImageFormat | None = None
    image_key: str = Field(default=IMAGE_KEY, min_length=1)
    embedder: Unchecked[str | Path | Embedder | MultiVectorEmbedder | None] = None
    mode: Mode | None = None
    min_score: float | None = Field(default=None, allow_inf_nan=False)
    per_document: int | None = Field(default=None, ge=1)
    diversity: float | None = Field(default=None, ge=0, le=1)
    neighbours: int = Field(default=0, ge=0)
    regions: int = Field(default=0, ge=0)
    collection: str = _COLLECTION
    api_key: Annotated[SecretStr | None, PlainValidator(_hidden)] = Field(default=None, repr=False, exclude=True)
    headers: Unchecked[dict[str, str] | None] = Field(default=None, repr=False, exclude=True)
    timeout: Unchecked[float | None] = None
    patience: Unchecked[float | None] = None
    tenant: Unchecked[tuple[str, str] | None] = None
    images: Unchecked[Images] = True
    search_type: SearchType = "similarity"
    score_threshold: float | None = Field(default=None, allow_inf_nan=False)
    search_kwargs: Unchecked[dict[str, Any] | None] = None
    dimensions: Unchecked[int | None] = None
    reranker_options: Unchecked[dict[str, Any] | None] = None

    _shared = ("index", "reranker", "embedder")

    def load(self) -> Self:
        """Open the index and load all models now, not with the first query.

        Returns:
            This retriever.

        Raises:
            NemotronRagError: the index cannot be opened, or a model not be loaded.
        """
        self._source.load()
        compressor = self._compressor(1)
        if isinstance(compressor, NemotronRerank):
            compressor.load()
        return self

    async def aload(self) -> Self:
        """`load` for event loops, which it does not block."""
        return await run_in_executor(None, self.load)

    def heatmap(self, document: Document, query: str) -> Heatmap:
        """Where on the page of a found document the words of a query match; see `nemotron_rag.PageIndex.heatmap`.

        Args:
            document: as this retriever gave it, in whatever form its image is, or without one.
            query: in words.

        Raises:
            InputError: the index has one vector a page, or it does not have this page with an image.

        Example:
            >>> from nemotron_rag import Page, PageIndex
            >>> from nemotron_rag.testing import FakeMultiVectorEmbedder
            >>> from PIL import Image
            >>> index = PageIndex(embedder=FakeMultiVectorEmbedder())
            >>> page = Page("red apples", Image.new("RGB", (40, 60), "white"), id="p1", source="a.pdf")
            >>> report = index.add([page], progress=False)
            >>> retriever = NemotronPageRetriever(index=index)
            >>> found, = retriever.invoke("red apples")
            >>> retriever.heatmap(found, "red apples").image().size
            (40, 60)
        """
        return self._source.heatmap(document, query)

    async def aheatmap(self, document: Document, query: str) -> Heatmap:
        """`heatmap` for event loops, which it does not block."""
        return await run_in_executor(None, self.heatmap, document, query)

    def with_images(self, documents: Sequence[Document]) -> list[Document]:
        """Found documents with their images, whatever form these had, or none: for the last step before a chat model.

        So ``include_images=False`` keeps documents small on their way through traces, caches and checkpoints.

        Args:
            documents: as this retriever gave them; not changed.

        Returns:
            Copies with references to the images of the index; of a vector store, with its own forms. A document whose
            image is not found is returned as it is.

        Raises:
            StoreError: the index could not be opened or reached.
        """
        ids, images = [page_id_of(document) for document in documents], self._source.images(documents)
        return [
            self._found.with_image(document, images[id]) if id in images else document
            for document, id in zip(documents, ids, strict=True)
        ]

    def retrieve_by_image(
        self, image: Any, *, k: int | None = None, filter: Filter | None = None, rerank: bool = False
    ) -> list[Document]:
        """The pages that look most like an image.

        Args:
            image: path, data URI, bytes, decoded image, array, `Blob` or content block.
            k: instead of the retriever's.
            filter: instead of the retriever's.
            rerank: put `fetch_k` of them into the order of the reranker, which must read images in queries, as
                Qwen3-VL-Reranker and jina-reranker-m0 do.

        Raises:
            ImageError: the image cannot be read.
            InputError: the vector store cannot search by image, or the reranker reads queries in words alone.
            StoreError: the index could not be opened or reached.
        """
        return self._run(self._by_image(image, k, filter, rerank))

    async def aretrieve_by_image(
        self, image: Any, *, k: int | None = None, filter: Filter | None = None, rerank: bool = False
    ) -> list[Document]:
        """`retrieve_by_image` for event loops, which it does not block."""
        return await self._arun(await run_in_executor(None, self._by_image, image, k, filter, rerank))

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        return self._run(self._by_text(query, **options), run_manager.get_child())

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        return await self._arun(await run_in_executor(None, self._by_text, query, **options), run_manager.get_child())

    def _run(self, search: Search, callbacks: Callbacks = None) -> list[Document]:
        try:
            found = getattr(search.place, search.method)(search.query, **search.options)
        except NotImplementedError:
            found = search.scoreless().similarity_search(search.query, **search.options)
        documents: Sequence[Document] = self._documents(found, search.compressor)
        if search.compressor is not None and documents:
            documents = search.compressor.compress_documents(documents, search.asked, callbacks)
        documents = self._found.selected(search, found, search.above(documents))
        documents = self._found.shown(documents, self._form, search.returned, include_scores=self.include_scores)
        return self._located(documents, search.query)

    async def _arun(self, search: Search, callbacks: Callbacks = None) -> list[Document]:
        try:
            found = await getattr(search.place, f"a{search.method}")(search.query, **search.options)
        except NotImplementedError:
            found = await search.scoreless().asimilarity_search(search.query, **search.options)
        documents: Sequence[Document] = await run_in_executor(None, self._documents, found, search.compressor)
        if search.compressor is not None and documents:
            documents = await search.compressor.acompress_documents(documents, search.asked, callbacks)
        documents = await run_in_executor(None, self._found.selected, search, found, search.above(documents))
        scores = self.include_scores
        shown = await run_in_executor(
            None, self._found.shown, documents, self._form, search.returned, include_scores=scores
        )
        return await run_in_executor(None, self._located, shown, search.query)

    def _by_text(
        self,
        query: str,
        *,
        k: int | None = None,
        fetch_k: int | None = None,
        top_n: int | None = None,
        filter: Filter | None = None,
        search_type: SearchType | None = None,
        score_threshold: float | None = None,
        **search_kwargs: Any,
    ) -> Search:
        if not isinstance(query, str):
            raise InputError(f"query must be a str, got {type(query).__name__}; for an image use retrieve_by_image")
        returned, candidates = self._counts(k, fetch_k, top_n)
        threshold = self.score_threshold if score_threshold is None else score_threshold
        wanted = Wanted(
            returned=returned,
            candidates=candidates,
            compressor=self._compressor(returned),
            may_rank=self.reranker is not False,
            filter=self.filter if filter is None else filter,
            mode=self.mode,
            chosen=self._chosen,
            more={**(self.search_kwargs or {}), **search_kwargs},
            search_type=self._checked_type(search_type or self.search_type, threshold),
            threshold=threshold,
        )
        return self._source.by_text(query, wanted)

    @property
    def _chosen(self) -> dict[str, Any]:
        """Which of the pages found are returned, as far as anything is said of it; see `PageIndex.select`."""
        given = {name: getattr(self, name) for name in CHOICES}
        given["neighbours"] = self.neighbours or None
        return {name: value for name, value in given.items() if value is not None}

    def _by_image(self, image: Any, k: int | None, filter: Filter | None, rerank: bool) -> Search:
        check_count("k", k)
        returned = k or self.k or K
        wanted = Wanted(
            returned=returned,
            candidates=max(self.fetch_k or DEFAULT_CANDIDATES, returned),
            compressor=self._image_compressor(returned) if rerank else None,
            filter=self.filter if filter is None else filter,
            chosen=self._chosen,
            more=self.search_kwargs or {},
        )
        return self._source.by_image(image, wanted)

    def _image_compressor(self, count: int) -> NemotronRerank:
        """What ranks by an image: the retriever's reranker, or that of its index."""
        found = self._compressor(count)
        if found is None and self.reranker is not False:
            found = self._source.reranker(top_n=count, image_key=self.image_key)
        if not isinstance(found, NemotronRerank):
            raise InputError("rerank=True needs a reranker that reads images in queries; give reranker=")
        if self._chosen:
            raise InputError(f"{', '.join(self._chosen)} do not go with rerank=True; leave one of them out")
        return found

    def _documents(self, found: Sequence[Any], compressor: BaseDocumentCompressor | None) -> list[Document]:
        """What was found as documents, which a compressor can read."""
        documents = self._source.found(found)
        if compressor is None or isinstance(compressor, NemotronRerank):  # which alone reads references
            return documents
        return self._found.shown(documents, "data_uri", len(documents), include_scores=True)

    @property
    def _source(self) -> Source:
        """Where documents are found; an index by location is opened."""
        if isinstance(self.index, VectorStore):
            return StoreSource(self.index, self._found)
        return IndexSource(self._open(), self._found)

    @property
    def _found(self) -> FoundDocuments:
        return FoundDocuments(self.image_key, self.image_format)

    @property
    def _form(self) -> ImageForm:
        if not self.include_images:
            return "none"
        if isinstance(self.index, NemotronPageVectorStore) and "image_form" not in self.model_fields_set:
            return self.index.image_form
        return self.image_form

    def _located(self, documents: Sequence[Document], query: Any) -> list[Document]:
        """Documents with the regions that answer a query in words, if these are asked for."""
        if not self.regions or not isinstance(query, str):
            return list(documents)
        return self._source.located(documents, query, k=self.regions)

    def _checked_type(self, search_type: SearchType, threshold: float | None) -> SearchType:
        if search_type not in get_args(SearchType):
            raise InputError(f"search_type must be one of {', '.join(get_args(SearchType))}, got {search_type!r}")
        if search_type == "similarity_score_threshold" and threshold is None:
            raise InputError("search_type='similarity_score_threshold' needs score_threshold=; give one")
        return search_type

    # ---- settings

    def _check(self) -> None:
        if isinstance(self.index, str | Path):
            place: dict[str, Any] = {"collection": self.collection, "tenant": self.tenant, **self._connection.options}
            images_of(self.images, QdrantStore(self.index, **place))  # opens nothing
        else:
            placed = {"embedder": self.embedder is not None, "images": self.images is not True}
            placed["collection"] = self.collection != _COLLECTION
            placed |= {"tenant": self.tenant is not None, **dict.fromkeys(self._connection.options, True)}
            if names := ", ".join(name for name, is_set in placed.items() if is_set):
                verb = "belong" if "," in names else "belongs"
                raise InputError(f"{names} {verb} to an index by location; set them where the index is opened")
        asked = ", ".join([*(["mode"] if self.mode is not None else []), *self._chosen])
        if asked and isinstance(self.index, VectorStore) and not isinstance(self.index, NemotronPageVectorStore):
            raise InputError(
                f"{asked}: for an index of pages or a NemotronPageVectorStore; another vector store has its own ways"
            )
        if self.regions and isinstance(self.index, VectorStore):
            raise InputError("regions are those of an index made by PageIndex; leave them out, or search such an index")
        if isinstance(self.reranker, NemotronRerank) and self.reranker.image_key != self.image_key:
            raise InputError(
                f"image_key is {self.image_key!r}, that of the reranker {self.reranker.image_key!r}; give one"
            )
        self._checked_type(self.search_type, self.score_threshold)
        self._lazy_reranker()
        self._counts()

    def _counts(
        self, k: int | None = None, fetch_k: int | None = None, top_n: int | None = None
    ) -> tuple[int, int | None]:
        """How many documents to return, and to fetch for a reranker; see `counts_of`."""
        ranker, is_open = self.reranker, isinstance(self.index, PageIndex)
        return counts_of(
            k=self.k if k is None else k,
            fetch_k=self.fetch_k if fetch_k is None else fetch_k,
            top_n=self.top_n if top_n is None else top_n,
            limit=ranker.top_n if isinstance(ranker, NemotronRerank) and "top_n" in ranker.model_fields_set else None,
            may_rerank=ranker is not False and (is_open or not isinstance(ranker, bool | None)),
        )

    def _lazy_reranker(self) -> LazyModel[Reranker] | None:
        """The reranker that is named or given as a model; None if there is none.

        Raises:
            UnknownModelError, InputError: a model or an option cannot be used.
        """
        given = isinstance(self.reranker, bool | BaseDocumentCompressor | None)
        model: Any = None if given else self.reranker
        options, of_reranker = self._load_options(), cast("LoadOptions | None", self.reranker_options)
        if of_reranker and not isinstance(model, str | os.PathLike):
            raise InputError("reranker_options are for a reranker that is named; set them where it is loaded")
        if isinstance(self.index, str | os.PathLike):
            models = IndexModels(
                os.fspath(self.index), self.embedder, model, options=options, reranker_options=of_reranker
            )
            return models.reranker(True)
        if model is None and options:
            raise InputError(
                f"{', '.join(options)}: for models that are named, and none is; set options where the model is loaded"
            )
        merged = cast("LoadOptions", {**options, **(of_reranker or {})})
        return None if model is None else LazyModel(model, "reranker", **merged)

    def _compressor(self, returned: int) -> BaseDocumentCompressor | None:
        """What ranks the documents; None if nothing does, or the index itself."""
        if isinstance(self.reranker, NemotronRerank):
            return self.reranker.with_top_n(returned)
        if isinstance(self.reranker, BaseDocumentCompressor):
            return self.reranker
        if isinstance(self.reranker, bool | None):
            return None
        settings = (self.index, self.reranker, self.embedder, self._load_options(), self.reranker_options)
        model = cast("LazyModel[Reranker]", self._open_once("reranker", settings, self._lazy_reranker))
        return NemotronRerank(model=model.get(), top_n=returned, image_key=self.image_key)

    def _open(self) -> PageIndex:
        if isinstance(self.index, PageIndex):
            return self.index
        assert isinstance(self.index, str | os.PathLike)
        options: dict[str, Any] = {name: getattr(self, name) for name in ("collection", "tenant", "images", "embedder")}
        # The reranker for its share of the options; it is loaded elsewhere.
        options["reranker"] = self.reranker if isinstance(self.reranker, str | os.PathLike) else None
        options.update(self._load_options())
        location, connection = self.index, self._connection

        def opened() -> PageIndex:
            return PageIndex(location, create=False, **options, **connection.options)

        return self._open_once("index", (location, options, connection), opened)

    @property
    def _connection(self) -> Connection:
        return Connection(api_key=self.api_key, headers=self.headers, timeout=self.timeout, patience=self.patience)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        if isinstance(self.index, VectorStore):
            provider = type(self.index).__name__
            embeddings = self.index.embeddings
            return {**params, "ls_vector_store_provider": provider, "ls_embedding_provider": type(embeddings).__name__}
        params |= {"ls_vector_store_provider": "qdrant", "ls_embedding_provider": "nemotron_rag"}
        if self.embedder is not None:
            params["ls_embedding_model"] = _name_of(self.embedder)
        return params

    def __repr_args__(self) -> Sequence[tuple[str | None, Any]]:
        """What `repr` and `str` say: place, collection and models."""
        said: list[tuple[str | None, Any]] = [("index", self.index)]
        if isinstance(self.index, str | os.PathLike):
            said.append(("collection", self.collection))
        models = {"embedder": self.embedder, "reranker": self.reranker}
        return [*said, *((name, _name_of(model)) for name, model in models.items() if model is not None)]

    def __getstate__(self) -> dict[Any, Any]:
        if isinstance(self.index, PageIndex):
            raise InputError("a retriever over an open PageIndex cannot be pickled; give it the index's location")
        self._connection.__reduce__()  # refuses headers
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "api_key": None}}


def _name_of(model: Any) -> Any:
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    if isinstance(model, NemotronRerank):
        return model.model_name
    return getattr(adopt(model), "name", None) or model
