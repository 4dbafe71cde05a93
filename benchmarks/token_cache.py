"""Token vectors of sampled PDF pages and of queries taken from them, computed once and cached on disk."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nemotron_rag import Page, load_multivector_embedder
from nemotron_rag.documents.pdf import count_pages, find_pdfs, read_pdf
from nemotron_rag.errors import InputError
from nemotron_rag.protocols import FloatArray, LocatingEmbedder

__all__ = ["Corpus", "TokenCache"]

_WORDS = 8  # of a query
_LEAST_WORDS = 40  # of a page that a query is taken from
_SEED = 1


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pages and queries with their vectors.

    Args:
        pages: without images.
        tokens: (tokens, dimensions) float16 of each page.
        boxes: (tokens, 4) of each page; see `LocatingEmbedder`.
        queries: (tokens, dimensions) float32 of each: some consecutive words of a page.
        source_pages: index of the page that each query was taken from.
    """

    pages: Sequence[Page]
    tokens: Sequence[NDArray[np.float16]]
    boxes: Sequence[FloatArray]
    queries: Sequence[FloatArray]
    source_pages: Sequence[int]

    def images(self) -> Corpus:
        """Return the corpus without the vectors of texts and prompts."""
        placed = [~np.isnan(boxes[:, 0]) for boxes in self.boxes]
        tokens = [rows[mask] for rows, mask in zip(self.tokens, placed, strict=True)]
        boxes = [rows[mask] for rows, mask in zip(self.boxes, placed, strict=True)]
        return replace(self, tokens=tokens, boxes=boxes)


class TokenCache:
    """A folder with the vectors of one model.

    Args:
        folder: created if missing.
        model: catalog id or local folder.
        **options: for `load_multivector_embedder`.
    """

    def __init__(self, folder: Path, model: str, **options: Any) -> None:
        self._folder, self._name, self._options = folder, model, options
        folder.mkdir(parents=True, exist_ok=True)

    def corpus(self, pdfs: Path, *, pages: int, queries: int) -> Corpus:
        """Sample pages from all PDFs below a folder, and queries from these."""
        found = [self._page(path, number) for path, number in tqdm(_sample(pdfs, pages), unit="page")]
        chance = random.Random(_SEED)
        sources = [n for n, (page, _, _) in enumerate(found) if len(_words(page.text)) >= _LEAST_WORDS]
        sources = chance.sample(sources, min(queries, len(sources)))
        rows = [self._query(_some_words(found[n][0].text, chance)) for n in sources]
        texts, tokens, boxes = zip(*found, strict=True)
        return Corpus(pages=texts, tokens=tokens, boxes=boxes, queries=rows, source_pages=sources)

    @cached_property
    def _model(self) -> LocatingEmbedder:
        model = load_multivector_embedder(self._name, **self._options)
        recorded = self._folder / "identity.json"
        identity = json.dumps(dict(model.identity), sort_keys=True)
        if recorded.exists() and recorded.read_text() != identity:
            raise InputError(
                f"{self._folder} has vectors of another model: {recorded.read_text()}; give another --cache"
            )
        recorded.write_text(identity)
        assert isinstance(model, LocatingEmbedder)
        return model

    def _page(self, path: Path, number: int) -> tuple[Page, NDArray[np.float16], FloatArray]:
        key = self._key(f"{path.name}/{path.stat().st_size}/{number}")
        text = key.with_suffix(".txt")
        if not text.exists():
            (page,) = read_pdf(path, pages=[number])
            np.save(key.with_suffix(".npy"), self._model.embed_passages([page])[0].astype(np.float16))
            np.save(key.with_suffix(".boxes.npy"), self._model.locate_passages([page])[0])
            text.write_text(page.text)
        page = Page(id=key.name, source=path.name, number=number, text=text.read_text())
        return page, np.load(key.with_suffix(".npy")), np.load(key.with_suffix(".boxes.npy"))

    def _query(self, words: str) -> FloatArray:
        key = self._key(words).with_suffix(".query.npy")
        if not key.exists():
            np.save(key, self._model.embed_queries([words])[0])
        rows: FloatArray = np.load(key)
        return rows

    def _key(self, name: str) -> Path:
        return self._folder / hashlib.sha256(name.encode()).hexdigest()[:24]


def _sample(pdfs: Path, count: int) -> list[tuple[Path, int]]:
    by_content = {(path.name, path.stat().st_size): path for path in map(Path, find_pdfs(pdfs))}
    everything = [(path, n) for path in by_content.values() for n in range(1, _pages(path) + 1)]
    return random.Random(_SEED).sample(everything, min(count, len(everything)))


def _pages(path: Path) -> int:
    try:
        return count_pages(path)
    except InputError:
        return 0


def _words(text: str) -> list[str]:
    """Words of three letters or more: rows of dots and numbers match all pages alike."""
    return re.findall(r"[^\W\d_]{3,}", text)


def _some_words(text: str, chance: random.Random) -> str:
    words = _words(text)
    start = chance.randrange(len(words) - _WORDS)
    return " ".join(words[start : start + _WORDS])
