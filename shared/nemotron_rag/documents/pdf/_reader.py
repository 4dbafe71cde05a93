"""Stream the pages of a document in order, rendered by one or more worker processes."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from PIL import Image

from nemotron_rag.documents.files import one_line
from nemotron_rag.documents.kinds import Kind
from nemotron_rag.documents.pdf._pool import Seat, WorkerDiedError
from nemotron_rag.documents.pdf._source import PdfSource, Ranges, Source, locate, resolve_pages
from nemotron_rag.documents.word_boxes import decode_word_boxes
from nemotron_rag.errors import InputError, PdfError, PdfPasswordError
from nemotron_rag.types import Failure, Notice, Page, WordBoxes, page_id

__all__ = ["Job", "PdfBudget", "installed_languages", "log_failure", "open_document", "stream_pages"]

_MAX_WORKERS = 8  # rendering with 8 is already faster than embedding
_PAGES_PER_WORKER = 4  # fewer pages are not worth starting another process
_MAX_DEATHS = 10  # pages of one document that may crash or time out before the rest is given up
_MAX_MESSAGE = 1_000  # characters: about the longest possible path and a reason
_logger = logging.getLogger("nemotron_rag")


@dataclass(frozen=True, slots=True, kw_only=True)
class PdfBudget:
    """Limits for reading one document.

    Args:
        max_bytes: of the file.
        max_pages: pages read of one document.
        max_pixels: of one page's image.
        max_side: of one page's image, pixels.
        max_text: characters of one page's text; longer texts are cut.
        seconds: for opening a document, and again for each page, OCR included.
        document_seconds: for all pages of a document together, as its processes measure them: side by side, they may
            take less time by the clock. The pages after that are given up.
        document_pixels: of all images of a document together.
        memory_bytes: address space of a worker process, where the system can limit it (not on Windows).

    Raises:
        InputError: a limit is not a positive number.

    Example:
        >>> PdfBudget(seconds=10).max_text
        100000
    """

    max_bytes: int = 2**30
    max_pages: int = 10_000
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_text: int = 100_000
    seconds: float = 60.0
    document_seconds: float = 4 * 3600.0
    document_pixels: int = 50_000_000_000
    memory_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            kinds = (int, float) if limit.name.endswith("seconds") else (int,)
            if not isinstance(value, kinds) or not 0 < value < math.inf:
                raise InputError(f"PdfBudget.{limit.name} must be a positive number, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The checked arguments of `read_pdf`.

    Args:
        name: the document's name.
        ranges: pages to read.
        render: the render request without the page number.
        workers: most processes to use; None to choose, 0 for none.
        budget: the limits.
        report: where failures go; None raises them.
        kind: of the document, among those that MuPDF reads.
        pdf_engine: what renders it.
    """

    name: str
    ranges: Ranges
    render: dict[str, Any]
    workers: int | None
    budget: PdfBudget
    report: Callable[[Failure], None] | None
    kind: Kind = "pdf"
    pdf_engine: str = "auto"

    def say(self, notice: str) -> None:
        """Report what the pages do not show; it is no error, which would end a run."""
        (self.report or log_failure)(Notice(self.name, notice))

    def fail(self, error: PdfError, number: int | None = None) -> None:
        """Report a failure, or raise it."""
        failure = Failure(self.name, str(error), number)
        if self.report is None:
            raise type(error)(one_line(str(failure), limit=_MAX_MESSAGE)) from error
        self.report(failure)


def stream_pages(job: Job, source: PdfSource, password: str | None) -> Iterator[Page]:
    """Open the document and yield its pages in order; see `nemotron_rag.documents.pdf.read_pdf`."""
    with ExitStack() as stack:
        try:
            document = locate(source, max_bytes=job.budget.max_bytes)
            opening = _opening(document, password, job.budget, job.kind) | {"engine": job.pdf_engine}
            seats = [_open_seat(stack, opening, document.data, local=job.workers == 0)]
            info = _ask_to_open(seats[0])
            numbers = _select(job, int(info["page_count"]))
            for notice in info.get("notices", ()):
                job.say(notice)
        except PdfError as error:
            job.fail(error)
            return
        for _ in range(1, _useful_workers(job.workers, len(numbers))):
            seats.append(_open_seat(stack, opening, document.data, local=False))
        yield from _Rendering(job, document.hash, info, seats).pages(numbers)


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
        return _ask_to_open(_open_seat(stack, opening, document.data, local=False))


