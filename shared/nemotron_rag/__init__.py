"""Find and rank PDF pages by their pictures, with NVIDIA's open Nemotron retrieval models in your own process.

Importing this package loads neither torch nor transformers; loading a model does.
"""

from __future__ import annotations

from nemotron_rag.catalog import CATALOG
from nemotron_rag.errors import NemotronRagError
from nemotron_rag.load import load_embedder, load_reranker
from nemotron_rag.protocols import Embedder, MultiVectorEmbedder, Reranker
from nemotron_rag.types import AddReport, Failure, Hit, ModelSpec, Page, Passage, Ranked

__all__ = [
    "CATALOG",
    "AddReport",
    "Embedder",
    "Failure",
    "Hit",
    "ModelSpec",
    "MultiVectorEmbedder",
    "NemotronRagError",
    "Page",
    "Passage",
    "Ranked",
    "Reranker",
    "load_embedder",
    "load_reranker",
]
