"""Nemotron reranking for LlamaIndex: ``from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank``."""

from llama_index_nemotron_rag.llm_images import PageImageLimits
from llama_index_nemotron_rag.reranking import KeepPageText, NemotronRerank

__all__ = ["KeepPageText", "NemotronRerank", "PageImageLimits"]
