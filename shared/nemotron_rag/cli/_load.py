"""The command ``load``: a stage into an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output

if TYPE_CHECKING:
    from nemotron_rag.index.loading import LoadReport
    from nemotron_rag.index.sample import Sample

__all__ = ["load", "sample_line"]

_SHOWN = 20


def load(
    stage: Annotated[str, typer.Argument(metavar="parquet://FOLDER", help="What `index --stage` wrote.")],
    to: Annotated[str, typer.Option(metavar="FOLDER|URL", help="Index to write to; created if missing.")],
    collection: options.Collection = "pages",
    api_key: options.ApiKey = None,
    header: options.Headers = None,
    timeout: options.Timeout = None,
    patience: options.Patience = None,
    tenant: options.Tenant = None,
    images: options.Images = None,
    shards: options.Shards = None,
    replicas: options.Replicas = None,
    vectors_on_disk: options.VectorsOnDisk = False,
    payload_on_disk: options.PayloadOnDisk = False,
    quantization: options.Quantized = None,
    metadata_index: options.MetadataIndexes = None,
    strict: options.Strict = False,
    threads: Annotated[int, typer.Option(min=1, help="That read and write at the same time.")] = 4,
    sample: Annotated[int, typer.Option(min=0, help="Pages to look for afterwards, by their own vectors.")] = 32,
    as_json: options.Json = False,
) -> int:
    """Load into an index what `index --stage` wrote, without model or documents.

    A new collection on a server gets its indexes when all pages are there. Interrupted and run again, it goes on. The
    exit code is 1 unless every staged page is in the index and every page of the sample was found.
    """
    # ruff: noqa: PLC0415  # nothing of this is needed by the other commands
    import sys

    from nemotron_rag.cli import _index
    from nemotron_rag.index.loading import load_stage

    report = load_stage(
        stage,
        to,
        collection=collection,
        images=_index.images_argument(images),
        collection_options=options.collection_options(
            shards=shards,
            replicas=replicas,
            vectors_on_disk=vectors_on_disk,
            payload_on_disk=payload_on_disk,
            quantization=quantization,
            metadata_indexes=metadata_index,
            strict=strict,
        ),
        threads=threads,
        sample=sample,
        progress=sys.stderr.isatty(),
        **options.place(api_key, header, timeout, tenant, patience=patience),
    )
    if as_json:
        output.show_json(_json(report))
    else:
        output.say_lines(_lines(report))
    return 0 if report.is_complete else 1


def _json(report: LoadReport) -> dict[str, Any]:
    failures = [asdict(failure) for failure in report.failures]
    return asdict(report) | {"failures": failures, "complete": report.is_complete}


def _lines(report: LoadReport) -> Iterator[str]:
    seconds = report.seconds.get("total", 0.0)
    rate = f" in {seconds:.1f} s ({report.added / seconds:.1f} pages/s)" if seconds and report.added else ""
    yield f"{output.count(report.added, 'page')} of {report.staged} added{rate}, {report.unchanged} unchanged"
    if report.failures:
        yield f"not written: {len(report.failures)}"
        yield from (f"  {failure}" for failure in report.failures[:_SHOWN])
    yield f"the index has {output.count(report.stored, 'page')}"
    yield sample_line(report.sample)
    if not report.indexed:
        yield "the server is still building its indexes; searches work, and become faster"
    if not report.is_complete:
        yield "not complete: run the command again; if that does not help, nemotron-rag check says what is wrong"


def sample_line(sample: Sample) -> str:
    """Return what was found of a sample."""
    lost = f"; not {', '.join(sample.lost[:_SHOWN])}" if sample.lost else ""
    return f"{sample.found} of a sample of {output.count(sample.asked, 'page')} found by their own vectors{lost}"
