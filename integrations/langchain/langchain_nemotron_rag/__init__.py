"""Nemotron retrieval models for LangChain: find and rank page images in-process.

Importing this package loads neither torch nor transformers; the first use of a model does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_nemotron_rag.agents import create_tool_image_middleware, move_tool_images, show_tool_images
from langchain_nemotron_rag.chains import citations_of, create_page_chain, create_page_prompt
from langchain_nemotron_rag.content import to_content_blocks, to_human_message
from langchain_nemotron_rag.document_loaders import DocumentPageLoader, DocumentPageParser, PDFPageLoader, PDFPageParser
from langchain_nemotron_rag.embeddings import NemotronEmbeddings
from langchain_nemotron_rag.evaluating import page_asker
from langchain_nemotron_rag.redundancy import PageRedundantFilter
from langchain_nemotron_rag.reranking import NemotronRerank
from langchain_nemotron_rag.self_query import NemotronTranslator
from langchain_nemotron_rag.tools import create_page_retriever_tool

if TYPE_CHECKING:
    from langchain_nemotron_rag.retrievers import NemotronPageRetriever
    from langchain_nemotron_rag.vectorstores import NemotronPageVectorStore

__all__ = [
    "DocumentPageLoader",
    "DocumentPageParser",
    "NemotronEmbeddings",
    "NemotronPageRetriever",
    "NemotronPageVectorStore",
    "NemotronRerank",
    "NemotronTranslator",
    "PDFPageLoader",
    "PDFPageParser",
    "PageRedundantFilter",
    "citations_of",
    "create_page_chain",
    "create_page_prompt",
    "create_page_retriever_tool",
    "create_tool_image_middleware",
    "move_tool_images",
    "page_asker",
    "show_tool_images",
    "to_content_blocks",
    "to_human_message",
]


def __getattr__(name: str) -> Any:
    """What stands on Qdrant takes a second to import, so it is imported at first use."""
    if name == "NemotronPageRetriever":
        from langchain_nemotron_rag.retrievers import NemotronPageRetriever  # noqa: PLC0415

        return NemotronPageRetriever
    if name == "NemotronPageVectorStore":
        from langchain_nemotron_rag.vectorstores import NemotronPageVectorStore  # noqa: PLC0415

        return NemotronPageVectorStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
