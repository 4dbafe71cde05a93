"""What a search asks for: the checked arguments of `PageIndex.search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from nemotron_rag.errors import InputError
from nemotron_rag.index.selection import Selection, check_min_score
from nemotron_rag.late_interaction.projection import mean_vector
from nemotron_rag.late_interaction.token_vectors import fit_query
from nemotron_rag.ranking import DEFAULT_CANDIDATES, check_count
from nemotron_rag.types import Filter, PageVectors

__all__ = ["Mode", "Request"]

Mode: TypeAlias = Literal["dense", "multi", "hybrid"]
"""How pages are found; see `PageIndex.search`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Arguments of `PageIndex.search`, which explains them.

    Args:
        selection: which of the pages found are returned, and how many.
        candidates: pages fetched for reranking, or to choose from; None for the default.
        reranking: whether a reranker follows.
        mode: None for the index's own.
        prefetch: pages whose token vectors are compared exactly; None for the store's default.
        filter: which pages to look at.
        min_score: smallest retrieval score of a page that is found; None for any.
        is_multivector: whether the index has token vectors.

    Raises:
        InputError: a value cannot be used, or the index cannot do it.
    """

    selection: Selection
    candidates: int | None = None
    reranking: bool = False
    mode: Mode | None = None
    prefetch: int | None = None
    filter: Filter | None = None
    min_score: float | None = None
    is_multivector: bool = False

    def __post_init__(self) -> None:
        for name in ("candidates", "prefetch"):
            check_count(name, getattr(self, name))
        self._check_candidates()
        if self.mode is not None and self.mode not in get_args(Mode):
            raise InputError(f"mode must be one of {', '.join(get_args(Mode))}; got {self.mode!r}")
        if self.mode == "multi" and not self.is_multivector:
            raise InputError("mode 'multi' needs token vectors, this index has one vector a page; leave it out")
        self._check_prefetch()
        self._check_min_score()

    @property
    def k(self) -> int:
        """Results returned."""
        return self.selection.k

    @property
    def fetched(self) -> int:
        """Pages taken from the store."""
        if self.candidates is not None:
            return self.candidates
        if self.reranking:
            return max(self.k, DEFAULT_CANDIDATES)
        return self.selection.pool if self.selection.diversity else self.k

    def vectors(self, given: PageVectors) -> PageVectors:
        """Which of a query's (dimensions,) or (tokens, dimensions) is searched for: in dense mode the tokens' mean."""
        if given.ndim == 1:
            return given
        return mean_vector(given) if self.mode == "dense" else fit_query(given)

    def words(self, query: str) -> str:
        """The words that are looked for in the pages' texts; empty for none."""
        return query if self.mode == "hybrid" else ""

    def _check_candidates(self) -> None:
        if self.candidates is None:
            return
        if not self.reranking and not self.selection.diversity:
            raise InputError("candidates= is for reranking, and there is no reranker; give rerank=, or k alone")
        if self.candidates < self.k:
            raise InputError(f"candidates must be at least k={self.k}, got {self.candidates}")

    def _check_prefetch(self) -> None:
        if self.prefetch is None:
            return
        if not self.is_multivector or self.mode == "dense":
            raise InputError(
                "prefetch= is for searches by token vectors, this one is by one vector a page; leave it out"
            )
        if self.prefetch < self.fetched:
            raise InputError(f"prefetch must be at least the {self.fetched} pages fetched, got {self.prefetch}")

    def _check_min_score(self) -> None:
        check_min_score(self.min_score)
        if self.min_score is not None and self.mode == "hybrid":
            raise InputError(
                "min_score= is for scores of vectors, those of mode 'hybrid' tell an order only; leave one of them out"
            )
