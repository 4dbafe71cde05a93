"""PDFs and other files -> documents that hold a page's image and text: blob parsers, and thin loaders over them."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, Unpack, cast, get_args

from langchain_core.document_loaders import BaseBlobParser, BaseLoader
from langchain_core.documents import Document
from langchain_core.documents.base import Blob

from langchain_nemotron_rag._documents import IMAGE_KEY, blob_source, document_of_page, labelled
from nemotron_rag import Page
from nemotron_rag.documents.files import name_of, one_line, read_stream, write_whole
from nemotron_rag.documents.images import ImageFormat, encode_image, load_image, to_data_uri
from nemotron_rag.documents.pdf import PdfOptions, find_pdfs, read_pdf
from nemotron_rag.documents.reading import find_documents, read_document
from nemotron_rag.errors import InputError

__all__ = ["DocumentPageLoader", "DocumentPageParser", "PDFPageLoader", "PDFPageParser"]

_log = logging.getLogger("nemotron_rag")
_LONGEST = 500  # characters of a warning


class PDFPageParser(BaseBlobParser):
    """PDF -> one document a page, with the image of the whole page beside its text layer; streamed.

    ``metadata["page_id"]`` follows from the PDF's bytes and the page, and the document's `id` from that and the file's
    name: parsing again gives the same ones, and equal files are documents of their own. A page without text gets a
    label as `page_content`, marked ``text_is_placeholder``, which our models never read: in any store,
    `NemotronEmbeddings` embeds the image in its place. Pages with equal texts are told apart by `id`; for
    `EnsembleRetriever` pass ``id_key="page_id"``.

    Args:
        image_folder: where images are written, named by page id; ``metadata["image"]`` is then the path, which
            `NemotronRerank` and `NemotronEmbeddings` open with ``image_roots=[image_folder]``. None puts the image
            itself there as a data URI, which needs no folder but makes documents large.
        image_format: "png" keeps every pixel, "jpeg" and "webp" stay small for scans and photographs.
        image_key: where in the metadata the image goes.
        pages: numbers starting at 1, or a text such as "1-3,7,10-"; None for all.
        password: of protected documents.
        dpi: dots per inch; None scales every page to the size that the models cut into tiles.
        ocr: "auto" reads pages without text layer with Tesseract where it is installed; "always" all; "never" none.
        ocr_language: Tesseract's names, such as "eng" or "deu+eng".
        workers: most processes to render with; None chooses, 0 renders in this one, without protection from it.
        on_error: "skip" reports what cannot be read and goes on; "raise" raises it.
        report: called with each `Failure` that is skipped; by default a warning of the logger ``nemotron_rag``.
        max_pixels, budget, pdf_engine: see `nemotron_rag.documents.pdf.read_pdf`.

    Raises:
        InputError: an argument cannot be used.
        MissingExtraError: what renders PDFs is not installed.

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
        **options: Unpack[PdfOptions],
    ) -> None:
        if image_format not in get_args(ImageFormat):
            raise InputError(f"image_format must be one of {', '.join(get_args(ImageFormat))}, got {image_format!r}")
        self._image_folder = None if image_folder is None else Path(image_folder)
        self._image_format: ImageFormat = image_format
        self._image_key = image_key
        pages = options.get("pages")
        self._options: PdfOptions = {**options, "pages": pages if isinstance(pages, str | None) else tuple(pages)}
        read_pdf(b"", **self._options)  # checks them; reads nothing unless it is iterated

    def lazy_parse(self, blob: Blob) -> Iterator[Document]:
        """The pages of a PDF, one after the other; the blob's metadata travels with each.

        Raises:
            InputError: `pages` names one that the document does not have.
            PdfError: the document or a page cannot be read, and `on_error` is "raise".
        """
        name = str(blob.source) if blob.source else f"sha256:{hashlib.sha256(blob.as_bytes()).hexdigest()}"
        for page in self._pages(blob_source(blob), name):
            document = self._document(page)
            document.metadata = {**blob.metadata, **document.metadata}
            yield document

    def _pages(self, source: bytes | Path, name: str) -> Iterator[Page]:
        return read_pdf(source, name=name, **self._options)

    def _document(self, page: Page) -> Document:
        if page.image is None:
            raise InputError(f"{page.source}, page {page.number}: came without an image")
        data = encode_image(load_image(page.image), self._image_format)
        document = document_of_page(page)
        name = page.source.encode("utf-8", "replace").decode()
        document.id = str(uuid.uuid5(uuid.UUID(page.id), name))  # equal files are documents of their own
        document.metadata[self._image_key] = labelled(document, self._kept(page, data))
        document.metadata["mime_type"] = f"image/{self._image_format}"
        return document

    def _kept(self, page: Page, data: bytes) -> str:
        """The data URI of an image, or the path under which it was written."""
        if self._image_folder is None:
            return to_data_uri(data, self._image_format)
        path = self._image_folder.absolute() / f"{page.id}.{self._image_format}"
        write_whole(path, data)
        return str(path)


class DocumentPageParser(PDFPageParser):
    """Any document -> one document a page, as `PDFPageParser` makes them: PDFs, images, office files, web pages, texts.

    Office files are converted by LibreOffice, once for each content; pages cite the file itself, and
    ``metadata["format"]`` says what it was. What a file is, is told by its content.

    Args:
        **options: those of `PDFPageParser`, which concern the rendering of pages whatever they came from.

    Example:
        >>> from langchain_core.documents.base import Blob
        >>> blob = Blob.from_data("Tornadoes form in thunderstorms.", path="storms.txt")
        >>> page, = DocumentPageParser().lazy_parse(blob)
        >>> page.page_content, page.metadata["format"], page.metadata["image"][:22]
        ('Tornadoes form in thunderstorms.', 'txt', 'data:image/png;base64,')
    """

    def _pages(self, source: bytes | Path, name: str) -> Iterator[Page]:
        return read_document(source, name=name, **self._options)


