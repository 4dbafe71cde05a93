"""PDFs -> documents that hold a page's picture and text: a blob parser, and a thin loader over it.

They know no model and no store.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from langchain_core.document_loaders import BaseBlobParser, BaseLoader
from langchain_core.documents import Document
from langchain_core.documents.base import Blob

from langchain_nemotron_rag._convert import (
    IMAGE_KEY,
    ImageFormat,
    blob_source,
    document_of_page,
    encode_image,
    to_data_uri,
)
from nemotron_rag import Failure, Page
from nemotron_rag.errors import InputError
from nemotron_rag.images import load_image
from nemotron_rag.pdf import Pages, find_pdfs, read_pdf

__all__ = ["PDFPageLoader", "PDFPageParser"]


class PDFPageParser(BaseBlobParser):
    """PDF -> one document a page, with the picture of the whole page beside its text layer; streamed.

    The document's `id` and ``metadata["page_id"]`` follow from the PDF's bytes and the page, so parsing again gives
    the same ones. A page without text gets a label as `page_content`, marked ``text_is_placeholder``, which our
    models never see. Pages with equal texts are told apart by `id`; for `EnsembleRetriever` pass ``id_key="page_id"``.

    Args:
        image_folder: where pictures are written, named by page id; ``metadata["image"]`` is then the path, which
            `NemotronRerank` and `NemotronEmbeddings` open with ``image_roots=[image_folder]``. None puts the picture
            itself there as a data URI, which needs no folder but makes documents large.
        image_format: "png" keeps every pixel, "jpeg" stays small for scans and photographs.
        image_key: where in the metadata the picture goes.
        pages: numbers starting at 1, or a text such as "1-3,7,10-"; None for all.
        password: tried if the document needs one.
        dpi: dots per inch; None scales every page to the size that the models cut into tiles.
        ocr: "auto" reads pages without text layer with Tesseract where it is installed; "always" all; "never" none.
        ocr_language: Tesseract's names, such as "eng" or "deu+eng".
        workers: most processes to render with; None chooses, 0 renders in this one, without protection from it.
        on_error: "skip" reports what cannot be read and goes on; "raise" raises it.
        report: called with each `Failure` that is skipped; by default a warning of the logger ``nemotron_rag``.

    Raises:
        InputError: `image_format` is unknown. Other arguments are checked when parsing starts.

    Example:
        >>> import pymupdf
        >>> from langchain_core.documents.base import Blob
        >>> pdf = pymupdf.open()
        >>> _ = pdf.new_page().insert_text((72, 72), "Tornadoes form in thunderstorms.")
        >>> page, = PDFPageParser().lazy_parse(Blob.from_data(pdf.tobytes(), path="storms.pdf"))
        >>> page.page_content, page.metadata["page"], page.metadata["image"][:22]
        ('Tornadoes form in thunderstorms.', 0, 'data:image/png;base64,')
    """

    def __init__(
        self,
        *,
        image_folder: str | os.PathLike[str] | None = None,
        image_format: ImageFormat = "png",
        image_key: str = IMAGE_KEY,
        pages: Pages = None,
        password: str | None = None,
        dpi: float | None = None,
        ocr: Literal["auto", "always", "never"] = "auto",
        ocr_language: str = "eng",
        workers: int | None = None,
        on_error: Literal["skip", "raise"] = "skip",
        report: Callable[[Failure], None] | None = None,
    ) -> None:
        if image_format not in ("png", "jpeg"):
            raise InputError(f"wanted image_format as 'png' or 'jpeg', got {image_format!r}")
        self._image_folder = None if image_folder is None else Path(image_folder)
        self._image_format: ImageFormat = image_format
        self._image_key = image_key
        self._read = partial(
            read_pdf,
            pages=pages if pages is None or isinstance(pages, str) else tuple(pages),
            password=password,
            dpi=dpi,
            ocr=ocr,
            ocr_language=ocr_language,
            workers=workers,
            on_error=on_error,
            report=report,
        )

    def lazy_parse(self, blob: Blob) -> Iterator[Document]:
        """The pages of a PDF, one after the other; the blob's metadata travels with each.

        Raises:
            InputError: an argument cannot be used, or a page is asked for that the document does not have.
            PdfError: the document or a page cannot be read, and `on_error` is "raise".
            MissingExtraError: PyMuPDF is not installed.
        """
        name = str(blob.source) if blob.source else f"sha256:{hashlib.sha256(blob.as_bytes()).hexdigest()}"
        for page in self._read(blob_source(blob), name=name):
            document = self._document(page)
            document.metadata = {**blob.metadata, **document.metadata}
            yield document

    def _document(self, page: Page) -> Document:
        if page.image is None:
            raise InputError(f"{page.source}, page {page.number}: came without a picture")
        data, mime_type = encode_image(load_image(page.image), self._image_format)
        folder = self._image_folder
        if folder is None:
            image = to_data_uri(data, mime_type)
        else:
            image = _write(data, folder, name=f"{page.id}.{self._image_format}")
        return document_of_page(page, image=image, mime_type=mime_type, image_key=self._image_key)


class PDFPageLoader(BaseLoader):
    """The pages of one PDF, or of all PDFs in a folder and the folders below it, as documents; streamed.

    Args:
        path: a PDF, or a folder.
        parser: how pages become documents; by default `PDFPageParser()`.

    Example:
        >>> import pymupdf, tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> pdf = pymupdf.open()
        >>> _ = pdf.new_page(), pdf.new_page()
        >>> pdf.save(Path(folder.name, "report.pdf"))
        >>> [page.metadata["page_number"] for page in PDFPageLoader(folder.name).lazy_load()]
        [1, 2]
        >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], *, parser: PDFPageParser | None = None) -> None:
        self._path = Path(path)
        self._parser = parser or PDFPageParser()

    def lazy_load(self) -> Iterator[Document]:
        """The documents, one after the other, by path and page.

        Raises:
            InputError: nothing is at the path. Other errors are those of `PDFPageParser.lazy_parse`.
        """
        for path in find_pdfs(self._path):
            yield from self._parser.lazy_parse(Blob.from_path(path))


def _write(data: bytes, folder: Path, *, name: str) -> str:
    """Write a picture in one step, so that no reader ever sees half of it; returns its absolute path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder.absolute() / name
    unfinished = target.with_name(f".{uuid.uuid4()}")
    unfinished.write_bytes(data)
    unfinished.replace(target)
    return str(target)
