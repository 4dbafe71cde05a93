"""Finding pages in an index: by a question, by a picture, and where on a page a question matches."""

from __future__ import annotations

import asyncio

from nemotron_rag.heatmap import Heatmap
from nemotron_rag.index._core import IndexCore, reranked
from nemotron_rag.index._models import Rerank
from nemotron_rag.index._modes import Mode, Request
from nemotron_rag.stores.qdrant import Filter
from nemotron_rag.types import Hit, ImageSource, Passage

__all__ = ["PageSearch"]


class PageSearch:
    """The searching half of `PageIndex`."""

    _core: IndexCore

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        rerank: Rerank = None,
        top_n: int | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        candidates: int | None = None,
    ) -> list[Hit]:
        """Find the pages that answer a question.

        Args:
            query: the question.
            k: pages taken from the store.
            rerank: None for the index's own reranker if it has one, False for none, True for the own one, or the
                name of one, or a loaded `Reranker`. It reads picture and text of all k pages.
            top_n: how many of them to return; None for all.
            filter: which pages to look at: ``{"source": "a.pdf", "number": [1, 2], "year": {"gte": 2020}}`` over
                id, source, number, content_hash and metadata keys (see `compile_filter`), or a qdrant Filter.
            mode: "dense" finds by one vector a page, "multi" by many: sketches of them find candidates, and exact
                MaxSim puts these in order. "hybrid" also finds by the words of the pages' text layers (BM25), and joins
                the two orders by their ranks. None is what the embedder gives: one or many. Where it gives many,
                "dense" looks at their mean: quick in the largest of indexes, and rough. Retrieval scores are cosines,
                MaxSim, or in hybrid mode fusion scores.
            candidates: pages whose many vectors are compared; None for 200. More find more, and take longer.

        Returns:
            Best first. An index without pages gives none. A page whose picture is missing or broken comes without.

        Raises:
            InputError: an argument cannot be used.
            NemotronRagError: a model or the store failed.
        """
        request = Request(k=k, mode=mode, candidates=candidates, filter=filter)
        embedder, reranker = self._core.ready(request, rerank=rerank, top_n=top_n)
        if embedder is None:
            return []
        rows = embedder.embed_queries([query])
        hits = self._core.nearest(rows[0], request, query=query, keep=None if reranker else top_n)
        if reranker is None or not hits:
            return hits
        return reranked(hits, reranker.score(query, [hit.page for hit in hits]), top_n)

    async def asearch(
        self,
        query: str,
        *,
        k: int = 10,
        rerank: Rerank = None,
        top_n: int | None = None,
        filter: Filter | None = None,
        mode: Mode | None = None,
        candidates: int | None = None,
    ) -> list[Hit]:
        """The same as `search`, without blocking the event loop."""
        request = Request(k=k, mode=mode, candidates=candidates, filter=filter)
        embedder, reranker = await asyncio.to_thread(self._core.ready, request, rerank=rerank, top_n=top_n)
        if embedder is None:
            return []
        rows = await embedder.aembed_queries([query])
        keep = None if reranker else top_n
        hits = await asyncio.to_thread(self._core.nearest, rows[0], request, query=query, keep=keep)
        if reranker is None or not hits:
            return hits
        return reranked(hits, await reranker.ascore(query, [hit.page for hit in hits]), top_n)

    def search_image(self, image: ImageSource, *, k: int = 10, filter: Filter | None = None) -> list[Hit]:
        """Find the k pages that look most like a picture, in any form that `load_image` reads.

        Raises:
            ImageError: the picture cannot be read; or as from `search`.
        """
        request = Request(k=k, filter=filter)
        embedder, _ = self._core.ready(request)
        if embedder is None:
            return []
        rows = embedder.embed_passages([Passage(image=image)])
        return self._core.nearest(rows[0], request)

    async def asearch_image(self, image: ImageSource, *, k: int = 10, filter: Filter | None = None) -> list[Hit]:
        """The same as `search_image`, without blocking the event loop."""
        request = Request(k=k, filter=filter)
        embedder, _ = await asyncio.to_thread(self._core.ready, request)
        if embedder is None:
            return []
        rows = await embedder.aembed_passages([Passage(image=image)])
        return await asyncio.to_thread(self._core.nearest, rows[0], request)

    def heatmap(self, page: Passage, query: str) -> Heatmap:
        """Compute where on a page the words of a query match, by the late-interaction model of this index.

        The page's vectors are computed anew from its picture, so pooled ones do no harm. `Hit.heatmap` is the picture.

        Args:
            page: of a hit, or any passage with a picture.
            query: the question.

        Raises:
            InputError: the index has one vector a page, the page no picture, or the query no word.
            NemotronRagError: the index was closed, or the model failed.
        """
        return self._core.heatmap(page, query)

    async def aheatmap(self, page: Passage, query: str) -> Heatmap:
        """The same as `heatmap`, without blocking the event loop."""
        return await asyncio.to_thread(self.heatmap, page, query)
