"""The command line ``nemotron-rag``: arguments in, exit code out.

Exit codes: 0 success, 1 failure, 2 usage error, 130 interrupted. Every error is one line on stderr.
"""
# ruff: noqa: PLC0415
# Models, stores and PDF readers are imported inside the commands, so that ``--help`` answers at once.

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nemotron_rag.cli import _models
from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output
from nemotron_rag.cli._estimate import estimate
from nemotron_rag.cli._evaluate import evaluate
from nemotron_rag.cli._load import load
from nemotron_rag.cli._make_queries import make_queries
from nemotron_rag.cli._mcp import mcp
from nemotron_rag.cli._mteb import run_mteb
from nemotron_rag.cli._reembed import reembed
from nemotron_rag.cli._remote import vllm_template
from nemotron_rag.cli._serve import serve
from nemotron_rag.cli._verify import verify
from nemotron_rag.errors import InputError, NemotronRagError
from nemotron_rag.models.catalog import CATALOG
from nemotron_rag.types import Hit, Page, Passage, Region

if TYPE_CHECKING:
    from nemotron_rag.report import HeatmapOf, RegionsOf

__all__ = ["app", "main"]

_USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__base__)  # typer exports only this one of its children
_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find and rank PDF pages by their images, with NVIDIA's open Nemotron retrieval models.",
    epilog="Exit codes: 0 success, 1 failure, 2 usage error, 130 interrupted. "
    "Add --debug to any command to see where an error came from.",
)


@app.command()
def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCES...", help="PDFs, images, office files, web pages, texts, or folders or URLs of them."
        ),
    ],
    to: Annotated[str | None, typer.Option(metavar="FOLDER|URL", help="Index to write to; created if missing.")] = None,
    embedder: options.Embedder = None,
    stage: options.Stage = None,
    collection: options.Collection = "pages",
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    patience: options.Patience = None,
    tenant: options.Tenant = None,
    pages: options.Pages = None,
    password: options.Password = None,
    ocr: options.OcrMode = "auto",
    dpi: options.Dpi = None,
    pdf_engine: options.PdfRenderer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    dimensions: options.Dimensions = None,
    max_tiles: options.MaxTiles = None,
    thumbnail: options.Thumbnail = None,
    max_length: options.MaxLength = None,
    max_image_tokens: options.MaxImageTokens = None,
    compile: options.Compile = None,
    token_pooling: options.TokenPooling = None,
    max_rows: options.MaxRows = None,
    token_storage: options.TokenStorage = None,
    shards: options.Shards = None,
    replicas: options.Replicas = None,
    vectors_on_disk: options.VectorsOnDisk = False,
    payload_on_disk: options.PayloadOnDisk = False,
    quantization: options.Quantized = None,
    metadata_index: options.MetadataIndexes = None,
    strict: options.Strict = False,
    images: options.Images = None,
    prune: options.Prune = False,
    on_error: options.ErrorMode = "skip",
    base_url: options.BaseUrl = None,
    dialect: options.Dialect = None,
    engine: options.Engine = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> int:
    """Add documents to an index: PDFs, images, office files, web pages, texts.

    Files that are in the index and have not changed are skipped; the pages of a changed file are replaced. With
    --prune, files that have vanished from the folders named leave the index. With --stage instead of --to, what would
    be stored is written as Parquet files, for `load`.
    """
    options.check_pages(pages)
    from nemotron_rag.batch.workers import Workers
    from nemotron_rag.cli import _index
    from nemotron_rag.index import PageIndex

    if address is not None and engine is None:
        raise InputError("--address is of a Ray cluster; give --engine ray")
    to = options.index_or_stage(to, stage)
    place = options.place(api_key, header, timeout, tenant, patience=patience)
    if embedder is None and _index.record(to, collection, **place) is None:
        embedder = options.DEFAULT_EMBEDDER
    target = PageIndex(
        to,
        embedder=embedder,
        collection=collection,
        **place,
        images=_index.images_argument(images),
        dpi=dpi,
        pdf_engine=pdf_engine,
        token_vectors=options.token_vectors(token_pooling, max_rows, token_storage),
        collection_options=options.collection_options(
            shards=shards,
            replicas=replicas,
            vectors_on_disk=vectors_on_disk,
            payload_on_disk=payload_on_disk,
            quantization=quantization,
            metadata_indexes=metadata_index,
            strict=strict,
        ),
        device=device,
        dtype=dtype,
        revision=revision,
        dimensions=dimensions,
        max_input_tiles=max_tiles,
        use_thumbnail=thumbnail,
        max_length=max_length,
        max_image_tokens=max_image_tokens,
        compile=compile,
        base_url=base_url,
        dialect=cast("Any", dialect),
    )
    with target:
        bring = target.sync if prune else target.add
        report = bring(
            sources,
            pages=pages,
            password=password,
            ocr=ocr,
            on_error=on_error,
            progress=sys.stderr.isatty(),
            engine=engine,
            workers=None if engine is None else Workers(address=address),
        )
    if as_json:
        output.show_json(output.added_json(report))
    else:
        output.say_lines(output.added_lines(report))
    return 0 if report.added or report.unchanged or report.removed else 1


