"""The server: routes, and what each wire format is answered with."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from nemotron_rag.errors import ClosedError, InputError, ItemTooLargeError, NemotronRagError, UnknownModelError
from nemotron_rag.protocols import FloatArray
from nemotron_rag.ranking import sigmoid
from nemotron_rag.report import hit_json
from nemotron_rag.serve.inputs import Input, to_passage, to_passages
from nemotron_rag.serve.limits import Limits, failure
from nemotron_rag.serve.metrics import CONTENT_TYPE_LATEST, Metrics
from nemotron_rag.serve.requests import EmbeddingsRequest, RankingRequest, RerankRequest, SearchRequest
from nemotron_rag.serve.served import Served, ServeSettings
from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.types import Hit, Page, Passage, Query

__all__ = ["make_app"]

_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (UnknownModelError, 404, "model_not_found"),
    (InputError, 422, "invalid_request"),
    (ItemTooLargeError, 413, "too_large"),
    (ClosedError, 503, "unavailable"),
    (NemotronRagError, 500, "failed"),
)


def make_app(served: Served, settings: ServeSettings | None = None) -> FastAPI:
    """Build the ASGI application; ``nemotron-rag serve`` runs it with uvicorn.

    Args:
        served: what it offers.
        settings: its limits; None for the defaults.
    """
    settings = settings or ServeSettings()
    metrics = Metrics()
    app = FastAPI(title="nemotron-rag", docs_url="/docs", redoc_url=None)
    app.add_middleware(Limits, settings=settings, metrics=metrics)
    _add_errors(app)
    _add_health(app, served, metrics)
    if served.embedder is not None:
        _add_embeddings(app, served, settings, metrics)
    if served.reranker is not None:
        _add_reranking(app, served, settings, metrics)
    if served.index is not None:
        _add_search(app, served, settings)
    return app


def _add_errors(app: FastAPI) -> None:
    """Every failure is one line; what is not expected says no more than that."""

    @app.exception_handler(NemotronRagError)
    async def known(_: Request, error: NemotronRagError) -> JSONResponse:
        status, kind = next((status, kind) for cls, status, kind in _STATUS if isinstance(error, cls))
        return failure(status, str(error), kind)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return failure(422, f"{place}: {first['msg']}" if place else str(first["msg"]), "invalid_request")

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return failure(error.status_code, str(error.detail), "invalid_request")

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return failure(500, f"unexpected {type(error).__name__}; the server's log says more", "failed")


def _add_health(app: FastAPI, served: Served, metrics: Metrics) -> None:
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    for path in ("/health", "/v1/health/live", "/v1/health/ready"):
        app.get(path)(ready)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": await asyncio.to_thread(lambda: list(served.names()))}

    async def counted() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    for path in ("/metrics", "/v1/metrics"):
        app.get(path)(counted)


def _add_embeddings(app: FastAPI, served: Served, settings: ServeSettings, metrics: Metrics) -> None:
    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingsRequest) -> dict[str, Any]:
        lazy, role = served.embedder_for(request.model)
        inputs = _inputs(request.input)
        _check_count(inputs, settings, "inputs")
        passages = to_passages(inputs, settings.images, _modalities(request, len(inputs)))
        model = await lazy.aget()
        _check_dimensions(request.dimensions, model.dimensions)
        is_query = _is_query(request.input_type or role, lazy.name)
        embed: Callable[[Any], Any] = model.aembed_queries if is_query else model.aembed_passages
        rows = await embed([_as_query(one) for one in passages] if is_query else passages)
        metrics.count("embedded", len(rows))
        write: Callable[[FloatArray], object] = _as_base64 if request.encoding_format == "base64" else _as_list
        data = [{"object": "embedding", "index": place, "embedding": write(row)} for place, row in enumerate(rows)]
        return {"object": "list", "data": data, "model": lazy.name}


def _add_reranking(app: FastAPI, served: Served, settings: ServeSettings, metrics: Metrics) -> None:
    async def score(name: str, query: Passage, given: Sequence[Input], what: str) -> FloatArray:
        _check_count(given, settings, what)
        passages = to_passages(given, settings.images, [None] * len(given))
        model = await served.reranker_for(name).aget()
        logits = await model.ascore(_as_query(query), passages)
        metrics.count("scored", len(passages))
        return logits

    @app.post("/v1/ranking")
    async def ranking(request: RankingRequest) -> dict[str, Any]:
        query = to_passage(request.query.model_dump(), settings.images)
        logits = await score(request.model, query, list(request.passages), "passages")
        rows = [{"index": int(place), "logit": float(logits[place])} for place in _order(logits)]
        return {"rankings": rows}

    async def rerank(request: RerankRequest) -> dict[str, Any]:
        documents = _documents(request.documents)
        query = to_passage(request.query, settings.images)
        logits = await score(request.model, query, documents, "documents")
        rows = [
            {"index": int(place), "relevance_score": sigmoid(float(logits[place])), "logit": float(logits[place])}
            | ({"document": _returned(documents[place])} if request.return_documents else {})
            for place in _order(logits)[: request.top_n]
        ]
        name = served.reranker_for(request.model).name
        return {"id": str(uuid.uuid4()), "model": name, "results": rows}

    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        app.post(path)(rerank)


def _add_search(app: FastAPI, served: Served, settings: ServeSettings) -> None:
    index, shown = served.index, _Shown()
    assert index is not None

    @app.post("/v1/search")
    async def search(request: SearchRequest) -> dict[str, Any]:
        hits = await index.asearch(**request.model_dump())
        return {"query": request.query, "hits": [_hit(hit, shown) for hit in hits]}

    @app.get("/v1/images/{page_id}")
    async def image(page_id: str) -> Response:
        found = shown.get(page_id)
        if found is None:
            raise HTTPException(404, f"no page {page_id!r} was found lately; search again")
        return Response(await asyncio.to_thread(found.read_bytes), media_type=f"image/{found.image_format}")


_SHOWN = 10_000


class _Shown:
    """The images of pages that were found lately: clients get these and no others."""

    def __init__(self) -> None:
        self._images: OrderedDict[str, StoredImage] = OrderedDict()

    def put(self, page_id: str, image: StoredImage) -> None:
        self._images[page_id] = image
        self._images.move_to_end(page_id)
        if len(self._images) > _SHOWN:
            self._images.popitem(last=False)

    def get(self, page_id: str) -> StoredImage | None:
        return self._images.get(page_id)


def _hit(hit: Hit, shown: _Shown) -> dict[str, Any]:
    """A hit as JSON; images are paths on this server."""

    def url(page: Page) -> str | None:
        if not isinstance(page.image, StoredImage):
            return None
        shown.put(page.id, page.image)
        return f"/v1/images/{quote(page.id, safe='')}"

    return hit_json(hit, image=url)


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


def _as_query(given: Passage) -> Query:
    return given.text if given.image is None else given


def _check_count(given: Sequence[object], settings: ServeSettings, what: str) -> None:
    if not given:
        raise InputError(f"{what} must hold at least one")
    if len(given) > settings.max_items:
        raise InputError(f"{what} may hold {settings.max_items} at most, got {len(given)}; send several requests")


def _check_dimensions(wanted: int | None, there: int) -> None:
    if wanted is not None and wanted != there:
        raise InputError(f"this server's vectors have {there} dimensions, got dimensions={wanted}")


def _as_base64(row: FloatArray) -> str:
    """Little-endian float32, as OpenAI's clients decode it."""
    return base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode()


def _as_list(row: FloatArray) -> object:
    return row.tolist()


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
