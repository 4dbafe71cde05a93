"""Read PDFs: stream the rendered image, text and metadata of each page.

Documents are parsed and rendered in worker processes, so that a document that hangs, crashes MuPDF or uses too much
memory costs its own page and nothing else. Scripts, attachments and links in documents are never followed.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from nemotron_rag.documents.files import name_of
from nemotron_rag.documents.kinds import Kind
from nemotron_rag.documents.pdf._job import Job, PdfBudget, log_failure
from nemotron_rag.documents.pdf._pool import Interruption, interruptible
from nemotron_rag.documents.pdf._reader import installed_languages, open_document, stream_pages
from nemotron_rag.documents.pdf._source import (
    Pages,
    PdfSource,
    Ranges,
    content_hash,
    find_pdfs,
    parse_pages,
    resolve_pages,
)
from nemotron_rag.errors import InputError, MissingExtraError, PdfError
from nemotron_rag.types import Failure, Page

__all__ = [
    "DEFAULT_BUDGET",
    "PAGE_PIXELS",
    "Interruption",
    "Ocr",
    "OnError",
    "Pages",
    "PdfBudget",
    "PdfEngine",
    "PdfOptions",
    "PdfSource",
    "Ranges",
    "check_pdf_engine",
    "content_hash",
    "count_pages",
    "find_pdfs",
    "interruptible",
    "ocr_available",
    "parse_pages",
    "read_outline",
    "read_pdf",
    "resolve_pages",
]

Ocr: TypeAlias = Literal["auto", "always", "never"]
OnError: TypeAlias = Literal["skip", "raise"]
PdfEngine: TypeAlias = Literal["auto", "mupdf", "pdfium"]
"""What renders PDFs: "mupdf" (the extra `pdf`, AGPL or commercial), "pdfium" (the extra `pdfium`, permissive licences),
or "auto": MuPDF where it is installed, and pdfium for files and pages that it refuses or in which it crashes, and where
it is not."""

PAGE_PIXELS = 6 * 512 * 512
"""Default pixels of a rendered page: the area of 6 tiles of 512 x 512."""

_LANGUAGE = re.compile(r"[A-Za-z0-9_]+(\+[A-Za-z0-9_]+)*")
DEFAULT_BUDGET = PdfBudget()


class PdfOptions(TypedDict, total=False):
    """Arguments of `read_pdf`, for whoever passes them on."""

    pages: Pages
    password: str | None
    dpi: float | None
    max_pixels: int | None
    ocr: Ocr
    ocr_language: str
    workers: int | None
    budget: PdfBudget
    on_error: OnError
    report: Callable[[Failure], None] | None
    pdf_engine: PdfEngine


def read_pdf(
    source: PdfSource,
    *,
    pages: Pages = None,
    password: str | None = None,
    dpi: float | None = None,
    max_pixels: int | None = None,
    ocr: Ocr = "auto",
    ocr_language: str = "eng",
    workers: int | None = None,
    budget: PdfBudget = DEFAULT_BUDGET,
    on_error: OnError = "skip",
    report: Callable[[Failure], None] | None = None,
    pdf_engine: PdfEngine = "auto",
    name: str | None = None,
    kind: Kind = "pdf",
) -> Iterator[Page]:
    """Stream a document's pages in order; memory does not grow with their number.

    Each page has an RGB image (a PIL image), its text, and as metadata the document's own (title, author, subject,
    keywords, created, modified: those that it has), page_count, width and height (points), label (the printed page
    number, if the document states one), text_source, text_quality, and text_truncated if text was cut off. The
    source is "layer", "ocr", "none", or "undecodable": a layer whose font does not say what it draws, and of which only
    what can be read is kept, for want of OCR. The quality is the share of characters that could be decoded, where
    that is less than 1. A page that MuPDF did not render says pdf_engine ("pdfium"). `Page.word_boxes` says where its
    words stand.

    Args:
        source: a path, the file's bytes, or a binary file, whose position is restored.
        pages: numbers starting at 1, or a text such as "1-3,7,10-"; None for all.
        password: tried if the document needs one.
        dpi: dots per inch; lowered for pages that would exceed `max_pixels` or the budget. None: every page is
            scaled to `max_pixels`, its aspect ratio kept.
        max_pixels: most pixels of an image; by default `PAGE_PIXELS` without `dpi`, with it the budget's.
        ocr: "auto" reads pages whose text layer is missing or undecodable with Tesseract, where its data is installed;
            "always" all pages;
            "never" none.
        ocr_language: Tesseract's names, such as "eng" or "deu+eng".
        workers: most rendering processes; None chooses by the machine and the number of pages. 0 renders in this
            process, for debugging: nothing then protects it from a document that hangs or crashes the renderer.
        budget: see `PdfBudget`.
        on_error: "skip" reports what cannot be read and goes on; "raise" raises.
        report: called with each `Failure` that is skipped; by default a warning of the logger ``nemotron_rag``.
        pdf_engine: see `PdfEngine`.
        name: the document's name in `Page.source`, reports and messages; by default its path, or its type.
        kind: what it is, if no PDF: another format that MuPDF reads, such as "epub" or "html". `read_document` in
            `nemotron_rag.documents.reading` finds that out, and reads office files too.

    Raises:
        InputError: an argument is invalid, or a selected page does not exist.
        MissingExtraError: the engine is not installed.
        PdfPasswordError: with "raise": the document needs a password, or the given one is wrong.
        PdfError: with "raise": the document or a page cannot be read.

    Example:
        >>> import pymupdf
        >>> document = pymupdf.open()
        >>> _ = document.new_page(width=300, height=200)
        >>> [page.image.size for page in read_pdf(document.tobytes(), dpi=72)]
        [(300, 200)]
    """
    _require(pdf_engine, kind)
    _check_choice("ocr", ocr, get_args(Ocr))
    _check_choice("on_error", on_error, get_args(OnError))
    _check_language(ocr, ocr_language)
    if workers is not None and (not isinstance(workers, int) or workers < 0):
        raise InputError(f"workers must be a non-negative integer or None, got {workers!r}")
    job = Job(
        name=name if name is not None else _name(source),
        ranges=parse_pages(pages),
        render=_render_request(dpi, max_pixels, budget) | {"ocr": ocr, "language": ocr_language},
        workers=workers,
        budget=budget,
        report=None if on_error == "raise" else (report or log_failure),
        kind=kind,
        pdf_engine=pdf_engine,
    )
    return stream_pages(job, source, password)


def count_pages(
    source: PdfSource,
    *,
    password: str | None = None,
    budget: PdfBudget = DEFAULT_BUDGET,
    pdf_engine: PdfEngine = "auto",
    kind: Kind = "pdf",
) -> int:
    """Count the pages of a document; nothing is rendered. Arguments are those of `read_pdf`.

    Raises:
        InputError: `source` is neither path, bytes nor binary file.
        MissingExtraError: the engine is not installed.
        PdfPasswordError: the document needs a password, or the given one is wrong.
        PdfError: the document cannot be read.
    """
    _require(pdf_engine, kind)
    try:
        return int(open_document(source, password, budget, kind=kind, engine=pdf_engine)["page_count"])
    except PdfError as error:
        raise type(error)(f"{_name(source)}: {error}") from error


def read_outline(
    source: PdfSource, *, budget: PdfBudget = DEFAULT_BUDGET, pdf_engine: PdfEngine = "auto"
) -> list[tuple[str, int]]:
    """Return the upper level of a PDF's outline: titles, and the numbers of the pages that they lead to.

    Raises:
        PdfError: the document cannot be read.
    """
    _require(pdf_engine)
    try:
        opened = open_document(source, None, budget, outline=True, engine=pdf_engine)
        return [(title, page) for title, page in opened["outline"]]
    except PdfError as error:
        raise type(error)(f"{_name(source)}: {error}") from error


def ocr_available(language: str = "eng") -> bool:
    """Whether Tesseract's data for `language` (such as "deu+eng") is found, by PyMuPDF or the program `tesseract`.

    Raises:
        MissingExtraError: no engine is installed.
    """
    _require("auto")
    return set(language.split("+")) <= installed_languages(DEFAULT_BUDGET)


def check_pdf_engine(pdf_engine: str) -> None:
    """Raise unless it is a `PdfEngine`; whether it is installed is not asked.

    Raises:
        InputError: it is not.
    """
    _check_choice("pdf_engine", pdf_engine, get_args(PdfEngine))


def _require(pdf_engine: PdfEngine, kind: Kind = "pdf") -> None:
    """Raise unless the engine is installed that must render a document of this kind."""
    check_pdf_engine(pdf_engine)
    has_pdfium = importlib.util.find_spec("pypdfium2") is not None
    if pdf_engine == "pdfium" and not has_pdfium:
        raise MissingExtraError("pypdfium2", "pdfium")
    needs_mupdf = pdf_engine == "mupdf" or (pdf_engine == "auto" and (kind != "pdf" or not has_pdfium))
    if needs_mupdf and importlib.util.find_spec("pymupdf") is None:
        raise MissingExtraError("pymupdf", "pdf")


def _name(source: PdfSource) -> str:
    """Return a path exactly as the caller gave it; for other sources their type."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else name_of(source)


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{argument} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_language(ocr: Ocr, language: str) -> None:
    if not _LANGUAGE.fullmatch(language):
        raise InputError(f"ocr_language must be like 'eng' or 'deu+eng', got {language!r}")
    if ocr == "always" and not ocr_available(language):
        raise InputError(
            f"ocr='always' needs Tesseract's data for {language!r}, which was not found; "
            "install it, for example with: apt-get install tesseract-ocr (other languages: tesseract-ocr-deu, ...)"
        )


def _render_request(dpi: float | None, max_pixels: int | None, budget: PdfBudget) -> dict[str, Any]:
    if dpi is not None and not (isinstance(dpi, int | float) and 0 < dpi < math.inf):
        raise InputError(f"dpi must be a positive number, got {dpi!r}")
    if max_pixels is not None and not (isinstance(max_pixels, int) and 0 < max_pixels <= budget.max_pixels):
        raise InputError(f"max_pixels must be from 1 to PdfBudget.max_pixels={budget.max_pixels}, got {max_pixels!r}")
    default = budget.max_pixels if dpi is not None else min(PAGE_PIXELS, budget.max_pixels)
    return {
        "op": "render",
        "seconds": budget.seconds,
        "dpi": dpi,
        "max_pixels": default if max_pixels is None else max_pixels,
        "max_side": budget.max_side,
        "max_text": budget.max_text,
    }
