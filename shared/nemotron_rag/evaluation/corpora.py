"""The pages of a published data set, read from its tables as they are needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.tables import Row, read_rows
from nemotron_rag.types import ImageSource, Page

__all__ = ["TableCorpus", "first_of"]

_ID = ("corpus-id", "corpus_id", "_id", "id")
_FILE = ("image_filename", "image-filename")
_TEXT = ("markdown", "text", "text_description", "ocr")
_DOCUMENT = ("doc_id", "doc-id", "source_file")
_COLUMNS = (*_ID, *_FILE, *_TEXT, *_DOCUMENT, "title", "image", "page_number_in_doc")


def first_of(row: Row, names: Sequence[str]) -> Any:
    """The first of these values that a row has; None if it has none."""
    return next((row[name] for name in names if row.get(name) is not None), None)


class TableCorpus:
    """The corpus of a data set: one row for each page.

    Args:
        folder: of the data set; images that rows name are opened below it only.
        files: the tables.

    Raises:
        InputError: from every method, if a table cannot be read.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        self._access = ImageAccess(roots=(folder,))
        self._folder = folder

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, a line each."""
        lost = len(self._every) - len(self.ids())
        return (
            (f"{lost} rows have the page of another one, by its file name, and are not counted twice",) if lost else ()
        )

    def ids(self, *, every_row: bool = False) -> Sequence[str]:
        """Ids of all pages; of every row if some have the same page."""
        return self._every if every_row else self._distinct

    def pages(self) -> Iterator[Page]:
        """All pages, read anew. A page of a document has its number; any other page is its own document."""
        seen: set[str] = set()
        for number, row in enumerate(row for path in self._files for row in read_rows(path, _COLUMNS)):
            page_id = _id_of(row, number)
            if page_id not in seen:
                seen.add(page_id)
                yield self._page(page_id, row)

    def images(self, page_ids: Collection[str]) -> dict[str, ImageSource]:
        """The images of some pages, in one pass over the tables; pages without one are left out."""
        wanted, found = set(page_ids), {}
        for page in self.pages() if wanted else ():
            if page.id in wanted:
                wanted.discard(page.id)
                if page.image is not None:
                    found[page.id] = page.image
            if not wanted:
                break
        return found

    @cached_property
    def _every(self) -> Sequence[str]:
        rows = (row for path in self._files for row in read_rows(path, (*_ID, *_FILE)))
        found = [_id_of(row, number) for number, row in enumerate(rows)]
        if not found:
            raise InputError(f"{self._folder}: the corpus has no page")
        return found

    @cached_property
    def _distinct(self) -> Sequence[str]:
        return list(dict.fromkeys(self._every))

    def _page(self, page_id: str, row: Row) -> Page:
        text = first_of(row, _TEXT)
        title = row.get("title")
        words = " ".join(part.strip() for part in (title, text) if isinstance(part, str) and part.strip())
        document, number = first_of(row, _DOCUMENT), row.get("page_number_in_doc")
        in_document = document is not None and isinstance(number, int) and number >= 0
        return Page(
            words,
            self._image(row.get("image"), page_id),
            id=page_id,
            source=str(document) if in_document else page_id,
            number=number + 1 if in_document else 1,  # type: ignore[operator]  # checked above
        )

    def _image(self, given: object, page_id: str) -> ImageSource | None:
        """Of ``{"bytes": ..., "path": ...}``, as the library `datasets` writes images, or of bytes or a path."""
        if isinstance(given, Mapping):
            given = given.get("bytes") or given.get("path")
        if given is None or given == "":
            return None
        if isinstance(given, bytes):
            return given
        if not isinstance(given, str):
            raise InputError(f"page {page_id!r}: an image must be bytes or a path, got {type(given).__name__}")
        return self._access.reference(str(self._folder / given))


def _id_of(row: Row, number: int) -> str:
    given = first_of(row, (*_ID, *_FILE))
    return str(number) if given is None else str(given)
