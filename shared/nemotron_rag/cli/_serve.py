"""The command ``serve``: models and an index behind HTTP until it is stopped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Annotated, Any

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output
from nemotron_rag.errors import InputError, MissingExtraError

__all__ = ["MODELS_KEY_VARIABLE", "serve"]

_STOPPING = 30  # seconds that requests under way have after SIGTERM
_ARRIVING = 0.5  # seconds before that, for those that clients have sent already
MODELS_KEY_VARIABLE = "NEMOTRON_RAG_MODELS_API_KEY"
"""The environment variable that holds the key of a server that has the models; that of this one is for its clients."""

_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    location: Annotated[
        str | None, typer.Argument(metavar="[INDEX]", help="Index to search: a folder, or URL of a Qdrant server.")
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]MODEL",
            help="Catalog id or local folder, for /v1/embeddings, and how clients call it; late-interaction models "
            "too; repeatable.",
        ),
    ] = None,
    reranker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]MODEL", help="Likewise, for /v1/rerank and /v1/ranking; the first also for the index."
        ),
    ] = None,
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
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"Of another server that has the models, the index's too; its key is in {MODELS_KEY_VARIABLE}.",
        ),
    ] = None,
    reranker_base_url: options.RerankerBaseUrl = None,
    dialect: options.Dialect = None,
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
    from nemotron_rag.models.lazy import LazyModel, lazy_reranker

    key = os.environ.get(API_KEY_VARIABLE) or None
    if key is None and host not in _LOCAL:
        raise InputError(f"{host} can be reached by others; set {API_KEY_VARIABLE}, or listen at 127.0.0.1")
    access = ImageAccess(hosts=tuple(image_host or ()))
    settings = ServeSettings(api_key=key, max_waiting=max_waiting, max_body_bytes=max_body << 20, images=access)
    embedders, rerankers = _named("embedder", embedder), _named("reranker", reranker)
    loading: dict[str, Any] = {"device": device, "dtype": dtype, **_at(base_url), "dialect": dialect}
    of_rerankers = {} if reranker_base_url is None else _elsewhere(reranker_base_url)
    with ExitStack() as opened:
        source = None
        if location is not None:
            place = options.place(api_key, header, timeout, tenant)
            models = {"reranker": next(iter(rerankers.values()), None), "reranker_options": of_rerankers or None}
            models |= loading
            source = opened.enter_context(_index.open_existing(location, collection, images, place, **models))
        served = Served(
            embedder={
                name: LazyModel(model, "embedder", "multivector_embedder", **loading)
                for name, model in embedders.items()
            },
            reranker={name: lazy_reranker(model, **{**loading, **of_rerankers}) for name, model in rerankers.items()},
            index=source,
        )
        served.load()
        config = uvicorn.Config(
            make_app(served, settings),
            host=host,
            port=port,
            log_level="warning",
            timeout_graceful_shutdown=_STOPPING,
            server_header=False,
        )
        with closing(config.bind_socket()) as listening:
            listening.listen(config.backlog)  # before the url is said: who reads it may connect at once
            output.say(f"http://{host}:{listening.getsockname()[1]}")
            _server(config).run(sockets=[listening])
    return 0


def _server(config: Any) -> Any:
    """A uvicorn server that reads what clients have sent already before it closes their connections."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            await asyncio.sleep(_ARRIVING)
            await super().shutdown(sockets)

    return Server(config)


def _at(base_url: str | None) -> dict[str, Any]:
    """Options of models at another server, whose key is not that of our clients."""
    from nemotron_rag.remote.endpoint import KEY_VARIABLE, key_variable

    if base_url is None:
        return {}
    own = key_variable(base_url)  # of a vendor's host
    return {"base_url": base_url, "endpoint": {"key_variable": MODELS_KEY_VARIABLE if own == KEY_VARIABLE else own}}


def _elsewhere(base_url: str) -> dict[str, Any]:
    """Options of rerankers that are not where the embedders are."""
    if base_url == "none":
        return dict.fromkeys(("base_url", "endpoint", "dialect"))
    return {**dict.fromkeys(("dialect", "device", "dtype")), **_at(base_url)}


def _named(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """The models by the names that clients call them by: ``["a", "b=./folder"]`` -> ``{"a": "a", "b": "./folder"}``."""
    from nemotron_rag.serve.served import public_name

    found: dict[str, str] = {}
    for text in given or ():
        name, equals, model = text.partition("=")
        if not equals or "/" in name or os.sep in name:  # a folder may have = in its name
            name, model = public_name(text), text
        if not name or not model:
            raise InputError(f"--{option} takes MODEL or NAME=MODEL; got {text!r}")
        if name in found:
            raise InputError(f"--{option} has two models named {name!r}; give NAME=MODEL")
        found[name] = model
    return found
