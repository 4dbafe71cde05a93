"""Which of the pages or nodes found are returned, by `nemotron_rag.index.selection.Selection`, and their neighbours."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llama_index.core.schema import NodeWithScore

from llama_index_nemotron_rag.collection import NodeCollection
from llama_index_nemotron_rag.filters import Filters
from llama_index_nemotron_rag.found import FoundNodes
from llama_index_nemotron_rag.places import FILE_KEYS, file_of, joinable_filter, with_neighbours
from nemotron_rag.errors import InputError
from nemotron_rag.index.selection import Selection, check_min_score
from nemotron_rag.types import FloatArray, Passage

__all__ = ["Chosen", "NodeSearch"]

_log = logging.getLogger("nemotron_rag")


@dataclass(frozen=True)
class Chosen:
    """Which of the pages found are returned; see `PageIndex.search`.

    Raises:
        InputError: a value cannot be used.
    """

    min_score: float | None = None
    per_document: int | None = None
    diversity: float | None = None
    neighbours: int = 0

    def __post_init__(self) -> None:
        Selection(k=1, **self.options)
        check_min_score(self.min_score)

    def __bool__(self) -> bool:
        """Whether anything else is asked for than the first pages."""
        return bool(self.neighbours) or any(v is not None for v in (self.min_score, self.per_document, self.diversity))

    @property
    def options(self) -> dict[str, Any]:
        """Those of `PageIndex.select`."""
        return {"per_document": self.per_document, "diversity": self.diversity, "neighbours": self.neighbours}

    def check(self, source: NodeCollection | FoundNodes) -> None:
        """Refuse what nodes of LlamaIndex cannot be asked for.

        Raises:
            InputError: it needs the vectors of nodes, or to ask for nodes by file and page, and the source has no way.
        """
        if isinstance(source, NodeCollection):
            return
        if self.diversity:
            raise InputError(
                f"diversity needs the vectors of nodes, which {source!r} does not give; pass a NodeCollection, or "
                "index.as_retriever(vector_store_query_mode='mmr')"
            )
        if self.neighbours:
            raise InputError(
                f"neighbours are found by file and page, by which {source!r} cannot be asked; pass a NodeCollection or "
                "an index of nemotron_rag"
            )


@dataclass(frozen=True)
class NodeSearch:
    """One search of nodes of which not just the first are returned.

    Args:
        source: of the nodes.
        chosen: which are wanted.
        k: how many.
        candidates: nodes that a reranker reads; None if there is none.
        filters: see `NemotronPageRetriever`.

    Raises:
        InputError: neighbours of a filter that cannot be joined with another.
    """

    source: NodeCollection | FoundNodes
    chosen: Chosen
    k: int
    candidates: int | None
    filters: Filters | None
    _vectors: dict[str, FloatArray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.chosen.neighbours:
            joinable_filter(self.filters)  # what cannot be joined is refused now

    def found(self, query: Passage) -> list[NodeWithScore]:
        """The nodes near to a query of which k are to be chosen, best first."""

        def find(count: int) -> list[NodeWithScore]:
            return self.source.search(query, k=count, filters=self.filters, **self._options)

        return self._candidates(self._selection.gather(find, _document, self._first_count))

    async def afound(self, query: Passage) -> list[NodeWithScore]:
        """`found` for event loops."""

        async def find(count: int) -> list[NodeWithScore]:
            return await self.source.asearch(query, k=count, filters=self.filters, **self._options)

        return self._candidates(await self._selection.agather(find, _document, self._first_count))

    def select(self, nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
        """Which of ranked nodes are returned, with their neighbours behind them."""
        scores = [-float(place) for place in range(len(nodes))]  # an order, where only that counts
        if self.chosen.diversity:
            scores = [float("-inf") if item.score is None else item.score for item in nodes]
            if nodes and scores[0] < scores[-1]:  # distances
                scores = [-score for score in scores]
        vectors = [self._vectors.get(item.node.node_id) for item in nodes]
        kept = [nodes[index] for index in self._selection.choose([*map(_document, nodes)], scores, lambda: vectors)]
        if not self.chosen.neighbours or not isinstance(self.source, NodeCollection):
            return kept
        return with_neighbours(kept, self.chosen.neighbours, self.filters, self.source.matching)

    @property
    def _first_count(self) -> int:
        """How many nodes are asked for to begin with."""
        if isinstance(self.source, FoundNodes) and self.source.is_retriever:
            return sys.maxsize  # all that it gives, which asking again would not change
        return self.candidates or (self._selection.pool if self._selection.diversity else self.k)

    def _candidates(self, nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
        """What a reranker is given of what was found, or what is chosen from."""
        self._say_what_is_missing(nodes)
        if self._selection.diversity:
            nodes = [self._without_vector(item) for item in nodes]
        if self.candidates is None:
            return list(nodes)
        return [nodes[index] for index in self._selection.candidates([*map(_document, nodes)], self.candidates)]

    def _without_vector(self, item: NodeWithScore) -> NodeWithScore:
        """A copy as it would have been found; its vector is kept here."""
        if item.node.embedding is not None:
            self._vectors[item.node.node_id] = np.array(item.node.embedding, np.float32)
        return NodeWithScore(node=item.node.model_copy(update={"embedding": None}), score=item.score)

    def _say_what_is_missing(self, nodes: Sequence[NodeWithScore]) -> None:
        if nodes and self.chosen.per_document and not any(file_of(item.node) for item in nodes):
            keys = ", ".join(FILE_KEYS)
            _log.warning("per_document limits nothing: no node that %r gave has %s in its metadata", self.source, keys)

    @property
    def _selection(self) -> Selection:
        return Selection(k=self.k, **self.chosen.options)

    @property
    def _options(self) -> Mapping[str, Any]:
        vectors = {"with_vectors": True} if self.chosen.diversity else {}
        return {"min_score": self.chosen.min_score, **vectors}


def _document(item: NodeWithScore) -> tuple[str | None, str]:
    """What tells the document of a node: its file, or of a node without one itself."""
    file = file_of(item.node)
    return file, item.node.node_id if file is None else ""
