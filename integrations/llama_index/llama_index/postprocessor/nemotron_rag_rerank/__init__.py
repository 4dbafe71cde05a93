"""Nemotron page reranking for LlamaIndex: ``from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank``.

Importing it loads neither torch nor a model.
"""

from __future__ import annotations

from llama_index.postprocessor.nemotron_rag_rerank.base import NemotronRerank
from llama_index.postprocessor.nemotron_rag_rerank.page_text import KeepPageText

__all__ = ["KeepPageText", "NemotronRerank"]
