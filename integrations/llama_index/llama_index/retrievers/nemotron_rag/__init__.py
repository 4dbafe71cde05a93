"""Page retrieval for LlamaIndex: ``from llama_index.retrievers.nemotron_rag import NemotronPageRetriever``."""

from llama_index_nemotron_rag.collection import NodeCollection
from llama_index_nemotron_rag.evaluating import page_asker
from llama_index_nemotron_rag.retriever import NemotronPageRetriever
from llama_index_nemotron_rag.tool import PageRetrieverTool

__all__ = ["NemotronPageRetriever", "NodeCollection", "PageRetrieverTool", "page_asker"]
