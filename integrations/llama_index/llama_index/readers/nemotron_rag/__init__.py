"""PDF pages for LlamaIndex: ``from llama_index.readers.nemotron_rag import PDFPageReader``.

Importing it loads neither torch nor a model.
"""

from __future__ import annotations

from llama_index.readers.nemotron_rag.base import PDFPageReader
from llama_index.readers.nemotron_rag.documents import PageDocument

__all__ = ["PDFPageReader", "PageDocument"]
