"""Pages for LlamaIndex: ``from llama_index.readers.nemotron_rag import PDFPageReader, DocumentPageReader``."""

from llama_index_nemotron_rag.documents import PageDocument
from llama_index_nemotron_rag.reader import DocumentPageReader, PDFPageReader

__all__ = ["DocumentPageReader", "PDFPageReader", "PageDocument"]
