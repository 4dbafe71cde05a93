"""Page retrieval for LlamaIndex: ``from llama_index.retrievers.nemotron_rag import NemotronPageRetriever``.

Importing it loads neither torch nor a model.
"""

from __future__ import annotations

from llama_index.retrievers.nemotron_rag.base import NemotronPageRetriever
from llama_index.retrievers.nemotron_rag.collection import NodeCollection

__all__ = ["NemotronPageRetriever", "NodeCollection"]
