"""PDFs and other files -> one document a page: its image beside its text."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, cast

from llama_index.core.bridge.pydantic import BeforeValidator, ConfigDict, Field
from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import Document
from llama_index.core.utils import get_tqdm_iterable

from llama_index_nemotron_rag.documents import PageDocument, default_image_folder, page_fields, slot_id
from llama_index_nemotron_rag.settings import Component
from nemotron_rag.documents.ahead import map_ahead
from nemotron_rag.documents.files import write_by_content
from nemotron_rag.documents.images import ImageFormat, encode_image, load_image
from nemotron_rag.documents.pdf import (
    DEFAULT_BUDGET,
    Ocr,
    OnError,
    PdfBudget,
    PdfEngine,
    PdfOptions,
    find_pdfs,
    read_pdf,
)
from nemotron_rag.documents.reading import find_documents, read_document
from nemotron_rag.errors import InputError, PdfError, StoreError
from nemotron_rag.types import Failure, Notice, Page

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["DocumentPageReader", "PDFPageReader"]

_log = logging.getLogger("nemotron_rag")
_ENCODERS = 4  # threads that encode images, and pages read ahead; one is slower than the renderer

PdfFile: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes]"
"""A PDF by its path, its bytes or as a binary file; or a folder of PDFs."""


def _as_text(path: Any) -> Any:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


class PDFPageReader(Component, BasePydanticReader):
    """PDF -> one `PageDocument` a page: an image of the whole page, and its text.

    Alone, or as ``SimpleDirectoryReader(folder, file_extractor={".pdf": PDFPageReader()})``. A page is one node: it
    needs no node parser, so pass ``transformations=[NemotronPageEmbedder(...)]`` to an index; a parser would cut long
    texts, each with the image.

    Ids follow from the file's name and the page's number, hashes from what the page shows, so that a pipeline with a
    docstore, or ``index.refresh_ref_docs(pages)``, embeds those pages again that have changed, and replaces them. Pages
    and files that are gone are deleted with ``DocstoreStrategy.UPSERTS_AND_DELETE``, or ``index.delete_ref_doc(id)``.

    Metadata: ``page_label`` (as printed, else the number), ``page_number``, ``file_name``, ``file_path`` and ``source``
    (which are the same), ``total_pages``, ``page_image_path``, ``page_image_sha256``, and the PDF's own, such as
    ``title``. Of these, prompts show label and file name.

    Args:
        image_folder: where images are written, named by their content, and never deleted; by default
            ``nemotron-rag/pages`` in the user's cache folder. Stored nodes refer to them, so keep the folder as long
            as the index.
        inline_images: put images as base64 into the documents instead, which makes whatever stores them large.
        image_format: "png" keeps every pixel, "jpeg" and "webp" are smaller.
        pages: numbers starting at 1, or a text such as "1-3,7,10-"; None for all.
        password: tried if a document needs one; it is pickled, but not in `to_dict`.
        dpi: dots per inch; None scales every page to `max_pixels`.
        ocr: "auto" reads pages without text layer with Tesseract where it is installed; "always" all; "never" none.
        on_error: "skip" reports what cannot be read and goes on; "raise" raises it. None skips pages, and documents
            among several; a single document that cannot be read raises, as SimpleDirectoryReader expects.
        max_pixels, ocr_language, workers, budget, report, pdf_engine: as in `nemotron_rag.documents.pdf.read_pdf`.

    Example:
        >>> import pymupdf, tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> pdf = pymupdf.open()
        >>> _ = pdf.new_page().insert_text((72, 72), "Tornadoes form in thunderstorms.")
        >>> pdf.save(Path(folder.name, "storms.pdf"))
        >>> page, = PDFPageReader(image_folder=folder.name).load_data(Path(folder.name, "storms.pdf"))
        >>> page.text, page.metadata["page_label"], Path(page.image_path).suffix
        ('Tornadoes form in thunderstorms.', '1', '.png')
        >>> folder.cleanup()
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True)
    _wanted: ClassVar[str] = "PDF"

    image_folder: Annotated[str | None, BeforeValidator(_as_text)] = None
    inline_images: bool = False
    image_format: ImageFormat = "png"
    pages: str | list[int] | None = None
    password: str | None = Field(default=None, exclude=True, repr=False)
    dpi: float | None = None
    max_pixels: int | None = None
    ocr: Ocr = "auto"
    ocr_language: str = "eng"
    workers: int | None = None
    budget: PdfBudget = DEFAULT_BUDGET
    on_error: OnError | None = None
    report: Callable[[Failure], None] | None = Field(default=None, exclude=True)
    pdf_engine: PdfEngine = "auto"

    def lazy_load_data(
        self,
        file: PdfFile | Iterable[PdfFile],
        extra_info: Mapping[str, Any] | None = None,
        fs: AbstractFileSystem | None = None,
        *,
        show_progress: bool = False,
    ) -> Iterator[PageDocument]:
        """The pages of PDFs, one after the other; a few are read ahead.

        Args:
            file: a path, the bytes of a PDF, or a binary file; a folder, of which all PDFs are read, also in folders
                below; or several of these, also from an iterator, which is read as it is needed.
            extra_info: metadata for every page; the page's own have priority.
            fs: the fsspec file system that paths are in; None for the local one.
            show_progress: show a bar that counts pages.

        Raises:
            InputError: there is nothing at a path, an argument cannot be used, or `pages` names one that the document
                does not have.
            PdfError: a document or page cannot be read; see `on_error`.
            MissingExtraError: PyMuPDF is not installed.
        """
        files, is_alone = _files(file, fs, self)
        on_error = self.on_error or (None if is_alone else "skip")
        pages = (page for one in files for page in self._read(one, extra_info, fs, on_error))
        yield from get_tqdm_iterable(pages, show_progress, "Reading pages")

    def _read(
        self,
        file: PdfFile,
        extra: Mapping[str, Any] | None,
        fs: AbstractFileSystem | None,
        on_error: OnError | None,
    ) -> Iterator[PageDocument]:
        name = os.fspath(file) if isinstance(file, str | os.PathLike) else _name_of(file)
        lost: list[Failure] = []

        def report(failure: Failure) -> None:
            if failure.number is None and on_error is None and not isinstance(failure, Notice):
                lost.append(failure)
            elif self.report is not None:
                self.report(failure)
            else:
                _log.warning("%s", failure)

        opened = fs is not None and isinstance(file, str | os.PathLike)
        with fs.open(name, "rb") if fs is not None and opened else nullcontext(file) as source:
            options = cast("PdfOptions", {option: getattr(self, option) for option in PdfOptions.__annotations__})
            options |= {"on_error": on_error or "skip", "report": report}
            make = partial(self._document, extra=extra)
            yield from map_ahead(make, self._pages(source, name, options), threads=_ENCODERS)
        if lost:
            raise PdfError(f"{lost[0].source}: {lost[0].reason}; with on_error='skip' it is left out")

    def _pages(self, source: PdfFile, name: str, options: PdfOptions) -> Iterator[Page]:
        return read_pdf(source, name=name, **options)

    def _in_folder(self, folder: str | os.PathLike[str]) -> Sequence[Path]:
        return find_pdfs(folder)

    def load_data(
        self,
        file: PdfFile | Iterable[PdfFile],
        extra_info: Mapping[str, Any] | None = None,
        fs: AbstractFileSystem | None = None,
        *,
        show_progress: bool = False,
    ) -> list[Document]:
        """The pages of PDFs; arguments and errors are those of `lazy_load_data`."""
        return list(self.lazy_load_data(file, extra_info, fs, show_progress=show_progress))

    async def alazy_load_data(self, *args: Any, **load_kwargs: Any) -> Iterable[Document]:
        """The pages of PDFs, all read when this returns: taking them blocks no event loop. See `astream_data`."""
        return await asyncio.to_thread(self.load_data, *args, **load_kwargs)

    async def astream_data(self, *args: Any, **load_kwargs: Any) -> AsyncIterator[PageDocument]:
        """`lazy_load_data` for event loops, unblocked: ``async for page in reader.astream_data(folder)``."""
        pages = self.lazy_load_data(*args, **load_kwargs)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    def _document(self, page: Page, extra: Mapping[str, Any] | None) -> PageDocument:
        if page.image is None:
            raise InputError(f"{page.source}, page {page.number}: came without an image")
        own = {"id_": slot_id(page.source, page.number)}
        data, mimetype = encode_image(load_image(page.image), self.image_format), f"image/{self.image_format}"
        if self.inline_images:
            image = base64.b64encode(data).decode("ascii")
            fields = page_fields(page, extra=extra, image_sha256=hashlib.sha256(data).hexdigest())
            return PageDocument(**fields | own, image=image, image_mimetype=mimetype)
        path = self._written(data)
        fields = page_fields(page, extra=extra, image_path=str(path), image_sha256=path.stem)
        return PageDocument(**fields | own, image_path=str(path), image_mimetype=mimetype)

    def _written(self, data: bytes) -> Path:
        """The path of an image file that is named by its content."""
        folder = default_image_folder() if self.image_folder is None else Path(self.image_folder).absolute()
        suffix = ".jpg" if self.image_format == "jpeg" else f".{self.image_format}"
        try:
            return write_by_content(folder, data, suffix=suffix)
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"could not write an image to {folder}: {reason}; give another image_folder") from error


