"""Measures retrieval: pools of held-out pages with exact queries, and judged natural questions. Prints one table."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pymupdf
from PIL import Image

from nemotron_rag.protocols import Embedder, Reranker
from nemotron_rag.types import Passage
from training.bm25 import Bm25
from training.pages import load_pages
from training.places import WORK
from training.queries import KINDS, QueryMaker

__all__ = ["Pool", "held_out_pool", "judged_pool", "measure"]

_PIXELS = (1024, 1536)  # the 2x3 tile grid of a portrait page


@dataclass(frozen=True, slots=True)
class Pool:
    """Pages, and by kind the queries with the indexes of the pages that answer them."""

    texts: list[str]
    where: list[tuple[Path, int]]
    queries: dict[str, list[tuple[str, set[int]]]]

    def passages(self, mode: str) -> list[Passage]:
        """The pages as ``text``, ``image`` or ``image_text`` passages."""
        texts = [""] * len(self.texts) if mode == "image" else self.texts
        if mode == "text":
            return [Passage(text) for text in texts]
        return [Passage(text, render(*place)) for text, place in zip(texts, self.where, strict=True)]


def render(path: Path, number: int) -> Image.Image:
    """A page as a picture of the tile grid's size."""
    with pymupdf.open(path) as document:
        page = document[number - 1]
        scale = max(_PIXELS[0] / page.rect.width, _PIXELS[1] / page.rect.height)
        pixels = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False)
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples).resize(_PIXELS)


def held_out_pool(*, size: int = 100, seed: int = 0, asked: int | None = None) -> Pool:
    """Random held-out pages, and one query of each kind for every page, or for the first `asked` ones."""
    rng = random.Random(100 + seed)
    pages = rng.sample(load_pages(held_out=True), size)
    texts = [page.text for page in pages]
    maker = QueryMaker(texts)
    queries = {
        kind: [(query, {i}) for i, text in enumerate(texts[:asked]) if (query := maker.exact(text, kind, rng))]
        for kind in KINDS
    }
    return Pool(texts, [(WORK / "root" / page.package / page.file, page.number) for page in pages], queries)


def judged_pool(folder: Path) -> Pool:
    """All pages of the PDFs in ``folder/good`` and the questions of ``folder/queries.jsonl``."""
    texts: list[str] = []
    where: list[tuple[Path, int]] = []
    for path in sorted((folder / "good").glob("*.pdf")):
        with pymupdf.open(path) as document:
            for number, page in enumerate(document, start=1):
                texts.append(page.get_text())
                where.append((path, number))
    index = {(path.name, number): i for i, (path, number) in enumerate(where)}
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    questions = [(row["query"], {index[row["file"], number] for number in row["pages"]}) for row in rows]
    return Pool(texts, where, {"questions": questions})


def _ranks(order: Iterable[Sequence[int]], wanted: Sequence[set[int]]) -> np.ndarray:
    """Place of the best wanted page, from 0; 10**6 if it was not kept."""
    places = ([i for i, page in enumerate(row) if page in good] for row, good in zip(order, wanted, strict=True))
    return np.array([place[0] if place else 10**6 for place in places])


def _line(name: str, kind: str, ranks: np.ndarray) -> str:
    return f"{name:<28} {kind:<10} n={len(ranks):<4} R@1 {np.mean(ranks < 1):.3f}  R@5 {np.mean(ranks < 5):.3f}"


def measure(
    pools: Sequence[Pool],
    *,
    embedder: Embedder,
    reranker: Reranker | None,
    modes: Sequence[str],
    depth: int = 25,
) -> None:
    """Print R@1 and R@5 by kind of query: BM25, the embedder, and the embedder's top `depth` reranked."""
    ranks: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    began = time.monotonic()
    for pool in pools:
        bm25 = Bm25(pool.texts)
        for kind, rows in pool.queries.items():
            words = [np.argsort(-bm25.scores(query), kind="stable") for query, _ in rows]
            ranks["BM25 on the text", kind].append(_ranks(words, [good for _, good in rows]))
        for mode in modes:
            passages = pool.passages(mode)
            vectors = embedder.embed_passages(passages)
            for kind, rows in pool.queries.items():
                asked, wanted = [row[0] for row in rows], [row[1] for row in rows]
                orders = _orders(embedder.embed_queries(asked), vectors)
                for name, order in orders.items():
                    ranks[f"embed {mode}{name}", kind].append(_ranks(order, wanted))
                if reranker is not None:
                    again = [
                        _rerank(reranker, q, row[:depth], passages) for q, row in zip(asked, orders[""], strict=True)
                    ]
                    ranks[f"+ rerank {mode}", kind].append(_ranks(again, wanted))
    for (name, kind), parts in sorted(ranks.items()):
        print(_line(name, kind, np.concatenate(parts)))
    print(f"{time.monotonic() - began:.0f} s")


def _orders(queries: np.ndarray, pages: np.ndarray) -> dict[str, np.ndarray]:
    """Pages from best to worst for every query, by whole vectors and by their first half."""
    half = pages.shape[1] // 2
    scores = {"": queries @ pages.T, ", half size": _cut(queries, half) @ _cut(pages, half).T}
    return {name: np.argsort(-score, axis=1, kind="stable") for name, score in scores.items()}


def _cut(vectors: np.ndarray, size: int) -> np.ndarray:
    return vectors[:, :size] / np.linalg.norm(vectors[:, :size], axis=1, keepdims=True)


def _rerank(reranker: Reranker, query: str, order: np.ndarray, passages: Sequence[Passage]) -> np.ndarray:
    scores = reranker.score(query, [passages[i] for i in order])
    return order[np.argsort(-scores, kind="stable")]
