"""The command ``mcp``: an index as tools for agents."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output
from nemotron_rag.errors import MissingExtraError

__all__ = ["mcp"]


def mcp(
    location: options.Index,
    transport: Annotated[
        Literal["stdio", "http"], typer.Option(help="stdio for a program that starts this one, http for others.")
    ] = "stdio",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of http, on this machine only.")] = 8001,
    reranker: Annotated[str | None, typer.Option(help="Catalog id or local folder.")] = None,
    max_image_tokens: Annotated[int, typer.Option(min=0, help="For all images of an answer.")] = 6000,
    collection: options.Collection = "pages",
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    tenant: options.Tenant = None,
    images: options.Images = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    base_url: options.BaseUrl = None,
    reranker_base_url: options.RerankerBaseUrl = None,
    dialect: options.Dialect = None,
) -> int:
    """Offer an index to agents by the Model Context Protocol: search, read a page, list documents."""
    # ruff: noqa: PLC0415  # nothing of this is needed by the other commands
    from nemotron_rag.cli import _index

    try:
        from nemotron_rag.serve.agent_tools import ToolSettings, make_mcp_server
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "pydantic"):
            raise
        raise MissingExtraError("mcp", "mcp") from error
    place = options.place(api_key, header, timeout, tenant)
    models = {"reranker": reranker, "device": device, "dtype": dtype, "base_url": base_url, "dialect": dialect}
    models |= options.reranker_place(reranker_base_url)
    with _index.open_existing(location, collection, images, place, **models) as source:
        server = make_mcp_server(source, ToolSettings(max_image_tokens=max_image_tokens))
        if transport == "stdio":
            server.run("stdio")
        else:
            output.say(f"http://127.0.0.1:{port}/mcp")
            server.run("streamable-http", host="127.0.0.1", port=port)
    return 0
