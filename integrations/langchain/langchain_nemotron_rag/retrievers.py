"""`NemotronPageRetriever`: pages found by their vectors and ranked by a reranker, in one. It writes nothing."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.vectorstores import VectorStore
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from langchain_nemotron_rag._convert import IMAGE_KEY, ImageFormat
from langchain_nemotron_rag._sources import IndexSource, Source, StoreSource, open_index, shown
from langchain_nemotron_rag._steps import Steps, arun, compress, in_thread, run
from langchain_nemotron_rag.reranking import NemotronRerank
from nemotron_rag import Embedder, MultiVectorEmbedder, PageIndex, Reranker
from nemotron_rag.errors import InputError
from nemotron_rag.index import Mode
from nemotron_rag.stores.client import Filter, Qdrant

__all__ = ["NemotronPageRetriever"]

_K, _FETCH_K = 4, 20  # documents returned, and candidates for a reranker, unless the caller says otherwise
_COLLECTION = "pages"
_opening = threading.Lock()  # of the module, not of an instance: instances are copied and pickled


class NemotronPageRetriever(BaseRetriever):
    """Find pages by their vectors and put them in order with a reranker.

    Searches an index made by `nemotron_rag.PageIndex` or ``nemotron-rag index``, with the embedder that wrote it; or
    any LangChain vector store. Documents have the page's id and text; in their metadata, ``source``, ``page`` (from
    0), ``page_number`` (from 1), the picture as a data URI, ``relevance_score`` (what they are ordered by) and
    ``retrieval_score`` (of the vectors).

    Constructing opens nothing; the first use does. `k`, `fetch_k`, `top_n` and `filter` can be given here and in each
    call: ``retriever.invoke(question, k=2)``. Copies and pickles hold the settings and open again; an open `PageIndex`
    is shared with copies, and cannot be pickled.

    Args:
        index: folder or ``http(s)://`` url of an index, an open `PageIndex`, or a vector store.
        reranker: catalog id, local folder, or loaded `nemotron_rag.Reranker`; or a document compressor such as
            `NemotronRerank`, with its own settings, `top_n` among them. None for none.
        k: most documents returned; None for `top_n`, or 4.
        fetch_k: candidates for the reranker; None for 20, or as many as are returned if that is more.
        top_n: most documents kept after reranking; None for `k`. With both, the smaller number counts.
        filter: ``{"source": "a.pdf", "page": [0, 1]}`` in the words of the documents' metadata, or a
            `qdrant_client.models.Filter`, or what the vector store takes.
        include_images: False leaves pictures out of the documents; the reranker sees them all the same.
        image_format: of the data URIs made for an index's pictures.
        image_key: where in the metadata pictures are.
        embedder: of an index by location; None for the one that wrote it.
        mode: of an index: "dense", "multi" or "hybrid", which looks for the words too; None for what its model
            gives. See `nemotron_rag.PageIndex.search`.
        collection: of an index by location.
        images: where the pictures of an index by location are; None is beside an embedded one, none for a server.
        device, dtype: for models that are named; see `nemotron_rag.load_reranker`.

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

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, arbitrary_types_allowed=True, protected_namespaces=()
    )

    index: str | Path | PageIndex | VectorStore
    reranker: str | Path | BaseDocumentCompressor | Reranker | None = None
    k: int | None = Field(default=None, ge=1)
    fetch_k: int | None = Field(default=None, ge=1)
    top_n: int | None = Field(default=None, ge=1)
    filter: Any = None
    include_images: bool = True
    image_format: ImageFormat = "jpeg"
    image_key: str = Field(default=IMAGE_KEY, min_length=1)
    embedder: str | Path | Embedder | MultiVectorEmbedder | None = None
    mode: Mode | None = None
    collection: str = _COLLECTION
    images: str | Path | None = None
    device: str | None = None
    dtype: str | None = None

    _opened: tuple[tuple[Any, ...], Qdrant, PageIndex] | None = PrivateAttr(default=None)
    _ranker: tuple[tuple[Any, ...], NemotronRerank] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        ranker = self.reranker
        located = {"embedder": self.embedder, "images": self.images, "collection": self.collection}
        lost = [name for name, value in located.items() if value not in (None, _COLLECTION)]
        if lost and not self._is_named:
            raise ValueError(f"{', '.join(lost)} belong to an index by location; set them where the index is opened")
        if not self._is_named and not isinstance(ranker, str | Path) and (self.device, self.dtype) != (None, None):
            raise ValueError("device and dtype are for models that are named; set them where the models are loaded")
        if self.mode is not None and isinstance(self.index, VectorStore):
            raise ValueError("mode is for an index of pages; a vector store searches in its own way, leave it out")
        if isinstance(ranker, NemotronRerank) and ranker.image_key != self.image_key:
            raise ValueError(f"image_key is {self.image_key!r}, that of the reranker {ranker.image_key!r}; give one")
        _plan(self.k, self.fetch_k, self.top_n, reranking=ranker is not None)
        return self

    def retrieve_by_image(self, image: Any, *, k: int | None = None, filter: Filter | None = None) -> list[Document]:
        """The pages that look most like a picture; they are not reranked.

        Args:
            image: path, data URI, bytes, decoded picture, array, `Blob` or content block.
            k: instead of the retriever's.
            filter: instead of the retriever's.

        Raises:
            ImageError: the picture cannot be read.
            InputError: the vector store cannot search by picture.
            StoreError: the index could not be opened or reached.
        """
        return run(self._by_image(image, k, filter))

    async def aretrieve_by_image(
        self, image: Any, *, k: int | None = None, filter: Filter | None = None
    ) -> list[Document]:
        """The same as `retrieve_by_image`, without blocking the event loop."""
        return await arun(self._by_image(image, k, filter))

    def close(self) -> None:
        """Close the index if it was opened here, and free the models loaded here; the next use opens them again."""
        with _opening:
            self._close_index()
            ranker, self._ranker = self._ranker, None
        if ranker is not None:
            ranker[1].close()

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        top_n: int | None = None,
        filter: Filter | None = None,
    ) -> list[Document]:
        return run(self._by_text(query, run_manager.get_child(), k, fetch_k, top_n, filter))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        top_n: int | None = None,
        filter: Filter | None = None,
    ) -> list[Document]:
        return await arun(self._by_text(query, run_manager.get_child(), k, fetch_k, top_n, filter))

    def _by_text(
        self,
        query: str,
        callbacks: Callbacks,
        k: int | None,
        fetch_k: int | None,
        top_n: int | None,
        wanted: Filter | None,
    ) -> Steps[list[Document]]:
        if not isinstance(query, str):
            raise InputError(f"a query is a text, got {type(query).__name__}; for a picture use retrieve_by_image")
        fetched, kept = _plan(
            self.k if k is None else k,
            self.fetch_k if fetch_k is None else fetch_k,
            self.top_n if top_n is None else top_n,
            reranking=self.reranker is not None,
        )
        source: Source = yield in_thread(self._source)
        documents: list[Document] = yield source.by_text(query, fetched, self.filter if wanted is None else wanted)
        ranker = self._compressor()
        if ranker is not None and documents:
            if not isinstance(ranker, NemotronRerank):  # which alone reads decoded pictures
                documents = yield in_thread(self._shown, documents, True)
            documents = yield compress(ranker, documents, query, callbacks)
        shown_documents: list[Document] = yield in_thread(self._shown, documents[:kept], self.include_images)
        return shown_documents

    def _by_image(self, image: Any, k: int | None, wanted: Filter | None) -> Steps[list[Document]]:
        fetched, _ = _plan(self.k if k is None else k, None, None, reranking=False)
        source: Source = yield in_thread(self._source)
        documents = yield source.by_image(image, fetched, self.filter if wanted is None else wanted)
        shown_documents: list[Document] = yield in_thread(self._shown, documents, self.include_images)
        return shown_documents

    def _shown(self, documents: list[Document], images: bool) -> list[Document]:
        form: ImageFormat | None = self.image_format if images else None
        return [shown(document, image_key=self.image_key, image_format=form) for document in documents]

    @property
    def _is_named(self) -> bool:
        return isinstance(self.index, str | os.PathLike)

    def _source(self) -> Source:
        if isinstance(self.index, VectorStore):
            return StoreSource(self.index)
        index = self.index if isinstance(self.index, PageIndex) else self._open(self.index)
        return IndexSource(index, image_key=self.image_key, mode=self.mode)

    def _open(self, location: str | Path) -> PageIndex:
        settings = (location, self.collection, self.images, self.embedder, self.device, self.dtype)
        with _opening:
            if self._opened is None or self._opened[0] != settings:  # fields may be assigned
                self._close_index()
                qdrant = Qdrant(location)
                index = open_index(
                    qdrant,
                    collection=self.collection,
                    images=self.images,
                    embedder=self.embedder,
                    device=self.device,
                    dtype=self.dtype,
                )
                self._opened = settings, qdrant, index
            return self._opened[2]

    def _close_index(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[2].close()
            opened[1].close()

    def _compressor(self) -> BaseDocumentCompressor | None:
        if self.reranker is None or isinstance(self.reranker, BaseDocumentCompressor):
            return self.reranker
        named = isinstance(self.reranker, str | Path)
        place = (self.device, self.dtype) if named else (None, None)
        settings = (self.reranker, self.image_key, *place)
        held = self._ranker
        if held is None or held[0] != settings:
            model = NemotronRerank(
                model=self.reranker, top_n=None, image_key=self.image_key, device=place[0], dtype=place[1]
            )
            held = self._ranker = settings, model
        return held[1]

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        if isinstance(self.index, VectorStore):
            provider = type(self.index).__name__
            embeddings = self.index.embeddings
            return {**params, "ls_vector_store_provider": provider, "ls_embedding_provider": type(embeddings).__name__}
        params |= {"ls_vector_store_provider": "qdrant", "ls_embedding_provider": "nemotron_rag"}
        if isinstance(self.embedder, str | Path):
            params["ls_embedding_model"] = str(self.embedder)
        elif self.embedder is not None:
            params["ls_embedding_model"] = self.embedder.name
        return params

    def __copy__(self) -> Self:
        copy = super().__copy__()
        copy._opened = copy._ranker = None  # closing the one must not close the other
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        for shared in (self.index, self.reranker, self.embedder):
            memo[id(shared)] = shared
        return BaseModel.__deepcopy__(self.__copy__(), memo)

    def __getstate__(self) -> dict[Any, Any]:
        if isinstance(self.index, PageIndex):
            raise InputError("a retriever over an open PageIndex cannot be pickled; give it the index's location")
        return BaseModel.__getstate__(self.__copy__())


def _plan(k: int | None, fetch_k: int | None, top_n: int | None, *, reranking: bool) -> tuple[int, int]:
    """How many candidates to fetch, and how many documents to return at most.

    Raises:
        InputError: the numbers contradict each other.
    """
    for name, value in (("k", k), ("fetch_k", fetch_k), ("top_n", top_n)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number from 1 on, got {value!r}")
    if not reranking and (fetch_k, top_n) != (None, None):
        raise InputError("fetch_k and top_n need a reranker; give reranker=, or k alone")
    kept = min((n for n in (k, top_n) if n is not None), default=_K)
    fetched = kept if not reranking else fetch_k or max(kept, _FETCH_K)
    if kept > fetched:
        raise InputError(f"wanted {kept} documents of {fetched} candidates; give a larger fetch_k")
    return fetched, kept
