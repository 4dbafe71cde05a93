"""Rerank files page by page, without an index."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.pdf import PdfEngine
from nemotron_rag.errors import InputError
from nemotron_rag.index.found_sources import LeftOut, SourceFile, Unusable
from nemotron_rag.index.source_files import expand
from nemotron_rag.protocols import Reranker
from nemotron_rag.types import Failure, Hit, Page

__all__ = ["rank_files"]

_AT_ONCE = 16  # pages in memory while they are scored, about 5 MB each


def rank_files(
    query: str,
    files: Sequence[str],
    *,
    reranker: Reranker,
    top_n: int | None = None,
    pages: str | None = None,
    password: str | None = None,
    pdf_engine: PdfEngine = "auto",
) -> tuple[list[Hit], list[Failure]]:
    """Score every page of the files and return the best.

    Args:
        query: the query.
        files: images, PDFs, and folders of PDFs.
        reranker: a loaded model.
        top_n: how many to return, with the images of PDF pages in memory; None for all.
        pages: of each PDF; see `read_pdf`.
        password: of protected PDFs.
        pdf_engine: what renders PDFs.

    Returns:
        Hits from best to worst, with `retrieval_score` NaN since there was no retrieval; and the failures.
    """
    failures: list[Failure] = []
    best: list[tuple[float, Page]] = []
    stream = _read(expand(files, password=password, pdf_engine=pdf_engine), pages, failures)
    while batch := list(itertools.islice(stream, _AT_ONCE)):
        scores = reranker.score(query, batch)  # (pages,)
        best += [(float(score), page) for score, page in zip(scores, batch, strict=True)]
        best = sorted(best, key=lambda scored: -scored[0])[:top_n]
    hits = [Hit(page, score, float("nan"), rank) for rank, (score, page) in enumerate(best, start=1)]
    return hits, failures


def _read(
    expanded: Iterable[SourceFile | Page | Unusable | LeftOut], pages: str | None, failures: list[Failure]
) -> Iterator[Page]:
    for found in expanded:
        if isinstance(found, Page):
            yield found
        elif isinstance(found, Unusable):
            failures.append(Failure.of(found.source, found.error))
        elif isinstance(found, LeftOut):
            failures += [Failure(source, "is no document") for source in found.sources]
        else:
            try:
                yield from _pages(found, pages, failures)
            except InputError as error:
                failures.append(Failure.of(found.source, error))


def _pages(found: SourceFile, pages: str | None, failures: list[Failure]) -> Iterator[Page]:
    document = found.document
    read = document.pages(pages=pages, report=failures.append)
    if document.kind != "image" or document.page_count > 1:
        return read
    path = found.path.resolve()  # whether it can be read; a model opens it again, so that few are in memory
    image = ImageAccess(roots=[path.parent]).reference(path)
    return (replace(page, image=image) for page in read)
