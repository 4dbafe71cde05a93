"""What one document is read with: its limits, which pages, how they are rendered, and where failures go."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.documents.kinds import Kind
from nemotron_rag.documents.pdf._source import Ranges
from nemotron_rag.errors import InputError, PdfError
from nemotron_rag.types import Failure, Notice

__all__ = ["Job", "PdfBudget", "log_failure"]

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


def log_failure(failure: Failure) -> None:
    """Log a failure as a warning of one line: the default of `read_pdf`."""
    _logger.warning("%s", one_line(str(failure), limit=_MAX_MESSAGE))
