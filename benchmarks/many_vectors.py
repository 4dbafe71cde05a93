"""Compare ways to store the token vectors of a page: bytes, recall of exhaustive MaxSim, seconds.

    python -m benchmarks.many_vectors MODEL FOLDER

samples pages from the PDFs below FOLDER, embeds them with a late-interaction model, takes queries from their words, and
searches an embedded Qdrant for each setting. Vectors are cached on disk, so that a second run embeds nothing.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from rich.console import Console

from benchmarks import engine
from benchmarks.report import print_table
from benchmarks.setup import processor
from benchmarks.token_cache import Corpus, TokenCache
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.late_interaction.projection import fit_basis, mean_vector, project, projected_dimensions
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.protocols import FloatArray
from nemotron_rag.stores.qdrant import DEFAULT_PREFETCH, QdrantStore
from nemotron_rag.types import PageVectors, StoredPage

K = 10
FEW = 5
FIRST_STAGES = (50, 100, 200)
SETTINGS: dict[str, TokenVectors] = {
    "all distinct": TokenVectors(),
    "256 clusters": TokenVectors(max_rows=256),
    "64 clusters": TokenVectors(max_rows=64),
    "rows and columns": TokenVectors(pooling="grid"),
}
PARTS = ("stages", "settings", "formats")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; the last line of output is JSON."""
    given = _parse(arguments)
    cache = TokenCache(given.cache, given.model, device=given.device, max_input_tiles=given.max_input_tiles)
    corpus = cache.corpus(given.folder, pages=given.pages, queries=given.queries)
    corpus = corpus.images() if given.images else corpus
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks.many_vectors", *(arguments or sys.argv[1:])]),
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "software": ", ".join(f"{name} {version(name)}" for name in ("nemotron-rag", "qdrant-client", "numpy")),
        "pages": len(corpus.pages),
        "queries": len(corpus.queries),
        "vectors of": "images" if given.images else "images and texts",
        "vectors a page": round(statistics.fmean(map(len, corpus.tokens))),
        "dimensions": corpus.tokens[0].shape[1],
    }
    console = Console(width=140)
    console.print("\n".join(f"{key}: {value}" for key, value in facts.items()), highlight=False)
    exact = maxsim(corpus.queries, corpus.tokens)  # (queries, pages)
    titles = {
        "stages": f"best {K} pages of exhaustive MaxSim among the first ... candidates",
        "settings": f"what is stored; recall of the best {K} pages of exhaustive MaxSim over all vectors",
        "formats": "storage formats of a server, by its engine (qdrant-edge)",
    }
    measures = {"stages": _first_stages, "settings": partial(_settings, names=given.settings), "formats": _formats}
    found: dict[str, Any] = {}
    for part in given.parts:
        found[part] = list(measures[part](corpus, exact))
        _show(console, titles[part], found[part])
    print(json.dumps(facts | found))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_vectors", description=__doc__)
    parser.add_argument("model", help="catalog id or local folder of a late-interaction model")
    parser.add_argument("folder", type=Path, help="PDFs, also in folders below")
    parser.add_argument("--pages", type=int, default=1000, help="number of sampled pages")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[: 3 if engine.installed() else 2])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--images-only", action="store_true", help="leave out the vectors of text layers, as for scans")
    parser.add_argument(
        "--cache", type=Path, default=Path(".benchmarks/many_vectors"), help="folder of the cached vectors"
    )
    parser.add_argument("--max-input-tiles", type=int, help="of an image; by default the model's")
    parser.add_argument("--device", help="where the model runs: cpu, cuda ...")
    return parser.parse_args(arguments)


def recall(exact: FloatArray, found: Sequence[Sequence[int]]) -> float:
    """Return the share of the best pages that were found; pages tied with the last of these count too.

    Args:
        exact: (queries, pages) scores.
        found: pages found for each query.
    """
    least = -np.partition(-exact, K - 1, axis=1)[:, K - 1] - 1e-3
    hits = [
        min(K, sum(row[page] >= floor for page in pages)) for row, floor, pages in zip(exact, least, found, strict=True)
    ]
    return statistics.fmean(hits) / K


def _first_stages(corpus: Corpus, exact: FloatArray) -> Iterator[dict[str, Any]]:
    """Measure each kind of first stage, and its values per page."""
    stored = [TokenVectors().fit(rows.astype(np.float32)) for rows in corpus.tokens]
    shorten = partial(project, basis=fit_basis(stored[: engine.FIRST]))
    for name, page, query in (
        ("mean of the vectors", lambda rows: mean_vector(rows)[None], lambda rows: mean_vector(rows)[None]),
        ("projected vectors", shorten, shorten),
    ):
        pages = [page(rows) for rows in stored]
        scores = maxsim([query(rows) for rows in corpus.queries], pages)
        order = np.argsort(-scores, axis=1)
        yield {
            "first stage": name,
            "values a page": round(statistics.fmean(each.size for each in pages)),
            **{f"of {n}": round(recall(exact, order[:, :n].tolist()), 3) for n in FIRST_STAGES},
        }


