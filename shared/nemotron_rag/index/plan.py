"""Decides which pages an `add` must read, and in which order things are done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias, get_args

from PIL import Image

from nemotron_rag.batch.pages import NewPage
from nemotron_rag.documents.ahead import map_ahead
from nemotron_rag.documents.copies import Copies
from nemotron_rag.documents.files import one_line
from nemotron_rag.documents.pdf import Pages, Ranges, parse_pages, read_pdf, resolve_pages
from nemotron_rag.errors import InputError, MissingExtraError, NemotronRagError
from nemotron_rag.index.found_sources import LeftOut, SourceFile, Unusable, UrlSource
from nemotron_rag.index.source_files import Sources, check_page, decoded, expand, fingerprint, is_storable, storable
from nemotron_rag.stores.tenant import Tenant
from nemotron_rag.types import Failure, Page, StoredPage

__all__ = ["Finished", "Known", "Missing", "OnError", "Part", "Plan", "Step", "Steps"]

_ACCEPTED = (str, os.PathLike, Page, Iterable)

_DEEPEST = 64  # levels of metadata; servers refuse more than about a hundred
_BROUGHT = 4  # documents behind URLs that are copied here at the same time
_AT_ONCE = 16  # pages that are looked for together
_HELD = 2**26  # bytes of their images

OnError: TypeAlias = Literal["skip", "raise"]
_Item: TypeAlias = SourceFile | Page | Unusable | LeftOut


@dataclass(frozen=True, slots=True)
class Known:
    """Pages whose content is stored already, or will be once the steps before are done."""

    ids: Sequence[str]
    source: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Missing:
    """Pages of a document that are to be read."""

    document: SourceFile
    numbers: Sequence[int]


@dataclass(frozen=True, slots=True)
class Finished:
    """All pages of a document were handed out: pages of its source with other ids are of an older version."""

    source: str
    ids: frozenset[str]


Step: TypeAlias = NewPage | Known | Finished | Failure | LeftOut
Part: TypeAlias = NewPage | Known | Missing | Finished | Failure | LeftOut


class Steps(Protocol):
    """What `Ingest` carries out: a `Plan`, or the pages of another index."""

    @property
    def on_error(self) -> OnError:
        """See `Plan`."""

    def total(self) -> int | None:
        """How many pages there will be; None if that is not known beforehand."""

    def steps(self) -> Generator[Step, None, None]:
        """What is to be done, in order."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arguments of one `add`.

    Args:
        lookup: the stored pages among some ids, by id.
        sources: see `expand`.
        pages: which pages of each PDF; see `read_pdf`.
        password: opens protected PDFs.
        metadata: laid over the metadata of every page.
        tenant: whose pages these are; their metadata say so too.
        on_error: ``skip`` hands out what cannot be read as a `Failure`, ``raise`` raises it.
        pdf_options: passed to `read_pdf`.
        images: folder or URL of the index's page images, which are not documents.
        listings: what is at each URL among the sources, by its name, once they were listed.

    Raises:
        InputError: `pages`, `metadata`, `on_error` or `pdf_options` cannot be used.
    """

    lookup: Callable[[Sequence[str]], Mapping[str, StoredPage]]
    sources: Sources
    pages: Pages = None
    password: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tenant: Tenant | None = None
    on_error: OnError = "skip"
    pdf_options: Mapping[str, Any] = field(default_factory=dict)
    images: str | None = None
    listings: dict[str, frozenset[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise InputError(f"on_error must be 'skip' or 'raise', got {self.on_error!r}")
        if isinstance(self.sources, bytes | bytearray | memoryview) or not isinstance(self.sources, _ACCEPTED):
            raise InputError(f"sources must be paths or Pages, got {type(self.sources).__name__}; see PageIndex.add")
        _check_json(self.metadata)
        if self.tenant is not None:
            self.tenant.check(self.metadata)
            object.__setattr__(self, "metadata", {**self.metadata, **self.tenant.metadata})
        _ = self._ranges
        with suppress(MissingExtraError):  # no PDF may be among the sources; if there is one, it raises again
            read_pdf(b"", **self.pdf_options)  # checks the options; reads nothing unless it is iterated

    @cached_property
    def _ranges(self) -> Ranges:
        return parse_pages(self.pages)

    @cached_property
    def _items(self) -> list[_Item] | None:
        """The sources, where they are here already and need not be consumed to know them."""
        if not isinstance(self.sources, str | os.PathLike | Page | list | tuple):
            return None
        return list(self._expanded())

    def _expanded(self) -> Iterator[SourceFile | Page | Unusable | LeftOut]:
        engine = self.pdf_options.get("pdf_engine", "auto")
        return expand(
            self.sources, password=self.password, pdf_engine=engine, images=self.images, listings=self.listings
        )

    def total(self) -> int | None:
        """How many pages there will be; None if only consuming an iterator or converting office files could tell."""
        if self._items is None or not all(map(_is_quick, self._items)):
            return None
        return sum(map(self._count, self._items))

    def steps(self) -> Generator[Step, None, None]:
        """What is to be done, in order; PDF pages are rendered as they are consumed.

        Raises:
            NemotronRagError: something cannot be read and `on_error` is ``raise``.
        """
        seen: dict[str, str] = {}
        unread = ""
        for part in self.parts(seen):
            if isinstance(part, Missing):
                try:
                    yield from self._read(part, seen)
                except InputError as error:
                    yield self._failure(part.document, error)
                    unread = part.document.source
            elif not isinstance(part, Finished) or part.source != unread:
                yield part

    def parts(self, seen: dict[str, str]) -> Generator[Part, None, None]:
        """What is to be done, in order, with documents that nobody has read yet.

        Args:
            seen: content hash by page id, of pages on their way to the store in this run; whoever reads what is missing
                notes it there before the next part is asked for.

        Raises:
            NemotronRagError: something cannot be read and `on_error` is ``raise``.
        """
        with Copies() as copies, closing(_brought(self._here(), copies)) as items:
            for some in _together(items):
                known = self._known(some)
                for item in some:
                    yield from self._parts_of(item, seen, known)
                    if isinstance(item, UrlSource):
                        item.release(copies)

    def _parts_of(
        self, item: _Item, seen: dict[str, str], known: Mapping[str, StoredPage]
    ) -> Generator[Part, None, None]:
        if isinstance(item, LeftOut):
            yield item
            return
        try:
            if isinstance(item, Unusable):
                raise item.error
            yield from self._page(item, seen, known) if isinstance(item, Page) else self._document(item, seen)
        except InputError as error:
            yield self._failure(item, error)

    def _here(self) -> Iterable[_Item]:
        return self._expanded() if self._items is None else self._items

    def _failure(self, item: SourceFile | Page | Unusable, error: InputError) -> Failure:
        """Of a source that cannot be read, unless that is to be raised."""
        if self.on_error == "raise":
            raise error
        return _failure(item, error)

    def _known(self, items: Sequence[_Item]) -> Mapping[str, StoredPage]:
        """What is stored of the pages among some sources, in one request."""
        ids = [item.id for item in items if isinstance(item, Page) and is_storable(item.id)]
        return self.lookup(ids) if ids else {}

    def _count(self, item: _Item) -> int:
        try:
            return len(self._numbers(item)) if isinstance(item, SourceFile) else int(isinstance(item, Page))
        except NemotronRagError:
            return 0  # reported when its turn comes

    def _numbers(self, document: SourceFile) -> list[int]:
        """The page numbers to read of a document."""
        count = document.document.page_count
        return [1] if count == 1 and document.document.kind == "image" else resolve_pages(self._ranges, count)

    def _page(
        self, page: Page, seen: dict[str, str], known: Mapping[str, StoredPage]
    ) -> Generator[NewPage | Known, None, None]:
        page, content = self._checked(page)
        if seen.get(page.id, content) != content:
            raise InputError(f"page id {page.id!r} was given twice, with different content; give each page its own id")
        stored = known.get(page.id)
        before = seen.get(page.id) or (stored.content_hash if stored else None)
        # A page that came from a whole file has an id made from its content: the same id means the same page.
        if before is not None and (before == content or not before.startswith("page:")):
            yield Known([page.id], page.source, page.metadata)
        else:
            seen[page.id] = content
            yield NewPage(page, content, replaces=before is not None)

    def _checked(self, page: Page) -> tuple[Page, str]:
        """The page with all its metadata and a decoded image, and its fingerprint.

        Raises:
            InputError: something of it cannot be stored; whatever a caller puts into a page, it is the page's fault.
        """
        try:
            check_page(page)
            if self.tenant is not None:
                self.tenant.check(page.metadata)
            whole = decoded(replace(page, metadata={**page.metadata, **self.metadata}))
            _check_json(whole.metadata)
            return whole, fingerprint(whole)
        except InputError:
            raise
        except Exception as error:  # of an image that is an object of the caller's, for one
            raise InputError(f"page cannot be read: {type(error).__name__} {one_line(str(error))}") from error

    def _document(self, document: SourceFile, seen: dict[str, str]) -> Generator[Part, None, None]:
        everything = document.ids(range(1, document.document.page_count + 1))
        chosen = document.ids(self._numbers(document))
        stored = {page_id for page_id in chosen if page_id in seen} | set(self.lookup(list(chosen)))
        if stored:
            yield Known([page_id for page_id in chosen if page_id in stored], document.source, self.metadata)
        missing = [number for page_id, number in chosen.items() if page_id not in stored]
        if missing:
            yield Missing(document, missing)
        yield Finished(document.source, frozenset(everything))

    def _read(self, missing: Missing, seen: dict[str, str]) -> Generator[NewPage | Failure, None, None]:
        failures: list[Failure] = []
        document = missing.document
        pages = document.document.pages(
            pages=missing.numbers, on_error=self.on_error, report=failures.append, **self.pdf_options
        )
        for page in pages:
            seen[page.id] = document.document.content_hash
            yield NewPage(page, document.document.content_hash, self.metadata)
        yield from failures


def _brought(items: Iterable[_Item], copies: Copies) -> Generator[_Item, None, None]:
    """The sources in order, those behind URLs copied here: several at a time where they are known beforehand."""

    def bring(item: _Item) -> _Item:
        if isinstance(item, UrlSource):
            item.bring(copies)
        return item

    ahead = isinstance(items, list) and any(isinstance(item, UrlSource) for item in items)
    yield from map_ahead(bring, items, threads=_BROUGHT) if ahead else map(bring, items)


def _together(items: Iterable[_Item]) -> Generator[list[_Item], None, None]:
    """The sources in order, pages that follow each other together; an iterator is consumed no further than that."""
    some, held = list[_Item](), 0
    for item in items:
        some.append(item)
        held += _held(item.image) if isinstance(item, Page) else 0
        if not isinstance(item, Page) or len(some) == _AT_ONCE or held >= _HELD:
            yield some
            some, held = [], 0
    if some:
        yield some


def _held(image: object) -> int:
    """About how many bytes an image takes before it is asked for."""
    if isinstance(image, Image.Image):
        return 3 * image.width * image.height
    return len(image) if isinstance(image, str | bytes | bytearray) else 0


def _is_quick(item: object) -> bool:
    """Whether its pages can be counted at once."""
    try:
        return not isinstance(item, SourceFile) or (not isinstance(item, UrlSource) and item.document.is_quick)
    except NemotronRagError:
        return True  # reported when its turn comes


def _failure(item: SourceFile | Page | Unusable, error: InputError) -> Failure:
    if not isinstance(item, Page):
        return Failure.of(item.source, error)
    source = item.source if isinstance(item.source, str) else repr(item.source)
    return Failure.of(storable(source), error, item.number if type(item.number) is int else None)


def _check_json(metadata: Mapping[str, Any]) -> None:
    try:
        json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False).encode()
        is_deep = _depth(metadata, _DEEPEST) > _DEEPEST
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata must be plain JSON values under str keys: {one_line(str(error))}") from error
    if is_deep:
        raise InputError(f"metadata may be nested {_DEEPEST} deep, got more; store a text, or keep it elsewhere")


def _depth(value: Any, most: int) -> int:
    """How deep a value is nested; no deeper than just above `most`."""
    if most < 0 or not isinstance(value, Mapping | list | tuple):
        return 0
    parts = value.values() if isinstance(value, Mapping) else value
    return 1 + max((_depth(part, most - 1) for part in parts), default=0)
