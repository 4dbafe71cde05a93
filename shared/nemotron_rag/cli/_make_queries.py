"""The command ``make-queries``: a query file of the pages' own words, for documents that nobody has judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nemotron_rag.cli import _options as options
from nemotron_rag.cli import _output as output

if TYPE_CHECKING:
    from nemotron_rag.documents.pdf import PdfEngine
    from nemotron_rag.types import Page

__all__ = ["make_queries"]


def make_queries(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCES...", help="Documents, or folders of them.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="CSV to write, for `evaluate`.")],
    count: Annotated[int, typer.Option(min=1, help="How many queries.")] = 100,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="sentence|keywords", help="Of what; repeatable. By default both.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of pages and words.")] = 0,
    ocr: options.OcrMode = "auto",
    pdf_engine: options.PdfRenderer = None,
    as_json: options.Json = False,
) -> int:
    """Make queries of the pages' own words.

    They tell whether a page is found again by what it says, and favour search by words.
    """
    # ruff: noqa: PLC0415  # nothing of this is needed by the other commands
    from nemotron_rag.evaluation import WORDS_WARNING, queries_from_words, write_query_file

    lost: list[str] = []
    pages = _pages(sources, ocr, pdf_engine or "auto", lost)
    queries = queries_from_words(pages, count=count, seed=seed, kinds=cast("Any", kind or ["sentence", "keywords"]))
    rows = write_query_file(to, queries)
    for line in lost:
        output.warn(f"skipped {line}")
    output.warn(WORDS_WARNING)
    if as_json:
        output.show_json({"queries": len(queries), "judgements": rows, "file": str(to)})
    else:
        output.say(f"{len(queries)} queries with {output.count(rows, 'judged page')} written to {to}")
    return 0


def _pages(sources: list[str], ocr: options.OcrMode, pdf_engine: PdfEngine, lost: list[str]) -> Iterator[Page]:
    """Pages without their images; what cannot be read is noted."""
    from dataclasses import replace

    from nemotron_rag.evaluation.documents import files_of

    for file in files_of(sources, pdf_engine=pdf_engine).files:
        failures: list[Any] = []
        for page in file.document.pages(ocr=ocr, max_pixels=_SMALL, report=failures.append):
            yield replace(page, image=None)
        lost += map(str, failures)


_SMALL = 200_000  # pixels of an image that nobody looks at
