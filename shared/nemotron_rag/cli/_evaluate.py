"""The command ``evaluate``: how well models, modes and rerankers find the pages that answer judged queries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output

if TYPE_CHECKING:
    from nemotron_rag.evaluation import Evaluation

__all__ = ["evaluate"]


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="QUERIES",
            help="A CSV with the columns question, file and page; a folder in the layout of BEIR or ViDoRe; or "
            "owner/name of such a data set on the model hub.",
        ),
    ],
    pages: Annotated[
        list[str] | None, typer.Option(metavar="FILE|FOLDER", help="The PDFs that a CSV is about; repeatable.")
    ] = None,
    embedder: Annotated[
        list[str] | None, typer.Option(help="Catalog id or local folder; repeatable. By default NVIDIA's VL model.")
    ] = None,
    reranker: Annotated[list[str] | None, typer.Option(help="Likewise; each is tried, and none.")] = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(metavar="text|image|image_text", help="What models see of a page; repeatable."),
    ] = None,
    mode: Annotated[
        list[str] | None, typer.Option(metavar="dense|multi|hybrid", help="As of search; repeatable.")
    ] = None,
    candidates: Annotated[list[int] | None, typer.Option(min=1, help="Pages a reranker reads; repeatable.")] = None,
    index: Annotated[
        list[str] | None, typer.Option(metavar="INDEX", help="An index that there is, instead of new ones; repeatable.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="Cut-off of the metrics; repeatable.")] = None,
    to: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where results and indexes are kept; run again, it goes on there.")
    ] = Path("evaluation"),
    language: Annotated[list[str] | None, typer.Option(help="Only queries of this language; repeatable.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set that has several; by default test.")] = None,
    subset: Annotated[str | None, typer.Option(help="Of a data set that has several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a data set on the hub.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch a data set that is not in the cache.")] = False,
    misses: Annotated[int, typer.Option(min=0, help="Misses that the HTML page shows.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    pdf_engine: options.PdfRenderer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_tiles: options.MaxTiles = None,
    max_image_tokens: options.MaxImageTokens = None,
    as_json: options.Json = False,
) -> int:
    """Measure how well pages are found.

    Writes evaluation.html, evaluation.json and evaluation.md into --to. Killed and run again, it goes on where it was.
    """
    # ruff: noqa: PLC0415  # nothing of this is needed by the other commands
    from nemotron_rag.evaluation import evaluate as run
    from nemotron_rag.evaluation import read_dataset, write_evaluation

    data = read_dataset(dataset, split=split, subset=subset, revision=revision, download=download)
    if language:
        data = data.only(language=language)
    loading = {"device": device, "dtype": dtype, "max_input_tiles": max_tiles, "max_image_tokens": max_image_tokens}
    found = run(
        data,
        pages=pages or [],
        embedders=embedder or ([] if index else [options.DEFAULT_EMBEDDER]),
        rerankers=reranker or [],
        modalities=cast("Any", modality or ["image_text"]),
        modes=cast("Any", mode),
        candidates=candidates or [],
        indexes={name: name for name in index or []},
        k=k or (1, 5, 10),
        pdf_engine=pdf_engine or "auto",
        to=to,
        seed=seed,
        progress=sys.stderr.isatty(),
        **cast("Any", {name: value for name, value in loading.items() if value is not None}),
    )
    written = write_evaluation(found, to, misses=misses)
    if as_json:
        output.show_json(found.to_json())
    else:
        _show(found)
        output.say(f"misses and costs: open {written.html} in a browser; {written.json.name} has every query")
    return 0


def _show(found: Evaluation) -> None:
    from nemotron_rag.evaluation.shown import (
        all_notes,
        difference_text,
        facts_text,
        interval_text,
        metric_text,
        shown_metrics,
    )

    metrics = shown_metrics(found)
    columns = ["system", metric_text(found.main), *(["against the first"] if found.differences else [])]
    rows = []
    for system in found.systems:
        difference = found.differences.get(system.name, {}).get(found.main)
        against = [("" if difference is None else difference_text(difference))] if found.differences else []
        means = (f"{system.intervals[name].mean:.2f}" for name in metrics[1:])
        rows.append([system.name, interval_text(system.intervals[found.main]), *against, *means])
    output.say(facts_text(found))
    output.show(output.plain_table([*columns, *map(metric_text, metrics[1:])], rows))
    output.say_lines(f"note: {note}" for note in all_notes(found))
