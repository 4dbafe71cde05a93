"""Compare the engines of an index folder: writing, searching, opening, memory and disk, with vectors that cost nothing.

    python -m benchmarks.store [--pages 6000] [--vectors 1] [--engines edge local]

Each engine runs in processes of its own. One vector a page has 2,048 numbers; with ``--vectors 700``, a page has so
many token vectors of 128.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient
from rich.console import Console

from benchmarks.report import print_table
from benchmarks.setup import processor
from nemotron_rag.documents.words import CURRENT_ANALYSIS
from nemotron_rag.index import PageIndex
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder
from nemotron_rag.types import FloatArray, Page, Passage, StoredPage

ENGINES = {"edge": "Qdrant Edge", "local": "local mode"}
SIZES = {1: 2048}  # numbers of a vector, by vectors a page
TOKEN_SIZE = 128
WORDS = 200  # of a page
PAGES_A_FILE = 100
STORED_AT_ONCE = 256
SEARCHES = 100
K = 10


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; the last line of output is JSON."""
    given = _parse(arguments)
    if given.part:
        print(json.dumps(PARTS[given.part](given.folder, given.pages, given.vectors)))
        return
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(
            ["python", "-m", "benchmarks.store", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "software": ", ".join(
            f"{name} {version(name)}" for name in ("nemotron-rag", "qdrant-client", "qdrant-edge-py")
        ),
        "pages": given.pages,
        "vectors a page": given.vectors,
        "numbers of a vector": SIZES.get(given.vectors, TOKEN_SIZE),
    }
    console = Console(width=140)
    console.print("\n".join(f"{key}: {value}" for key, value in facts.items()), highlight=False)
    found = {engine: _measure(engine, given) for engine in given.engines}
    print_table(console, _title(given), *_table(found))
    print(json.dumps(facts | {"results": found}))


def _title(given: argparse.Namespace) -> str:
    each = "one vector" if given.vectors == 1 else f"{given.vectors} token vectors"
    return f"{given.pages:,} pages of {each}"


def _table(found: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a measure each; with two engines, how much more the second has of it."""
    engines = list(found.values())
    columns = ["", *(ENGINES[engine] for engine in found), *(["ratio"] if len(found) == 2 else [])]
    rows = []
    for name in engines[0]:
        values = [engine[name] for engine in engines]
        ratio = [f"{values[1] / values[0]:.2f} x"] if len(values) == 2 else []
        rows.append([name, *map(_shown, values), *ratio])
    return columns, rows


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--pages", type=int, default=6000)
    parser.add_argument("--vectors", type=int, default=1, help="a page; more than 1 are token vectors")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the indexes are made")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what a process of its own measures
    return parser.parse_args(arguments)


def _measure(engine: str, given: argparse.Namespace) -> dict[str, float]:
    """Each part in a process of its own, so that memory is that of the part alone."""
    found: dict[str, float] = {}
    folders = {part: Path(tempfile.mkdtemp(prefix=f"store-{engine}-", dir=given.folder)) for part in ("add", "put")}
    try:
        for folder in folders.values():
            if engine == "local":
                QdrantClient(path=str(folder)).close()  # a folder of local mode stays one
        for part, folder in (("add", folders["add"]), ("put", folders["put"]), ("search", folders["add"])):
            options = {"--part": part, "--folder": folder, "--pages": given.pages, "--vectors": given.vectors}
            command = [
                sys.executable,
                "-m",
                "benchmarks.store",
                *(str(word) for pair in options.items() for word in pair),
            ]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found |= json.loads(ran.stdout.splitlines()[-1])
        found["disk MB"] = (
            sum(path.stat().st_blocks * 512 for path in folders["add"].rglob("*") if path.is_file()) / 1e6
        )
    finally:
        for folder in folders.values():
            shutil.rmtree(folder)
    return found


def _add(folder: Path, pages: int, vectors: int) -> dict[str, float]:
    """Through `PageIndex.add`."""
    given = list(_pages(pages))
    with PageIndex(folder, embedder=_embedder(vectors), images=None, token_vectors=_tokens(vectors)) as index:
        start, cpu = time.perf_counter(), time.process_time()
        report = index.add(given, progress=False)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert report.added == pages, report
    return {"add pages/s": pages / seconds, "CPU ms a page": 1000 * cpu / pages}


def _put(folder: Path, pages: int, vectors: int) -> dict[str, float]:
    """Through the store alone."""
    store, embedder = QdrantStore(folder), _embedder(vectors)
    store.create(
        dimensions=embedder.dimensions,
        record={"words": CURRENT_ANALYSIS},
        token_storage=None if vectors == 1 else "float16",
    )
    stored = [StoredPage.of(page, content_hash=page.id) for page in _pages(pages)]
    rows = embedder.embed_passages([page.page for page in stored])
    start = time.perf_counter()
    for at in range(0, pages, STORED_AT_ONCE):
        store.put(stored[at : at + STORED_AT_ONCE], rows[at : at + STORED_AT_ONCE])
    store.optimize()
    seconds = time.perf_counter() - start
    store.close()
    return {"put pages/s": pages / seconds}


def _search(folder: Path, pages: int, vectors: int) -> dict[str, float]:
    """Open it, and search in three ways."""
    embedder = _embedder(vectors)
    queries: Any = embedder.embed_passages([Page(id=f"q{n}", text="") for n in range(SEARCHES)])
    if vectors > 1:
        queries = [query[:16].astype(np.float32) for query in queries]
    words = [page.text.split()[:3] for page in _pages(SEARCHES)]
    start = time.perf_counter()
    store = QdrantStore(folder)
    assert store.count() == pages
    store.query(queries[0], k=K)
    found = {"open s": time.perf_counter() - start}
    source = {"source": f"{(pages - 1) // PAGES_A_FILE // 2}.pdf"}
    kinds: dict[str, Callable[[int], object]] = {
        "dense": lambda n: store.query(queries[n], k=K),
        "hybrid": lambda n: store.query(queries[n], k=K, words=" ".join(words[n])),
        "filtered": lambda n: store.query(queries[n], k=K, filter=source),
    }
    for name, search in kinds.items():
        taken = sorted(_seconds(search, n) for n in range(SEARCHES if pages <= 10_000 else SEARCHES // 4))
        found[f"{name} p50 ms"] = 1000 * statistics.median(taken)
        found[f"{name} p95 ms"] = 1000 * taken[int(0.95 * len(taken))]
    found["memory MB"] = _resident() / 1e6
    store.close()
    return found


def _seconds(search: Callable[[int], object], n: int) -> float:
    start = time.perf_counter()
    search(n)
    return time.perf_counter() - start


def _pages(count: int) -> Iterator[Page]:
    """Pages with texts of common and rare words."""
    rng = np.random.default_rng(0)
    for n in range(count):
        text = " ".join(f"word{number}" for number in rng.zipf(1.3, WORDS) % 50_000)
        yield Page(
            id=f"p{n}", source=f"{n // PAGES_A_FILE}.pdf", number=n % PAGES_A_FILE + 1, text=text, metadata={"n": n}
        )


class _Free(FakeEmbedder):
    """Vectors that cost nothing: rows of one random array."""

    def __init__(self) -> None:
        super().__init__(dimensions=SIZES[1])
        self._rows_of_all = _unit(np.random.default_rng(1).standard_normal((4096, SIZES[1])).astype(np.float32))

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        return self._rows_of_all[[hash(_id(passage)) % 4096 for passage in passages]]


class _FreeTokens(FakeMultiVectorEmbedder):
    """The same for token vectors."""

    def __init__(self, vectors: int) -> None:
        super().__init__(dimensions=TOKEN_SIZE)
        self._pool = _unit(np.random.default_rng(1).standard_normal((64 + vectors, TOKEN_SIZE)).astype(np.float32))
        self._vectors = vectors

    def embed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        starts = [hash(_id(passage)) % 64 for passage in passages]
        return [self._pool[start : start + self._vectors] for start in starts]


def _id(passage: Passage) -> str:
    return passage.id if isinstance(passage, Page) else str(passage.text)


def _unit(rows: FloatArray) -> FloatArray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _embedder(vectors: int) -> Any:
    return _Free() if vectors == 1 else _FreeTokens(vectors)


def _tokens(vectors: int) -> TokenVectors | None:
    return None if vectors == 1 else TokenVectors(pooling="none", max_rows=vectors)


def _resident() -> float:
    """Bytes of memory that the process holds; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


PARTS: dict[str, Callable[[Path, int, int], dict[str, float]]] = {"add": _add, "put": _put, "search": _search}


if __name__ == "__main__":
    main()
