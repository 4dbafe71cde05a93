"""What Ray costs on one machine: the same pages by `PageIndex.add` alone, and with ``engine="ray"``.

    python -m benchmarks.spread [--pages 240] [--seconds 0.3]

The model is a stand-in that sleeps so many seconds a page, as a GPU that is busy does, so that the figures say what the
engine adds, and not what else the CPUs do. Rendering, images and writes are real. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pymupdf
import ray
from rich.console import Console

from benchmarks.report import print_table
from benchmarks.setup import processor
from nemotron_rag.batch.workers import Workers
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import FloatArray, Passage

A_FILE = 20  # pages


class Busy(FakeEmbedder):
    """Takes its time for each page, and computes one batch after the other, as a GPU does."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds, self._lock = seconds, threading.Lock()

    def __reduce__(self) -> tuple[type[Busy], tuple[float]]:
        return Busy, (self._seconds,)

    def embed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Sleep, then what a fake computes."""
        with self._lock:
            time.sleep(self._seconds * len(passages))
        return super().embed_passages(passages)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; the last line of output is JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spread", description=__doc__)
    parser.add_argument("--pages", type=int, default=240)
    parser.add_argument("--seconds", type=float, default=0.3, help="that the model takes for a page")
    given = parser.parse_args(arguments)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(
            ["python", "-m", "benchmarks.spread", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "hardware": f"{processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before",
        "software": ", ".join(f"{name} {version(name)}" for name in ("nemotron-rag", "ray", "pyarrow")),
    }
    with tempfile.TemporaryDirectory() as folder:
        documents = _write_documents(Path(folder, "documents"), given.pages)
        model = given.pages * given.seconds
        seconds = {"one process": _timed(documents, Path(folder, "one"), given.seconds, None)}
        seconds["Ray, its start included"] = _timed(documents, Path(folder, "ray"), given.seconds, Workers())
        seconds["Ray, started before"] = _warm(documents, Path(folder, "warm"), given.seconds)
    base = seconds["one process"]
    rows = [(name, f"{value:.1f} s", f"{100 * (value / base - 1):+.1f} %") for name, value in seconds.items()]
    console = Console(width=140)
    console.print("\n".join(f"{key}: {value}" for key, value in facts.items()), highlight=False)
    console.print(f"{given.pages} pages, of which the model takes {model:.1f} s", highlight=False)
    print_table(console, "The same pages, added by", ("", "time", "against one process"), rows)
    print(json.dumps(facts | {"pages": given.pages, "model_seconds": model, "seconds": seconds}))


def _warm(documents: Path, folder: Path, seconds: float) -> float:
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        return _timed(documents, folder, seconds, Workers())
    finally:
        ray.shutdown()


def _timed(documents: Path, folder: Path, seconds: float, workers: Workers | None) -> float:
    with PageIndex(folder, embedder=Busy(seconds)) as index:
        began = time.perf_counter()
        engine = None if workers is None else "ray"
        report = index.add(documents, progress=False, engine=engine, workers=workers)
        took = time.perf_counter() - began
        assert not report.failures, report.failures
        assert index.count() == report.added
    return took


def _write_documents(folder: Path, pages: int) -> Path:
    folder.mkdir()
    for start in range(0, pages, A_FILE):
        with pymupdf.open() as document:
            for number in range(start, min(start + A_FILE, pages)):
                page = document.new_page()
                for line in range(40):
                    page.insert_text((50, 60 + 18 * line), f"page {number}, line {line}: what is said in a report")
            document.save(folder / f"{start:05d}.pdf")
    return folder


if __name__ == "__main__":
    main()