class DocumentPageReader(PDFPageReader):
    """Any document -> one `PageDocument` a page, as `PDFPageReader` makes them.

    PDFs, images, office files, web pages, Markdown, texts and e-books, told apart by their content. Office files are
    converted by LibreOffice, once for each content; pages cite the file itself, and the metadata's ``format`` says what
    it was. For all files of a folder ``SimpleDirectoryReader(folder, file_extractor=dict.fromkeys(suffixes(),
    DocumentPageReader()))``, with `suffixes` of `nemotron_rag.documents.kinds`.

    Args:
        image_folder, inline_images, image_format, pages, password: see `PDFPageReader`.
        dpi, max_pixels, pdf_engine, ocr, ocr_language: see there.
        workers, budget, on_error, report: see there.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "storms.md")
        >>> _ = path.write_text("# Storms")
        >>> page, = DocumentPageReader(image_folder=folder.name).load_data(path)
        >>> page.text, page.metadata["file_name"], page.metadata["format"]
        ('Storms', 'storms.md', 'md')
        >>> folder.cleanup()
    """

    _wanted: ClassVar[str] = "document"

    def _pages(self, source: PdfFile, name: str, options: PdfOptions) -> Iterator[Page]:
        return read_document(source, name=name, **options)

    def _in_folder(self, folder: str | os.PathLike[str]) -> Sequence[Path]:
        found = find_documents(folder)
        if found.left_out:
            _log.warning("%s", found.says_left_out)
        return found.files


