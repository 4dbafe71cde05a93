"""PDF pages for LlamaIndex: ``from llama_index.readers.nemotron_rag import PDFPageReader``."""

from llama_index_nemotron_rag.documents import PageDocument
from llama_index_nemotron_rag.reader import PDFPageReader

__all__ = ["PDFPageReader", "PageDocument"]
