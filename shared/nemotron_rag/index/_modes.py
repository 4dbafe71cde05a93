"""What a search asks for: how many pages, found how, and by which of a question's vectors. It knows no store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from nemotron_rag.errors import InputError
from nemotron_rag.stores.qdrant import CANDIDATES, Filter, PageVectors
from nemotron_rag.token_vectors import fit_query
from nemotron_rag.token_vectors.sketch import mean_vector

__all__ = ["Mode", "Request"]

Mode: TypeAlias = Literal["dense", "multi", "hybrid"]
"""How pages are found; see `PageIndex.search`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Arguments of `PageIndex.search`, which explains them.

    Args:
        k: pages taken from the store.
        mode: None for the index's own.
        candidates: None for the default.
        filter: which pages to look at.
    """

    k: int
    mode: Mode | None = None
    candidates: int | None = None
    filter: Filter | None = None

    def check(self, *, many: bool) -> None:
        """Refuse what an index cannot do.

        Args:
            many: whether the index has many vectors a page.

        Raises:
            InputError: it cannot.
        """
        if not isinstance(self.k, int) or self.k < 1:
            raise InputError(f"k must be a whole number from 1 on, got {self.k!r}")
        if self.mode is not None and self.mode not in get_args(Mode):
            raise InputError(f"no search mode {self.mode!r}; give one of: {', '.join(get_args(Mode))}")
        if self.mode == "multi" and not many:
            raise InputError(
                "mode 'multi' wants many vectors a page, this index has one; leave it out, or index with ColEmbed"
            )
        if self.candidates is None:
            return
        if not many or self.mode == "dense":
            raise InputError("candidates= is for searches by many vectors a page, this one looks at one; leave it out")
        if not isinstance(self.candidates, int) or self.candidates < self.k:
            raise InputError(f"candidates must be a whole number from k={self.k} on, got {self.candidates!r}")

    def vectors(self, given: PageVectors) -> PageVectors:
        """What of a question's (dimensions,) or (tokens, dimensions) is looked for: in dense mode the tokens' mean."""
        if given.ndim == 1:
            return given
        return mean_vector(given) if self.mode == "dense" else fit_query(given)

    def words(self, query: str) -> str:
        """What of a question is looked for in the pages' texts."""
        return query if self.mode == "hybrid" else ""

    @property
    def first_stage(self) -> int:
        """How many candidates there are."""
        return self.candidates or CANDIDATES
