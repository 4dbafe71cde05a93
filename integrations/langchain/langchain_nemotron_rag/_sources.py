"""Where a retriever finds documents: in an index of pages, or in any vector store of LangChain."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.vectorstores import VectorStore

from langchain_nemotron_rag._documents import image_source, text_of
from langchain_nemotron_rag._found import FoundDocuments, Search, cannot, page_id_of, with_regions
from langchain_nemotron_rag._stored import page_filter
from langchain_nemotron_rag.reranking import NemotronRerank
from langchain_nemotron_rag.vectorstores import NemotronPageVectorStore
from nemotron_rag import Hit, PageIndex, Passage
from nemotron_rag.errors import InputError
from nemotron_rag.index import Mode
from nemotron_rag.late_interaction.heatmap import Heatmap
from nemotron_rag.models.arguments import check_names
from nemotron_rag.ranking import DEFAULT_CANDIDATES
from nemotron_rag.types import Filter

__all__ = ["CHOICES", "IndexSource", "SearchType", "Source", "StoreSource", "Wanted"]

SearchType: TypeAlias = Literal["similarity", "mmr", "similarity_score_threshold"]
"""As in LangChain's own retrievers."""

CHOICES = ("min_score", "per_document", "diversity", "neighbours")
"""The options of a search that say which of the pages found are returned; see `PageIndex.search`."""

