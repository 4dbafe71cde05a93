"""Measures retrieval by the text, the image or both, with and without reranking. Prints one line a figure."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nemotron_rag import Embedder, MultiVectorEmbedder, Passage, Reranker
from training.bm25 import Bm25
from training.pools import Pool

__all__ = ["Models", "measure"]

_DEPTH = 10  # of NDCG
_Scores = NDArray[np.float32]  # (queries, pages)


@dataclass(frozen=True, slots=True)
class Models:
    """What is measured; None is left out."""

    embedder: Embedder | None = None
    reranker: Reranker | None = None
    colembed: MultiVectorEmbedder | None = None


def measure(pools: Sequence[Pool], models: Models, *, modes: Sequence[str], depth: int = 25) -> None:
    """Print Recall@1, Recall@5 and NDCG@10 by system and kind of query.

    Args:
        pools: what to measure on.
        models: what to measure.
        modes: ``text``, ``image``, ``image_text``.
        depth: how many of the embedder's first pages are reranked.
    """
    gains: dict[tuple[str, str], list[NDArray[np.bool_]]] = defaultdict(list)
    relevant: dict[str, list[int]] = defaultdict(list)
    began = time.monotonic()
    for pool in pools:
        for kind, rows in pool.queries.items():
            relevant[kind] += [len(good) for _, good in rows]
            words = Bm25(pool.texts)
            gains["BM25 on the text", kind].append(_gains(np.stack([words.scores(query) for query, _ in rows]), rows))
        for mode in modes:
            passages = pool.passages(mode)
            for name, kind, scores in _score(pool, passages, models, depth):
                gains[f"{mode}: {name}", kind].append(_gains(scores, pool.queries[kind]))
            print(f"# {mode} after {time.monotonic() - began:.0f} s", flush=True)
    for (name, kind), parts in sorted(gains.items()):
        print(_line(name, kind, np.concatenate(parts), relevant[kind]))


def _score(
    pool: Pool, passages: Sequence[Passage], models: Models, depth: int
) -> list[tuple[str, str, NDArray[np.floating]]]:
    """Name, kind of query and scores of every system."""
    rows: list[tuple[str, str, NDArray[np.floating]]] = []
    texts = {kind: [query for query, _ in queries] for kind, queries in pool.queries.items()}
    if models.embedder is not None:
        pages = models.embedder.embed_passages(passages)
        for kind, queries in texts.items():
            vectors = models.embedder.embed_queries(queries)
            scores = vectors @ pages.T
            rows.append(("embedder", kind, scores))
            half = pages.shape[1] // 2
            rows.append(("embedder, first half", kind, _cut(vectors, half) @ _cut(pages, half).T))
            if models.reranker is not None:
                rows.append(("embedder + reranker", kind, _rerank(models.reranker, queries, scores, passages, depth)))
    if models.colembed is not None:
        tokens = models.colembed.embed_passages(passages)
        for kind, queries in texts.items():
            rows.append(("colembed", kind, models.colembed.score(models.colembed.embed_queries(queries), tokens)))
    return rows


def _cut(vectors: _Scores, size: int) -> _Scores:
    cut: _Scores = vectors[:, :size] / np.linalg.norm(vectors[:, :size], axis=1, keepdims=True)
    return cut


def _rerank(
    reranker: Reranker, queries: Sequence[str], scores: _Scores, passages: Sequence[Passage], depth: int
) -> _Scores:
    """Scores that put the first `depth` pages of each query in the reranker's order, and the others behind them."""
    again = np.full(scores.shape, -np.inf, dtype=np.float32)
    for i, query in enumerate(queries):
        first = np.argsort(-scores[i], kind="stable")[:depth]
        again[i, first] = reranker.score(query, [passages[j] for j in first])
    return again


def _gains(scores: NDArray[np.floating], rows: Sequence[tuple[str, set[int]]]) -> NDArray[np.bool_]:
    """Whether each of the first 10 pages is relevant: (queries, 10), or fewer columns of a smaller pool."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH]
    return np.array([[page in good for page in row] for row, (_, good) in zip(order, rows, strict=True)])


def _line(name: str, kind: str, gains: NDArray[np.bool_], relevant: Sequence[int]) -> str:
    """Recall@k: a relevant page is among the first k. NDCG with gains of 1."""
    discounts = 1 / np.log2(np.arange(2, _DEPTH + 2))
    ideal = np.array([discounts[: min(count, _DEPTH)].sum() for count in relevant])
    ndcg = (gains @ discounts[: gains.shape[1]]) / ideal
    recall = [gains[:, :k].any(axis=1).mean() for k in (1, 5)]
    return (
        f"{name:<32} {kind:<10} n={len(gains):<4} R@1 {recall[0]:.3f}  R@5 {recall[1]:.3f}  NDCG@10 {ndcg.mean():.3f}"
    )
