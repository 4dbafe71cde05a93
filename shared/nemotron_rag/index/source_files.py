"""What the caller of `add` named -> files and single pages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from nemotron_rag.documents.files import TooManyBytesError, read_file
from nemotron_rag.documents.images import DEFAULT_BUDGET, load_page_image, pixel_bytes, to_rgb
from nemotron_rag.documents.pdf import content_hash, count_pages, find_pdfs
from nemotron_rag.errors import ImageBudgetError, ImageError, InputError, PdfError
from nemotron_rag.stores.filters import rename_keys
from nemotron_rag.types import Page, page_id

__all__ = [
    "SourceFile",
    "Sources",
    "Unusable",
    "clean_source",
    "decoded",
    "expand",
    "fingerprint",
    "fold_sources",
    "read_image",
]

Sources: TypeAlias = "str | os.PathLike[str] | Page | Iterable[str | os.PathLike[str] | Page]"
"""A PDF, an image file, a folder of PDFs, a page, or any iterable of these."""

_NUMBERS = 2**63
_IMAGE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".jp2",
        ".j2k",
        ".jpx",
        ".avif",
        ".pbm",
        ".pgm",
        ".ppm",
        ".pnm",
    ]
)


@dataclass(frozen=True)
class SourceFile:
    """One file.

    Args:
        path: of a PDF or an image.
        password: of a protected PDF.
    """

    path: Path
    password: str | None = field(default=None, repr=False)

    @property
    def source(self) -> str:
        """How the index calls the document; see `clean_source`."""
        return clean_source(self.path)

    @property
    def is_image(self) -> bool:
        """Whether this is an image file, by its suffix; anything else is read as a PDF."""
        return self.path.suffix.lower() in _IMAGE_SUFFIXES

    @cached_property
    def page_count(self) -> int:
        """Pages in the file, at least one.

        Raises:
            PdfError: the file cannot be read, or has no pages.
        """
        count = 1 if self.is_image else count_pages(self.path, password=self.password)
        if count < 1:
            raise PdfError(f"{self.source}: has no pages")
        return count

    @cached_property
    def content_hash(self) -> str:
        """Sha256 of the file's bytes, hex.

        Raises:
            InputError: the file cannot be read.
        """
        return hashlib.sha256(_image_bytes(self.path)).hexdigest() if self.is_image else content_hash(self.path)

    def ids(self, numbers: Iterable[int]) -> dict[str, int]:
        """Page numbers by page id."""
        return {page_id(self.content_hash, number): number for number in numbers}


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something among the sources that is neither document nor page.

    Args:
        source: what it calls itself.
        error: why it cannot be used.
    """

    source: str
    error: InputError


def clean_source(path: str | os.PathLike[str]) -> str:
    """The name of a file in the index: as the caller wrote it, with ``./``, ``x/..`` and doubled slashes folded.

    A relative path stays relative and an absolute one absolute, so an index can be moved together with its files.
    Backslashes of Windows become slashes.
    """
    return Path(os.path.normpath(path)).as_posix().encode("utf-8", "replace").decode()  # names may be no Unicode


def fold_sources(filter: Any) -> Any:
    """A filter that also finds a file under the name it has in the index, if ``./`` or the like is before it here.

    Args:
        filter: see `nemotron_rag.stores.filters`; what is no dict comes back as it is.

    Example:
        >>> fold_sources({"source": "./my-pdfs/a.pdf", "year": 2024})
        {'source': ['./my-pdfs/a.pdf', 'my-pdfs/a.pdf'], 'year': 2024}
    """
    return rename_keys(filter, lambda key, value: (key, _folded(value) if key == "source" else value))


