"""Nemotron embeddings for LlamaIndex: ``from llama_index.embeddings.nemotron_rag import NemotronEmbedding``.

Importing it loads neither torch nor a model.
"""

from __future__ import annotations

from llama_index.embeddings.nemotron_rag.base import NemotronEmbedding
from llama_index.embeddings.nemotron_rag.nodes import PageNode
from llama_index.embeddings.nemotron_rag.transform import NemotronPageEmbedder

__all__ = ["NemotronEmbedding", "NemotronPageEmbedder", "PageNode"]
