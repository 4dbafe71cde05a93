"""Rank nodes by their pictures and texts with a Nemotron reranker. It knows no tensors and no vector store."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeAlias, Unpack

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from llama_index.embeddings.nemotron_rag.components import (
    ModelFields,
    ModelSettings,
    NodeReading,
    Reading,
    ReadingSettings,
    load_options,
)
from llama_index.embeddings.nemotron_rag.nodes import for_llm, without_picture
from llama_index.postprocessor.nemotron_rag_rerank._events import dispatcher, rerank_events
from nemotron_rag.errors import InputError, NemotronRagError, NonFiniteError
from nemotron_rag.lazy import LazyModel, lazy_reranker
from nemotron_rag.protocols import FloatArray, Reranker

__all__ = ["RETRIEVAL_SCORE", "NemotronRerank"]

RETRIEVAL_SCORE = "retrieval_score"
"""The metadata key that LlamaIndex's own rerankers use."""

ScoreTransform: TypeAlias = Literal["raw", "sigmoid"]

_Events: TypeAlias = AbstractContextManager[list[NodeWithScore]]


class _RerankSettings(ModelSettings, ReadingSettings, total=False):
    top_n: int | None
    batch_size: int
    keep_retrieval_score: bool
    score_transform: ScoreTransform
    score_threshold: float | None
    text_for_llm: bool
    callback_manager: CallbackManager