def _settings(corpus: Corpus, exact: FloatArray, *, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Measure settings of `TokenVectors`, each in an embedded Qdrant."""
    for name in names:
        yield _measure(name, SETTINGS[name], corpus, exact)
        gc.collect()


def _measure(name: str, setting: TokenVectors, corpus: Corpus, exact: FloatArray) -> dict[str, Any]:
    """Fill an embedded Qdrant with one setting and run all queries."""
    start = time.perf_counter()
    rows = [setting.fit(_float(tokens), boxes) for tokens, boxes in zip(corpus.tokens, corpus.boxes, strict=True)]
    pooling = (time.perf_counter() - start) / len(rows)
    client = QdrantClient(":memory:")
    store = QdrantStore(client=client)
    dimensions = rows[0].shape[1]
    store.create(dimensions=dimensions, record={}, token_storage=setting.storage or "float16")
    stored = [StoredPage.of(page, content_hash="") for page in corpus.pages]
    store.put(stored[: engine.FIRST], rows[: engine.FIRST])
    store.put(stored[engine.FIRST :], rows[engine.FIRST :])
    numbers = {page.id: n for n, page in enumerate(corpus.pages)}

    def exhaustively(query: PageVectors) -> list[int]:
        near = models.NearestQuery.model_construct(nearest=query)  # the client reads lists as float64
        points = client.query_points("pages", query=near, using="tokens", limit=K).points
        return [numbers[(point.payload or {})["id"]] for point in points]

    def in_two_stages(query: PageVectors) -> list[int]:
        return [numbers[stored.page.id] for stored, _ in store.query(query, k=K)]

    (one, seconds), (two, faster) = _time([exhaustively, in_two_stages], corpus.queries)
    count = statistics.fmean(map(len, rows))
    size = rows[0].itemsize * dimensions
    return {
        "stored": name,
        "vectors": round(count),
        "kB a page": round(count * size / 1000, 1),
        "kB first stage": round((count * projected_dimensions(dimensions) * 2 + dimensions * 4) / 1000, 1),
        "exhaustive": round(recall(exact, one), 3),
        f"two stages ({DEFAULT_PREFETCH})": round(recall(exact, two), 3),
        f"R@{FEW}": round(_source_recall(corpus, two), 3),
        "of exhaustive": round(statistics.fmean(len({*a} & {*b}) / K for a, b in zip(one, two, strict=True)), 3),
        "exhaustive ms": round(1000 * seconds, 1),
        "two stages ms": round(1000 * faster, 1),
        "pooling ms a page": round(1000 * pooling, 1),
    }


def _formats(corpus: Corpus, exact: FloatArray) -> Iterator[dict[str, Any]]:
    """Measure each storage format of a server, with all distinct vectors."""
    rows = [TokenVectors().fit(_float(tokens)) for tokens in corpus.tokens]
    for storage in engine.storages():
        shard = engine.Engine(storage, rows)
        searches = [partial(shard.exhaustively, k=K), partial(shard.in_two_stages, k=K)]
        (one, seconds), (two, faster) = _time(searches, corpus.queries)
        shard.close()
        yield {
            "storage": storage,
            "bits a value": shard.bits,
            "exhaustive": round(recall(exact, one), 3),
            f"two stages ({DEFAULT_PREFETCH})": round(recall(exact, two), 3),
            f"R@{FEW}": round(_source_recall(corpus, two), 3),
            "exhaustive ms": round(1000 * seconds, 1),
            "two stages ms": round(1000 * faster, 1),
        }


def _time(
    searches: Sequence[Callable[[PageVectors], list[int]]], queries: Sequence[PageVectors]
) -> list[tuple[list[list[int]], float]]:
    """Return what each search finds, and its median seconds; they take turns, so that other load slows all alike."""
    found: list[list[list[int]]] = [[] for _ in searches]
    seconds: list[list[float]] = [[] for _ in searches]
    for query in queries:
        for search, pages, times in zip(searches, found, seconds, strict=True):
            start = time.perf_counter()
            pages.append(search(query))
            times.append(time.perf_counter() - start)
    return [(pages, statistics.median(times)) for pages, times in zip(found, seconds, strict=True)]


def _source_recall(corpus: Corpus, found: Sequence[Sequence[int]]) -> float:
    """Return the share of queries whose source page is among the first few."""
    return statistics.fmean(page in pages[:FEW] for page, pages in zip(corpus.source_pages, found, strict=True))


def _float(rows: PageVectors) -> FloatArray:
    return rows.astype(np.float32)


def _show(console: Console, title: str, rows: Sequence[dict[str, Any]]) -> None:
    print_table(console, title, list(rows[0]), [[str(value) for value in row.values()] for row in rows])


if __name__ == "__main__":
    main()
