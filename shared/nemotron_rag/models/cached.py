"""An embedder whose vectors are kept in a key-value store, by model, role and content."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, TypeAlias

import numpy as np
from PIL import Image

from nemotron_rag.documents.held import in_parts
from nemotron_rag.documents.images import load_image, pixel_hash
from nemotron_rag.errors import ImageError
from nemotron_rag.protocols import Embedder, ImageQueries
from nemotron_rag.types import FloatArray, Kind, Modality, Passage, Query

__all__ = ["CachedEmbedder", "VectorCache"]

_Role: TypeAlias = Literal["query", "passage"]


class VectorCache(Protocol):
    """Keeps vectors by key, 64 hex digits; the ``a...`` twins do not block the event loop."""

    def get(self, key: str) -> Sequence[float] | None:
        """The vector that was put under a key; None if there is none."""

    def put(self, key: str, vector: list[float]) -> None:
        """Keep a vector."""

    async def aget(self, key: str) -> Sequence[float] | None:
        """Async `get`."""

    async def aput(self, key: str, vector: list[float]) -> None:
        """Async `put`."""


class CachedEmbedder:
    """An `Embedder` that computes no vector a second time.

    A query and an equal passage have different keys. An image is known by its pixels, whatever it was read from.

    Args:
        embedder: computes what the cache does not hold. Closing this closes it.
        cache: any number of models may share it.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> class Memory(dict):
        ...     put = dict.__setitem__
        >>> vectors = Memory()
        >>> embedder = CachedEmbedder(FakeEmbedder(dimensions=8), vectors)
        >>> embedder.embed_queries(["red apples", "blue whales"]).shape, len(vectors)
        ((2, 8), 2)
    """

    kind: Kind = "embedder"

    def __init__(self, embedder: Embedder, cache: VectorCache) -> None:
        self._embedder, self._cache = embedder, cache

    @property
    def name(self) -> str:
        """Of the embedder."""
        return self._embedder.name

    @property
    def identity(self) -> Mapping[str, str | int | bool | None]:
        """Of the embedder."""
        return self._embedder.identity

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return self._embedder.dimensions

    @property
    def query_modalities(self) -> tuple[Modality, ...]:
        """Of the embedder."""
        return self._embedder.query_modalities if isinstance(self._embedder, ImageQueries) else ("text",)

    def embed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """Embed queries: (n, dimensions) float32.

        Raises:
            ImageError: an image cannot be read; the message names the query.
        """
        return self._in_parts(_as_passages(queries), "query")

    def embed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """Embed texts, images, or both: (n, dimensions) float32.

        Raises:
            ImageError: an image cannot be read; the message names the passage.
        """
        return self._in_parts(passages, "passage")

    async def aembed_queries(self, queries: Sequence[Query]) -> FloatArray:
        """`embed_queries` for event loops."""
        return await self._ain_parts(_as_passages(queries), "query")

    async def aembed_passages(self, passages: Sequence[Passage]) -> FloatArray:
        """`embed_passages` for event loops."""
        return await self._ain_parts(passages, "passage")

    def close(self) -> None:
        """Close the embedder; the cache stays as it is."""
        self._embedder.close()

    def _in_parts(self, passages: Sequence[Passage], role: _Role) -> FloatArray:
        parts = in_parts(_decoded(passages, role), _pixels)
        return _stacked([self._embed(part, role) for part in parts] or [self._embed([], role)])

    async def _ain_parts(self, passages: Sequence[Passage], role: _Role) -> FloatArray:
        parts, rows = in_parts(_decoded(passages, role), _pixels), list[FloatArray]()
        while part := await asyncio.to_thread(next, parts, None):
            rows.append(await self._aembed(part, role))
        return _stacked(rows or [await self._aembed([], role)])

    def _embed(self, passages: Sequence[Passage], role: _Role) -> FloatArray:
        keys = self._keys(passages, role)
        found = [self._cache.get(key) for key in keys]
        missing = [passage for passage, vector in zip(passages, found, strict=True) if vector is None]
        if role == "query":
            computed = self._embedder.embed_queries(_as_queries(missing))
        else:
            computed = self._embedder.embed_passages(missing)
        rows, added = _joined(keys, found, computed)
        for key, vector in added.items():
            self._cache.put(key, vector)
        return rows

    async def _aembed(self, passages: Sequence[Passage], role: _Role) -> FloatArray:
        keys = await asyncio.to_thread(self._keys, passages, role)
        found = [await self._cache.aget(key) for key in keys]
        missing = [passage for passage, vector in zip(passages, found, strict=True) if vector is None]
        if role == "query":
            computed = await self._embedder.aembed_queries(_as_queries(missing))
        else:
            computed = await self._embedder.aembed_passages(missing)
        rows, added = _joined(keys, found, computed)
        for key, vector in added.items():
            await self._cache.aput(key, vector)
        return rows

    def _keys(self, passages: Sequence[Passage], role: _Role) -> list[str]:
        """One key for each passage, of all that decides its vector."""
        model = [self.name, dict(self.identity), role]
        images = [None if passage.image is None else pixel_hash(load_image(passage.image)) for passage in passages]
        contents = [[*model, passage.text, image] for passage, image in zip(passages, images, strict=True)]
        return [hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() for content in contents]


def _as_passages(queries: Sequence[Query]) -> list[Passage]:
    return [query if isinstance(query, Passage) else Passage(query) for query in queries]


def _as_queries(passages: Sequence[Passage]) -> list[Query]:
    """The queries that `_as_passages` made passages of."""
    return [passage.text if passage.image is None else passage for passage in passages]


def _decoded(passages: Sequence[Passage], role: _Role) -> Iterator[Passage]:
    """The passages with their images decoded once."""
    for index, passage in enumerate(passages):
        try:
            image = None if passage.image is None else load_image(passage.image)
        except ImageError as error:
            raise type(error)(f"{role} {index}: {error}") from error
        yield replace(passage, image=image)


def _pixels(passage: Passage) -> int:
    return passage.image.width * passage.image.height if isinstance(passage.image, Image.Image) else 0


def _stacked(rows: Sequence[FloatArray]) -> FloatArray:
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _joined(
    keys: Sequence[str], found: Sequence[Sequence[float] | None], computed: FloatArray
) -> tuple[FloatArray, dict[str, list[float]]]:
    """One row for each key, those that were not found in the order in which they were computed; and these by key."""
    rows = np.empty((len(keys), computed.shape[1]), dtype=np.float32)  # (n, dimensions)
    missing = [i for i, vector in enumerate(found) if vector is None]
    for i, vector in enumerate(found):
        if vector is not None:
            rows[i] = vector
    rows[missing] = computed
    return rows, {keys[i]: rows[i].tolist() for i in missing}
