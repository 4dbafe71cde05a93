"""Times what a user waits for: a query, a page, and 25 pages reranked by images that were seen before."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from nemotron_rag import Embedder, Passage, Reranker

__all__ = ["print_latency"]

_QUERIES = ("Where is the configuration file?", "How do I install a package?", "What has changed since last year?")
_REPEATS = 10

T = TypeVar("T")


def print_latency(pages: Sequence[Passage], embedder: Embedder, reranker: Reranker) -> None:
    """Print medians.

    Args:
        pages: images; the first is for warming up.
        embedder: to time.
        reranker: to time.
    """
    queries, images = _QUERIES * _REPEATS, pages[1:]
    embedder.embed_passages(pages[:1])
    reranker.score(_QUERIES[0], images)  # caches their features
    query = _median(lambda query: embedder.embed_queries([query]), queries)
    page = _median(lambda image: embedder.embed_passages([image]), images)
    again = _median(lambda query: reranker.score(query, images), _QUERIES)
    print(f"a query embedded: {1000 * query:.1f} ms")
    print(f"a page embedded: {page:.2f} s")
    print(f"{len(images)} pages reranked, their vision features cached: {again:.2f} s")


def _median(work: Callable[[T], object], inputs: Iterable[T]) -> float:
    """Seconds for one input."""
    seconds = []
    for given in inputs:
        start = time.perf_counter()
        work(given)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