_MMR_POOL, _MMR_FACTOR = 20, 4  # documents to choose from: at least so many, and so many times those chosen
_LAMBDA = 0.5  # LangChain's default of `lambda_mult`
_SEARCH_OPTIONS = inspect.signature(PageIndex.search).parameters.keys() - {"self", "query", "filter"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What one call of a retriever asks for.

    Args:
        returned: so many documents.
        candidates: documents fetched for a reranker; None if nothing says that there is one.
        compressor: what ranks them; None if nothing does, or the index itself.
        may_rank: whether the index may rank by itself.
        filter: in the words of documents.
        mode: of the search; None for the default.
        chosen: those of `CHOICES` that are given.
        more: further options of the search.
        search_type: see `SearchType`.
        threshold: smallest score that is returned; None for any.
    """

    returned: int
    candidates: int | None = None
    compressor: BaseDocumentCompressor | None = None
    may_rank: bool = True
    filter: Filter | None = None
    mode: Mode | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    search_type: SearchType = "similarity"
    threshold: float | None = None

    @property
    def fetched(self) -> int:
        """Documents taken from the store."""
        return self.returned if self.compressor is None else self.candidates or max(self.returned, DEFAULT_CANDIDATES)

    def shown(self, chosen: Mapping[str, Any]) -> int:
        """Documents that come back at most, their neighbours with them."""
        neighbours: int = chosen.get("neighbours", 0)
        return self.returned * (1 + 2 * neighbours)

    def ranker(self, top_n: int) -> BaseDocumentCompressor | None:
        """What ranks, keeping so many."""
        return self.compressor.with_top_n(top_n) if isinstance(self.compressor, NemotronRerank) else self.compressor


@dataclass(frozen=True)
class IndexSource:
    """An index of pages.

    Args:
        index: open.
        documents: makes documents of hits.
    """

    index: PageIndex
    documents: FoundDocuments

    def by_text(self, query: str, wanted: Wanted) -> Search:
        """A search for a query in words."""
        more = dict(wanted.more)
        chosen = {**wanted.chosen, **{name: more.pop(name) for name in CHOICES if name in more}}
        if wanted.search_type == "mmr":
            chosen.setdefault("diversity", 1 - more.pop("lambda_mult", _LAMBDA))
        check_names("a search", more, _SEARCH_OPTIONS)
        options = {"k": wanted.fetched, "filter": page_filter(wanted.filter), "mode": wanted.mode, **more}
        if chosen:
            return self._choosing(query, options, chosen, wanted)
        options |= self._ranking(wanted)
        if wanted.compressor is None:
            options["score_threshold"] = wanted.threshold
        return Search(self.index, "search", query, options, wanted.compressor, wanted.returned, None, wanted.threshold)

    def by_image(self, image: Any, wanted: Wanted) -> Search:
        """A search for what looks like an image."""
        options = {"k": wanted.fetched, "filter": page_filter(wanted.filter), **wanted.chosen}
        shown = wanted.shown(wanted.chosen)
        return Search(self.index, "search_image", image_source(image), options, wanted.compressor, shown)

    def found(self, hits: Sequence[Hit]) -> list[Document]:
        """Hits as documents."""
        return self.documents.of_hits(hits)

    def reranker(self, *, top_n: int, image_key: str) -> NemotronRerank | None:
        """That of the index; None if it has none."""
        own = self.index.reranker()
        return None if own is None else NemotronRerank(model=own.get(), top_n=top_n, image_key=image_key)

    def images(self, documents: Sequence[Document]) -> Mapping[str, Any]:
        """The images of found documents, by the ids of their pages."""
        return self.index.page_images([page_id_of(document) for document in documents])

    def heatmap(self, document: Document, query: str) -> Heatmap:
        """See `NemotronPageRetriever.heatmap`."""
        id = page_id_of(document)
        image = self.index.page_images([id]).get(id)
        if image is None:
            raise InputError(f"document {id!r} is no page of the index with an image; give one that was found here")
        return self.index.heatmap(Passage(text_of(document), image), query)

    def located(self, documents: Sequence[Document], query: str, *, k: int) -> list[Document]:
        """Copies with at most k regions each that answer a query."""
        return with_regions(self.index, documents, query, k=k)

    def load(self) -> None:
        """Load the models of the index."""
        self.index.load()

    def _ranking(self, wanted: Wanted) -> dict[str, Any]:
        """Whether the index ranks, which says itself whether it has a reranker, and how many."""
        return {"candidates": wanted.candidates} if wanted.compressor is None and wanted.may_rank else {"rerank": False}

    def _choosing(self, query: str, options: dict[str, Any], chosen: dict[str, Any], wanted: Wanted) -> Search:
        """A search of which not just the first are returned: the index chooses, whoever ranks."""
        shown, options = wanted.shown(chosen), {**options, "k": wanted.returned}
        if wanted.compressor is None:
            options |= {"score_threshold": wanted.threshold, **chosen, **self._ranking(wanted)}
            return Search(self.index, "search", query, options, None, shown)
        options |= {"candidates": wanted.fetched, "per_document": chosen.get("per_document")}
        options["min_score"] = chosen.pop("min_score", None)
        after = {"k": wanted.returned, "filter": options["filter"], **chosen}
        ranker = wanted.ranker(wanted.fetched)
        return Search(self.index, "candidates", query, options, ranker, shown, after, wanted.threshold)


@dataclass(frozen=True)
class StoreSource:
    """A vector store of any kind.

    Args:
        store: of LangChain.
        documents: makes documents with scores of what it finds.
    """

    store: VectorStore
    documents: FoundDocuments

    def by_text(self, query: str, wanted: Wanted) -> Search:
        """A search for a query in words."""
        if wanted.chosen.get("neighbours") and wanted.compressor is not None:
            raise InputError("neighbours of a vector store go with no reranker, which would score them; leave one out")
        asked = {**wanted.chosen} if wanted.mode is None else {**wanted.chosen, "mode": wanted.mode}
        options, method = {**asked, **wanted.more}, "similarity_search_with_score"
        if wanted.search_type == "mmr" and asked:
            options["diversity"] = 1 - options.pop("lambda_mult", _LAMBDA)
        elif wanted.search_type == "mmr":
            method = "max_marginal_relevance_search"
            options = {"fetch_k": max(_MMR_POOL, _MMR_FACTOR * wanted.fetched), **options}
        return self._search(method, query, wanted, options, wanted.shown(options))

    def by_image(self, image: Any, wanted: Wanted) -> Search:
        """A search for what looks like an image."""
        return self._search("similarity_search_by_image_with_score", image, wanted, wanted.more, wanted.returned)

    def found(self, found: Sequence[Any]) -> list[Document]:
        """Documents with their scores, if they have any."""
        pairs = [each if isinstance(each, tuple) else (each, math.nan) for each in found]
        return self.documents.of_scored(pairs, self.store)

    def reranker(self, *, top_n: int, image_key: str) -> NemotronRerank | None:
        """None: a store has none."""
        return None

    def images(self, documents: Sequence[Document]) -> Mapping[str, Any]:
        """The images of found documents, by the ids of their pages."""
        key = self.documents.image_key
        stored = self.store.get_by_ids([document.id or page_id_of(document) for document in documents])
        return {page_id_of(each): each.metadata[key] for each in stored if key in each.metadata}

    def heatmap(self, document: Document, query: str) -> Heatmap:
        """Refused."""
        raise InputError("heatmaps need an index with token vectors; index with PageIndex and a ColEmbed model")

    def located(self, documents: Sequence[Document], query: str, *, k: int) -> list[Document]:
        """As they are: a retriever over a store takes no regions."""
        return list(documents)

    def load(self) -> None:
        """Load what embeds, if it can be."""
        load = getattr(self.store.embeddings, "load", None)
        if load is not None:
            load()

    def _search(self, method: str, query: Any, wanted: Wanted, options: Mapping[str, Any], shown: int) -> Search:
        store = self.store
        if isinstance(store, NemotronPageVectorStore):  # its own images need no leave to be opened
            store = store.giving("reference")
        if not (hasattr(store, method) and hasattr(store, f"a{method}")):
            raise cannot(store, method)
        given = {} if wanted.filter is None else {"filter": wanted.filter}
        asked = {"k": wanted.fetched, **given, **options}
        return Search(store, method, query, asked, wanted.compressor, shown, None, wanted.threshold)


Source: TypeAlias = IndexSource | StoreSource
"""Both give a `Search` for what is wanted, and know the images of what was found."""
