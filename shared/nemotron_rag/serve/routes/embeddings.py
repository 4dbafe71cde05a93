"""``/v1/embeddings``, in the shapes of OpenAI, NVIDIA NIM, OpenRouter and Ollama."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI

from nemotron_rag._token_count import counting_tokens
from nemotron_rag.errors import InputError
from nemotron_rag.protocols import FloatArray
from nemotron_rag.serve.inputs import Input, as_query, check_count, to_passages
from nemotron_rag.serve.metrics import Metrics
from nemotron_rag.serve.requests import EmbeddingsRequest
from nemotron_rag.serve.served import Served, ServeSettings

__all__ = ["add_embeddings"]


def add_embeddings(app: FastAPI, served: Served, settings: ServeSettings, metrics: Metrics) -> None:
    """Add the route."""

    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingsRequest) -> dict[str, Any]:
        name, lazy, role = served.embedder_for(request.model)
        inputs = _inputs(request.input)
        check_count(inputs, settings, "inputs")
        passages = to_passages(inputs, settings.images, _modalities(request, len(inputs)))
        model = await lazy.aget()
        _check_dimensions(request.dimensions, model.dimensions)
        is_query = _is_query(role or request.input_type, name)  # some clients send one input_type for all
        embed: Callable[[Any], Any] = model.aembed_queries if is_query else model.aembed_passages
        with counting_tokens() as tokens:
            rows = await embed([as_query(one) for one in passages] if is_query else passages)
        metrics.count("embedded", len(rows))
        write: Callable[[FloatArray], object] = _as_base64 if request.encoding_format == "base64" else _as_list
        data = [{"object": "embedding", "index": place, "embedding": write(row)} for place, row in enumerate(rows)]
        return {"object": "list", "data": data, "model": name, **_usage(tokens.total)}


def _usage(tokens: int | None) -> dict[str, Any]:
    return {} if tokens is None else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _inputs(given: Any) -> list[Input]:
    if not isinstance(given, list):
        return [given]
    is_parts = bool(given) and all(isinstance(one, dict) and "type" in one for one in given)
    return [given] if is_parts else given


def _modalities(request: EmbeddingsRequest, count: int) -> list[Any]:
    given = request.modality
    if not isinstance(given, list):
        return [given] * count
    if len(given) != count:
        raise InputError(f"modality has {len(given)} entries for {count} inputs; give one each, or one for all")
    return list(given)


def _is_query(role: str | None, name: str) -> bool:
    if role is None:
        raise InputError(
            f"input_type must be 'query' or 'passage', since {name} embeds them differently; "
            f"where it cannot be sent, name the model {name}-query or {name}-passage"
        )
    return role in ("query", "search_query")


def _check_dimensions(wanted: int | None, there: int) -> None:
    if wanted is not None and wanted != there:
        raise InputError(f"this server's vectors have {there} dimensions, got dimensions={wanted}")


def _as_base64(row: FloatArray) -> str:
    """Little-endian float32, as OpenAI's clients decode it."""
    return base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode()


def _as_list(row: FloatArray) -> object:
    return row.tolist()
