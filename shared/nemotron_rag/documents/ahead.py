"""Map over a stream in threads, a few items ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_ahead"]

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in their order; at most `threads` items are taken ahead.

    An error of `function` comes out in its item's place, one of `items` at once. Nothing goes on in the background
    after the iterator was closed.

    Example:
        >>> list(map_ahead(str.upper, "abc", threads=2))
        ['A', 'B', 'C']
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="nemotron-rag ahead") as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
