"""The wire formats: how each dialect asks, and where its answers hold the numbers.

Sources: the API references of NVIDIA NIM (Embedding 2.2, Reranking 2.4), vLLM (pooling models), OpenAI (embeddings),
Cohere (rerank v2), Jina (rerank), and text-embeddings-inference.
"""

from __future__ import annotations

from typing import Any

from nemotron_rag.remote.endpoint import Dialect
from nemotron_rag.remote.formats import _embedding, _reranking
from nemotron_rag.remote.formats._asked import Asked, EmbeddingFormat, RerankFormat, Role
from nemotron_rag.types import Kind

__all__ = ["Asked", "EmbeddingFormat", "RerankFormat", "Role", "format_of", "speakers"]

_FORMATS: dict[tuple[Kind, Dialect], Any] = {
    ("embedder", "nemotron-rag"): _embedding.Ours(),
    ("embedder", "nim"): _embedding.Nim(),
    ("embedder", "vllm"): _embedding.VllmChat(),
    ("embedder", "openai"): _embedding.OpenAI(),
    ("embedder", "tei"): _embedding.Tei(),
    ("multivector_embedder", "nemotron-rag"): _embedding.OurTokens(),
    ("multivector_embedder", "vllm"): _embedding.VllmTokens(),
    ("reranker", "nemotron-rag"): _reranking.OurScores(),
    ("reranker", "nim"): _reranking.NimRanking(),
    ("reranker", "vllm"): _reranking.VllmRerank(),
    ("reranker", "cohere"): _reranking.Cohere(),
    ("reranker", "jina"): _reranking.Jina(),
    ("reranker", "tei"): _reranking.TeiRerank(),
}


def speakers(kind: Kind) -> list[Dialect]:
    """The dialects that have a format for models of a kind."""
    return [dialect for of, dialect in _FORMATS if of == kind]


def format_of(kind: Kind, dialect: Dialect, *, operation: str | None, has_images: bool) -> Any:
    """The format of a dialect for models of a kind; None if it has none.

    Args:
        kind: of the model.
        dialect: of the server.
        operation: that the base url ends with; None if it does not.
        has_images: whether the model reads images, as far as that is known.
    """
    if dialect == "vllm" and kind == "reranker" and operation == "score":
        return _reranking.VllmScore()
    if dialect == "vllm" and kind == "embedder" and not has_images:
        return _embedding.VllmTexts()
    return _FORMATS.get((kind, dialect))
