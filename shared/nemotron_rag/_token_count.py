"""How many tokens the models of this process compute for a caller, across windows, threads and tasks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["TokenCount", "count_tokens", "counting_tokens", "not_counting"]


class TokenCount:
    """Adds up tokens.

    Example:
        >>> with counting_tokens() as outer, counting_tokens() as inner:
        ...     count_tokens(7)
        >>> outer.total, inner.total
        (7, 7)
    """

    def __init__(self) -> None:
        self.total: int | None = None
        """Tokens; None if no model has said how many, as some servers do not."""
        self._lock = threading.Lock()

    def add(self, tokens: int) -> None:
        """Count some more."""
        with self._lock:
            self.total = (self.total or 0) + tokens


_counts: ContextVar[tuple[TokenCount, ...]] = ContextVar("nemotron_rag_token_counts", default=())


@contextmanager
def counting_tokens() -> Iterator[TokenCount]:
    """Count what is computed for the code inside the ``with`` block, in this thread or task and those it waits for."""
    count = TokenCount()
    token = _counts.set((*_counts.get(), count))
    try:
        yield count
    finally:
        _counts.reset(token)


@contextmanager
def not_counting() -> Iterator[None]:
    """What is computed inside the ``with`` block is not the caller's: it is done to find out about a model."""
    token = _counts.set(())
    try:
        yield
    finally:
        _counts.reset(token)


def count_tokens(tokens: int) -> None:
    """Add to every count that is open around the caller."""
    for count in _counts.get():
        count.add(tokens)
