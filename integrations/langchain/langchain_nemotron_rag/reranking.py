"""`NemotronRerank`: LangChain's document compressor over a local Nemotron reranker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from pydantic import Field

from langchain_nemotron_rag._documents import FoundMetadata, describe, passage_of
from langchain_nemotron_rag._settings import ModelFields, Unchecked
from nemotron_rag import MultiVectorEmbedder, Passage, Reranker
from nemotron_rag.errors import InputError
from nemotron_rag.models.lazy import RANKERS
from nemotron_rag.ranking import OnImageError, OnUnscored, Place, RankingPolicy, ScoreTransform, arank, rank
from nemotron_rag.types import FloatArray, Kind, Modality, Query

__all__ = ["NemotronRerank"]

_RANKS = ("retrieval_score", "retrieval_rank", "rerank_rank")


class NemotronRerank(ModelFields, BaseDocumentCompressor):
    """Rank documents, page images, or both by how well they answer a query, with a model in this process.

    A local stand-in for the hosted `NVIDIARerank`: the image is read from ``metadata["image"]``, the raw logit is
    written to ``metadata["relevance_score"]``, and `top_n` is 5. Beyond data URIs, ``metadata["image"]`` may hold
    bytes, a decoded image, a `Blob` or a content block, a path below `image_roots`, a URL on `image_hosts`, or a
    `nemotron_rag.stores.page_images.StoredImage`, which is not even decoded if its vision features are cached.

    The caller's documents are never changed. Construction loads nothing; the first use does. All calls go through the
    model's one worker, so threads, tasks and instances can share it.

    Args:
        model: catalog id, hub repository, local folder, or a loaded `nemotron_rag.Reranker`; or a late-interaction
            model (ColEmbed), which ranks by MaxSim.
        top_n: most documents returned; None for all.
        score_threshold: smallest reported score that is kept; None keeps all.
        score_transform: of the reported score: None or "raw" for the logit, "sigmoid", or a function of the logit. The
            order follows the logit.
        score_key: where in the metadata the score goes; an older value is replaced.
        provenance: write ``retrieval_rank``, ``rerank_rank`` (both from 1) and ``rerank_model`` too, and keep an
            older value of `score_key` as ``retrieval_score``, unless there is one.
        on_image_error: an image may not be opened or is broken: go on with the document's "text" (and a warning),
            "skip" the document, or "raise".
        on_unscored: a document has neither text nor image, or its score is not finite: put it "last", without a
            score, "skip" it, or "raise". With `score_threshold`, "last" leaves it out.
        fuse: join the model's order with the one in which the documents came, by reciprocal rank fusion, for models
            that are not trusted alone; the score is then a fusion score, which tells an order only.
        device, dtype, revision, max_input_tiles, use_thumbnail, max_length, max_image_tokens, instruction, compile: see
            `nemotron_rag.LoadOptions`.
        base_url, dialect, endpoint: for a model at a server, see there too.
        image_key: where in the metadata the image is.
        image_roots: folders whose files may be opened because a document names them.
        image_hosts: hosts that images may be fetched from because a document names them.

    Raises:
        UnknownModelError: there is no such model.
        InputError: it is no reranker, or cannot be loaded with these options.
        pydantic.ValidationError: another field has an impossible value.

    Example:
        >>> from langchain_core.documents import Document
        >>> from nemotron_rag.testing import FakeReranker
        >>> rerank = NemotronRerank(model=FakeReranker(), top_n=1)
        >>> rerank.compress_documents([Document("blue whales"), Document("red apples")], "red apples")
        [Document(metadata={'relevance_score': 5.0}, page_content='red apples')]
    """

    model: Unchecked[str | Path | Reranker | MultiVectorEmbedder] = "llama-nemotron-rerank-vl-1b-v2"
    top_n: int | None = Field(default=5, ge=0)
    score_threshold: float | None = Field(default=None, allow_inf_nan=False)
    score_transform: ScoreTransform = None
    score_key: str = Field(default="relevance_score", min_length=1)
    provenance: bool = False
    on_image_error: OnImageError = "text"
    on_unscored: OnUnscored = "last"
    fuse: bool = False

    _kinds: ClassVar[tuple[Kind, ...]] = RANKERS

    def load(self) -> Reranker:
        """The loaded model; loads it if need be.

        Raises:
            NemotronRagError: as `nemotron_rag.load_reranker`.
        """
        return cast("Reranker", self._lazy().get())

    def compress_documents(
        self, documents: Sequence[Document], query: Query, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The documents from best to worst, at most `top_n`, each a copy with its score.

        Args:
            documents: what a retriever found; texts, images, or both.
            query: in words; or a `Passage` with an image, for models that read images in queries.
            callbacks: of the parent run.

        Raises:
            InputError: the query is neither, or has an image and the model reads words alone; or an item is no
                document.
            ImageError: an image cannot be read, and `on_image_error` is "raise".
        """
        return self._results(documents, self._rank(documents, query, callbacks))

    async def acompress_documents(
        self, documents: Sequence[Document], query: Query, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """`compress_documents` for event loops."""
        return self._results(documents, await self._arank(documents, query, callbacks))

    def rerank(
        self,
        documents: Sequence[str | Passage | Document | Mapping[str, Any]],
        query: Query,
        *,
        top_n: int | None = None,
        rank_fields: Sequence[str] | None = None,
        callbacks: Callbacks | None = None,
    ) -> list[dict[str, Any]]:
        """Where the documents stand, without copying them: ``[{"index": 2, "relevance_score": 3.1}, ...]``.

        Args:
            documents: texts, passages (a text, an image, or both), documents, or dicts.
            query: see `compress_documents`.
            top_n: instead of the component's.
            rank_fields: of dicts, whose values are read as one text, line by line; None for ``text``. The image of a
                dict is under `image_key`.
            callbacks: of the parent run.

        Returns:
            From best to worst, at most `top_n`; the score of a document without one is None (see `on_unscored`).

        Raises:
            InputError: as `compress_documents`; or a dict has none of the fields.
            ImageError: as `compress_documents`.
        """
        ranker = self if top_n is None else self.with_top_n(top_n)
        return _entries(ranker._rank(self._read(documents, rank_fields), query, callbacks))

    async def arerank(
        self,
        documents: Sequence[str | Passage | Document | Mapping[str, Any]],
        query: Query,
        *,
        top_n: int | None = None,
        rank_fields: Sequence[str] | None = None,
        callbacks: Callbacks | None = None,
    ) -> list[dict[str, Any]]:
        """`rerank` for event loops."""
        ranker = self if top_n is None else self.with_top_n(top_n)
        return _entries(await ranker._arank(self._read(documents, rank_fields), query, callbacks))

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """A step for chains: takes ``{"documents": [...], "query": "..."}``, returns the ranked documents.

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

    def with_top_n(self, top_n: int | None) -> Self:
        """A copy with another `top_n` that shares the model, and so is closed with this one."""
        RankingPolicy(top_n=top_n)  # checks it
        copy = self.model_copy(update={"top_n": top_n})
        copy._opened = self._opened
        return copy

    def _rank(self, items: Sequence[Any], query: Query, callbacks: Callbacks | None) -> list[Place]:
        self._check_query(query)
        ranking = _Ranking(self, items, query)
        if len(items) > 0 and self.top_n != 0:
            ranking.as_step().invoke(ranking.inputs, {"callbacks": callbacks})
        return ranking.places

    async def _arank(self, items: Sequence[Any], query: Query, callbacks: Callbacks | None) -> list[Place]:
        self._check_query(query)
        ranking = _Ranking(self, items, query)
        if len(items) > 0 and self.top_n != 0:
            await ranking.as_step().ainvoke(ranking.inputs, {"callbacks": callbacks})
        return ranking.places

    def _check(self) -> None:
        super()._check()
        RankingPolicy.of(self)

    def _check_query(self, query: object) -> None:
        if isinstance(query, Passage):
            return  # whether the model reads it is known when it is loaded
        if not isinstance(query, str):
            raise InputError(f"query must be a str or a Passage, got {type(query).__name__}; see compress_documents")
        if query[:11].lower() == "data:image/":
            raise InputError("query must be a text, got the data URI of an image; give Passage(image=...) for an image")

    def _read(self, items: Sequence[Any], rank_fields: Sequence[str] | None) -> list[Any]:
        """The same items, with documents in place of dicts."""
        fields = ["text"] if rank_fields is None else list(rank_fields)
        return [
            _document(item, fields, self.image_key, index) if isinstance(item, Mapping) else item
            for index, item in enumerate(items)
        ]

    def _passage(self, item: object, index: int) -> Passage:
        if isinstance(item, str):
            return Passage(item)
        if isinstance(item, Passage):
            return item
        if not isinstance(item, Document):
            raise InputError(f"document {index} must be a Document, Passage or str, got {type(item).__name__}")
        return passage_of(item, image_key=self.image_key, access=self._access)

    def _results(self, documents: Sequence[Document], places: Sequence[Place]) -> list[Document]:
        return [self._result(documents[place.index], place, rank) for rank, place in enumerate(places, 1)]

    def _result(self, document: Document, place: Place, rank: int) -> Document:
        """A copy of a document whose metadata are new; nothing inside them is copied."""
        metadata = {key: value for key, value in document.metadata.items() if key != self.score_key}
        if place.score is not None:
            metadata[self.score_key] = place.score
        if self.provenance:
            if self.score_key in document.metadata:
                metadata.setdefault("retrieval_score", document.metadata[self.score_key])
            metadata |= {"retrieval_rank": place.index + 1, "rerank_rank": rank, "rerank_model": self.model_name}
        scores = {self.score_key, *_RANKS, *getattr(document.metadata, "scores", ())}
        return document.model_copy(update={"metadata": FoundMetadata(metadata, scores)})


class _Ranking:
    """One ranking, as a step of LangChain's: so it has a run of its own in traces, with counts and timings.

    The model is loaded when there is something to score.
    """

    def __init__(self, rerank: NemotronRerank, items: Sequence[Any], query: Query) -> None:
        self._rerank, self._items, self._query, self._model = rerank, items, query, rerank._lazy()
        words = query if isinstance(query, str) else query.text or "(an image)"
        self.inputs = {"query": words, "documents": len(items), "model": rerank.model_name}
        self.places: list[Place] = []
        self._scored = self._images = 0
        self._seconds = 0.0

    def as_step(self) -> Runnable[dict[str, Any], dict[str, Any]]:
        """Its input is `inputs`, which traces show, its output are the counts; the result is in `places`."""
        return RunnableLambda(self._run, afunc=self._arun, name="NemotronRerank")

    @property
    def query_modalities(self) -> tuple[Modality, ...]:
        """What queries the model reads, once it is loaded."""
        return cast("tuple[Modality, ...]", getattr(self._model.get(), "query_modalities", ("text",)))

    @property
    def name(self) -> str:
        """Of the model, for messages."""
        return self._rerank.model_name

    def score(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """Score as the model does."""
        reranker, started = self._model.get(), time.perf_counter()
        scores = cast("FloatArray", reranker.score(query, passages))
        self._note(passages, started)
        return scores

    async def ascore(self, query: Query, passages: Sequence[Passage]) -> FloatArray:
        """`score` for event loops."""
        reranker, started = await self._model.aget(), time.perf_counter()
        scores = cast("FloatArray", await reranker.ascore(query, passages))
        self._note(passages, started)
        return scores

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        passages = self._passages()
        self.places = rank(cast("Reranker", self), self._query, passages, **self._options())
        return self._counts(passages)

    async def _arun(self, inputs: dict[str, Any]) -> dict[str, Any]:
        passages = self._passages()
        if isinstance(self._query, Passage):
            await self._model.aget()  # not on the event loop, where it is asked what queries it reads
        self.places = await arank(cast("Reranker", self), self._query, passages, **self._options())
        return self._counts(passages)

    def _passages(self) -> list[Passage]:
        return [self._rerank._passage(item, index) for index, item in enumerate(self._items)]

    def _options(self) -> dict[str, Any]:
        return {"policy": RankingPolicy.of(self._rerank), "describe": lambda index: describe(self._items[index], index)}

    def _note(self, passages: Sequence[Passage], started: float) -> None:
        self._seconds = time.perf_counter() - started
        self._scored, self._images = len(passages), sum(passage.image is not None for passage in passages)

    def _counts(self, passages: Sequence[Passage]) -> dict[str, Any]:
        empty = sum(passage.image is None and not passage.text.strip() for passage in passages)
        lost = len(passages) - self._scored - empty  # their images could not be read
        skipped = lost if self._rerank.on_image_error == "skip" else 0
        return {
            "score_seconds": self._seconds,
            "scored": self._scored,
            "images": self._images,
            "empty": empty + lost - skipped,
            "skipped": skipped,
            "returned": len(self.places),
            "scores": [place.score for place in self.places],
        }


def _document(item: Mapping[str, Any], fields: Sequence[str], image_key: str, index: int) -> Document:
    texts = [str(item[field]) for field in fields if item.get(field) is not None]
    image = item.get(image_key)
    if not texts and image is None:
        raise InputError(f"document {index} has none of the fields {', '.join(fields)}; give rank_fields=")
    return Document("\n".join(texts), metadata={} if image is None else {image_key: image})


def _entries(places: Sequence[Place]) -> list[dict[str, Any]]:
    return [{"index": place.index, "relevance_score": place.score} for place in places]
