"""Pages as nodes: found in an index or a collection by their vectors, and ranked by a reranker if there is one."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Sequence
from copy import copy
from typing import Any, Self, Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from llama_index_nemotron_rag.choosing import Chosen, NodeSearch
from llama_index_nemotron_rag.collection import NodeCollection
from llama_index_nemotron_rag.events import dispatcher
from llama_index_nemotron_rag.filters import Filters, index_filter
from llama_index_nemotron_rag.found import FoundNodes
from llama_index_nemotron_rag.index_pages import IndexPages, PageSearch
from llama_index_nemotron_rag.nodes import image_of
from llama_index_nemotron_rag.places import joinable_filter
from llama_index_nemotron_rag.reranking import NemotronRerank
from llama_index_nemotron_rag.shown import found_nodes
from nemotron_rag.errors import InputError
from nemotron_rag.index import Mode, PageIndex
from nemotron_rag.index.lazy import IndexOptions, LazyIndex
from nemotron_rag.index.models import Rerank
from nemotron_rag.late_interaction.heatmap import Heatmap
from nemotron_rag.models.arguments import check_names
from nemotron_rag.ranking import check_count, fuse
from nemotron_rag.types import Passage

__all__ = ["NemotronPageRetriever"]


class NemotronPageRetriever(BaseRetriever):
    """Finds pages for a query in words, for an image (`QueryBundle.image_path`), or for both.

    Searches an index made by `nemotron_rag.PageIndex` or ``nemotron-rag index``, with the hits and scores of
    `PageIndex.search`, or a `NodeCollection` that LlamaIndex wrote. Pages come back as `ImageNode` with text, image (by
    path, where it is stored in a local folder; else as base64) and the metadata of `PDFPageReader`; with
    ``multimodal=True``, query engines show the LLM both. A page whose image is lost comes without. Several queries in
    one, such as words and an image, are searched apart and joined by reciprocal rank fusion, whose scores are sums of
    ``1 / (60 + rank)``.

    In terms of `PageIndex.search`, `similarity_top_k` is ``candidates`` where something reranks, else ``k``; `top_n` is
    ``k`` where something reranks.

    Args:
        index: folder or ``http(s)://`` url of an index, an open `PageIndex`, or a `NodeCollection`. A named index is
            opened by the first search, with the embedder that wrote it. Also any index or retriever of LlamaIndex, over
            whatever store.
        similarity_top_k: nodes taken from the store.
        reranker: a catalog id, a local folder or a loaded `nemotron_rag.Reranker`; a `NemotronRerank` with settings of
            its own; None for the index's own reranker if it has one, False for none. It ranks by the words; an image
            alone is not reranked.
        top_n: how many nodes to return; None for all. A `NemotronRerank` cuts as well where its own `top_n` was set.
        filters: `MetadataFilters`, or ``{"source": "a.pdf", "page_number": [1, 2], "year": {"gte": 2020}}``, both over
            nodes' metadata, where ``file_path`` is ``source``; or a `qdrant_client.models.Filter` over the payload.
        mode: of an index: "dense", "multi" or "hybrid", which finds by the words too; None for the default of its
            embedder. See `PageIndex.search`.
        min_score: smallest score of the vectors, or of what an index or retriever of LlamaIndex gives; before anything
            is reranked. Not in mode "hybrid".
        per_document: so many nodes of one ``file_path`` (or ``source``, or ``file_name``) at most.
        diversity: of an index or a `NodeCollection`: from 0, by the scores alone, to 1: nodes that are unlike each
            other.
        neighbours: of an index or a `NodeCollection`: the nodes of so many pages before and after each page found come
            behind it, without a score and with its id as ``neighbour_of`` in their metadata. They are not counted by
            `top_n`. All four are those of `PageIndex.search`.
        regions: of an index: so many places on each page where it answers the query, at most, as ``regions`` in the
            nodes' metadata, which no LLM and no embedder sees: a list of ``box`` (left, top, right, bottom in fractions
            of the image), ``score``, ``text`` and ``evidence``; see `PageIndex.regions`. With a late-interaction model
            each page is embedded again for that.
        inline_images: images of an index always as base64, for an LLM that runs elsewhere; events then hold them too.
        callback_manager: for callbacks.
        **index_options: for an index by location: ``embedder``, ``collection``, ``images``, ``api_key``, ``headers``,
            ``timeout``, ``tenant``, ``device``, ``dtype`` and the others of `PageIndex`.

    Raises:
        InputError: an argument cannot be used; from `retrieve`, a query with neither words nor image, or there is no
            index.
        UnknownModelError: a model's name is neither in the catalog nor a folder.

    Example:
        >>> from nemotron_rag import Page, PageIndex
        >>> from nemotron_rag.testing import FakeEmbedder, FakeReranker
        >>> index = PageIndex(embedder=FakeEmbedder())
        >>> texts = {1: "red apples", 2: "blue whales"}
        >>> report = index.add([Page(id=f"p{n}", number=n, text=text) for n, text in texts.items()], progress=False)
        >>> retriever = NemotronPageRetriever(index, reranker=FakeReranker(), top_n=1)
        >>> [(found.text, found.score) for found in retriever.retrieve("blue whales")]
        [('blue whales', 5.0)]
    """

    def __init__(
        self,
        index: PageIndex | NodeCollection | BaseIndex[Any] | BaseRetriever | str | os.PathLike[str],
        *,
        similarity_top_k: int = 10,
        reranker: NemotronRerank | Rerank | None = None,
        top_n: int | None = None,
        filters: Filters | None = None,
        mode: Mode | None = None,
        min_score: float | None = None,
        per_document: int | None = None,
        diversity: float | None = None,
        neighbours: int = 0,
        regions: int = 0,
        inline_images: bool = False,
        callback_manager: CallbackManager | None = None,
        **index_options: Unpack[IndexOptions],
    ) -> None:
        known = inspect.signature(type(self).__init__).parameters.keys() | IndexOptions.__annotations__.keys()
        check_names(type(self).__name__, index_options, known - {"self", "index_options"})
        if isinstance(index, PageIndex | str | os.PathLike):
            index_filter(filters)  # what cannot be translated is refused now
        super().__init__(callback_manager=callback_manager)
        self.similarity_top_k, self.top_n, self.filters, self.regions = similarity_top_k, top_n, filters, regions
        self._reranker = reranker if isinstance(reranker, NemotronRerank) else None
        self._check_counts()
        self._chosen = Chosen(min_score, per_document, diversity, neighbours)
        self._source = _source(index, reranker, mode, inline_images, self._chosen, index_options)
        if regions and not isinstance(self._source, IndexPages):
            raise InputError("regions are those of an index of nemotron_rag; leave them out, or give such an index")
        self._made: NemotronRerank | None = None  # here, so it is closed here
        if not isinstance(self._source, IndexPages) and not isinstance(reranker, NemotronRerank | bool | None):
            self._made = NemotronRerank(reranker, top_n=None, callback_manager=self.callback_manager)

    @property
    def reranker(self) -> NemotronRerank | None:
        """What ranks the nodes, or None; an index by location is opened to know."""
        if self._reranker is None and isinstance(self._source, IndexPages):
            return self._source.reranker(self.callback_manager)
        return self._reranker or self._made

    def close(self) -> None:
        """Close an index that was opened here, and free a model that was loaded here; the next use opens them again."""
        if isinstance(self._source, IndexPages):
            self._source.index.close()
        if self._made is not None:
            self._made.close()

    def load(self) -> Self:
        """Open the index and load the models now, where the first search would wait for them; returns the retriever."""
        if isinstance(self._source, IndexPages):
            self._source.index.get().load()
        elif isinstance(self._source, NodeCollection):
            self._source.load()
        if self.reranker is not None:
            self.reranker.load()
        return self

    def heatmap(self, node: BaseNode | NodeWithScore, query: str) -> Heatmap:
        """Where on the page of a found node the words of a query match; see `PageIndex.heatmap`.

        Args:
            node: that this retriever found, with its image.
            query: in words.

        Raises:
            InputError: what is searched has no late-interaction model, the node no image, or the query no word.
        """
        found = node.node if isinstance(node, NodeWithScore) else node
        if not isinstance(self._source, IndexPages):
            raise InputError("heatmaps need an index with token vectors; index with PageIndex and a ColEmbed model")
        image = image_of(found)
        page = Passage(found.get_content(), None if image is None else image.source)
        return self._source.index.get().heatmap(page, query)

    async def aheatmap(self, node: BaseNode | NodeWithScore, query: str) -> Heatmap:
        """`heatmap` for event loops, which it does not block."""
        return await asyncio.to_thread(self.heatmap, node, query)

    def narrowed(self, filters: Filters) -> Self:
        """A retriever with the same source and models, which finds what meets its own filters and these besides.

        Args:
            filters: `MetadataFilters` or a dict; see the class.

        Raises:
            InputError: they cannot be joined with its own; or what it searches is an index or retriever of LlamaIndex.
        """
        if isinstance(self._source, FoundNodes):
            raise InputError(f"{self._source!r} takes no filters besides its own; pass a NodeCollection or an index")
        parts = [part for part in map(joinable_filter, (self.filters, filters)) if part]
        result = copy(self)
        result.filters = {"and": parts} if len(parts) > 1 else next(iter(parts), None)
        if isinstance(self._source, IndexPages):
            index_filter(result.filters)  # what cannot be translated is refused now
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        """``NemotronPageRetriever('./index', similarity_top_k=10, top_n=None)``."""
        return f"{type(self).__name__}({self._source!r}, similarity_top_k={self.similarity_top_k}, top_n={self.top_n})"

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        queries, k = _queries(query_bundle), self.similarity_top_k
        if self._chosen:
            return self._choose(query_bundle, queries)
        found = [self._source.search(query, k=k, filters=self.filters) for query in queries]
        nodes = _joined(found)[:k]
        reranker = self._reranker_for(query_bundle)
        if reranker is not None:
            nodes = reranker.postprocess_nodes(nodes, query_bundle=query_bundle)
        return self._with_images(nodes[: self.top_n], query_bundle)

    def _choose(self, query: QueryBundle, queries: Sequence[Passage]) -> list[NodeWithScore]:
        """The nodes of which not just the first are wanted."""
        search, reranker = self._search(query)
        nodes = _joined([search.found(each) for each in queries])
        if reranker is not None:
            nodes = reranker.postprocess_nodes(nodes, query_bundle=query)
        return self._with_images(search.select(nodes), query)

    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        queries, k = _queries(query_bundle), self.similarity_top_k
        if self._chosen:
            return await self._achoose(query_bundle, queries)
        searches = [self._source.asearch(query, k=k, filters=self.filters) for query in queries]
        nodes = _joined(await asyncio.gather(*searches))[:k]
        reranker = self._reranker_for(query_bundle)
        if reranker is not None:
            nodes = await reranker.apostprocess_nodes(nodes, query_bundle=query_bundle)
        return await asyncio.to_thread(self._with_images, nodes[: self.top_n], query_bundle)

    async def _achoose(self, query: QueryBundle, queries: Sequence[Passage]) -> list[NodeWithScore]:
        search, reranker = await asyncio.to_thread(self._search, query)
        nodes = _joined(await asyncio.gather(*map(search.afound, queries)))
        if reranker is not None:
            nodes = await reranker.apostprocess_nodes(nodes, query_bundle=query)
        selected = await asyncio.to_thread(search.select, nodes)
        return await asyncio.to_thread(self._with_images, selected, query)

    def _search(self, query: QueryBundle) -> tuple[NodeSearch | PageSearch, NemotronRerank | None]:
        """A search for nodes that are chosen, and what ranks them first."""
        reranker = self._reranker_for(query)
        k = self.similarity_top_k if self.top_n is None else self.top_n
        if reranker is not None:
            k, reranker = min(k, reranker.top_n or k), reranker.model_copy(update={"top_n": None})
        candidates = None if reranker is None else self.similarity_top_k
        if isinstance(self._source, IndexPages):
            return PageSearch(self._source, k, candidates, self.filters), reranker
        return NodeSearch(self._source, self._chosen, k, candidates, self.filters), reranker

    def _reranker_for(self, query: QueryBundle) -> NemotronRerank | None:
        """The reranker, cutting at the retriever's `top_n` if it has none of its own; None if nothing is reranked."""
        reranker = self.reranker if query.query_str.strip() else None
        if reranker is None:
            return None
        limits = [n for n in (_own_top_n(reranker), self.top_n) if n is not None]
        return reranker.model_copy(update={"top_n": min(limits) if limits else None})

    def _with_images(self, nodes: list[NodeWithScore], query: QueryBundle) -> list[NodeWithScore]:
        if not isinstance(self._source, IndexPages):
            return found_nodes(nodes)
        shown = found_nodes(self._source.with_images(nodes))
        return self._source.located(shown, query.query_str, k=self.regions) if self.regions else shown

    def _check_counts(self) -> None:
        check_count("similarity_top_k", self.similarity_top_k)
        check_count("top_n", self.top_n)
        if type(self.regions) is not int or self.regions < 0:
            raise InputError(f"regions must be 0 or a positive integer, got {self.regions!r}")
        own = None if self._reranker is None else _own_top_n(self._reranker)
        for name, limit in (("similarity_top_k", self.similarity_top_k), ("the reranker's own top_n", own)):
            if self.top_n is not None and limit is not None and self.top_n > limit:
                raise InputError(f"top_n must be at most {name}={limit}, got {self.top_n}; change one of them")