def installed_languages(budget: PdfBudget) -> set[str]:
    """Return the languages that Tesseract has data for; empty if it is not installed."""
    opening = {"op": "languages", "seconds": budget.seconds, "memory_bytes": budget.memory_bytes}
    with ExitStack() as stack:
        return set(_open_seat(stack, opening, b"", local=False).open()["languages"])


def log_failure(failure: Failure) -> None:
    """Log a failure as a warning of one line: the default of `read_pdf`."""
    _logger.warning("%s", one_line(str(failure), limit=_MAX_MESSAGE))


class _Rendering:
    """Renders the pages of one open document in several workers in parallel.

    The next page goes to the worker whose page has just been read, so that each worker is one page ahead. A finished
    worker blocks on its full pipe until its page is read: that bounds the memory.
    """

    def __init__(self, job: Job, content_hash: str, info: dict[str, Any], seats: list[Seat]) -> None:
        self._job, self._hash, self._info, self._seats = job, content_hash, info, seats
        self._deaths = 0
        self._seconds, self._pixels = 0.0, 0

    def pages(self, numbers: list[int]) -> Iterator[Page]:
        remaining = iter(numbers)
        waiting: deque[tuple[int, Seat]] = deque()
        for seat, number in zip(self._seats, remaining, strict=False):
            waiting.append(self._ask(seat, number))
        while waiting:
            number, seat = waiting.popleft()
            page = self._answer(seat, number)
            following = next(remaining, None)
            if too_much := self._too_much(more=following is not None or bool(waiting)):
                if page is not None:
                    yield page
                self._job.fail(PdfError(f"{too_much}; gave up the pages after {number}"))
                return
            if following is not None:
                waiting.append(self._ask(seat, following))
            if page is not None:
                yield page

    def _too_much(self, *, more: bool) -> str:
        """What the document has used up; empty if nothing, or if all of it is read."""
        budget = self._job.budget
        if self._deaths >= _MAX_DEATHS:
            return f"{self._deaths} pages crashed the renderer or ran out of time"
        if more and self._seconds >= budget.document_seconds:
            return f"rendering took {self._seconds:.0f} s, all that PdfBudget.document_seconds allows"
        if more and self._pixels >= budget.document_pixels:
            return f"its images have {self._pixels} pixels, all that PdfBudget.document_pixels allows"
        return ""

    def _ask(self, seat: Seat, number: int) -> tuple[int, Seat]:
        seat.ask({**self._job.render, "number": number})
        return number, seat

    def _answer(self, seat: Seat, number: int) -> Page | None:
        try:
            header, body = seat.answer()
        except WorkerDiedError as error:
            self._deaths += 1
            self._seconds += self._job.budget.seconds  # more or less: it died without saying
            self._job.fail(PdfError(str(error)), number)
            return None
        self._seconds += header.get("seconds", 0.0)
        if "error" in header:
            self._job.fail(PdfError(header["reason"]), number)
            return None
        self._pixels += header["width"] * header["height"]
        if header["ocr_missing"]:
            _warn_of_missing_ocr(self._job.render["language"])
        return Page(
            text=header["text"],
            image=Image.frombytes("RGB", (header["width"], header["height"]), body[: len(body) - header["word_bytes"]]),
            id=page_id(self._hash, number),
            source=self._job.name,
            number=number,
            metadata={**self._info["metadata"], "page_count": self._info["page_count"], **header["metadata"]},
            word_boxes=_word_boxes(body[len(body) - header["word_bytes"] :]),
        )


def _word_boxes(data: bytes) -> WordBoxes | None:
    return decode_word_boxes(data) if data else None


def _opening(document: Source, password: str | None, budget: PdfBudget, kind: Kind = "pdf") -> dict[str, Any]:
    limits = {"seconds": budget.seconds, "memory_bytes": budget.memory_bytes}
    return {"op": "open", "path": document.path, "kind": kind, "password": password, **limits}


def _open_seat(stack: ExitStack, opening: dict[str, Any], body: bytes, *, local: bool) -> Seat:
    seat = Seat(opening, body, local=local)
    stack.callback(seat.close)
    return seat


def _ask_to_open(seat: Seat) -> dict[str, Any]:
    try:
        info = seat.open()
    except WorkerDiedError as error:
        raise PdfError(f"cannot be opened: it {error}") from error
    if "error" in info:
        kind = PdfPasswordError if info["error"] == "password" else PdfError
        raise kind(info["reason"])
    return info


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


@lru_cache(maxsize=16)
def _warn_of_missing_ocr(language: str) -> None:
    """Warn once per process and language."""
    _logger.warning(
        "pages without a text layer will have no text: Tesseract's data for %r is not installed "
        "(apt-get install tesseract-ocr, or ocr='never')",
        language,
    )
