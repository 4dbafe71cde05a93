"""Nemotron embeddings for LlamaIndex: ``from llama_index.embeddings.nemotron_rag import NemotronEmbedding``."""

from llama_index_nemotron_rag.embedding import NemotronEmbedding, NemotronPageEmbedder
from llama_index_nemotron_rag.nodes import PageNode

__all__ = ["NemotronEmbedding", "NemotronPageEmbedder", "PageNode"]