def _source(
    index: PageIndex | NodeCollection | BaseIndex[Any] | BaseRetriever | str | os.PathLike[str],
    reranker: NemotronRerank | Rerank | None,
    mode: Mode | None,
    inline_images: bool,
    chosen: Chosen,
    options: IndexOptions,
) -> IndexPages | NodeCollection | FoundNodes:
    if isinstance(index, PageIndex | str | os.PathLike):
        rerank = reranker is None if isinstance(reranker, NemotronRerank | None) else reranker
        return IndexPages(LazyIndex(index, rerank=rerank, **options), rerank, mode, inline_images, chosen)
    source = FoundNodes(index) if isinstance(index, BaseIndex | BaseRetriever) else index
    if not isinstance(source, NodeCollection | FoundNodes):
        raise InputError(
            "wanted index as a folder, url, PageIndex, NodeCollection, or an index or retriever of LlamaIndex, got "
            f"{type(index).__name__}; of a vector store, pass VectorStoreIndex.from_vector_store(...)"
        )
    given = {"mode": mode is not None, "inline_images": inline_images}
    names = ", ".join([*options, *(name for name, is_given in given.items() if is_given)])
    if names:
        raise InputError(
            f"{names} {_belong(names)} to an index of nemotron_rag; what LlamaIndex wrote has its own settings"
        )
    chosen.check(source)
    return source


def _belong(names: str) -> str:
    return "belong" if "," in names else "belongs"


def _own_top_n(reranker: NemotronRerank) -> int | None:
    """The `top_n` that a reranker was given; None for its default."""
    return reranker.top_n if "top_n" in reranker.model_fields_set else None


def _queries(query: QueryBundle) -> list[Passage]:
    """What to search for. `QueryBundle.embedding` is ignored: other retrievers leave other models' vectors there."""
    queries = [Passage(text) for text in query.embedding_strs if text.strip()]
    if query.image_path:
        queries.append(Passage(image=query.image_path))
    if not queries:
        raise InputError("wanted a query in words or an image (QueryBundle.image_path), got neither")
    return queries


def _joined(found: Sequence[list[NodeWithScore]]) -> list[NodeWithScore]:
    """One list as it is; several by reciprocal rank fusion, equal scores in the order of the lists."""
    if len(found) == 1:
        return found[0]
    nodes = {item.node.node_id: item.node for several in reversed(found) for item in several}
    ranked = fuse([[item.node.node_id for item in several] for several in found])
    return [NodeWithScore(node=nodes[node_id], score=score) for node_id, score in ranked]
