"""``/v1/ranking`` in NVIDIA NIM's shape, and ``/rerank`` in those of Cohere, Jina and vLLM."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI

from nemotron_rag._token_count import counting_tokens
from nemotron_rag.errors import InputError
from nemotron_rag.protocols import FloatArray
from nemotron_rag.ranking import sigmoid
from nemotron_rag.serve.inputs import Input, as_query, check_count, to_passage, to_passages
from nemotron_rag.serve.metrics import Metrics
from nemotron_rag.serve.requests import RankingRequest, RerankRequest
from nemotron_rag.serve.served import Served, ServeSettings
from nemotron_rag.types import Passage

__all__ = ["add_reranking"]


def add_reranking(app: FastAPI, served: Served, settings: ServeSettings, metrics: Metrics) -> None:
    """Add the routes."""

    async def score(name: str, query: Passage, given: Sequence[Input], what: str) -> tuple[FloatArray, int | None]:
        """The logits, and how many tokens were computed for them."""
        check_count(given, settings, what)
        passages = to_passages(given, settings.images, [None] * len(given))
        model = await served.reranker_for(name).model.aget()
        with counting_tokens() as tokens:
            logits = await model.ascore(as_query(query), passages)
        metrics.count("scored", len(passages))
        return logits, tokens.total

    async def ranking(request: RankingRequest) -> dict[str, Any]:
        query = to_passage(request.query.model_dump(), settings.images)
        logits, tokens = await score(request.model, query, list(request.passages), "passages")
        rows = [{"index": int(place), "logit": float(logits[place])} for place in _order(logits)]
        usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
        return {"rankings": rows, **usage}

    async def hosted(model: str, request: RankingRequest) -> dict[str, Any]:
        return await ranking(request.model_copy(update={"model": request.model or model}))

    async def rerank(request: RerankRequest) -> dict[str, Any]:
        documents = _documents(request.documents)
        query = to_passage(request.query, settings.images)
        logits, tokens = await score(request.model, query, documents, "documents")
        rows = [
            {"index": int(place), "relevance_score": sigmoid(float(logits[place])), "logit": float(logits[place])}
            | ({"document": _returned(documents[place])} if request.return_documents else {})
            for place in _order(logits)[: request.top_n]
        ]
        name = served.reranker_for(request.model).name
        return {"id": str(uuid.uuid4()), "model": name, "results": rows, **_usage(tokens)}

    app.post("/v1/ranking")(ranking)
    app.post("/v1/retrieval/{model:path}/reranking")(hosted)  # where NVIDIA's hosted models are
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        app.post(path)(rerank)


def _usage(tokens: int | None) -> dict[str, Any]:
    """Where Jina's and vLLM's clients look for it, and where Cohere's do."""
    return {} if tokens is None else {"usage": {"total_tokens": tokens}, "meta": {"tokens": {"input_tokens": tokens}}}


def _order(logits: FloatArray) -> list[int]:
    """Places from best to worst; equal ones as they came."""
    found: list[int] = np.argsort(-logits, kind="stable").tolist()
    return found


def _documents(given: list[Input] | dict[str, Any]) -> list[Input]:
    """The documents; vLLM's clients put a list of parts under ``content``, each a document of its own."""
    if isinstance(given, list):
        return given
    content = given.get("content")
    if not isinstance(content, list):
        raise InputError("documents must be a list, or {'content': [parts]}")
    return [[part] for part in content]


def _returned(document: Input) -> dict[str, Any]:
    """A document in an answer: its text, without its image."""
    if isinstance(document, str):
        return {"text": document if not document.startswith("data:") else ""}
    text = document.get("text", "") if isinstance(document, dict) else ""
    return {"text": text}