def _folded(value: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        given, folded = os.fspath(value), clean_source(value)
        return given if not given or given == folded else [given, folded]
    if isinstance(value, list | tuple | set | frozenset):
        return [_folded(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _folded_operand(str(name).removeprefix("$"), operand) for name, operand in value.items()}
    return value


def _folded_operand(operator: str, operand: Any) -> Any:
    if operator in ("eq", "ne", "in", "nin", "not"):
        return _folded(operand)
    return operand.removeprefix("./") if operator == "prefix" and isinstance(operand, str) else operand


def expand(sources: Sources, *, password: str | None) -> Iterator[SourceFile | Page | Unusable]:
    """Documents and pages one by one.

    A folder stands for the PDFs in it and below it. An iterator is consumed as the result is.
    """
    items = [sources] if isinstance(sources, str | os.PathLike | Page) else sources
    for item in items:
        if isinstance(item, Page):
            yield item
        elif not isinstance(item, str | os.PathLike):
            kind = type(item).__name__
            yield Unusable(f"<{kind}>", InputError(f"expected a path or a Page, got {kind}; see PageIndex.add"))
        elif Path(item).is_dir():
            yield from _in_folder(Path(item), password)
        else:
            yield SourceFile(Path(item), password)


def storable(text: str) -> str:
    """A text with a question mark for what is no Unicode."""
    return text.encode("utf-8", "replace").decode()


def is_storable(text: object) -> bool:
    """Whether something is a text of Unicode."""
    return isinstance(text, str) and storable(text) == text


def check_page(page: Page) -> None:
    """Raise unless the fields of a page can be stored as they are.

    Raises:
        InputError: one of them cannot; a text need not be Unicode.
    """
    if not isinstance(page.text, str):
        raise InputError(f"text of a page must be a str, got {type(page.text).__name__}")
    if not page.id or not is_storable(page.id):
        raise InputError(f"id of a page must be a str of Unicode, not empty, got {page.id!r}")
    if not is_storable(page.source):
        raise InputError(f"source of page {page.id!r} must be a str of Unicode, got {page.source!r}")
    if type(page.number) is not int or abs(page.number) >= _NUMBERS:
        raise InputError(f"number of page {page.id!r} must be an int of at most 63 bits, got {page.number!r}")
    if not isinstance(page.metadata, Mapping):
        raise InputError(f"metadata of page {page.id!r} must be a mapping, got {type(page.metadata).__name__}")


def decoded(page: Page) -> Page:
    """The page with its image decoded, so that all who use it see the same pixels, even those of a stream.

    Raises:
        ImageError: the image cannot be read.
    """
    return page if page.image is None else replace(page, image=load_page_image(page.image))


def fingerprint(page: Page) -> str:
    """What tells whether a page that was added alone has changed: a digest of its text and its pixels as RGB."""
    digest = hashlib.sha256(page.text.encode("utf-8", "surrogatepass"))
    if page.image is not None:
        image = load_page_image(page.image)
        digest.update(f"\0{image.size}".encode())
        for part in pixel_bytes(image, to_rgb):
            digest.update(part)
    return f"page:{digest.hexdigest()}"


def read_image(document: SourceFile) -> Page:
    """The one page of an image file, decoded.

    Raises:
        ImageError: it cannot be read.
    """
    data = _image_bytes(document.path)  # the very bytes that the page's id is made from
    try:
        image = load_page_image(data)
    except ImageError as error:
        raise type(error)(str(error).replace("<bytes>", document.source, 1)) from error
    return Page(id=page_id(document.content_hash, 1), source=document.source, number=1, image=image)


def _in_folder(folder: Path, password: str | None) -> Iterator[SourceFile | Unusable]:
    found = False
    for path in find_pdfs(folder):
        found = True
        yield SourceFile(Path(path), password)
    if not found:
        error = PdfError(f"no PDF in folder {folder} or below it; name image files one by one")
        yield Unusable(clean_source(folder), error)


def _image_bytes(path: Path) -> bytes:
    try:
        return read_file(path, max_bytes=DEFAULT_BUDGET.max_bytes)
    except TooManyBytesError as error:
        raise ImageBudgetError(f"{path} holds {error}, more than the {DEFAULT_BUDGET.max_bytes} allowed") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