@app.command()
def search(
    location: options.Index,
    query: options.QueryWords = None,
    image: options.QueryImage = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Pages to return.")] = 10,
    candidates: options.Candidates = None,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Rerank with the model that belongs to the index's embedder.")
    ] = False,
    reranker: Annotated[str | None, typer.Option(help="Rerank with this model: catalog id or local folder.")] = None,
    mode: options.SearchMode = None,
    prefetch: options.Prefetch = None,
    min_score: options.MinScore = None,
    per_document: options.PerDocument = None,
    diversity: options.Diversity = None,
    neighbours: options.Neighbours = 0,
    instruction: options.Instruction = None,
    where: options.Where = None,
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
    as_json: options.Json = False,
    html: options.Html = None,
    regions: options.Regions = False,
) -> int:
    """Find the pages that answer a query, or look like an image."""
    options.check_html(html)
    if query is None and image is None:
        raise typer.BadParameter("give a QUERY, an --image, or both")
    if regions and query is None:
        raise typer.BadParameter("--regions needs a QUERY in words")
    conditions = options.parse_filter(where or [])
    from nemotron_rag.cli import _index

    start = time.perf_counter()
    place = options.place(api_key, header, timeout, tenant)
    if rerank and reranker is None:
        name = _index.record_of_existing(location, collection, **place)["name"]
        reranker = options.RERANKER_FOR.get(name, options.DEFAULT_RERANKER)
    asked = {"candidates": candidates, "rerank": reranker or False, "mode": mode, "prefetch": prefetch}
    chosen = {"min_score": min_score, "per_document": per_document, "diversity": diversity, "neighbours": neighbours}
    settings = {"device": device, "dtype": dtype, "instruction": instruction, "base_url": base_url, "dialect": dialect}
    settings |= options.reranker_place(reranker_base_url)
    with _index.open_existing(location, collection, images, place, **settings) as source:
        if query is None and not any(asked.values()):
            hits = source.search_image(cast("str", image), k=k, filter=conditions, **cast("Any", chosen))
        else:
            wanted = Passage(query or "", image)
            hits = source.search(wanted, k=k, filter=conditions, **cast("Any", {**asked, **chosen}))
        # The report reads images, and computes heatmaps, from the open index.
        return _answer(
            query or f"image {image}",
            hits,
            seconds=time.perf_counter() - start,
            as_json=as_json,
            html=html,
            heatmap=source.heatmap if source.is_multivector and query else None,
            regions=_kept(source.regions) if regions else None,
        )


