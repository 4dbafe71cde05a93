"""What retrieval is measured on: pools of held-out pages with exact queries, and judged natural queries."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pymupdf
from PIL import Image

from nemotron_rag import Passage
from nemotron_rag.documents.pdf import find_pdfs
from training.pages import TextPage, has_words
from training.queries import KINDS, QueryMaker

__all__ = ["Pool", "folder_pool", "held_out_pool", "judged_pool", "render"]

_PIXELS = 6 * 512 * 512


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
    """A page with its own proportions and as many pixels as six tiles, as nemotron-rag renders it."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    with pymupdf.open(stream=data, filetype="pdf") as document:
        page = document[number - 1]
        scale = (_PIXELS / (page.rect.width * page.rect.height)) ** 0.5
        pixels = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False)
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples)


def held_out_pool(
    held_out: Sequence[TextPage], root: Path, *, size: int = 100, seed: int = 0, queries: int | None = None
) -> Pool:
    """Random held-out pages, and one query of each kind for every page, or for so many `queries` pages."""
    rng = random.Random(100 + seed)
    pages = rng.sample(list(held_out), min(size, len(held_out)))
    where = [(root / page.package / page.file, page.number) for page in pages]
    return _with_queries([page.text for page in pages], where, rng, queries)


def folder_pool(folder: Path, *, size: int = 100, queries: int | None = None) -> Pool:
    """The same of the pages of all PDFs below a folder, those with few words left out."""
    rng = random.Random(100)
    found = [page for path in find_pdfs(folder) for page in _pages(Path(path)) if has_words(page[0])]
    pages = rng.sample(found, min(size, len(found)))
    return _with_queries([text for text, _ in pages], [place for _, place in pages], rng, queries)


def _with_queries(texts: list[str], where: list[tuple[Path, int]], rng: random.Random, count: int | None) -> Pool:
    maker = QueryMaker(texts)
    queries = {
        kind: [(query, {i}) for i, text in enumerate(texts[:count]) if (query := maker.exact(text, kind, rng))]
        for kind in KINDS
    }
    return Pool(texts, where, queries)


def _pages(path: Path) -> list[tuple[str, tuple[Path, int]]]:
    with pymupdf.open(path) as document:
        return [(page.get_text(), (path, number)) for number, page in enumerate(document, start=1)]


def judged_pool(folder: Path) -> Pool:
    """All pages of the PDFs in ``folder/good`` and the queries of ``folder/queries.jsonl``."""
    pages = [page for path in sorted((folder / "good").glob("*.pdf")) for page in _pages(path)]
    texts, where = [text for text, _ in pages], [place for _, place in pages]
    index = {(path.name, number): i for i, (path, number) in enumerate(where)}
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    queries = [(row["query"], {index[row["file"], number] for number in row["pages"]}) for row in rows]
    return Pool(texts, where, {"judged": queries})
