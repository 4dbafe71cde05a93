"""One document -> its Pages, through one or more workers, in order. It knows requests and answers, not MuPDF."""

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

from nemotron_rag._inputs import one_line
from nemotron_rag.errors import InputError, PdfError, PdfPasswordError
from nemotron_rag.pdf._pool import Seat, WorkerDiedError
from nemotron_rag.pdf._source import PdfSource, Ranges, Source, locate, resolve
from nemotron_rag.types import Failure, Page, page_id

__all__ = ["Job", "PdfBudget", "installed_languages", "log_failure", "open_document", "stream_pages"]

_MAX_WORKERS = 8  # one embeds no faster than these render
_PAGES_PER_WORKER = 4  # fewer are not worth the start of another process
_MAX_DEATHS = 10  # pages of one document that may crash or run out of time before the rest is given up
_MAX_MESSAGE = 1_000  # characters: the longest path there is plus a reason, nearly
_logger = logging.getLogger("nemotron_rag")


@dataclass(frozen=True, slots=True, kw_only=True)
class PdfBudget:
    """The most that one document may cost.

    Args:
        max_bytes: of the file.
        max_pages: pages read of one document.
        max_pixels: of one page's picture.
        max_side: of one page's picture, pixels.
        max_text: characters of one page's text; what is above is cut off.
        seconds: for opening a document, and again for each page, OCR included.
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
    memory_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            kinds = (int, float) if limit.name == "seconds" else (int,)
            if not isinstance(value, kinds) or not 0 < value < math.inf:
                raise InputError(f"PdfBudget.{limit.name} must be a positive number, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What `read_pdf` was asked for, checked.

    Args:
        name: what the caller calls the document.
        ranges: the pages wanted.
        render: the render request, but for the page's number.
        workers: most processes to use; None to choose, 0 for none.
        budget: the limits.
        report: where failures go; None raises them.
    """

    name: str
    ranges: Ranges
    render: dict[str, Any]
    workers: int | None
    budget: PdfBudget
    report: Callable[[Failure], None] | None

    def fail(self, error: PdfError, number: int | None = None) -> None:
        """Report a failure, or raise it."""
        failure = Failure(self.name, str(error), number)
        if self.report is None:
            raise type(error)(one_line(str(failure), limit=_MAX_MESSAGE)) from error
        self.report(failure)


def stream_pages(job: Job, source: PdfSource, password: str | None) -> Iterator[Page]:
    """Open the document and yield its pages in order; see `nemotron_rag.pdf.read_pdf`."""
    with ExitStack() as stack:
        try:
            document = locate(source, max_bytes=job.budget.max_bytes)
            opening = _opening(document, password, job.budget)
            seats = [_sit(stack, opening, document.data, local=job.workers == 0)]
            info = _ask_to_open(seats[0])
            numbers = _select(job, int(info["page_count"]))
        except PdfError as error:
            job.fail(error)
            return
        for _ in range(1, _useful_workers(job.workers, len(numbers))):
            seats.append(_sit(stack, opening, document.data, local=False))
        yield from _Rendering(job, document.hash, info, seats).pages(numbers)


def open_document(source: PdfSource, password: str | None, budget: PdfBudget) -> dict[str, Any]:
    """Open a document in a worker and close it again: its page_count and metadata.

    Raises:
        PdfError: it cannot be read; the text does not name it.
    """
    document = locate(source, max_bytes=budget.max_bytes)
    with ExitStack() as stack:
        return _ask_to_open(_sit(stack, _opening(document, password, budget), document.data, local=False))


def installed_languages(budget: PdfBudget) -> set[str]:
    """The languages that Tesseract has data for; empty if it is not installed."""
    opening = {"op": "languages", "seconds": budget.seconds, "memory_bytes": budget.memory_bytes}
    with ExitStack() as stack:
        return set(_sit(stack, opening, b"", local=False).open()["languages"])


def log_failure(failure: Failure) -> None:
    """What is done with failures by default: a warning of one line."""
    _logger.warning("%s", one_line(str(failure), limit=_MAX_MESSAGE))


class _Rendering:
    """The pages of one open document, rendered by several workers side by side.

    Page i goes to the worker that has just delivered an earlier one, so that each is one page ahead. A worker that
    has finished waits, for its pipe is full, until its page is taken: that bounds the memory.
    """

    def __init__(self, job: Job, content_hash: str, info: dict[str, Any], seats: list[Seat]) -> None:
        self._job, self._hash, self._info, self._seats = job, content_hash, info, seats
        self._deaths = 0

    def pages(self, numbers: list[int]) -> Iterator[Page]:
        todo = iter(numbers)
        waiting: deque[tuple[int, Seat]] = deque()
        for seat, number in zip(self._seats, todo, strict=False):
            waiting.append(self._ask(seat, number))
        while waiting:
            number, seat = waiting.popleft()
            page = self._answer(seat, number)
            if self._deaths >= _MAX_DEATHS:
                what = f"{self._deaths} pages crashed the renderer or ran out of time"
                self._job.fail(PdfError(f"{what}; gave up the pages after {number}"))
                return
            following = next(todo, None)
            if following is not None:
                waiting.append(self._ask(seat, following))
            if page is not None:
                yield page

    def _ask(self, seat: Seat, number: int) -> tuple[int, Seat]:
        seat.ask({**self._job.render, "number": number})
        return number, seat

    def _answer(self, seat: Seat, number: int) -> Page | None:
        try:
            header, pixels = seat.answer()
        except WorkerDiedError as error:
            self._deaths += 1
            self._job.fail(PdfError(str(error)), number)
            return None
        if "error" in header:
            self._job.fail(PdfError(header["reason"]), number)
            return None
        if header["ocr_missing"]:
            _tell_ocr_missing(self._job.render["language"])
        return Page(
            text=header["text"],
            image=Image.frombytes("RGB", (header["width"], header["height"]), pixels),
            id=page_id(self._hash, number),
            source=self._job.name,
            number=number,
            metadata={**self._info["metadata"], "page_count": self._info["page_count"], **header["metadata"]},
        )


def _opening(document: Source, password: str | None, budget: PdfBudget) -> dict[str, Any]:
    limits = {"seconds": budget.seconds, "memory_bytes": budget.memory_bytes}
    return {"op": "open", "path": document.path, "password": password, **limits}


def _sit(stack: ExitStack, opening: dict[str, Any], body: bytes, *, local: bool) -> Seat:
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
        numbers = resolve(job.ranges, page_count)
    except InputError as error:
        raise InputError(f"{job.name}: {error}") from error
    if len(numbers) > job.budget.max_pages:
        raise PdfError(
            f"{len(numbers)} pages are more than the {job.budget.max_pages} allowed; "
            "pass fewer pages=, or raise PdfBudget.max_pages"
        )
    return numbers


def _useful_workers(wanted: int | None, pages: int) -> int:
    most = min(_available_cpus(), _MAX_WORKERS) if wanted is None else wanted
    return min(most, math.ceil(pages / _PAGES_PER_WORKER))


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=16)
def _tell_ocr_missing(language: str) -> None:
    """Once per process and language."""
    _logger.warning(
        "pages without text layer stay without text: Tesseract's data for %r is not installed "
        "(apt-get install tesseract-ocr, or ocr='never')",
        language,
    )
