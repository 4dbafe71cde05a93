"""The command ``serve``: models and an index behind HTTP until it is stopped."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from typing import Annotated

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output
from nemotron_rag.errors import InputError, MissingExtraError

__all__ = ["serve"]

_STOPPING = 30  # seconds that requests under way have after SIGTERM
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    location: Annotated[
        str | None, typer.Argument(metavar="[INDEX]", help="Index to search: a folder, or URL of a Qdrant server.")
    ] = None,
    embedder: Annotated[str | None, typer.Option(help="Catalog id or local folder, for /v1/embeddings.")] = None,
    reranker: Annotated[str | None, typer.Option(help="Likewise, for /v1/rerank, /v1/ranking and the index.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests under way at once; more get 429.")] = 256,
    max_body: Annotated[int, typer.Option(min=1, help="Megabytes of a request; larger ones get 413.")] = 64,
    image_host: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="From where images may be fetched; repeatable.")
    ] = None,
    collection: options.Collection = "pages",
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    tenant: options.Tenant = None,
    images: options.Images = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> int:
    """Serve models and an index over HTTP.

    The formats are those of OpenAI, NVIDIA NIM, Cohere, Jina and vLLM. Clients need a key if the environment variable
    NEMOTRON_RAG_API_KEY holds one. SIGTERM answers what is under way, then stops.
    """
    # ruff: noqa: PLC0415  # nothing of this is needed by the other commands
    from nemotron_rag.cli import _index

    try:
        import uvicorn

        from nemotron_rag.serve.app import make_app
        from nemotron_rag.serve.served import API_KEY_VARIABLE, Served, ServeSettings
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "fastapi", "starlette", "pydantic", "prometheus_client"):
            raise
        raise MissingExtraError(error.name, "serve") from error
    from nemotron_rag.documents.access import ImageAccess
    from nemotron_rag.models.lazy import LazyModel

    key = os.environ.get(API_KEY_VARIABLE) or None
    if key is None and host not in _LOCAL:
        raise InputError(f"{host} can be reached by others; set {API_KEY_VARIABLE}, or listen at 127.0.0.1")
    access = ImageAccess(hosts=tuple(image_host or ()))
    settings = ServeSettings(api_key=key, max_waiting=max_waiting, max_body_bytes=max_body << 20, images=access)
    with ExitStack() as opened:
        source = None
        if location is not None:
            place = options.place(api_key, header, timeout, tenant)
            models = {"reranker": reranker, "device": device, "dtype": dtype}
            source = opened.enter_context(_index.open_existing(location, collection, images, place, **models))
        served = Served(
            embedder=None
            if embedder is None
            else LazyModel(embedder, "embedder", "multivector_embedder", device=device, dtype=dtype),
            reranker=None if reranker is None else LazyModel(reranker, "reranker", device=device, dtype=dtype),
            index=source,
        )
        for model in (served.embedder, served.reranker):
            if model is not None:
                model.get()  # a server that is ready answers its first request as fast as the others
        config = uvicorn.Config(
            make_app(served, settings),
            host=host,
            port=port,
            log_level="warning",
            timeout_graceful_shutdown=_STOPPING,
            server_header=False,
        )
        with closing(config.bind_socket()) as listening:
            output.say(f"http://{host}:{listening.getsockname()[1]}")
            uvicorn.Server(config).run(sockets=[listening])
    return 0
