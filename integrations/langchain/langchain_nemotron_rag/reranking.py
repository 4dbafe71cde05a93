"""`NemotronRerank`: LangChain's document compressor over a local Nemotron reranker. It knows no retriever or store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, run_in_executor
from pydantic import Field

from langchain_nemotron_rag._local import LocalModel
from langchain_nemotron_rag._ranking import Batch, OnImageError, OnUnscored, Transform, order, read
from langchain_nemotron_rag._tracing import atraced, traced
from nemotron_rag import Passage, Reranker, load_reranker
from nemotron_rag.errors import InputError

__all__ = ["NemotronRerank"]


class NemotronRerank(LocalModel, BaseDocumentCompressor):
    """Rank documents, page pictures, or both by how well they answer a question, with a model in this process.

    A local stand-in for the hosted `NVIDIARerank`: the picture is read from ``metadata["image"]``, the raw logit is
    written to ``metadata["relevance_score"]``, and `top_n` is 5. Beyond data URIs, ``metadata["image"]`` may hold
    bytes, a decoded picture, a `Blob` or a content block, a path below `image_roots`, or a URL on `image_hosts`.

    The caller's documents are never changed. Construction loads nothing; the first use does. All calls go through
    the model's one worker, so threads, tasks and instances can share it.

    Args:
        model: catalog id, hub repository, local folder, or a loaded `nemotron_rag.Reranker`.
        top_n: most documents returned; None for all.
        score_threshold: smallest reported score that is kept; None keeps all.
        score_transform: of the reported score: None for the raw logit, "sigmoid", or a function of the logit. The
            order follows the logit.
        score_key: where in the metadata the score goes; an older value is replaced.
        provenance: write ``retrieval_rank``, ``rerank_rank`` (both from 1) and ``rerank_model`` too, and keep an
            older value of `score_key` as ``retrieval_score``, unless there is one.
        on_image_error: a picture may not be opened or is broken: "raise", go on with the "text", or "skip".
        on_unscored: a document has neither text nor picture, or its score is not finite: put it "last", without a
            score, "skip" it, or "raise". With `score_threshold`, "last" leaves it out.
        device, dtype, revision, max_input_tiles, max_length: see `nemotron_rag.load_reranker`.
        image_key: where in the metadata the picture is.
        image_roots: folders whose files may be opened because a document names them.
        image_hosts: hosts that may be asked for pictures because a document names them.

    Example:
        >>> from langchain_core.documents import Document
        >>> from nemotron_rag.testing import FakeReranker
        >>> rerank = NemotronRerank(model=FakeReranker(), top_n=1)
        >>> rerank.compress_documents([Document("blue whales"), Document("red apples")], "red apples")
        [Document(metadata={'relevance_score': 5.0}, page_content='red apples')]
    """

    model: str | Path | Reranker = "llama-nemotron-rerank-vl-1b-v2"
    top_n: int | None = Field(default=5, ge=0)
    score_threshold: float | None = Field(default=None, allow_inf_nan=False)
    score_transform: Transform = None
    score_key: str = Field(default="relevance_score", min_length=1)
    provenance: bool = False
    on_image_error: OnImageError = "raise"
    on_unscored: OnUnscored = "last"

    def load(self) -> Reranker:
        """The loaded model; loads it if need be.

        Raises:
            NemotronRagError: as `nemotron_rag.load_reranker`.
        """
        return self._load(load_reranker)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The documents from best to worst, at most `top_n`, each a copy with its score.

        Args:
            documents: what a retriever found; texts, pictures, or both.
            query: the question.
            callbacks: of the parent run.

        Raises:
            InputError: the query is no text, or an item is no document.
            ImageError: a picture cannot be read, and `on_image_error` is "raise".
        """
        ranked = self._rank(documents, query, callbacks)
        return [self._result(documents, *entry, rank=rank) for rank, entry in enumerate(ranked, 1)]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The same as `compress_documents`, without blocking the event loop."""
        ranked = await self._arank(documents, query, callbacks)
        return [self._result(documents, *entry, rank=rank) for rank, entry in enumerate(ranked, 1)]

    def rerank(
        self, documents: Sequence[str | Passage | Document], query: str, *, callbacks: Callbacks | None = None
    ) -> list[dict[str, Any]]:
        """Where the documents stand, without copying them: ``[{"index": 2, "relevance_score": 3.1}, ...]``.

        Args:
            documents: texts, passages (a text, a picture, or both) or documents, from which `top_n` are taken.
            query: the question.
            callbacks: of the parent run.

        Returns:
            From best to worst; the score of a document without one is None (see `on_unscored`).

        Raises:
            InputError, ImageError: as `compress_documents`.
        """
        return _plain(self._rank(documents, query, callbacks))

    async def arerank(
        self, documents: Sequence[str | Passage | Document], query: str, *, callbacks: Callbacks | None = None
    ) -> list[dict[str, Any]]:
        """The same as `rerank`, without blocking the event loop."""
        return _plain(await self._arank(documents, query, callbacks))

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """A step for chains: takes ``{"documents": [...], "query": "..."}``, gives the ranked documents.

        Example:
            >>> from langchain_core.documents import Document
            >>> from nemotron_rag.testing import FakeReranker
            >>> step = NemotronRerank(model=FakeReranker()).as_runnable()
            >>> [found.page_content for found in step.invoke({"documents": [Document("apples")], "query": "apples"})]
            ['apples']
        """

        def run(inputs: dict[str, Any], config: RunnableConfig) -> list[Document]:
            return self.compress_documents(inputs["documents"], inputs["query"], config.get("callbacks"))

        async def arun(inputs: dict[str, Any], config: RunnableConfig) -> list[Document]:
            return await self.acompress_documents(inputs["documents"], inputs["query"], config.get("callbacks"))

        return RunnableLambda(run, afunc=arun, name="rerank")

    def _rank(
        self, documents: Sequence[str | Passage | Document], query: str, callbacks: Callbacks | None
    ) -> list[tuple[int, float | None]]:
        self._check_query(query)
        if len(documents) == 0 or self.top_n == 0:
            return []
        with traced(callbacks, name="NemotronRerank", inputs=self._told(documents, query)) as outputs:
            started = time.perf_counter()
            batch = self._read(documents)
            opened = time.perf_counter()
            logits = self.load().score(query, batch.passages).tolist() if batch.passages else []
            outputs |= {"read_seconds": opened - started, "score_seconds": time.perf_counter() - opened}
            return self._order(batch, logits, outputs)

    async def _arank(
        self, documents: Sequence[str | Passage | Document], query: str, callbacks: Callbacks | None
    ) -> list[tuple[int, float | None]]:
        self._check_query(query)
        if len(documents) == 0 or self.top_n == 0:
            return []
        async with atraced(callbacks, name="NemotronRerank", inputs=self._told(documents, query)) as outputs:
            started = time.perf_counter()
            batch = await run_in_executor(None, self._read, documents)
            opened = time.perf_counter()
            logits: list[float] = []
            if batch.passages:
                reranker = await run_in_executor(None, self.load)
                logits = (await reranker.ascore(query, batch.passages)).tolist()
            outputs |= {"read_seconds": opened - started, "score_seconds": time.perf_counter() - opened}
            return self._order(batch, logits, outputs)

    def _check_query(self, query: object) -> None:
        if not isinstance(query, str):
            raise InputError(f"{self._model_name} ranks by a text query, got {type(query).__name__}; pass a str")
        if query[:11].lower() == "data:image/":
            raise InputError(f"{self._model_name} ranks by a text query, got the data URI of a picture; pass a text")

    def _told(self, documents: Sequence[Any], query: str) -> dict[str, Any]:
        return {"query": query, "documents": len(documents), "model": self._model_name}

    def _read(self, documents: Sequence[str | Passage | Document]) -> Batch:
        return read(documents, image_key=self.image_key, access=self._access, on_image_error=self.on_image_error)

    def _order(self, batch: Batch, logits: list[float], outputs: dict[str, Any]) -> list[tuple[int, float | None]]:
        ranked = order(
            batch,
            logits,
            transform=self.score_transform,
            threshold=self.score_threshold,
            on_unscored=self.on_unscored,
        )[: self.top_n]
        pictures = sum(passage.image is not None for passage in batch.passages)
        outputs |= {
            "scored": len(batch.passages),
            "pictures": pictures,
            "empty": len(batch.empty),
            "skipped": batch.skipped,
            "returned": len(ranked),
        }
        return ranked

    def _result(self, documents: Sequence[Document], place: int, score: float | None, *, rank: int) -> Document:
        """A copy of a document whose metadata is new; nothing inside it is copied."""
        document = documents[place]
        metadata = {key: value for key, value in document.metadata.items() if key != self.score_key}
        if score is not None:
            metadata[self.score_key] = score
        if self.provenance:
            if self.score_key in document.metadata:
                metadata.setdefault("retrieval_score", document.metadata[self.score_key])
            metadata |= {"retrieval_rank": place + 1, "rerank_rank": rank, "rerank_model": self._model_name}
        return document.model_copy(update={"metadata": metadata})


def _plain(ranked: list[tuple[int, float | None]]) -> list[dict[str, Any]]:
    return [{"index": place, "relevance_score": score} for place, score in ranked]
