"""The command ``mteb``: a task of mteb, such as one of ViDoRe, run with our models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output

__all__ = ["run_mteb"]


def run_mteb(
    tasks: Annotated[list[str], typer.Argument(metavar="TASKS...", help="Of mteb, such as Vidore3HrRetrieval.v2.")],
    embedder: Annotated[str, typer.Option(help="Catalog id or local folder.")] = options.DEFAULT_EMBEDDER,
    reranker: Annotated[str | None, typer.Option(help="Likewise; it ranks what the embedder found.")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Pages the reranker reads for each query.")] = 50,
    modality: Annotated[
        str, typer.Option(metavar="text|image|image_text", help="What models see of pages that have both.")
    ] = "image_text",
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where mteb's result files go.")] = Path("mteb"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run again what has results there.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_tiles: options.MaxTiles = None,
    max_image_tokens: options.MaxImageTokens = None,
    as_json: options.Json = False,
) -> int:
    """Run tasks of mteb, and write its result files.

    mteb fetches the data of a task from the model hub. Needs the extra mteb.
    """
    # ruff: noqa: PLC0415  # nothing of this is needed by the other commands
    from nemotron_rag.compat.mteb import MtebEncoder, MtebReranker, run_task
    from nemotron_rag.models.load import takes

    loading = {"device": device, "dtype": dtype, "max_input_tiles": max_tiles, "max_image_tokens": max_image_tokens}
    given: dict[str, Any] = {name: value for name, value in loading.items() if value is not None}
    seen = cast("Any", modality)
    encoder, ranker = MtebEncoder(embedder, modality=seen, **given), None
    if reranker is not None:
        shared = {name: value for name, value in given.items() if takes(reranker, name, "reranker")}
        ranker = MtebReranker(reranker, modality=seen, **shared)
    mode = "always" if overwrite else "only-missing"
    found = []
    for task in tasks:
        scores = run_task(task, encoder, to=to, reranker=ranker, candidates=candidates, overwrite=cast("Any", mode))
        found += [
            {"task": task, "model": each.model, "score": each.main_score, "path": str(each.path)} for each in scores
        ]
    if as_json:
        output.show_json(found)
    else:
        rows = [[str(each["task"]), str(each["model"]), f"{each['score']:.4f}", str(each["path"])] for each in found]
        output.show(output.plain_table(["task", "model", "score", "result file"], rows))
    return 0