@app.command()
def rerank(
    query: options.Query,
    files: Annotated[list[str], typer.Argument(metavar="FILES...", help="Images, PDFs and other documents.")],
    model: Annotated[str, typer.Option(help="Catalog id or local folder.")] = options.DEFAULT_RERANKER,
    top_n: options.TopN = None,
    pages: options.Pages = None,
    password: options.Password = None,
    pdf_engine: options.PdfRenderer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    max_tiles: options.MaxTiles = None,
    max_image_tokens: options.MaxImageTokens = None,
    instruction: options.Instruction = None,
    base_url: options.BaseUrl = None,
    dialect: options.Dialect = None,
    as_json: options.Json = False,
    html: options.Html = None,
) -> int:
    """Rank images and PDF pages, without an index."""
    options.check_html(html)
    options.check_pages(pages)
    from nemotron_rag.cli._rerank import rank_files
    from nemotron_rag.models.load import load_reranker

    start = time.perf_counter()
    loaded = load_reranker(
        model,
        device=device,
        dtype=dtype,
        max_input_tiles=max_tiles,
        max_image_tokens=max_image_tokens,
        instruction=instruction,
        base_url=base_url,
        dialect=cast("Any", dialect),
    )
    reading = {"pages": pages, "password": password, "pdf_engine": pdf_engine or "auto"}
    hits, failures = rank_files(query, files, reranker=loaded, top_n=top_n, **cast("Any", reading))
    seconds = time.perf_counter() - start
    for failure in failures:
        output.warn(f"skipped {failure}")
    if not hits:
        raise InputError(f"no page could be read from {output.count(len(files), 'file')}")
    return _answer(query, hits, seconds=seconds, as_json=as_json, html=html)


@app.command()
def models(as_json: options.Json = False) -> int:
    """List the supported models."""
    if as_json:
        output.show_json([_models.model_json(spec) for spec in CATALOG])
    else:
        output.show(_models.models_table(CATALOG))
    return 0


app.command()(load)
app.command()(reembed)
app.command()(estimate)
app.command()(evaluate)
app.command("mteb")(run_mteb)
app.command("make-queries")(make_queries)
app.command()(serve)
app.command()(mcp)
app.command()(verify)
app.command()(vllm_template)


@app.command()
def info(
    location: options.Index,
    collection: options.Collection = "pages",
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    tenant: options.Tenant = None,
    as_json: options.Json = False,
) -> int:
    """Show the contents of an index and the model that wrote it."""
    from nemotron_rag.cli import _index

    place = options.place(api_key, header, timeout, tenant)
    record = _index.record_of_existing(location, collection, **place)
    with _index.open_existing(location, collection, "none", place) as source:
        facts = {"pages": source.count(), "sources": source.sources(), "record": record}
    facts["engine"] = _index.engine(location)
    if as_json:
        output.show_json(facts)
    else:
        output.say_lines(output.info_lines(facts))
    return 0


@app.command()
def check(
    location: options.Index,
    collection: options.Collection = "pages",
    images: options.Images = None,
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    tenant: options.Tenant = None,
    as_json: options.Json = False,
) -> int:
    """Read every page and image of an index, and say what is missing, broken or not what was stored.

    Nothing is changed. The exit code is 1 if something is wrong.
    """
    from nemotron_rag.cli import _index

    place = options.place(api_key, header, timeout, tenant)
    with _index.open_existing(location, collection, images, place) as opened:
        report = opened.check()
    output.show_checked(report, as_json=as_json)
    return 1 if report.faults else 0


@app.command()
def repair(
    location: options.Index,
    collection: options.Collection = "pages",
    images: options.Images = None,
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    tenant: options.Tenant = None,
    as_json: options.Json = False,
) -> int:
    """Remove what `check` finds; then index the same files again, and these pages are read anew.

    Damaged files of the engine are put aside. Nobody else may add pages meanwhile.
    """
    from nemotron_rag.cli import _index

    place = options.place(api_key, header, timeout, tenant)
    aside = _index.salvage(location, collection, place)
    with _index.open_existing(location, collection, images, place) as opened:
        report = opened.repair()
    output.show_checked(report, aside, as_json=as_json)
    return 0


@app.command()
def migrate(
    location: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index that nobody has open.")],
    as_json: options.Json = False,
) -> int:
    """Move an index folder of before to Qdrant Edge.

    Folders of qdrant-client's local mode work as they are; with Qdrant Edge they are faster. The old files go when the
    new ones are complete. Rows that cannot be read are left out: the next `index` of the same files reads them again.
    """
    from nemotron_rag.stores.qdrant import migrate as move

    moved = move(location)
    if as_json:
        output.show_json({name: {"moved": points, "unreadable": lost} for name, (points, lost) in moved.items()})
        return 0
    for name, (points, lost) in moved.items():
        left_out = f"; {output.count(lost, 'row')} could not be read, index the same files again" if lost else ""
        output.say(f"{output.count(points, 'point')} of {name!r} moved to Qdrant Edge{left_out}")
    return 0


