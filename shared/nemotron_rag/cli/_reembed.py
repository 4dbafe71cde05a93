"""The command ``reembed``: the pages of an index with another model, without their documents."""

from __future__ import annotations

import sys
from typing import Annotated, Any, cast

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output
from nemotron_rag.cli._load import sample_line

__all__ = ["reembed"]


def reembed(
    location: options.Index,
    into: Annotated[str, typer.Option(metavar="COLLECTION", help="New collection, beside the old one.")],
    embedder: Annotated[str, typer.Option(help="The new model: catalog id or local folder.")],
    to: Annotated[
        str | None, typer.Option(metavar="FOLDER|URL", help="Another place for it; by default that of the old one.")
    ] = None,
    collection: options.Collection = "pages",
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    patience: options.Patience = None,
    tenant: options.Tenant = None,
    images: options.Images = None,
    new_images: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|URL|none", help="Where the new index keeps images; on a server by default there."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(metavar="N/OF", help="Only this share of the pages, such as 1/4 of four machines.")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    dimensions: options.Dimensions = None,
    max_tiles: options.MaxTiles = None,
    max_length: options.MaxLength = None,
    token_pooling: options.TokenPooling = None,
    max_rows: options.MaxRows = None,
    token_storage: options.TokenStorage = None,
    on_error: options.ErrorMode = "skip",
    base_url: options.BaseUrl = None,
    dialect: options.Dialect = None,
    engine: options.Engine = None,
    address: options.Address = None,
    alias: Annotated[
        str | None,
        typer.Option(
            help="When the new collection has every page, let this name lead to it: searches that open it change over "
            "at once. On a server."
        ),
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Embed the pages of an index with another model, from the images and texts that it stores.

    The old collection stays as it is; ids, metadata and documents are the same in the new one. Interrupted and run
    again, it goes on. The exit code is 1 if the new collection lacks a page.
    """
    # ruff: noqa: PLC0415  # nothing of this is needed by the other commands
    from nemotron_rag.batch.workers import Workers
    from nemotron_rag.cli import _index
    from nemotron_rag.errors import InputError
    from nemotron_rag.index import PageIndex
    from nemotron_rag.index.reembedding import check_copy, point_alias
    from nemotron_rag.index.reembedding import reembed as embed_anew
    from nemotron_rag.stores.server import is_url

    share = _part(part)
    if address is not None and engine is None:
        raise InputError("--address is of a Ray cluster; give --engine ray")
    place = options.place(api_key, header, timeout, tenant, patience=patience)
    target = location if to is None else to
    kept = images if new_images is None and is_url(target) else new_images
    with (
        _index.open_existing(location, collection, images, place) as old,
        PageIndex(
            target,
            embedder=embedder,
            collection=into,
            **place,
            images=_index.images_argument(kept),
            token_vectors=options.token_vectors(token_pooling, max_rows, token_storage),
            device=device,
            dtype=dtype,
            revision=revision,
            dimensions=dimensions,
            max_input_tiles=max_tiles,
            max_length=max_length,
            base_url=base_url,
            dialect=cast("Any", dialect),
        ) as new,
    ):
        report = embed_anew(
            old,
            new,
            part=share,
            on_error=on_error,
            progress=sys.stderr.isatty(),
            engine=engine,
            workers=None if engine is None else Workers(address=address),
        )
        lacking, sample = check_copy(old, new)
        complete = not lacking and not sample.lost
        if alias is not None and complete:
            point_alias(new, alias)
    led = alias if complete else None
    if as_json:
        output.show_json(output.added_json(report) | {"lacking": lacking, "found": sample.found, "alias": led})
    else:
        output.say_lines([*output.added_lines(report), _lacks(lacking, into)])
        if sample.asked:
            output.say(sample_line(sample))
        if alias is not None:
            output.say(f"{alias!r} leads to {into!r} now" if complete else f"{alias!r} was left as it is")
    return 0 if complete or (share is not None and not report.failures) else 1


def _lacks(lacking: int, into: str) -> str:
    if not lacking:
        return f"collection {into!r} has every page of the old one"
    return f"collection {into!r} lacks {output.count(lacking, 'page')} of the old one; run the command again"


def _part(text: str | None) -> tuple[int, int] | None:
    """``1/4`` -> ``(1, 4)``."""
    if text is None:
        return None
    number, slash, parts = text.partition("/")
    if not slash or not number.isdigit() or not parts.isdigit() or not 1 <= int(number) <= int(parts):
        raise typer.BadParameter(f"--part takes N/OF, such as 1/4; got {text!r}")
    return int(number), int(parts)