PdfPath: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Blob"
"""A PDF or a folder of them by its path, or a PDF as its bytes, a binary file or a blob."""


class LoaderOptions(PdfOptions, total=False):
    """What `PDFPageLoader` passes on to `PDFPageParser`."""

    image_folder: str | os.PathLike[str] | None
    image_format: ImageFormat
    image_key: str


class PDFPageLoader(BaseLoader):
    """The pages of PDFs as documents; streamed.

    Args:
        path: a PDF, or a folder of which all PDFs are read, also in folders below; the bytes of a PDF, a binary file or
            a `Blob`; or a list of these.
        file_path: the same, as LangChain's own PDF loaders call it.
        parser: how pages become documents; by default `PDFPageParser(**options)`.
        **options: those of `PDFPageParser`: ``pages``, ``password``, ``image_folder``, ``dpi``, ...

    Raises:
        InputError: nothing is at a path, or an option cannot be used.

    Example:
        >>> import pymupdf, tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> pdf = pymupdf.open()
        >>> _ = pdf.new_page(), pdf.new_page()
        >>> pdf.save(Path(folder.name, "report.pdf"))
        >>> [page.metadata["page_number"] for page in PDFPageLoader(folder.name).lazy_load()]
        [1, 2]
        >>> [page.metadata["page_number"] for page in PDFPageLoader(pdf.tobytes(), pages="2-").lazy_load()]
        [2]
        >>> folder.cleanup()
    """

    _parser_class: type[PDFPageParser] = PDFPageParser
    _wanted = "PDF"

    def __init__(
        self,
        path: PdfPath | Iterable[PdfPath] | None = None,
        *,
        file_path: PdfPath | Iterable[PdfPath] | None = None,
        parser: PDFPageParser | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        if (path is None) == (file_path is None):
            raise InputError(f"{type(self).__name__} wants a path or file_path=, which mean the same; give one of them")
        path = file_path if path is None else path
        if parser is not None and options:
            raise InputError(f"{', '.join(options)} came with a parser; set them where the parser is made")
        if unknown := sorted(options.keys() - LoaderOptions.__annotations__.keys()):
            known = ", ".join(LoaderOptions.__annotations__)
            name = type(self).__name__
            raise InputError(f"{name}(path, ...) has no option {', '.join(unknown)}; give one of: {known}")
        self._sources = [cast("PdfPath", path)] if _is_one(path) else list(cast("Iterable[PdfPath]", path))
        for source in self._sources:
            if isinstance(source, str | os.PathLike) and not Path(source).exists():
                raise InputError(f"expected a {self._wanted} or a folder of them, but nothing is at {name_of(source)}")
            if not _is_one(source):
                raise InputError(f"expected a path, bytes, a binary file or a blob, got {type(source).__name__}")
        self._parser = parser or self._parser_class(**options)

    def lazy_load(self) -> Iterator[Document]:
        """The documents, one after the other: in the order that was given, of a folder by path and page.

        Raises:
            InputError: nothing is at a path any more. Other errors are those of `PDFPageParser.lazy_parse`.
        """
        for source in self._sources:
            for blob in self._blobs(source):
                yield from self._parser.lazy_parse(blob)

    def _blobs(self, source: Any) -> Iterator[Blob]:
        """The documents of a source, in memory only if it is."""
        if isinstance(source, Blob):
            yield source
        elif isinstance(source, bytes | bytearray):
            yield Blob.from_data(bytes(source))
        elif hasattr(source, "read"):
            name = getattr(source, "name", None)
            yield Blob.from_data(read_stream(source, max_bytes=None), path=name if isinstance(name, str) else None)
        else:
            found = self._found(source)
            if not found:
                _log.warning("there is no %s in %s", self._wanted, name_of(source))
            yield from map(Blob.from_path, found)

    def _found(self, path: str | os.PathLike[str]) -> Sequence[Path]:
        return find_pdfs(path)


class DocumentPageLoader(PDFPageLoader):
    """The pages of documents of any kind as documents; streamed. See `DocumentPageParser`.

    Args:
        path: a document, or a folder of which all are read, also in folders below; the bytes of a document, a binary
            file or a `Blob`; or a list of these. Files in a folder that are no documents are named in a warning.
        file_path: the same.
        parser: how pages become documents; by default `DocumentPageParser(**options)`.
        **options: those of `PDFPageParser`: ``pages``, ``password``, ``image_folder``, ``dpi``, ...

    Raises:
        InputError: nothing is at a path, or an option cannot be used.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = Path(folder.name, "storms.md").write_text("# Storms")
        >>> [page.page_content for page in DocumentPageLoader(folder.name).lazy_load()]
        ['Storms']
        >>> folder.cleanup()
    """

    _parser_class = DocumentPageParser
    _wanted = "document"

    def _found(self, path: str | os.PathLike[str]) -> Sequence[Path]:
        found = find_documents(path)
        if found.left_out:
            _log.warning("%s", one_line(found.says_left_out, limit=_LONGEST))
        return found.files


def _is_one(path: object) -> bool:
    return isinstance(path, str | os.PathLike | bytes | bytearray | Blob) or hasattr(path, "read")
