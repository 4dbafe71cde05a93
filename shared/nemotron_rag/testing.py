"""Deterministic stand-ins for the models and the store, for your tests and ours; they need neither torch nor Qdrant.

The models understand words, not meaning.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron_rag._ranks import RanksByScore
from nemotron_rag.documents.images import load_image, pixel_bytes
from nemotron_rag.documents.words import passage_bag, query_words
from nemotron_rag.errors import ClosedError, InputError, StoreError
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.late_interaction.projection import mean_vector
from nemotron_rag.ranking import fuse
from nemotron_rag.stores.filters import check_key, matches, matching_files, parse_filter
from nemotron_rag.types import (
    Filter,
    FloatArray,
    IndexedType,
    Kind,
    Modality,
    PageVectors,
    Passage,
    Query,
    StoredPage,
    TokenStorage,
)

__all__ = ["FakeEmbedder", "FakeMultiVectorEmbedder", "FakePageStore", "FakeReranker"]

_WORD = re.compile(r"\w+")


class FakeEmbedder:
    """An `Embedder` whose vectors are normalised sums of fixed random word vectors; shared words mean similarity.

    An image contributes one more "word", its pixels' hash, so that equal images match and others do not.

    Args:
        dimensions: length of every vector.
        name: what the model calls itself.

    Example:
        >>> embedder = FakeEmbedder()
        >>> query, = embedder.embed_queries(["red apples"])
        >>> right, wrong = embedder.embed_passages([Passage("red apples"), Passage("blue whales")])
        >>> bool(query @ right > query @ wrong)
        True
    """

    kind: Kind = "embedder"
    query_modalities: tuple[Modality, ...] = ("text", "image", "image_text")

    def __init__(self, *, dimensions: int = 64, name: str = "fake-embedder") -> None:
        self.dimensions = dimensions
        self.name = name
        self._closed = False

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Name and size: all that decides what this fake computes."""
        return {"model": self.name, "dimensions": self.dimensions}

    def embed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """Embed queries: (n, dimensions) float32."""
        return self._rows([_query_words(query) for query in queries])

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Embed passages: (n, dimensions) float32."""
        return self._rows([_passage_words(passage) for passage in passages])

    async def aembed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """Same as `embed_queries`."""
        return self.embed_queries(queries)

    async def aembed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Same as `embed_passages`."""
        return self.embed_passages(passages)

    def close(self) -> None:
        """Make every later call raise `ClosedError`."""
        self._closed = True

    def _rows(self, bags: list[list[str]]) -> FloatArray:
        if self._closed:
            raise ClosedError(f"{self.name} was closed; load it again")
        rows = np.zeros((len(bags), self.dimensions), dtype=np.float32)
        for row, bag in zip(rows, bags, strict=True):
            for word in bag or [""]:
                row += _word_vector(word, self.dimensions)
            row /= np.linalg.norm(row)
        return rows


class FakeMultiVectorEmbedder:
    """A `MultiVectorEmbedder` with one fixed random vector for each word; MaxSim counts the words that are shared.

    An image contributes one more "word", its pixels' hash, which stands for all of it (`LocatingEmbedder`).

    Args:
        dimensions: length of every vector.
        name: what the model calls itself.

    Example:
        >>> embedder = FakeMultiVectorEmbedder()
        >>> queries = embedder.embed_queries(["red apples"])
        >>> scores = embedder.score(queries, embedder.embed_passages([Passage("red apples"), Passage("blue whales")]))
        >>> float(scores[0, 0].round(3)), bool(scores[0, 0] > scores[0, 1])
        (2.0, True)
    """

    kind: Kind = "multivector_embedder"
    query_modalities: tuple[Modality, ...] = ("text", "image", "image_text")

    def __init__(self, *, dimensions: int = 64, name: str = "fake-multivector-embedder") -> None:
        self.dimensions = dimensions
        self.name = name
        self._closed = False

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Name and size: all that decides what this fake computes."""
        return {"model": self.name, "dimensions": self.dimensions}

    def embed_queries(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Embed queries: one (words, dimensions) float32 array each."""
        return self._rows([_query_words(query) for query in queries])

    def embed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Embed passages: one (words, dimensions) float32 array each."""
        return self._rows([_passage_words(passage) for passage in passages])

    def score(self, queries: Sequence[FloatArray], passages: Sequence[FloatArray]) -> FloatArray:
        """MaxSim: (queries, passages) float32."""
        return maxsim(queries, passages)

    def locate_queries(self, queries: Sequence[str]) -> list[NDArray[np.int64]]:
        """The characters of each word: one (words, 2) int64 array each."""
        spans = [[match.span() for match in _WORD.finditer(query)] or [(0, 0)] for query in queries]
        return [np.array(found) for found in spans]

    def locate_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """The whole image for its own "word": one (words, 4) float32 array each, NaN for the words of texts."""
        rows = [np.full((len(_passage_words(passage)) or 1, 4), np.nan, np.float32) for passage in passages]
        for boxes, passage in zip(rows, passages, strict=True):
            if passage.image is not None:
                boxes[-1] = 0, 0, 1, 1
        return rows

    async def aembed_queries(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Same as `embed_queries`."""
        return self.embed_queries(queries)

    async def aembed_passages(self, passages: Sequence[Passage]) -> list[FloatArray]:
        """Same as `embed_passages`."""
        return self.embed_passages(passages)

    def close(self) -> None:
        """Make every later call raise `ClosedError`."""
        self._closed = True

    def _rows(self, bags: list[list[str]]) -> list[FloatArray]:
        if self._closed:
            raise ClosedError(f"{self.name} was closed; load it again")
        found = [np.stack([_word_vector(word, self.dimensions) for word in bag or [""]]) for bag in bags]
        return [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in found]


