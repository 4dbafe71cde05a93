"""A program that adds to copies of an index, and is killed at random moments of that.

``python -m support.killed N`` in a folder with an index ``first`` leaves there ``whole``, an undisturbed one, and
``killed-0`` to ``killed-<N-1>``; beside each a file ``.stored`` with the pages whose writing was acknowledged.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from PIL import Image

from nemotron_rag.index import PageIndex
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.testing import FakeEmbedder
from support.pages import add, text_page


def fill(folder: str, version: int) -> None:
    """Add image files, one of them with a copy, and a feed of pages; a version replaces the one before."""
    files = [Path(f"{version}", "files", f"{n}.png") for n in range(12)]
    for n, path in enumerate(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * min(n, 10) + version).save(path)
    at = Path.cwd()
    os.chdir(f"{version}")  # so that both versions have the same names
    try:
        with PageIndex(at / folder, embedder=FakeEmbedder(dimensions=8)) as index:
            add(index, [f"files/{path.name}" for path in files], metadata={"version": version})
            add(index, [text_page(n, f"page {n} {n % 3 and version}", source="feed") for n in range(60)])
    finally:
        os.chdir(at)


def _fork(folder: str) -> int:
    shutil.copytree("first", folder)
    log = os.open(f"{folder}.stored", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    child = os.fork()
    if child:
        os.close(log)
        return child
    put = QdrantStore.put

    def noted(store, pages, vectors):
        put(store, pages, vectors)
        os.write(log, "".join(f"{stored.page.id} {stored.content_hash}\n" for stored in pages).encode())

    QdrantStore.put = noted
    fill(folder, 2)
    os._exit(0)


def main(kills: int) -> None:
    """See how long it takes, then kill at moments within that time."""
    whole = min(_ended("whole", kill_after=600), _ended("again", kill_after=600))
    dice = random.Random(16)
    for n in range(kills):
        whole = min(whole, _ended(f"killed-{n}", kill_after=dice.uniform(0, whole)))


def _ended(folder: str, *, kill_after: float) -> float:
    """After how many seconds a run ended by itself; infinity if it was killed."""
    child, start = _fork(folder), time.monotonic()
    while (seconds := time.monotonic() - start) < kill_after:
        if os.waitpid(child, os.WNOHANG)[0]:
            return seconds
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return float("inf")


if __name__ == "__main__":
    main(int(sys.argv[1]))
