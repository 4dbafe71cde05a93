"""What a search does: asks the store, ranks what it has found, and chooses from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from nemotron_rag.errors import InputError
from nemotron_rag.index.request import Request
from nemotron_rag.index.selection import Selection, numbers_around
from nemotron_rag.index.source_files import fold_sources
from nemotron_rag.index.state import IndexState
from nemotron_rag.protocols import Reranker
from nemotron_rag.ranking import Place, RankingPolicy, arank, rank
from nemotron_rag.stores.filters import page_found, parse_filter
from nemotron_rag.stores.filters.nowhere import KeyCheck
from nemotron_rag.types import Filter, Hit, Page, PageVectors, Passage, Query, StoredPage

__all__ = ["Finder", "above", "arank_hits", "rank_hits"]

_SAMPLED = 200  # pages whose metadata keys are named where a filter has a wrong one
_log = logging.getLogger("nemotron_rag")


class Finder:
    """Finds the pages of one index. Any number of threads may use it.

    Args:
        state: of the index.
    """

    def __init__(self, state: IndexState) -> None:
        self._state = state
        self._keys = KeyCheck(state)
        self._said_missing = False

    def can_search(self, query: object) -> bool:
        """Whether there are pages to search; that there are none is said once.

        Raises:
            InputError: the query is no query.
        """
        if not isinstance(query, str | Passage):
            raise InputError(f"query must be a str, got {type(query).__name__}; for an image use search_image")
        if self._state.exists():
            return True
        if not self._said_missing:
            self._said_missing = True
            store = self._state.store
            named = store.missing() if hasattr(store, "missing") else store
            _log.warning("nothing is found: there is no index yet: %s; check its name and place, or add to it", named)
        return False

    def nearest(self, vectors: PageVectors, request: Request, *, query: str = "") -> list[Hit]:
        """The pages that a request finds; of a limited number of each document so many that k are left of them.

        Args:
            vectors: of the query, (dimensions,) or (tokens, dimensions).
            request: of the search.
            query: whose words hybrid mode looks for.
        """
        rows, words = request.vectors(vectors), request.words(query)

        def find(count: int) -> list[Hit]:
            found = self._state.store.query(
                rows, k=count, prefetch=request.prefetch, words=words, filter=request.filter
            )
            return [
                Hit(self._page(stored, request.filter), score=score, retrieval_score=score, rank=rank)
                for rank, (stored, score) in enumerate(found, 1)
                if request.min_score is None or score >= request.min_score
            ]

        hits = list(request.selection.gather(find, _document, request.fetched))
        self.check_keys(request.filter, found=bool(hits))
        if not request.reranking:
            return hits
        return [hits[index] for index in request.selection.candidates([*map(_document, hits)], request.fetched)]

    def selected(self, hits: list[Hit], selection: Selection, filter: Filter | None) -> list[Hit]:
        """Hits in their final order, and their neighbours.

        Args:
            hits: best first by `Hit.score`.
            selection: which of them stay.
            filter: with which they were found.
        """
        if selection.chooses and hits:
            ids = [hit.page.id for hit in hits]
            order = selection.choose(
                [_document(hit) for hit in hits],
                [hit.score for hit in hits],
                lambda: [*map(self._state.store.vectors(ids).get, ids)],
            )
            hits = [hits[index] for index in order]
        kept = [replace(hit, rank=rank) for rank, hit in enumerate(hits[: selection.k], 1)]
        return self._with_neighbours(kept, selection.neighbours, filter) if selection.neighbours else kept

    def _with_neighbours(self, hits: list[Hit], reach: int, filter: Filter | None) -> list[Hit]:
        """Hits with the pages around them; none twice."""
        around = [{"source": hit.page.source, "page_number": numbers_around(hit.page.number, reach)} for hit in hits]
        named = [part for part, hit in zip(around, hits, strict=True) if hit.page.source]
        if not named:
            return hits
        filter = fold_sources(filter)
        found: dict[tuple[str, int], StoredPage] = {}
        for stored in self._state.store.pages(_both({"or": named}, filter), texts=True):
            found.update({(source, stored.page.number): stored for source in stored.sources})
        taken = {hit.page.id for hit in hits}
        result = []
        for hit in hits:
            places = [(hit.page.source, number) for number in numbers_around(hit.page.number, reach)]
            near = [found[place] for place in places if place in found and found[place].page.id not in taken]
            taken.update(stored.page.id for stored in near)
            here = _both({"source": hit.page.source}, filter)
            pages = [replace(self._page(stored, here), source=hit.page.source) for stored in near]
            result.append(replace(hit, neighbours=tuple(pages)))
        return result

    def _page(self, stored: StoredPage, filter: Filter | None) -> Page:
        """The page with its image, as the file has it in which the filter found it."""
        return replace(page_found(stored, filter), image=self._state.image_of(stored))

    def check_keys(self, filter: Filter | None, *, found: bool) -> None:
        """Say which keys of a filter no page has, where the answer may be wrong for it: they may be misspelt."""
        if not filter or not isinstance(filter, Mapping) or not self._state.exists():
            return
        store = self._state.store
        for key in self._keys.missing(self._keys.doubtful(parse_filter(filter), found=found), store.count):
            some = (stored.page.metadata for stored in islice(store.pages(), _SAMPLED))
            _log.warning("%s", self._keys.message(key, some))


def rank_hits(reranker: Reranker, query: Query, hits: Sequence[Hit], policy: RankingPolicy) -> list[Hit]:
    """Hits in the order of a reranker; see `ranking.rank`."""
    pages = [hit.page for hit in hits]
    return _ranked(hits, rank(reranker, query, pages, policy=policy, describe=lambda index: _describe(pages[index])))


async def arank_hits(reranker: Reranker, query: Query, hits: Sequence[Hit], policy: RankingPolicy) -> list[Hit]:
    """`rank_hits` for event loops, which it does not block."""
    pages = [hit.page for hit in hits]
    places = await arank(reranker, query, pages, policy=policy, describe=lambda index: _describe(pages[index]))
    return _ranked(hits, places)


def above(hits: list[Hit], policy: RankingPolicy) -> list[Hit]:
    """Hits that are not reranked: only the threshold holds for them."""
    if policy.score_transform is not None:
        raise InputError("score_transform= is for reranking, and there is no reranker; leave it out")
    if policy.fuse:
        raise InputError("fuse= is for reranking, and there is no reranker; leave it out")
    threshold = policy.score_threshold
    return hits if threshold is None else [hit for hit in hits if hit.score >= threshold]


def _ranked(hits: Sequence[Hit], places: Sequence[Place]) -> list[Hit]:
    return [
        replace(hits[place.index], score=float("-inf") if place.score is None else place.score, rank=rank)
        for rank, place in enumerate(places, 1)
    ]


def _both(one: Mapping[str, Any], other: Filter | None) -> Filter:
    """A filter for what two match, in the same file if both are plain ones."""
    return {"and": [one, other]} if isinstance(other, Mapping) else one if other is None else (one, other)


def _document(hit: Hit) -> str:
    """What counts as one document: the pages of one source; a page without one is alone."""
    return hit.page.source or f"\0{hit.page.id}"


def _describe(page: Page) -> str:
    return f"page {page.number} of {page.source or page.id}"
