"""Deterministic, torch-free stand-ins for the models, for your tests and ours. They understand words, not meaning."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.errors import ClosedError
from nemotron_rag.images import load_image
from nemotron_rag.protocols import FloatArray
from nemotron_rag.runtime.maxsim import maxsim
from nemotron_rag.types import Passage, Ranked

__all__ = ["FakeEmbedder", "FakeMultiVectorEmbedder", "FakeReranker"]

_WORD = re.compile(r"\w+")


class FakeEmbedder:
    """An `Embedder` whose vectors are normalised sums of fixed random word vectors; shared words mean similarity.

    An image contributes one more "word", its pixels' hash, so that equal pictures match and others do not.

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

    def __init__(self, *, dimensions: int = 64, name: str = "fake-embedder") -> None:
        self.dimensions = dimensions
        self.name = name
        self._closed = False

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Name and size: all that decides what this fake computes."""
        return {"model": self.name, "dimensions": self.dimensions}

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """Embed questions: (n, dimensions) float32."""
        return self._rows([_words(query) for query in queries])

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Embed passages: (n, dimensions) float32."""
        return self._rows([_passage_words(passage) for passage in passages])

    async def aembed_queries(self, queries: Sequence[str]) -> FloatArray:
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

    def __init__(self, *, dimensions: int = 64, name: str = "fake-multivector-embedder") -> None:
        self.dimensions = dimensions
        self.name = name
        self._closed = False

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Name and size: all that decides what this fake computes."""
        return {"model": self.name, "dimensions": self.dimensions}

    def embed_queries(self, queries: Sequence[str]) -> list[FloatArray]:
        """Embed questions: one (words, dimensions) float32 array each."""
        return self._rows([_words(query) for query in queries])

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
        """The whole picture for its own "word": one (words, 4) float32 array each, NaN for the words of texts."""
        rows = [np.full((len(_passage_words(passage)) or 1, 4), np.nan, np.float32) for passage in passages]
        for boxes, passage in zip(rows, passages, strict=True):
            if passage.image is not None:
                boxes[-1] = 0, 0, 1, 1
        return rows

    async def aembed_queries(self, queries: Sequence[str]) -> list[FloatArray]:
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


class FakeReranker:
    """A `Reranker` whose logit is the share of the query's words that the passage holds, scaled to [-5, 5].

    Example:
        >>> FakeReranker().rank("red apples", [Passage("blue whales"), Passage("red apples")])[0].index
        1
    """

    name = "fake-reranker"

    def __init__(self) -> None:
        self._closed = False

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """The name: all that decides what this fake computes."""
        return {"model": self.name}

    def score(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        """Raw logits: (n,) float32."""
        if self._closed:
            raise ClosedError(f"{self.name} was closed; load it again")
        wanted = set(_words(query)) or {""}
        shares = [len(wanted & set(_passage_words(passage))) / len(wanted) for passage in passages]
        return np.array(shares, dtype=np.float32) * 10 - 5

    def rank(self, query: str, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """The passages from best to worst, at most `top_n`."""
        scores = self.score(query, passages)
        order = np.argsort(-scores, kind="stable")[:top_n]
        return [Ranked(index=int(i), score=float(scores[i]), passage=passages[int(i)]) for i in order]

    async def ascore(self, query: str, passages: Sequence[Passage]) -> FloatArray:
        """Same as `score`."""
        return self.score(query, passages)

    async def arank(self, query: str, passages: Sequence[Passage], *, top_n: int | None = None) -> list[Ranked]:
        """Same as `rank`."""
        return self.rank(query, passages, top_n=top_n)

    def close(self) -> None:
        """Make every later call raise `ClosedError`."""
        self._closed = True


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _passage_words(passage: Passage) -> list[str]:
    words = _words(passage.text)
    if passage.image is not None:
        image = load_image(passage.image).convert("RGB")
        words.append("image-" + hashlib.sha256(image.tobytes()).hexdigest())
    return words


def _word_vector(word: str, dimensions: int) -> FloatArray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dimensions, dtype=np.float32)
