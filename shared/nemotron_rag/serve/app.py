"""The server: an ASGI application made of routes, and what errors are answered with."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from nemotron_rag.errors import ClosedError, InputError, ItemTooLargeError, NemotronRagError, UnknownModelError
from nemotron_rag.serve.limits import Limits, failure
from nemotron_rag.serve.metrics import CONTENT_TYPE_LATEST, Metrics
from nemotron_rag.serve.routes.embeddings import add_embeddings
from nemotron_rag.serve.routes.reranking import add_reranking
from nemotron_rag.serve.routes.search import add_search
from nemotron_rag.serve.routes.search_page import add_search_page
from nemotron_rag.serve.served import Served, ServeSettings

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

    It has no page of FastAPI's that loads scripts from elsewhere: such a script would read what the search page holds.

    Args:
        served: what it offers.
        settings: its limits; None for the defaults.
    """
    settings = settings or ServeSettings()
    metrics = Metrics()
    app = FastAPI(title="nemotron-rag", docs_url=None, redoc_url=None)
    app.add_middleware(Limits, settings=settings, metrics=metrics)
    _add_errors(app)
    _add_health(app, served, metrics)
    if served.embedders:
        add_embeddings(app, served, settings, metrics)
    if served.rerankers:
        add_reranking(app, served, settings, metrics)
    if served.index is not None:
        add_search(app, served.index)
        add_search_page(app)
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
