"""Pages found by their vectors, and ranked by a reranker if there is one. It writes nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Self, Unpack

import llama_index.core.instrumentation as instrument
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank
from llama_index.retrievers.nemotron_rag._filters import Filters
from llama_index.retrievers.nemotron_rag._sources import IndexOptions, IndexSource, Source
from llama_index.retrievers.nemotron_rag.collection import NodeCollection
from nemotron_rag.errors import InputError
from nemotron_rag.index import Mode, PageIndex
from nemotron_rag.protocols import Reranker
from nemotron_rag.types import Passage

__all__ = ["NemotronPageRetriever"]

dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]  # re-exported without saying so

_RRF = 60  # Cormack, Clarke, Buettcher: Reciprocal Rank Fusion, SIGIR 2009


class NemotronPageRetriever(BaseRetriever):
    """Finds pages for a question in words, for a picture (`QueryBundle.image_path`), or for both.

    Searches an index made by `nemotron_rag.PageIndex` or ``nemotron-rag index`` with the embedder that wrote it, or a
    `NodeCollection` that LlamaIndex wrote. Pages come back as `ImageNode` with text, picture (by path, where it is kept
    in a local folder; else as base64) and the metadata of `PDFPageReader`; with ``multimodal=True``, query engines show
    the LLM both. A page whose picture is lost comes without. Several questions in one, such as words and a picture, are
    searched apart and joined by reciprocal rank fusion, whose scores are sums of ``1 / (60 + rank)``.

    Args:
        index: folder or ``http(s)://`` url of an index, an open `PageIndex`, or a `NodeCollection`. A named index is
            opened by the first search. An open one ranks with its own reranker, if it has one and none is given here.
        similarity_top_k: nodes taken from the store.
        reranker: a `NemotronRerank` with its own settings; or a catalog id, a local folder or a loaded
            `nemotron_rag.Reranker`. It ranks by the words; a picture alone is not reranked.
        top_n: how many of them to return; None for all.
        filters: `MetadataFilters`, or ``{"file_path": "a.pdf", "page_number": [1, 2], "year": {"gte": 2020}}``, both
            in the words of nodes' metadata, or a `qdrant_client.models.Filter` in those of the payload.
        mode: of an index: "dense", "multi" or "hybrid", which looks for the words too; None for what its model
            gives. See `PageIndex.search`.
        inline_images: pictures of an index always as base64, for an LLM that runs elsewhere; events then hold them too.
        callback_manager: for callbacks.
        index_options: for an index by location: ``embedder``, ``collection``, ``images``, ``device``, ``dtype``,
            ``max_input_tiles``, see `PageIndex`. A server needs ``images``, the folder or URL of its pictures.

    Raises:
        InputError: an argument cannot be used; from `retrieve`, a question with neither words nor picture.

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
        index: PageIndex | NodeCollection | str | os.PathLike[str],
        *,
        similarity_top_k: int = 10,
        reranker: NemotronRerank | Reranker | str | os.PathLike[str] | None = None,
        top_n: int | None = None,
        filters: Filters | None = None,
        mode: Mode | None = None,
        inline_images: bool = False,
        callback_manager: CallbackManager | None = None,
        **index_options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        for name, value in (("similarity_top_k", similarity_top_k), ("top_n", top_n)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a whole number from 1 on, got {value!r}")
        self.similarity_top_k = similarity_top_k
        self.top_n = top_n
        self.filters = filters
        self._source = _source(index, mode, inline_images, index_options)
        self._own_reranker = not isinstance(reranker, NemotronRerank)
        self.reranker = _reranker(reranker, self.callback_manager)

    def close(self) -> None:
        """Close the index if it was named, and free the reranker if it was; the next use opens and loads them again."""
        if isinstance(self._source, IndexSource):
            self._source.close()
        if self.reranker is not None and self._own_reranker:
            self.reranker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = [
            self._source.search(question, k=self.similarity_top_k, filters=self.filters)
            for question in _questions(query_bundle)
        ]
        nodes = _joined(found)[: self.similarity_top_k]
        if self.reranker is not None and query_bundle.query_str.strip():
            nodes = self.reranker.postprocess_nodes(nodes, query_bundle=query_bundle)
        return nodes[: self.top_n]

    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        searches = [
            self._source.asearch(question, k=self.similarity_top_k, filters=self.filters)
            for question in _questions(query_bundle)
        ]
        nodes = _joined(await asyncio.gather(*searches))[: self.similarity_top_k]
        if self.reranker is not None and query_bundle.query_str.strip():
            nodes = await self.reranker.apostprocess_nodes(nodes, query_bundle=query_bundle)
        return nodes[: self.top_n]


def _source(
    index: PageIndex | NodeCollection | str | os.PathLike[str],
    mode: Mode | None,
    inline_images: bool,
    options: IndexOptions,
) -> Source:
    if isinstance(index, PageIndex | str | os.PathLike):
        return IndexSource(index, mode=mode, inline_images=inline_images, options=options)
    if not isinstance(index, NodeCollection):
        raise InputError(f"wanted index as a folder, url, PageIndex or NodeCollection, got {type(index).__name__}")
    given = [*options, *(["mode"] if mode else []), *(["inline_images"] if inline_images else [])]
    if given:
        raise InputError(
            f"{', '.join(given)} belong to an index of nemotron_rag; a NodeCollection has its own settings"
        )
    return index


def _reranker(
    reranker: NemotronRerank | Reranker | str | os.PathLike[str] | None, callback_manager: CallbackManager
) -> NemotronRerank | None:
    if reranker is None or isinstance(reranker, NemotronRerank):
        return reranker
    return NemotronRerank(reranker, top_n=None, on_missing_image="text", callback_manager=callback_manager)


def _questions(query: QueryBundle) -> list[Passage]:
    """What to search for. `QueryBundle.embedding` is left alone: other retrievers leave other models' vectors there."""
    questions = [Passage(text) for text in query.embedding_strs if text.strip()]
    if query.image_path:
        questions.append(Passage(image=query.image_path))
    if not questions:
        raise InputError("wanted a question in words or a picture (QueryBundle.image_path), got neither")
    return questions


def _joined(found: Sequence[list[NodeWithScore]]) -> list[NodeWithScore]:
    """One list as it is; several by reciprocal rank fusion, equal scores in the order of the lists."""
    if len(found) == 1:
        return found[0]
    scores: dict[str, float] = {}
    nodes = {item.node.node_id: item.node for several in reversed(found) for item in several}
    for several in found:
        for rank, item in enumerate(several, 1):
            scores[item.node.node_id] = scores.get(item.node.node_id, 0.0) + 1.0 / (_RRF + rank)
    best = sorted(scores, key=lambda node_id: -scores[node_id])
    return [NodeWithScore(node=nodes[node_id], score=scores[node_id]) for node_id in best]
