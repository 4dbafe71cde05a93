"""Times what a visitor waits for: a question, a page, and 25 pages reranked by pictures that were seen before."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from nemotron_rag import load_embedder, load_reranker
from nemotron_rag.types import Passage
from training.shapes import EMBED, RERANK

__all__ = ["print_latency"]

_QUERIES = ("Where is the configuration file?", "How do I install a package?", "What has changed since last year?")
_REPEATS = 10

T = TypeVar("T")


def print_latency(pages: Sequence[Passage]) -> None:
    """Print medians.

    Args:
        pages: pictures; the first is for warming up.
    """
    embedder, reranker = load_embedder(EMBED.name), load_reranker(RERANK.name)
    questions, pictures = _QUERIES * _REPEATS, pages[1:]
    embedder.embed_passages(pages[:1])
    reranker.score(_QUERIES[0], pictures)  # keeps their features
    question = _median(lambda query: embedder.embed_queries([query]), questions)
    page = _median(lambda picture: embedder.embed_passages([picture]), pictures)
    again = _median(lambda query: reranker.score(query, pictures), _QUERIES)
    print(f"a question embedded: {1000 * question:.1f} ms")
    print(f"a page embedded: {page:.2f} s")
    print(f"{len(pictures)} pages reranked, their vision features kept: {again:.2f} s")


def _median(work: Callable[[T], object], inputs: Iterable[T]) -> float:
    """Seconds for one input."""
    seconds = []
    for given in inputs:
        start = time.perf_counter()
        work(given)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
