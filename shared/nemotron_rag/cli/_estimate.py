"""The command ``estimate``: machines, hours and bytes for many pages."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output

if TYPE_CHECKING:
    from nemotron_rag.batch.costs import Costs, Rates

__all__ = ["estimate"]

_SIZES = (1_000_000, 100_000_000, 1_000_000_000)
_DAY = 24.0


def estimate(
    documents: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DOCUMENTS...]", help="Like those to be indexed: rates are measured with them here."),
    ] = None,
    embedder: Annotated[str, typer.Option(help="Catalog id or local folder.")] = options.DEFAULT_EMBEDDER,
    pages: Annotated[list[int] | None, typer.Option(min=1, help="How many pages; repeatable.")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs that embed; by default as many as --hours takes.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.01, help="In which it is to be done; by default a day, unless --gpus.")
    ] = None,
    render_rate: Annotated[float | None, typer.Option(min=0.001, help="Pages a second that one CPU renders.")] = None,
    embed_rate: Annotated[float | None, typer.Option(min=0.001, help="Pages a second that one GPU embeds.")] = None,
    write_rate: Annotated[float | None, typer.Option(min=0.001, help="Pages a second that one process writes.")] = None,
    image_bytes: Annotated[int | None, typer.Option(min=0, help="Of a page's image.")] = None,
    payload_bytes: Annotated[int | None, typer.Option(min=0, help="Of a page's text and metadata.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Pages to measure with, at most.")] = 64,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> int:
    """Estimate machines, hours and bytes for many pages.

    Rates are measured on this machine, one process at a time, with documents that are given; what is given as an option
    is taken as it is. Without documents, give at least --render-rate and --embed-rate.
    """
    given = {"render": render_rate, "embed": embed_rate, "write": write_rate}
    given |= {"image_bytes": image_bytes, "payload_bytes": payload_bytes}
    known = {name: value for name, value in given.items() if value is not None}
    rates = _rates(documents, embedder, known, sample, device=device, dtype=dtype)
    within = hours if gpus is not None else hours or _DAY
    costs = [rates.costs(count, gpus=gpus, hours=within) for count in pages or _SIZES]
    if as_json:
        output.show_json({"rates": asdict(rates), "measured": bool(documents), "costs": [*map(_json, costs)]})
        return 0
    measured = [name for name in ("render", "embed", "write") if name not in known] if documents else []
    output.say_lines(_rate_lines(rates, measured))
    output.show(_table(costs))
    return 0


def _rates(documents: list[str] | None, embedder: str, known: dict[str, Any], sample: int, **load: Any) -> Rates:
    # ruff: noqa: PLC0415  # nothing of this is needed by the other commands
    from dataclasses import replace

    from nemotron_rag.batch.costs import Rates, measure
    from nemotron_rag.errors import InputError
    from nemotron_rag.evaluation.documents import files_of

    if documents:
        options = {name: value for name, value in load.items() if value is not None}
        read = (file.document for file in files_of(documents).files)
        return replace(measure(read, embedder, pages=sample, **options), **known)
    if not {"render", "embed"} <= known.keys():
        raise InputError("give DOCUMENTS to measure with, or --render-rate and --embed-rate")
    return Rates(vector_bytes=_vector_bytes(embedder), **known)


def _vector_bytes(embedder: str) -> int:
    from nemotron_rag.cli._models import page_bytes
    from nemotron_rag.errors import InputError
    from nemotron_rag.models.catalog import find

    stored = page_bytes(find(embedder))
    if stored is None:
        raise InputError(f"{embedder} is no embedder; `nemotron-rag models` lists them")
    return stored[1]


def _rate_lines(rates: Rates, measured: list[str]) -> list[str]:
    written = "not known" if rates.write is None else f"{rates.write:.1f} pages/s a process"
    stages = {
        "render": f"{rates.render:.1f} pages/s a CPU",
        "embed": f"{rates.embed:.2f} pages/s a GPU (or process)",
        "write": written,
    }
    lines = [f"{name}: {rate}{', measured here' if name in measured else ''}" for name, rate in stages.items()]
    page = f"vectors {_size(rates.vector_bytes)}, text and metadata {_size(rates.payload_bytes)}"
    return [*lines, f"a page: {page}, image {_size(rates.image_bytes)}"]


def _table(costs: list[Costs]) -> Any:
    table = output.bare_table()
    names = (
        "pages",
        "GPUs",
        "hours",
        "GPU hours",
        "CPUs that render",
        "writers",
        "vectors",
        "graph",
        "payload",
        "images",
    )
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for each in costs:
        sizes = (each.vector_bytes, each.graph_bytes, each.payload_bytes, each.image_bytes)
        writers = "-" if each.writers is None else f"{each.writers:,}"
        counts = (f"{each.pages:,}", f"{each.gpus:,}", f"{each.hours:,.1f}", f"{each.gpu_hours:,.1f}")
        table.add_row(*counts, f"{each.render_cpus:,}", writers, *map(_size, sizes))
    return table


def _json(costs: Costs) -> dict[str, Any]:
    return asdict(costs) | {"stage_bytes": costs.stage_bytes}


def _size(count: int) -> str:
    """Bytes for people, in powers of ten as disks are sold."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:,.1f} {units[0]}"
