"""`PageRedundantFilter`: of documents that are alike in image and text, the first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.runnables import run_in_executor
from pydantic import BaseModel, ConfigDict, Field

from langchain_nemotron_rag._documents import describe
from langchain_nemotron_rag.embeddings import NemotronEmbeddings
from nemotron_rag.errors import ImageError
from nemotron_rag.types import FloatArray

__all__ = ["PageRedundantFilter"]

_log = logging.getLogger("nemotron_rag")


class PageRedundantFilter(BaseModel, BaseDocumentTransformer):
    """Leaves out documents that are nearly equal to one before them, in image and text.

    As LangChain's `EmbeddingsRedundantFilter`, which compares texts alone: slides of one heading are equal to it,
    whatever they show. For a `DocumentCompressorPipeline`, or on its own. Every document is embedded anew, but images
    whose vision features are cached are not computed again. A document that cannot be read is kept.

    Args:
        embeddings: embed the documents.
        similarity_threshold: cosine from which two are alike.

    Example:
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> unlike = PageRedundantFilter(embeddings=NemotronEmbeddings(model=FakeEmbedder()))
        >>> texts = ["red apples", "blue whales", "red apples"]
        >>> [each.page_content for each in unlike.transform_documents([Document(text) for text in texts])]
        ['red apples', 'blue whales']
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    embeddings: NemotronEmbeddings
    similarity_threshold: float = Field(default=0.95, gt=0, le=1)

    def transform_documents(self, documents: Sequence[Document], **kwargs: Any) -> list[Document]:
        """The documents in their order, less those that are like one before them; `kwargs` are for other steps."""
        read, vectors = self._embedded(documents)  # vectors: (documents that were read, dimensions), of length 1
        kept: list[int] = []
        redundant: set[int] = set()
        for place, index in enumerate(read):
            if kept and float((vectors[kept] @ vectors[place]).max()) >= self.similarity_threshold:
                redundant.add(index)
            else:
                kept.append(place)
        return [document for index, document in enumerate(documents) if index not in redundant]

    async def atransform_documents(self, documents: Sequence[Document], **kwargs: Any) -> list[Document]:
        """`transform_documents` for event loops."""
        return await run_in_executor(None, self.transform_documents, documents, **kwargs)

    def _embedded(self, documents: Sequence[Document]) -> tuple[list[int], FloatArray]:
        """Which documents can be read, and their vectors."""
        try:
            rows = dict(enumerate(self.embeddings.embed_pages(documents)))
        except ImageError:
            rows = {}
            for index, document in enumerate(documents):
                try:
                    (rows[index],) = self.embeddings.embed_pages([document])
                except ImageError as error:
                    _log.warning("%s is kept, whatever it is like: %s", describe(document, index), error)
        return list(rows), np.array(list(rows.values()), dtype=np.float32)
