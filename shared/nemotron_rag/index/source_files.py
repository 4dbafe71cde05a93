"""What the caller of `add` named -> files and single pages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from nemotron_rag.documents.images import load_page_image, pixel_bytes, to_rgb
from nemotron_rag.documents.pdf import PdfEngine
from nemotron_rag.documents.reading import find_documents
from nemotron_rag.documents.urls import (
    bare_url,
    check_url,
    find_urls,
    is_url,
    local_path,
)
from nemotron_rag.documents.word_boxes import check_word_boxes
from nemotron_rag.errors import DocumentError, InputError, MissingExtraError
from nemotron_rag.index.found_sources import LeftOut, SourceFile, Unusable, UrlSource, clean_source
from nemotron_rag.stores.filters import rename_keys
from nemotron_rag.types import Page

__all__ = [
    "Sources",
    "decoded",
    "expand",
    "fingerprint",
    "fold_sources",
]

Sources: TypeAlias = "str | os.PathLike[str] | Page | Iterable[str | os.PathLike[str] | Page]"
"""A document, a folder of documents, an fsspec URL of either, a page, or any iterable of these."""

_NUMBERS = 2**63


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


def expand(
    sources: Sources,
    *,
    password: str | None,
    pdf_engine: PdfEngine = "auto",
    images: str | None = None,
    listings: dict[str, frozenset[str]] | None = None,
) -> Iterator[SourceFile | Page | Unusable | LeftOut]:
    """Documents and pages one by one.

    A folder stands for the documents in it and below it, but not in a folder that holds an index, or the images of the
    one that is added to. An iterator is consumed as the result is.

    Args:
        sources: as the caller gave them.
        password: of protected PDFs.
        pdf_engine: what reads PDFs.
        images: folder or URL of the index's page images.
        listings: filled with what is at each URL, by its name.
    """
    items = [sources] if isinstance(sources, str | os.PathLike | Page) else sources
    for item in items:
        if isinstance(item, Page):
            yield item
        elif not isinstance(item, str | os.PathLike):
            kind = type(item).__name__
            yield Unusable(f"<{kind}>", InputError(f"expected a path or a Page, got {kind}; see PageIndex.add"))
        else:
            yield from _at(os.fspath(item), password, pdf_engine, images, {} if listings is None else listings)


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
    if page.word_boxes is not None:
        check_word_boxes(page.word_boxes)


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


def _holds_index(folder: Path) -> bool:
    try:
        from nemotron_rag.stores.qdrant.opening import holds_qdrant  # noqa: PLC0415  needs the extra `qdrant`
    except MissingExtraError:
        return False
    return holds_qdrant(folder)


def _at(
    place: str, password: str | None, pdf_engine: PdfEngine, images: str | None, listings: dict[str, frozenset[str]]
) -> Iterator[SourceFile | Unusable | LeftOut]:
    """What is at a path or URL."""
    if is_url(place):
        try:
            path = local_path(place)
            if path is None:
                yield from _at_url(place, password, pdf_engine, images, listings)
                return
        except InputError as error:
            yield Unusable(_name(place), error)
            return
        place = path
    if Path(place).is_dir():
        yield from _in_folder(Path(place), password, pdf_engine, images)
    else:
        yield SourceFile(Path(place), password, pdf_engine)


def _name(url: str) -> str:
    try:
        return check_url(url)
    except InputError:
        return bare_url(url)


def _at_url(
    url: str, password: str | None, pdf_engine: PdfEngine, images: str | None, listings: dict[str, frozenset[str]]
) -> Iterator[SourceFile | Unusable | LeftOut]:
    name, found = check_url(url), find_urls(url, passed_over=images)
    listings[name] = frozenset() if found is None else found.urls
    if found is None:
        yield Unusable(name, DocumentError(f"nothing is at {name}"))
        return
    for file in found.files:
        if file.url.count("::") > name.count("::"):
            yield Unusable(file.url, DocumentError(f"{file.url}: two colons in the name of a file; rename it"))
        else:
            yield UrlSource(file, password, pdf_engine)
    if not found.files:
        yield Unusable(name, DocumentError(f"no document at {name} or below it"))
    if found.left_out:
        yield LeftOut(found.left_out)


def _in_folder(
    folder: Path, password: str | None, pdf_engine: PdfEngine, images: str | None
) -> Iterator[SourceFile | Unusable | LeftOut]:
    root = None if images is None or is_url(images) else Path(images).absolute()
    found = find_documents(folder, passed_over=lambda each: _holds_index(each) or each.absolute() == root)
    yield from (SourceFile(path, password, pdf_engine) for path in found.files)
    if not found.files:
        yield Unusable(clean_source(folder), DocumentError(f"no document in folder {folder} or below it"))
    if found.left_out:
        yield LeftOut(tuple(map(clean_source, found.left_out)))
