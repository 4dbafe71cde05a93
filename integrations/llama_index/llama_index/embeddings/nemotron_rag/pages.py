"""Set `node.embedding` from the picture and text of each node, a bounded batch at a time. It knows no model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.schema import BaseNode
from llama_index.core.utils import get_tqdm_iterable

from llama_index.embeddings.nemotron_rag.components import NodeReading, Reading
from nemotron_rag.types import Passage

__all__ = ["PassageEmbedding", "aembed_pages", "embed_pages"]


class PassageEmbedding(Protocol):
    """The part of `NemotronEmbedding` that is needed here."""

    image_batch_size: int

    def get_passage_embeddings(self, passages: Sequence[Passage]) -> list[Embedding]:
        """One vector for each passage."""

    async def aget_passage_embeddings(self, passages: Sequence[Passage]) -> list[Embedding]:
        """The same, without blocking the event loop."""


def embed_pages(
    embedding: PassageEmbedding, reading: NodeReading, nodes: Sequence[BaseNode], *, show_progress: bool = False
) -> list[BaseNode]:
    """Set the embedding of every node, as LlamaIndex's embeddings do: on the node itself.

    Args:
        embedding: computes the vectors.
        reading: how nodes become passages.
        nodes: of any form.
        show_progress: draw a bar.

    Returns:
        The nodes, less those that the policy for missing pictures leaves out.
    """
    done: list[BaseNode] = []
    for start in _starts(nodes, embedding.image_batch_size, show_progress):
        readings = reading.read(nodes[start : start + embedding.image_batch_size], start=start)
        vectors = embedding.get_passage_embeddings([r.passage for r in readings])
        done += _embedded(nodes, readings, vectors)
    return done


async def aembed_pages(
    embedding: PassageEmbedding, reading: NodeReading, nodes: Sequence[BaseNode], *, show_progress: bool = False
) -> list[BaseNode]:
    """The same as `embed_pages`, without blocking the event loop."""
    done: list[BaseNode] = []
    for start in _starts(nodes, embedding.image_batch_size, show_progress):
        batch = nodes[start : start + embedding.image_batch_size]
        readings = await asyncio.to_thread(reading.read, batch, start=start)
        vectors = await embedding.aget_passage_embeddings([r.passage for r in readings])
        done += _embedded(nodes, readings, vectors)
    return done


def _starts(nodes: Sequence[BaseNode], size: int, show_progress: bool) -> Iterable[int]:
    starts: Iterable[int] = get_tqdm_iterable(range(0, len(nodes), size), show_progress, "Embedding pages")
    return starts


def _embedded(nodes: Sequence[BaseNode], readings: Sequence[Reading], vectors: Sequence[Embedding]) -> list[BaseNode]:
    for reading, vector in zip(readings, vectors, strict=True):
        nodes[reading.index].embedding = vector
    return [nodes[reading.index] for reading in readings]
