"""Stream the pages of a document in order, rendered by one or more worker processes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from nemotron_rag.documents.kinds import Kind
from nemotron_rag.documents.pdf._engines import has_second
from nemotron_rag.documents.pdf._job import Job, PdfBudget
from nemotron_rag.documents.pdf._pool import Seat, WorkerDiedError
from nemotron_rag.documents.pdf._rendering import Rendering
from nemotron_rag.documents.pdf._source import PdfSource, Source, locate, resolve_pages
from nemotron_rag.errors import InputError, PdfError, PdfPasswordError
from nemotron_rag.types import Page

__all__ = ["installed_languages", "open_document", "stream_pages"]

_MAX_WORKERS = 8  # rendering with 8 is already faster than embedding
_PAGES_PER_WORKER = 4  # fewer pages are not worth starting another process


def stream_pages(job: Job, source: PdfSource, password: str | None) -> Iterator[Page]:
    """Open the document and yield its pages in order; see `nemotron_rag.documents.pdf.read_pdf`."""
    with ExitStack() as stack:
        try:
            document = locate(source, max_bytes=job.budget.max_bytes)
            opening = _opening(document, password, job.budget, job.kind) | {"engine": job.pdf_engine}
            opening, seat, info = _open(stack, opening, document.data, local=job.workers == 0)
            numbers = _select(job, int(info["page_count"]))
            for notice in info.get("notices", ()):
                job.say(notice)
        except PdfError as error:
            job.fail(error)
            return
        seats = [seat]
        for _ in range(1, _useful_workers(job.workers, len(numbers))):
            seats.append(_open_seat(stack, opening, document.data, local=False))
        yield from Rendering(job, document.hash, info, seats).pages(numbers)


def open_document(source: PdfSource, password: str | None, budget: PdfBudget, **more: Any) -> dict[str, Any]:
    """Open a document in a worker process, and return its page_count, its metadata and, if asked for, its outline.

    Args:
        source: the document.
        password: of it.
        budget: the limits.
        **more: of the request: ``kind``, ``engine``, and ``outline`` to ask for it.

    Raises:
        PdfError: it cannot be read; the message does not name it.
    """
    document = locate(source, max_bytes=budget.max_bytes)
    with ExitStack() as stack:
        opening = _opening(document, password, budget) | more
        return _open(stack, opening, document.data, local=False)[2]


def installed_languages(budget: PdfBudget) -> set[str]:
    """Return the languages that Tesseract has data for; empty if it is not installed."""
    opening = {"op": "languages", "seconds": budget.seconds, "memory_bytes": budget.memory_bytes}
    with ExitStack() as stack:
        return set(_open_seat(stack, opening, b"", local=False).open()["languages"])


def _opening(document: Source, password: str | None, budget: PdfBudget, kind: Kind = "pdf") -> dict[str, Any]:
    limits = {"seconds": budget.seconds, "memory_bytes": budget.memory_bytes}
    return {"op": "open", "path": document.path, "kind": kind, "password": password, **limits}


def _open_seat(stack: ExitStack, opening: dict[str, Any], body: bytes, *, local: bool) -> Seat:
    seat = Seat(opening, body, local=local)
    stack.callback(seat.close)
    return seat


def _open(
    stack: ExitStack, opening: dict[str, Any], body: bytes, *, local: bool
) -> tuple[dict[str, Any], Seat, dict[str, Any]]:
    """Open a document; by pdfium where MuPDF crashes or takes too long. Returns the request that did it, and the reply.

    Raises:
        PdfError: it cannot be read; the message does not name it.
    """
    seat = _open_seat(stack, opening, body, local=local)
    try:
        info = seat.open()
    except WorkerDiedError as error:
        if has_second(opening):
            return _open(stack, {**opening, "engine": "pdfium"}, body, local=local)
        raise PdfError(f"cannot be opened: it {error}") from error
    if "error" in info:
        kind = PdfPasswordError if info["error"] == "password" else PdfError
        raise kind(info["reason"])
    return opening, seat, info


def _select(job: Job, page_count: int) -> list[int]:
    if page_count < 1:
        raise PdfError("has no pages")
    try:
        numbers = resolve_pages(job.ranges, page_count)
    except InputError as error:
        raise InputError(f"{job.name}: {error}") from error
    if len(numbers) > job.budget.max_pages:
        raise PdfError(
            f"{len(numbers)} pages are more than the {job.budget.max_pages} allowed; "
            "pass fewer pages=, or raise PdfBudget.max_pages"
        )
    return numbers


def _useful_workers(workers: int | None, pages: int) -> int:
    most = min(_available_cpus(), _MAX_WORKERS) if workers is None else workers
    return min(most, math.ceil(pages / _PAGES_PER_WORKER))


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