class FakeReranker(RanksByScore):
    """A `Reranker` whose logit is the share of the query's words that the passage holds, scaled to [-5, 5].

    Example:
        >>> FakeReranker().rank("red apples", [Passage("blue whales"), Passage("red apples")])[0].index
        1
    """

    kind: Kind = "reranker"
    query_modalities: tuple[Modality, ...] = ("text", "image", "image_text")
    name = "fake-reranker"

    def __init__(self) -> None:
        self._closed = False

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """The name: all that decides what this fake computes."""
        return {"model": self.name}

    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Raw logits: (n,) float32."""
        if self._closed:
            raise ClosedError(f"{self.name} was closed; load it again")
        words = set(_query_words(query)) or {""}
        shares = [len(words & set(_passage_words(passage))) / len(words) for passage in passages]
        return np.array(shares, dtype=np.float32) * 10 - 5

    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Same as `score`."""
        return self.score(query, passages)

    def close(self) -> None:
        """Make every later call raise `ClosedError`."""
        self._closed = True


class FakePageStore:
    """A `PageStore` in memory that compares everything exactly: also a pattern for a store of your own.

    Two stores never share anything. Filters are plain dicts, see `nemotron_rag.stores.filters`.

    Args:
        name: what the store calls itself.

    Example:
        >>> from nemotron_rag.types import Page
        >>> store = FakePageStore()
        >>> store.create(dimensions=2, record={"model": "m"})
        >>> page = Page(id="p1", source="a.pdf", number=1, text="apples")
        >>> store.put([StoredPage.of(page, content_hash="")], [np.array([3, 4], np.float32)])
        >>> [(found.page.text, round(score, 2)) for found, score in store.query(np.array([1, 0], np.float32), k=3)]
        [('apples', 0.6)]
    """

    def __init__(self, *, name: str = "fake store") -> None:
        self.name = name
        self._images = f"memory://nemotron-rag-{uuid.uuid4().hex}"
        self._record: str | None = None  # JSON
        self._shape = (0, False)
        self._stored: dict[str, tuple[StoredPage, PageVectors]] = {}
        self._lock = threading.RLock()
        self._closed = False

    def __str__(self) -> str:
        """The name."""
        return self.name

    @property
    def image_root(self) -> str | None:
        """In memory, beside the pages."""
        return self._images

    def exists(self) -> bool:
        """Whether `create` was called."""
        self._check_open()
        return self._record is not None

    def read_record(self) -> dict[str, Any] | None:
        """The record given to `create`; None if there is no index yet."""
        self._check_open()
        return None if self._record is None else json.loads(self._record)

    def create(self, *, dimensions: int, record: Mapping[str, Any], token_storage: TokenStorage | None = None) -> None:
        """Make the index, if it is not there; its record and pages stay.

        Raises:
            StoreError: it is there with other vectors.
        """
        with self._lock:
            if self.exists() and self._shape != (dimensions, token_storage is not None):
                raise StoreError(f"{self} has other vectors than {dimensions}-d ones; give another store")
            self._record = self._record or json.dumps(dict(record))
            self._shape = dimensions, token_storage is not None

    def put(self, pages: Sequence[StoredPage], vectors: Sequence[PageVectors] | PageVectors) -> None:
        """Write pages; one whose id and content are stored already stays with the other files that hold it.

        Raises:
            InputError: not one array for each page; nothing is written.
            StoreError: an array has another shape than the index.
        """
        if len(pages) != len(vectors):
            raise InputError(f"{len(pages)} pages need as many vectors or arrays of them, got {len(vectors)}")
        with self._lock:
            self._check_created()
            for stored, rows in zip(pages, vectors, strict=True):
                if (rows.shape[-1], rows.ndim == 2) != self._shape:
                    raise StoreError(f"page {stored.page.id!r} has vectors of shape {rows.shape}, unlike {self}")
            for stored, rows in zip(pages, vectors, strict=True):
                known, _ = self._stored.get(stored.page.id, (None, None))
                self._stored[stored.page.id] = stored.replacing(known), np.array(rows)

    def attach(self, ids: Sequence[str], *, source: str, metadata: Mapping[str, Any]) -> int:
        """Note that `source` holds stored pages too, with `metadata` of its own; returns how many are stored."""
        with self._lock:
            known = self.get(ids)
            for page_id, stored in known.items():
                self._stored[page_id] = stored.with_source(source, metadata), self._stored[page_id][1]
            return len(known)

    def remove(
        self,
        ids: Sequence[str],
        *,
        filter: Filter | None = None,
        after: Callable[[Sequence[StoredPage]], None] = lambda removed: None,
    ) -> int:
        """Take pages away from the files that hold them; pages that no file holds any more are deleted."""
        conditions = parse_filter(filter)
        removed = []
        with self._lock:
            for page_id, stored in self.get(ids).items():
                leaving = matching_files(conditions, stored)
                rest = stored.held_by([file for file in stored.files if file not in leaving])
                if rest is None:
                    removed.append(stored)
                    del self._stored[page_id]
                elif leaving:
                    self._stored[page_id] = rest, self._stored[page_id][1]
        after(removed)
        return len(removed)

    def get(self, ids: Sequence[str]) -> dict[str, StoredPage]:
        """The stored ones of these pages by id."""
        with self._lock:
            self._check_created()
            return {page_id: self._stored[page_id][0] for page_id in ids if page_id in self._stored}

    def pages(self, filter: Filter | None = None, *, texts: bool = False) -> Iterator[StoredPage]:
        """The pages that a filter, or each of a tuple of them, matches; always with their texts."""
        return iter([stored for stored, _ in self._matching(filter)])

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Of the stored ones of these pages the vector, or the mean of the token vectors, by id."""
        known = self.get(ids)
        rows = {page_id: self._stored[page_id][1] for page_id in known}
        return {key: (mean_vector(row) if row.ndim == 2 else row).astype(np.float32) for key, row in rows.items()}

    def sources(self) -> list[str]:
        """The documents that have pages here, sorted."""
        return sorted({source for stored in self.pages() for source in stored.sources})

    def count(self, filter: Filter | None = None) -> int:
        """How many pages a filter matches."""
        return len(self._matching(filter))

    def query(
        self,
        vectors: PageVectors,
        *,
        k: int,
        prefetch: int | None = None,
        words: str = "",
        filter: Filter | None = None,
    ) -> list[tuple[StoredPage, float]]:
        """The k pages nearest to a query, best first; equal ones in the order in which they were first written.

        Args:
            vectors: (dimensions,), compared by cosine similarity, with the mean of token vectors; or
                (tokens, dimensions), compared by MaxSim.
            k: at most so many.
            prefetch: makes no difference, all pages are compared exactly.
            words: a query; pages are also ordered by how many of its words they have.
            filter: which pages to look at.
        """
        found = self._matching(filter)
        if not found:
            return []
        scores = _similarities(vectors, [rows for _, rows in found])
        nearest = np.argsort(-scores, kind="stable").tolist()
        order = [(i, float(scores[i])) for i in nearest]
        if wanted := set(query_words(words)):
            shared = [len(wanted & passage_bag(stored.page.text).counts.keys()) for stored, _ in found]
            by_words = sorted((i for i, count in enumerate(shared) if count), key=lambda i: -shared[i])
            order = fuse([nearest, by_words])
        return [(found[i][0], score) for i, score in order[:k]]

    def index_metadata(self, key: str, kind: IndexedType) -> None:
        """Check the key; there is nothing to make faster."""
        self._check_created()
        check_key(key)

    def optimize(self) -> bool:
        """Nothing: a fake is as fast as it gets."""
        self._check_open()
        return False

    def close(self) -> None:
        """Make every later call raise `ClosedError`."""
        self._closed = True

    def _matching(self, filter: Filter | None) -> list[tuple[StoredPage, PageVectors]]:
        conditions = parse_filter(filter)
        with self._lock:
            self._check_created()
            return [(stored, rows) for stored, rows in self._stored.values() if matches(conditions, stored)]

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self} was closed; make another one")

    def _check_created(self) -> None:
        if not self.exists():
            raise StoreError(f"there is no index in {self}; create it first")


def _similarities(query: PageVectors, pages: Sequence[PageVectors]) -> FloatArray:
    """MaxSim for (tokens, dimensions), else cosines: (pages,)."""
    if query.ndim == 2:
        scores: FloatArray = maxsim([query], pages)[0]
        return scores
    rows = np.stack([mean_vector(page) if page.ndim == 2 else page for page in pages]).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    cosines: FloatArray = np.clip(rows @ query / np.where(lengths > 0, lengths, 1), -1, 1).astype(np.float32)
    return cosines


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _query_words(query: Query) -> list[str]:
    return _passage_words(query if isinstance(query, Passage) else Passage(query))


def _passage_words(passage: Passage) -> list[str]:
    words = _words(passage.text)
    if passage.image is not None:
        digest = hashlib.sha256()
        for part in pixel_bytes(load_image(passage.image), lambda band: band.convert("RGB")):
            digest.update(part)
        words.append("image-" + digest.hexdigest())
    return words


def _word_vector(word: str, dimensions: int) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dimensions, dtype=np.float32)
