"""A search as Qdrant's request: by one vector, by token vectors in two stages, and joined with words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import models

from nemotron_rag.documents.words import CURRENT_ANALYSIS
from nemotron_rag.stores.qdrant.bm25 import query_terms
from nemotron_rag.stores.qdrant.vectors import PROJECTED, TERMS, TOKENS, VECTOR, short_lists
from nemotron_rag.types import FloatArray, PageVectors

__all__ = ["Search"]

_FUSED = 50  # pages of each order that are fused at least
# Where quantized copies are compared, the originals of twice as many pages are compared once more.
_RESCORED = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for.

    Args:
        vectors: (dimensions,) or (tokens, dimensions) of a query.
        k: at most so many pages.
        projected: (tokens, projected dimensions); None for one vector.
        prefetch: pages whose token vectors are compared exactly.
        words: also looked for in the pages' texts; empty for none.
        analysis: of these texts; see `nemotron_rag.documents.words`.
        conditions: which pages count.
        arrays: vectors as float32 arrays, which an embedded Qdrant compares as they are: lists it reads as float64, and
            then makes every stored vector as long. False for lists, which a server can be sent.
    """

    vectors: PageVectors
    projected: FloatArray | None
    k: int
    prefetch: int
    arrays: bool
    words: str = ""
    analysis: int = CURRENT_ANALYSIS
    conditions: models.Filter | None = None

    @property
    def by_tokens(self) -> bool:
        """Whether it takes two stages."""
        return self.projected is not None

    @property
    def by_cosine(self) -> bool:
        """Whether the scores are cosines."""
        return not self.by_tokens and self.terms is None

    @property
    def terms(self) -> models.SparseVector | None:
        """Of the words; None if there are none."""
        terms = query_terms(self.words, self.analysis)
        return terms if terms.indices else None

    @property
    def depth(self) -> int:
        """How many pages of each order are fused."""
        return max(_FUSED, 2 * self.k)

    def request(self) -> dict[str, Any]:
        """Arguments of ``query_points``: all in one request."""
        if self.terms is None:
            return {**self._by_vectors(), "limit": self.k}
        branch = self._by_vectors()
        ordered = models.Prefetch(
            query=branch["query"],
            using=branch["using"],
            prefetch=branch.get("prefetch"),
            params=branch.get("search_params"),
            filter=self.conditions,
            limit=self.depth,
        )
        fusion = models.FusionQuery(fusion=models.Fusion.RRF)
        return {"prefetch": [ordered, self.stage(TERMS, self.terms, self.depth)], "query": fusion, "limit": self.k}

    def first_stage(self) -> models.Prefetch:
        """Which pages' tokens are worth comparing, by their projections."""
        assert self.projected is not None
        return self.stage(PROJECTED, self._nearest(self.projected), max(self.prefetch, self.k))

    def stage(self, using: str, query: Any, limit: int) -> models.Prefetch:
        """One order of pages."""
        return models.Prefetch(query=query, using=using, filter=self.conditions, limit=limit)

    def _by_vectors(self) -> dict[str, Any]:
        if not self.by_tokens:
            query = self._nearest(self.vectors)
            params = {} if self.arrays else {"search_params": _RESCORED}
            return {"query": query, "using": VECTOR, "query_filter": self.conditions, **params}
        return {
            "prefetch": [self.first_stage()],
            "query": self._nearest(self.vectors),
            "using": TOKENS,
            "search_params": _RESCORED,
        }

    def _nearest(self, rows: PageVectors) -> models.NearestQuery | list[float] | list[list[float]]:
        if self.arrays:  # not validated: a model of qdrant-client takes lists only
            return models.NearestQuery.model_construct(nearest=rows.astype(np.float32, copy=False))
        numbers: list[float] = rows.tolist()
        return numbers if rows.ndim == 1 else short_lists(rows)