@app.command()
def delete(
    location: options.Index,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The document, as `info` names it.")],
    collection: options.Collection = "pages",
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    tenant: options.Tenant = None,
    images: options.Images = None,
    as_json: options.Json = False,
) -> int:
    """Remove a document's pages from an index."""
    from nemotron_rag.cli import _index

    place = options.place(api_key, header, timeout, tenant)
    with _index.open_existing(location, collection, images, place) as target:
        before = target.sources()
        removed = target.delete(source)
        found = removed > 0 or target.sources() != before  # pages shared with another document stay
    if not found:
        raise InputError(f"the index has no document {source!r}; `nemotron-rag info` lists its documents")
    if as_json:
        output.show_json({"removed": removed})
    else:
        output.say(f"{output.count(removed, 'page')} removed")
    return 0


@app.command()
def demo(
    pdfs: Annotated[Path | None, typer.Option(help="Folder with the demo's PDFs; by default the clone's.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo_output"),
    pdf_engine: options.PdfRenderer = None,
) -> int:
    """Run a demo on three PDFs.

    Indexes them with the starter models, offline and on a CPU, runs five queries and shows the best pages.
    """
    from nemotron_rag.cli import demonstration
    from nemotron_rag.cli._demo import show_demo

    folder, progress = pdfs or demonstration.find_pdfs(), sys.stderr.isatty()
    show_demo(demonstration.run_demo(folder, out=out, progress=progress, pdf_engine=pdf_engine, step=output.say))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    if not debug:  # our own error says what matters of a failed download
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # file names and texts may have characters that the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app([word for word in given if word != "--debug"], prog_name="nemotron-rag", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report_error(error)
    if code == _INTERRUPTED:
        output.warn("interrupted")
    return int(code or 0)


def _answer(
    query: str,
    hits: Sequence[Hit],
    *,
    seconds: float,
    as_json: bool,
    html: Path | None,
    heatmap: HeatmapOf | None = None,
    regions: RegionsOf | None = None,
) -> int:
    """Show the hits in the requested form; having no hits is not an error."""
    if html is not None:
        from nemotron_rag.report import Answer, write_report

        write_report(html, [Answer(query, hits, f"{len(hits)} pages in {seconds:.1f} s", heatmap, regions)])
    if as_json:
        shown = [_hit_json(hit, query, regions) for hit in hits]
        output.show_json({"query": query, "seconds": seconds, "hits": shown})
        return 0
    if hits:
        output.show(output.hits_table(hits, query))
    if regions is not None:
        for hit in hits:
            output.say_lines(output.region_lines(hit, regions(hit.page, query)))
    output.say(f"{output.count(len(hits), 'page')} in {seconds:.1f} s, including model loading")
    if html is not None:
        output.say(f"images: {html}")
    return 0


def _hit_json(hit: Hit, query: str, regions: RegionsOf | None) -> dict[str, Any]:
    """A hit with its regions, if these are asked for."""
    from nemotron_rag.report import hit_json, region_json

    found = {} if regions is None else {"regions": [*map(region_json, regions(hit.page, query))]}
    return hit_json(hit) | found


def _kept(regions: RegionsOf) -> RegionsOf:
    """Regions that are found once for each page and query, for report and terminal."""
    found: dict[tuple[str, str], Sequence[Region]] = {}

    def kept(page: Page, query: str) -> Sequence[Region]:
        if (page.id, query) not in found:
            found[page.id, query] = regions(page, query)
        return found[page.id, query]

    return kept


def _report_error(error: Exception) -> int:
    """Print an error in one line; returns the exit code."""
    if isinstance(error, _USAGE_ERROR):
        output.warn(f"error: {cast('Any', error).format_message()} (see nemotron-rag --help)")
        return 2
    expected = isinstance(error, NemotronRagError | OSError | MemoryError)
    unexpected = "" if expected else f"unexpected {type(error).__name__}, --debug shows where: "
    output.warn(f"error: {unexpected}{error or type(error).__name__}")
    report = getattr(error, "report", None)
    for note in error.__notes__ if report is not None and (report.added or report.removed) else ():
        output.warn(note)
    return 1
