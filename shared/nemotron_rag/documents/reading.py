"""Any document -> pages: PDFs, images, office files, web pages, texts and e-books, told apart by their content."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Unpack, cast, get_args

from nemotron_rag.documents import office
from nemotron_rag.documents.files import TooManyBytesError, name_of, one_line, read_file
from nemotron_rag.documents.images import DEFAULT_BUDGET as IMAGE_BUDGET
from nemotron_rag.documents.images import count_frames, load_page_image
from nemotron_rag.documents.kinds import ENDINGS, OFFICE_KINDS, Kind, kind_of, kind_of_bytes
from nemotron_rag.documents.office import OfficeBudget
from nemotron_rag.documents.pdf import DEFAULT_BUDGET as PDF_BUDGET
from nemotron_rag.documents.pdf import (
    OnError,
    PdfEngine,
    PdfOptions,
    PdfSource,
    content_hash,
    count_pages,
    parse_pages,
    read_outline,
    read_pdf,
    resolve_pages,
)
from nemotron_rag.documents.pdf._job import log_failure
from nemotron_rag.documents.pdf._source import locate
from nemotron_rag.errors import DocumentError, ImageBudgetError, ImageError, InputError, MissingExtraError, PdfError
from nemotron_rag.types import Failure, Page, page_id

__all__ = ["Document", "DocumentOptions", "FoundDocuments", "find_documents", "read_document"]

_OF_CONVERSION = ("created", "modified")  # what LibreOffice writes into its PDF: when it was converted
_NOTES = "\n\nSpeaker notes:\n"


class DocumentOptions(PdfOptions, total=False):
    """Arguments of `read_document`, for whoever passes them on."""

    office_budget: OfficeBudget


def read_document(source: PdfSource, *, name: str | None = None, **options: Unpack[DocumentOptions]) -> Iterator[Page]:
    """Stream a document's pages in order, whatever it is; memory does not grow with their number.

    Pages are as from `read_pdf`. Those of an office file cite the file itself: page n is slide n of a presentation,
    hidden ones counted, its notes stand below its text, and a page of a spreadsheet says its ``sheet``. Each page of a
    TIFF is one. What is no PDF says in ``metadata["format"]`` what it is.

    Args:
        source: a path, the file's bytes, or a binary file. What it is, is told by its content, else by its name.
        name: in `Page.source`, reports and messages; by default its path, or its type.
        **options: those of `read_pdf`; and ``office_budget``, see `OfficeBudget`.

    Raises:
        InputError: as from `read_pdf`.
        MissingExtraError: PyMuPDF is not installed, and the document is no image.
        DocumentError, PdfError, ImageError: with ``on_error="raise"``: the document or a page cannot be read.

    Example:
        >>> [page.text for page in read_document(b"Tornadoes form in thunderstorms.")]
        ['Tornadoes form in thunderstorms.']
    """
    budget = options.pop("office_budget", office.DEFAULT_BUDGET)
    of_pdf = cast("PdfOptions", options)
    with contextlib.suppress(MissingExtraError):
        read_pdf(b"", **of_pdf)  # checks the options; reads nothing unless it is iterated
    if name is None:
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else name_of(source)
    engine = options.get("pdf_engine", "auto")
    document = Document(source, name, password=options.get("password"), office_budget=budget, pdf_engine=engine)
    return document.pages(**of_pdf)


@dataclass(frozen=True)
class Document:
    """One document of any kind, by its path or its bytes.

    Args:
        source: see `read_document`.
        name: of its pages, and in messages.
        password: of protected PDFs.
        office_budget: for converting it.
        pdf_engine: what reads PDFs.
        digest: sha256 of its bytes, hex, where it is known already.

    Example:
        >>> Document(b"Tornadoes form in thunderstorms.", "storms.txt").kind
        'txt'
    """

    source: PdfSource
    name: str
    password: str | None = None
    office_budget: OfficeBudget = office.DEFAULT_BUDGET
    pdf_engine: PdfEngine = "auto"
    digest: str | None = None

    @cached_property
    def kind(self) -> Kind:
        """What it is.

        Raises:
            DocumentError: it is nothing that is read, or cannot be opened.
        """
        try:
            if isinstance(self.source, str | os.PathLike):
                found = kind_of(self.source)
            else:
                found = kind_of_bytes(io.BytesIO(self._data), self.name)
        except OSError as error:
            if ENDINGS.get(Path(self.name).suffix[1:].lower()) == "image":
                raise ImageError(f"{self.name} cannot be read: {error.strerror or error}") from error
            raise PdfError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        if found is None:
            raise DocumentError(
                f"{self.name}: is no PDF, image, office file, web page, e-book or text; convert it to one"
            )
        return found

    @cached_property
    def content_hash(self) -> str:
        """Sha256 of its bytes, hex.

        Raises:
            InputError: it cannot be read.
        """
        if self.digest is not None:
            return self.digest
        try:
            return content_hash(self._whole)
        except PdfError as error:
            raise self._named(error) from error

    @property
    def is_quick(self) -> bool:
        """Whether its pages can be counted without converting it."""
        if self.kind not in OFFICE_KINDS:
            return True
        return isinstance(self.source, str | os.PathLike) and office.is_converted(Path(self.source), self.content_hash)

    @cached_property
    def page_count(self) -> int:
        """Its pages, at least one; an office file is converted for that.

        Raises:
            InputError: it cannot be read, or has no pages.
        """
        try:
            count = self._count()
        except InputError as error:
            raise self._named(error) from error
        if count < 1:
            raise PdfError(f"{self.name}: has no pages")
        return count

    def pages(self, **options: Unpack[PdfOptions]) -> Iterator[Page]:
        """Its pages; see `read_document`."""
        on_error: OnError = options.get("on_error", "skip")
        if on_error not in get_args(OnError):
            raise InputError(f"on_error must be one of 'skip', 'raise', got {on_error!r}")
        options["password"], options["pdf_engine"] = self.password, self.pdf_engine
        report = options.get("report") or log_failure
        try:
            yield from self._pages(options, None if on_error == "raise" else report)
        except (DocumentError, ImageError, PdfError) as error:
            if on_error == "raise":
                raise self._named(error) from error
            report(Failure.of(self.name, error))

    def _count(self) -> int:
        if self.kind == "image":
            return count_frames(self._image())
        if self.kind in OFFICE_KINDS:
            with self._converted() as pdf:
                return count_pages(pdf, pdf_engine=self.pdf_engine)
        return count_pages(self._whole, password=self.password, pdf_engine=self.pdf_engine, kind=self.kind)

    def _pages(self, options: PdfOptions, report: Callable[[Failure], None] | None) -> Iterator[Page]:
        if self.kind == "image":
            yield from self._frames(options, report)
        elif self.kind == "pdf":
            yield from read_pdf(self._whole, name=self.name, **options)
        elif self.kind in OFFICE_KINDS:
            yield from self._office_pages(options)
        else:
            for page in read_pdf(self._whole, name=self.name, kind=self.kind, **options):
                yield self._marked(page)

    def _office_pages(self, options: PdfOptions) -> Iterator[Page]:
        with self._converted() as pdf:
            notes = self._notes()
            sheets = read_outline(pdf, pdf_engine=self.pdf_engine) if OFFICE_KINDS[self.kind] == "calc" else []
            for page in read_pdf(pdf, name=self.name, **cast("PdfOptions", {**options, "password": None})):
                made = {key: value for key, value in page.metadata.items() if key not in _OF_CONVERSION}
                page = replace(page, metadata=made)
                sheet = [title for title, first in sheets if first <= page.number]
                said = notes.get(page.number, "")
                marked = self._marked(page, {"sheet": sheet[-1]} if sheet else {})
                yield replace(marked, text=f"{page.text}{_NOTES}{said}".strip() if said else page.text)

    def _notes(self) -> dict[int, str]:
        try:
            with self._file() as path:
                return office.speaker_notes(path, self.kind)
        except (DocumentError, OSError, ValueError, KeyError, RuntimeError) as error:
            log_failure(Failure(self.name, f"its speaker notes cannot be read: {one_line(str(error))}"))
            return {}

    def _marked(self, page: Page, more: dict[str, str] | None = None) -> Page:
        """A page of a document that is no PDF, or came through one."""
        metadata = {**page.metadata, "format": self.kind, **(more or {})}
        return replace(page, id=page_id(self.content_hash, page.number), metadata=metadata)

    def _frames(self, options: PdfOptions, report: Callable[[Failure], None] | None) -> Iterator[Page]:
        data = self._image()
        count = count_frames(data)
        numbers = resolve_pages(parse_pages(options.get("pages")), count) if count > 1 else [1]
        most = options.get("budget", PDF_BUDGET).max_pages
        if len(numbers) > most:
            raise ImageError(f"{len(numbers)} pages are more than the {most} allowed; pass fewer pages=")
        for number in numbers:
            try:
                image = load_page_image(data, frame=number - 1)
            except ImageError as error:
                named = type(error)(str(error).replace("<bytes>", self.name, 1))
                if report is None or count == 1:
                    raise named from error
                report(Failure.of(self.name, named, number))
                continue
            metadata = {"page_count": count, "format": "tiff"} if count > 1 else {}
            identity = page_id(self.content_hash, number)
            yield Page(id=identity, source=self.name, number=number, image=image, metadata=metadata)

    def _image(self) -> bytes:
        """The file, if it is small enough for an image."""
        if not isinstance(self.source, str | os.PathLike):
            return self._data
        most = IMAGE_BUDGET.max_bytes
        try:
            return read_file(self.source, max_bytes=most)
        except TooManyBytesError as error:
            raise ImageBudgetError(f"{self.name} holds {error}, more than the {most} allowed") from error
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _converted(self) -> Iterator[Path]:
        with (
            self._file() as path,
            office.to_pdf(path, self.kind, content_hash=self.content_hash, budget=self.office_budget) as pdf,
        ):
            yield pdf

    @contextlib.contextmanager
    def _file(self) -> Iterator[Path]:
        """A path of the document, which need not have one."""
        if isinstance(self.source, str | os.PathLike):
            yield Path(self.source)
            return
        with tempfile.TemporaryDirectory(prefix="nemotron-rag-") as folder:
            path = Path(folder, "document")
            path.write_bytes(self._data)
            yield path

    @property
    def _whole(self) -> PdfSource:
        return self.source if isinstance(self.source, str | os.PathLike) else self._data

    @cached_property
    def _data(self) -> bytes:
        """The bytes of a document that has no path; a stream is read once."""
        try:
            return locate(self.source).data
        except PdfError as error:
            raise self._named(error) from error

    def _named(self, error: InputError) -> InputError:
        message = str(error)
        if message.startswith(self.name):
            return error
        return type(error)(f"{self.name}: {message.removeprefix(f'{name_of(self.source)}: ')}")


@dataclass(frozen=True, slots=True)
class FoundDocuments:
    """What a folder holds.

    Args:
        files: documents, sorted by path.
        left_out: files that are no documents, sorted by path.
    """

    files: tuple[Path, ...]
    left_out: tuple[Path, ...] = ()

    @property
    def says_left_out(self) -> str:
        """What was left out, for a message: how many files, and the first of them."""
        return f"left out {len(self.left_out)} files that are no documents: {', '.join(map(str, self.left_out[:5]))}"


def find_documents(
    path: str | os.PathLike[str], *, passed_over: Callable[[Path], bool] = lambda folder: False
) -> FoundDocuments:
    """List the documents in a folder and its subfolders, by their content.

    A text counts as a document only if its name ends as one, such as ``.txt``, ``.md`` or ``.html``: program code does
    not. Hidden files and folders, and what Word and LibreOffice write beside an open document, are left out without a
    word; links to folders are not followed.

    Args:
        path: a folder; or a file, which is returned whatever it is.
        passed_over: folders that are not looked into.

    Raises:
        InputError: nothing is at the path.
    """
    root = Path(path)
    if root.is_file():
        return FoundDocuments((root,))
    if not root.is_dir():
        raise InputError(f"expected a document or a folder of documents, but nothing is at {name_of(path)}")
    files, left_out = list[Path](), list[Path]()
    for name, folders, entries in os.walk(root):
        folder = Path(name)
        folders[:] = [entry for entry in folders if not entry.startswith(".") and not passed_over(folder / entry)]
        for entry in entries:
            if not entry.startswith((".", "~$")):
                (files if _is_document(folder / entry) else left_out).append(folder / entry)
    return FoundDocuments(tuple(sorted(files)), tuple(sorted(left_out)))


def _is_document(path: Path) -> bool:
    ending = path.suffix[1:].lower()
    try:
        kind = kind_of(path)
    except OSError:
        return ending in ENDINGS  # reading it will say what is wrong
    if kind in ("txt", "cbz"):
        return ENDINGS.get(ending) == kind
    return kind is not None or ending in ENDINGS
