"""What every reranker has beside its scores: the passages in their order."""

from __future__ import annotations

from collections.abc import Sequence

from nemotron_rag.ranking import check_top_n, ranked
from nemotron_rag.types import FloatArray, Passage, Query, Ranked

__all__ = ["RanksByScore"]


class RanksByScore:
    """The half of a `Reranker` that follows from its ``score`` and ``ascore``."""

    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """See `nemotron_rag.protocols.Reranker`."""
        raise NotImplementedError

    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """`score` for event loops."""
        raise NotImplementedError

    def rank(self, query: Query, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """Rank passages from best to worst, at most `top_n`; equal scores keep the caller's order.

        Raises:
            InputError: `top_n` is negative, or as for `score`.
        """
        check_top_n(top_n)
        return ranked(self.score(query, passages), passages, top_n)

    async def arank(self, query: Query, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """`rank` for event loops."""
        check_top_n(top_n)
        return ranked(await self.ascore(query, passages), passages, top_n)
