"""The files that judgements speak of: what they are now, which are equal, and images of their pages."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.documents.pdf import PdfEngine, check_pdf_engine
from nemotron_rag.documents.urls import is_url
from nemotron_rag.errors import InputError, NemotronRagError
from nemotron_rag.evaluation.dataset import Dataset, JudgedQuery, file_page
from nemotron_rag.evaluation.page_ids import PageIds
from nemotron_rag.index.found_sources import SourceFile
from nemotron_rag.index.source_files import expand
from nemotron_rag.types import ImageSource

__all__ = ["JudgedFiles", "files_of"]


@dataclass(frozen=True, slots=True)
class JudgedFiles:
    """Files on this machine.

    Args:
        files: as the caller named them, or below folders that were named.
    """

    files: tuple[SourceFile, ...]

    @property
    def state(self) -> list[list[Any]]:
        """Name, size and date of each: a run over other files is another run."""
        found = []
        for file in self.files:
            with suppress(OSError):
                stat = file.path.stat()
                found.append([file.source, stat.st_size, stat.st_mtime_ns])
        return found

    def one_name_each(self, dataset: Dataset) -> Dataset:
        """The data set with equal files under one name, as an index holds them: the first in the alphabet.

        Raises:
            InputError: none of the judged files is among these.
        """
        ids = PageIds(dataset)
        names = {file.source: ids.of((file.source, 1)).rpartition("#page=")[0] for file in self.files}
        missing = dataset.files - {*names.values()}
        if missing == dataset.files:
            raise InputError(
                f"none of the judged files is among the pages, such as {min(missing)!r}; give their folder"
            )
        notes = [f"judged files that are not there: {_named(missing)}"] if missing else []
        same = {names[source]: names[first] for source, first in self._equal().items() if source != first}
        if judged := same.keys() & dataset.files:
            notes.append(f"equal files count as one: {_named(f'{each} = {same[each]}' for each in judged)}")
        queries = tuple(_renamed(query, same) for query in dataset.queries)
        return replace(dataset, queries=queries, notes=(*dataset.notes, *notes))

    def images(self, dataset: Dataset, page_ids: Collection[str]) -> dict[str, ImageSource]:
        """The images of some pages, rendered anew; those that cannot be are left out."""
        ids = PageIds(dataset)
        by_file: dict[str, SourceFile] = {}
        for file in self.files:
            by_file.setdefault(ids.of((file.source, 1)).rpartition("#page=")[0], file)
        found: dict[str, ImageSource] = {}
        for page_id in page_ids:
            name, _, number = page_id.rpartition("#page=")
            if name in by_file:
                with suppress(NemotronRagError):
                    for image in _rendered(by_file[name], int(number)):
                        found[page_id] = image
        return found

    def _equal(self) -> dict[str, str]:
        """By file, the first one of the same bytes. Only files of equal size are read."""
        by_size: dict[int, list[SourceFile]] = {}
        for file in self.files:
            with suppress(OSError):
                by_size.setdefault(file.path.stat().st_size, []).append(file)
        first: dict[str, str] = {}
        found: dict[str, str] = {}
        for files in by_size.values():
            for file in sorted(files, key=lambda each: each.source) if len(files) > 1 else ():
                with suppress(NemotronRagError, OSError):
                    found[file.source] = first.setdefault(file.document.content_hash, file.source)
        return found


def files_of(
    pages: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, pdf_engine: PdfEngine = "auto"
) -> JudgedFiles:
    """The files in folders, and those that are named.

    Args:
        pages: these.
        pdf_engine: what renders PDFs.

    Raises:
        InputError: there is none, or no such engine.
    """
    check_pdf_engine(pdf_engine)
    named = [pages] if isinstance(pages, str | os.PathLike) else [*pages]
    if absent := [each for each in named if not (is_url(each) or Path(each).exists())]:
        raise InputError(f"there are no pages at {one_line(os.fspath(absent[0]))!r}; give documents or their folders")
    expanded = expand(named, password=None, pdf_engine=pdf_engine)
    found = tuple(each for each in expanded if isinstance(each, SourceFile))
    if not found:
        raise InputError(f"no document is in {', '.join(one_line(os.fspath(each)) for each in named)}")
    return JudgedFiles(found)


def _rendered(file: SourceFile, number: int) -> Iterable[ImageSource]:
    yield from (page.image for page in file.document.pages(pages=[number]) if page.image is not None)


def _renamed(query: JudgedQuery, names: Mapping[str, str]) -> JudgedQuery:
    judgements: dict[str, int] = {}
    for page, grade in query.judgements.items():
        file, _, number = page.rpartition("#page=")
        named = file_page(names.get(file, file), int(number))
        judgements[named] = max(grade, judgements.get(named, grade))
    return replace(query, judgements=judgements)


def _named(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