class NemotronRerank(NodeReading, ModelFields, BaseNodePostprocessor):
    """Ranks nodes of every form by what their pictures show and their texts say, read together.

    Nothing of the caller's is changed: results are new, and so are nodes that something is added to. An object is safe
    to use from any number of threads and tasks; equal models are loaded once in a process, at first use. It serialises
    without its weights. A picture in the query (`QueryBundle.image_path`) is not read: the models take text questions.

    Args:
        model: a catalog id, its hub repository, a local folder, or a loaded `nemotron_rag.Reranker`.
        top_n: most nodes to return; None for all.
        batch_size: nodes read at a time, which bounds the decoded pictures in memory; on the device, the model cuts
            its own batches by tokens.
        keep_retrieval_score: note the score a node came with under ``retrieval_score`` in the metadata of a copy, shown
            neither to the LLM nor to embedders; the first reranker of a chain notes it.
        score_transform: ``raw`` logits, which may be negative, or their ``sigmoid`` between 0 and 1.
        score_threshold: leave out nodes that score lower, after the transform.
        text_for_llm: return an `ImageNode` with text as a `PageNode`, so that a multimodal LLM gets both; LlamaIndex
            itself drops such text.
        callback_manager: for callbacks.
        settings: all of these, and the arguments of `ModelFields` (``device``, ``dtype``, ``max_input_tiles``, ...) and
            `NodeReading` (``modality``, ``on_missing_image``, ``image_roots``, ``image_hosts``, ``image_keys``, ...).

    Raises:
        InputError: no question, or a question without text.
        ImageError: a picture cannot be read and `on_missing_image` is ``raise``; the message names the node.
        NonFiniteError: the model gave NaN or infinity.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from nemotron_rag.testing import FakeReranker
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("blue whales", "red apples")]
        >>> best, = NemotronRerank(FakeReranker(), top_n=1).postprocess_nodes(nodes, query_str="red apples")
        >>> best.text, best.score
        ('red apples', 5.0)
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True)

    model: str = Field(frozen=True)
    top_n: int | None = Field(default=5, ge=0)
    batch_size: int = Field(default=32, ge=1)
    keep_retrieval_score: bool = False
    score_transform: ScoreTransform = "raw"
    score_threshold: float | None = None
    text_for_llm: bool = True
    _model: LazyModel[Reranker] = PrivateAttr()

    def __init__(
        self,
        model: str | os.PathLike[str] | Reranker = "llama-nemotron-rerank-vl-1b-v2",
        **settings: Unpack[_RerankSettings],
    ) -> None:
        lazy = lazy_reranker(model, **load_options(settings))
        fields: dict[str, Any] = {**settings, "model": lazy.name, "identity": lazy.identity}
        super().__init__(**fields)
        self._model = lazy

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "NemotronRerank"

    def close(self) -> None:
        """Free the weights loaded here; the next use loads them again. A model that was given stays open."""
        self._model.close()

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _checked(query_bundle)
        with self._events(nodes, query) as result:
            scored: list[tuple[Reading, float]] = []
            for start, batch in self._batches(nodes):
                readings = self.read(batch, start=start)
                scored += _paired(readings, self._model.get().score(query.query_str, [r.passage for r in readings]))
            result += self._ranked(nodes, scored)
        return result

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _checked(query_bundle)
        with self._events(nodes, query) as result:
            scored: list[tuple[Reading, float]] = []
            for start, batch in self._batches(nodes):
                readings = await asyncio.to_thread(self.read, batch, start=start)
                model = await self._model.aget()
                scored += _paired(readings, await model.ascore(query.query_str, [r.passage for r in readings]))
            result += self._ranked(nodes, scored)
        return result

    def _events(self, nodes: Sequence[NodeWithScore], query: QueryBundle) -> _Events:
        return rerank_events(self.callback_manager, query=query, nodes=nodes, top_n=self.top_n, model_name=self.model)

    def _batches(self, nodes: Sequence[NodeWithScore]) -> Iterator[tuple[int, list[BaseNode]]]:
        for start in range(0, len(nodes), self.batch_size):
            yield start, [item.node for item in nodes[start : start + self.batch_size]]

    def _ranked(self, nodes: Sequence[NodeWithScore], scored: Sequence[tuple[Reading, float]]) -> list[NodeWithScore]:
        """New scored nodes, best first; equal scores keep the caller's order."""
        best_first = sorted(scored, key=lambda pair: -pair[1])
        kept = [(reading, self._shown(logit)) for reading, logit in best_first]
        if self.score_threshold is not None:
            kept = [(reading, score) for reading, score in kept if score >= self.score_threshold]
        return [
            NodeWithScore(node=self._result(nodes[reading.index], reading), score=score)
            for reading, score in kept[: self.top_n]
        ]

    def _shown(self, logit: float) -> float:
        return logit if self.score_transform == "raw" else 0.5 * (1.0 + math.tanh(0.5 * logit))  # no overflow

    def _result(self, item: NodeWithScore, reading: Reading) -> BaseNode:
        node = without_picture(item.node) if reading.missing else item.node
        if self.text_for_llm:
            node = for_llm(node)
        if not self.keep_retrieval_score:
            return node
        return node.model_copy(
            update={
                "metadata": {RETRIEVAL_SCORE: item.score, **node.metadata},
                "excluded_embed_metadata_keys": _with_key(node.excluded_embed_metadata_keys),
                "excluded_llm_metadata_keys": _with_key(node.excluded_llm_metadata_keys),
            }
        )


def _with_key(keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*keys, RETRIEVAL_SCORE]))


def _checked(query: QueryBundle | None) -> QueryBundle:
    if query is None:
        raise InputError("Missing query bundle: wanted a question to rank by, got none; pass query_str=")
    if not query.query_str.strip():
        image = f" with image_path={query.image_path!r}" if query.image_path else ""
        raise InputError(f"wanted a question in words, got an empty query_str{image}; the model reads text questions")
    return query


def _paired(readings: Sequence[Reading], scores: FloatArray) -> list[tuple[Reading, float]]:
    """Each reading with its score, as a Python float."""
    if len(scores) != len(readings):
        raise NemotronRagError(f"wanted {len(readings)} scores from the reranker, got {len(scores)}")
    pairs = [(reading, float(score)) for reading, score in zip(readings, scores, strict=True)]
    for reading, score in pairs:
        if not math.isfinite(score):
            raise NonFiniteError(f"the score of node {reading.index} is {score}; load the model with another dtype")
    return pairs
