"""PDF -> one document a page: its picture beside its text. It knows no model and no store."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Annotated, Any, Protocol

from llama_index.core.bridge.pydantic import BeforeValidator, ConfigDict, Field
from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import Document

from llama_index.readers.nemotron_rag.documents import PageDocument, page_fields
from llama_index.readers.nemotron_rag.pictures import ImageFormat, default_folder, encoded, kept
from nemotron_rag.errors import InputError
from nemotron_rag.pdf import DEFAULT_BUDGET, Ocr, OnError, PdfBudget, read_pdf
from nemotron_rag.types import Failure, Page

__all__ = ["PDFPageReader"]

_ENCODERS = 4  # threads that encode pictures, and pages read ahead; one is slower than the renderer

_PathLike = str | os.PathLike[str]


class FileSystem(Protocol):
    """The part of an fsspec file system that is needed here."""

    def open(self, path: str, mode: str) -> IO[bytes]:
        """Open a file."""


def _as_text(path: Any) -> Any:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def _as_numbers(pages: Any) -> Any:
    return list(pages) if isinstance(pages, range | tuple | set) else pages


class PDFPageReader(BasePydanticReader):
    """PDF -> one `PageDocument` a page: a picture of the whole page, and its text.

    Alone, or as ``SimpleDirectoryReader(folder, file_extractor={".pdf": PDFPageReader()})``. Ids follow from the file's
    bytes and the page, so reading again gives the same ones. A page is one node: it needs no node parser, so pass
    ``transformations=[NemotronPageEmbedder(...)]`` to an index; a parser would cut long texts, each with the picture.

    Metadata: ``page_label`` (as printed, else the number), ``page_number``, ``file_name``, ``file_path``,
    ``total_pages``, ``page_image_path``, ``page_image_sha256``, and what the PDF says of itself. Of these, prompts show
    label and file name.

    Args:
        image_folder: where pictures are written, named by their content, and never deleted; by default in the user's
            cache folder. What is stored refers to them, so keep the folder as long as the index.
        inline_images: put pictures as base64 into the documents instead, which makes whatever stores them large.
        image_format: "png" keeps every pixel, "jpeg" is smaller.
        pages: numbers starting at 1, or a text such as "1-3,7,10-"; None for all.
        password: tried if a document needs one; it is pickled, but not in `to_dict`.
        dpi: dots per inch; None scales every page to `max_pixels`.
        max_pixels: most pixels of a picture; None for the size that the models cut into tiles.
        ocr: "auto" reads pages without text layer with Tesseract where it is installed; "always" all; "never" none.
        ocr_language: Tesseract's names, such as "eng" or "deu+eng".
        workers: most processes to render with; None chooses, 0 renders in this one, without protection from it.
        budget: the most that one document may cost.
        on_error: "skip" reports what cannot be read and goes on; "raise" raises it.
        report: called with each `Failure` that is skipped; by default a warning of the logger ``nemotron_rag``.

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

    image_folder: Annotated[str | None, BeforeValidator(_as_text)] = None
    inline_images: bool = False
    image_format: ImageFormat = "png"
    pages: Annotated[str | list[int] | None, BeforeValidator(_as_numbers)] = None
    password: str | None = Field(default=None, exclude=True, repr=False)
    dpi: float | None = None
    max_pixels: int | None = None
    ocr: Ocr = "auto"
    ocr_language: str = "eng"
    workers: int | None = None
    budget: PdfBudget = DEFAULT_BUDGET
    on_error: OnError = "skip"
    report: Callable[[Failure], None] | None = Field(default=None, exclude=True)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "PDFPageReader"

    def lazy_load_data(
        self, file: _PathLike, extra_info: Mapping[str, Any] | None = None, fs: FileSystem | None = None
    ) -> Iterator[PageDocument]:
        """The pages of a PDF, one after the other; a few are read ahead.

        Args:
            file: where it is.
            extra_info: metadata for every page; the page's own come over it.
            fs: the fsspec file system it is in; None for the local one.

        Raises:
            InputError: an argument cannot be used, or a page is asked for that the document does not have.
            PdfError: the document or a page cannot be read, and `on_error` is "raise".
            MissingExtraError: PyMuPDF is not installed.
        """
        if not isinstance(file, str | os.PathLike):
            raise InputError(f"wanted file as a path, got {type(file).__name__}; write bytes to a file first")
        if fs is None:
            yield from self._documents(file, os.fspath(file), extra_info)
            return
        with fs.open(os.fspath(file), "rb") as stream:
            yield from self._documents(stream, os.fspath(file), extra_info)

    def load_data(
        self, file: _PathLike, extra_info: Mapping[str, Any] | None = None, fs: FileSystem | None = None
    ) -> list[Document]:
        """The pages of a PDF; arguments and errors are those of `lazy_load_data`."""
        return list(self.lazy_load_data(file, extra_info, fs))

    async def alazy_load_data(self, *args: Any, **load_kwargs: Any) -> Iterable[Document]:
        """The pages of a PDF, all read when this returns: taking them one by one would block the event loop."""
        return await asyncio.to_thread(self.load_data, *args, **load_kwargs)

    def _documents(
        self, source: _PathLike | IO[bytes], name: str, extra: Mapping[str, Any] | None
    ) -> Iterator[PageDocument]:
        pages = read_pdf(
            source,
            pages=self.pages,
            password=self.password,
            dpi=self.dpi,
            max_pixels=self.max_pixels,
            ocr=self.ocr,
            ocr_language=self.ocr_language,
            workers=self.workers,
            budget=self.budget,
            on_error=self.on_error,
            report=self.report,
            name=name,
        )
        making: deque[Future[PageDocument]] = deque()
        with ThreadPoolExecutor(_ENCODERS, thread_name_prefix="nemotron-rag pictures") as encoders:
            for page in pages:
                making.append(encoders.submit(self._document, page, extra))
                if len(making) == _ENCODERS:
                    yield making.popleft().result()
            while making:
                yield making.popleft().result()

    def _document(self, page: Page, extra: Mapping[str, Any] | None) -> PageDocument:
        if page.image is None:
            raise InputError(f"{page.source}, page {page.number}: came without a picture")
        data = encoded(page.image, self.image_format)
        digest = hashlib.sha256(data).hexdigest()
        if self.inline_images:
            fields = page_fields(page, extra=extra, image_sha256=digest)
            image = base64.b64encode(data).decode("ascii")
            return PageDocument(**fields, image=image, image_mimetype=f"image/{self.image_format}")
        folder = Path(self.image_folder) if self.image_folder is not None else default_folder()
        path = str(kept(data, folder, self.image_format))
        return PageDocument(**page_fields(page, extra=extra, image_path=path, image_sha256=digest), image_path=path)
