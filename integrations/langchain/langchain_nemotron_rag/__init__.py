"""Nemotron retrieval models for LangChain: find and rank page pictures in-process.

Importing this package loads neither torch nor transformers; the first use of a model does.
"""

from __future__ import annotations

from langchain_nemotron_rag.content import create_page_retriever_tool, to_content_blocks, to_human_message
from langchain_nemotron_rag.document_loaders import PDFPageLoader, PDFPageParser
from langchain_nemotron_rag.embeddings import NemotronEmbeddings
from langchain_nemotron_rag.reranking import NemotronRerank

__all__ = [
    "NemotronEmbeddings",
    "NemotronRerank",
    "PDFPageLoader",
    "PDFPageParser",
    "create_page_retriever_tool",
    "to_content_blocks",
    "to_human_message",
]
