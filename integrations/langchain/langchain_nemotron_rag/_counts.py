"""How many documents a retriever returns, and fetches for a reranker: `k`, `fetch_k` and `top_n` together."""

from __future__ import annotations

import logging

from nemotron_rag.errors import InputError
from nemotron_rag.ranking import DEFAULT_CANDIDATES, check_count

__all__ = ["K", "counts_of"]

K = 4
"""Documents returned, unless the caller says otherwise; LangChain's default."""

_log = logging.getLogger("nemotron_rag")


def counts_of(
    *, k: int | None, fetch_k: int | None, top_n: int | None, limit: int | None, may_rerank: bool
) -> tuple[int, int | None]:
    """How many documents to return, and to fetch for a reranker.

    Args:
        k: documents returned.
        fetch_k: documents fetched for the reranker.
        top_n: documents kept by it.
        limit: its own `top_n`, if it was given one.
        may_rerank: whether there may be a reranker.

    Returns:
        The second is None if neither `fetch_k` nor `top_n` says that there is a reranker.

    Raises:
        InputError: the numbers contradict each other.
    """
    for name, value in (("k", k), ("fetch_k", fetch_k), ("top_n", top_n)):
        check_count(name, value)
    if not may_rerank and (fetch_k, top_n) != (None, None):
        raise InputError("fetch_k and top_n need a reranker; give reranker=, or k alone")
    for name, value in (("k", k), ("top_n", top_n)):
        if limit is not None and value is not None and value > limit:
            raise InputError(f"{name}={value} documents cannot come from a reranker with top_n={limit}; change one")
    if k is not None and top_n is not None and k > top_n:
        _log.warning("k=%d and top_n=%d: %d documents are returned; leave one out", k, top_n, top_n)
    returned = min((n for n in (k, top_n) if n is not None), default=K if limit is None else limit)
    if fetch_k is not None and fetch_k < returned:
        raise InputError(f"fetch_k must be at least the {returned} documents returned, got {fetch_k}")
    return returned, fetch_k if top_n is None else fetch_k or max(returned, DEFAULT_CANDIDATES)
