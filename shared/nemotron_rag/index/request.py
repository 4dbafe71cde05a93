"""What a search asks for: the checked arguments of `PageIndex.search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from nemotron_rag.errors import InputError
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
        k: results returned.
        candidates: pages fetched for reranking; None for the default.
        reranking: whether a reranker follows.
        mode: None for the index's own.
        prefetch: pages whose token vectors are compared exactly; None for the store's default.
        filter: which pages to look at.
        is_multivector: whether the index has token vectors.

    Raises:
        InputError: a value cannot be used, or the index cannot do it.
    """

    k: int
    candidates: int | None = None
    reranking: bool = False
    mode: Mode | None = None
    prefetch: int | None = None
    filter: Filter | None = None
    is_multivector: bool = False

    def __post_init__(self) -> None:
        if self.k is None:
            raise InputError("k must be a positive integer, got None")
        for name in ("k", "candidates", "prefetch"):
            check_count(name, getattr(self, name))
        self._check_candidates()
        if self.mode is not None and self.mode not in get_args(Mode):
            raise InputError(f"mode must be one of {', '.join(get_args(Mode))}; got {self.mode!r}")
        if self.mode == "multi" and not self.is_multivector:
            raise InputError("mode 'multi' needs token vectors, this index has one vector a page; leave it out")
        self._check_prefetch()

    @property
    def fetched(self) -> int:
        """Pages taken from the store."""
        if not self.reranking:
            return self.k
        return self.candidates or max(self.k, DEFAULT_CANDIDATES)

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
        if not self.reranking:
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