def _files(file: object, fs: AbstractFileSystem | None, reader: PDFPageReader) -> tuple[Iterable[PdfFile], bool]:
    """What is to be read, and whether it is a single PDF; paths that are there at once are checked at once."""
    if isinstance(file, Iterator) and not hasattr(file, "read"):
        return (one for each in file for one in _found(each, fs, reader)), False
    several = isinstance(file, Iterable) and not isinstance(file, str | os.PathLike | bytes | bytearray)
    several = several and not hasattr(file, "read")
    found = [
        one for each in (cast("Iterable[PdfFile]", file) if several else [file]) for one in _found(each, fs, reader)
    ]
    return found, len(found) == 1


def _found(file: object, fs: AbstractFileSystem | None, reader: PDFPageReader) -> list[PdfFile]:
    """One file as it is, or the PDFs of a folder."""
    if isinstance(file, bytes | bytearray):
        return [bytes(file)]
    if not isinstance(file, str | os.PathLike):
        if hasattr(file, "read"):
            return [cast("IO[bytes]", file)]
        raise InputError(f"wanted file as a path, bytes or a binary file, got {type(file).__name__}")
    if fs is not None:
        return [file]
    if not Path(file).exists():
        raise InputError(
            f"wanted a {reader._wanted} or a folder of {reader._wanted}s, but nothing is at {os.fspath(file)}"
        )
    found = list(reader._in_folder(file)) if Path(file).is_dir() else [file]
    if not found:
        _log.warning("there is no %s in %s", reader._wanted, os.fspath(file))
    return list[PdfFile](found)


def _name_of(file: bytes | IO[bytes]) -> str:
    """What a document without a path is called: its file's name, or a hash, by which its pages are found again."""
    name = getattr(file, "name", None)
    if isinstance(name, str):
        return name
    if isinstance(file, bytes):
        return f"sha256:{hashlib.sha256(file).hexdigest()}"
    start = file.tell()
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # any binary file will do
    file.seek(start)
    return f"sha256:{digest.hexdigest()}"
