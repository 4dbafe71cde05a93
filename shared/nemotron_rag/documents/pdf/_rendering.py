"""Render the pages of one open document in order, by one or more worker processes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from PIL import Image

from nemotron_rag.documents.pdf._common import Reply
from nemotron_rag.documents.pdf._engines import has_second
from nemotron_rag.documents.pdf._job import Job
from nemotron_rag.documents.pdf._pool import Seat, WorkerDiedError
from nemotron_rag.documents.word_boxes import decode_word_boxes
from nemotron_rag.errors import PdfError
from nemotron_rag.types import Page, WordBoxes, page_id

__all__ = ["Rendering"]

_MAX_DEATHS = 10  # pages of one document that may crash or time out before the rest is given up
_ENOUGH = 3  # pages that pdfium renders where MuPDF died in them, before it renders the rest of the document
_logger = logging.getLogger("nemotron_rag")


class Rendering:
    """Renders the pages of one open document in several workers in parallel.

    The next page goes to the worker whose page has just been read, so that each worker is one page ahead. A finished
    worker blocks on its full pipe until its page is read: that bounds the memory.
    """

    def __init__(self, job: Job, content_hash: str, info: dict[str, Any], seats: list[Seat]) -> None:
        self._job, self._hash, self._info, self._seats = job, content_hash, info, seats
        self._deaths = self._rescued = 0
        self._seconds, self._pixels = 0.0, 0
        self._of_second = set[int]()  # pages for which pdfium was asked alone

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

    def _ask(self, seat: Seat, number: int, engine: str | None = None) -> tuple[int, Seat]:
        if engine is None and self._rescued >= _ENOUGH:
            engine = "pdfium"
        if engine is not None:
            self._of_second.add(number)
        seat.ask({**self._job.render, **({"engine": engine} if engine else {}), "number": number})
        return number, seat

    def _answer(self, seat: Seat, number: int) -> Page | None:
        try:
            header, body = self._reply(seat, number)
        except WorkerDiedError as error:
            self._deaths += 1
            self._job.fail(PdfError(str(error)), number)
            return None
        self._seconds += header.get("seconds", 0.0)
        if "error" in header:
            self._job.fail(PdfError(header["reason"]), number)
            return None
        self._pixels += header["width"] * header["height"]
        if header["ocr_missing"]:
            _warn_of_missing_ocr(self._job.render["language"])
        return self._page(number, header, body)

    def _reply(self, seat: Seat, number: int) -> Reply:
        """The reply for a page; of pdfium where MuPDF has died in it.

        Raises:
            WorkerDiedError: the only one that could be asked has died, or the first one where the second fails, too.
        """
        try:
            return seat.answer()
        except WorkerDiedError:
            self._seconds += self._job.budget.seconds  # more or less: it died without saying
            reply = self._by_second(seat, number)
            if reply is None:
                raise
            return reply

    def _by_second(self, seat: Seat, number: int) -> Reply | None:
        asked = {"kind": self._job.kind, "engine": self._job.pdf_engine}
        if number in self._of_second or not has_second(asked):
            return None
        self._ask(seat, number, "pdfium")
        try:
            reply = seat.answer()
        except WorkerDiedError:
            self._seconds += self._job.budget.seconds
            return None
        self._rescued += "error" not in reply[0]
        return None if "error" in reply[0] else reply

    def _page(self, number: int, header: dict[str, Any], body: bytes) -> Page:
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


@lru_cache(maxsize=16)
def _warn_of_missing_ocr(language: str) -> None:
    """Warn once per process and language."""
    _logger.warning(
        "pages without a text layer will have no text: Tesseract's data for %r is not installed "
        "(apt-get install tesseract-ocr, or ocr='never')",
        language,
    )
