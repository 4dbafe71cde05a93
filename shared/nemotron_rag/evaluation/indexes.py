"""Indexes under test: made of the data set's pages, or the user's own, and searched in every mode asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemotron_rag.documents.files import write_whole
from nemotron_rag.errors import InputError, NemotronRagError
from nemotron_rag.evaluation.dataset import Dataset, JudgedQuery
from nemotron_rag.evaluation.page_ids import PageIds
from nemotron_rag.evaluation.reading import ReadingEmbedder, ReadingManyVectors
from nemotron_rag.evaluation.results import Costs, WantedPage
from nemotron_rag.evaluation.retrievers import text_of
from nemotron_rag.index import Mode, PageIndex
from nemotron_rag.protocols import Reranker
from nemotron_rag.types import AddReport, Hit

__all__ = ["IndexUnderTest", "Search", "fill", "known_costs", "note_query_bytes"]

_WANTED = 3  # pages of a query that were not found and are looked up
_NAMED = 3  # failures that a note names


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How an index is searched.

    Args:
        mode: see `PageIndex.search`; None for the index's own.
        reranker: None for none.
        candidates: pages that it reads; None for the default.
    """

    mode: Mode | None = None
    reranker: Reranker | None = None
    candidates: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `PageIndex.search`."""
        return {"mode": self.mode, "rerank": self.reranker or False, "candidates": self.candidates}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexUnderTest:
    """An open index, and the names of its pages in the judgements.

    Args:
        index: the index.
        ids: names its pages.
        sources: by judged file, how the index calls it.
        costs: of its pages.
        notes: what could not be read.
    """

    index: PageIndex
    ids: PageIds
    sources: dict[str, str]
    costs: Costs = field(default_factory=Costs)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, index: PageIndex, dataset: Dataset, name: str, **facts: Any) -> IndexUnderTest:
        """An index that has pages.

        Raises:
            InputError: no judged page is in it.
        """
        ids = PageIds(dataset)
        sources: dict[str, str] = {}
        for source in index.sources() if dataset.corpus is None else ():
            file = ids.of((source, 1)).rpartition("#page=")[0]
            if file in dataset.files:
                sources[file] = source
        if dataset.corpus is None and not sources:
            raise InputError(
                f"{name} has none of the judged files, such as {min(dataset.files)!r}; its documents are called like "
                f"{next(iter(index.sources()), 'nothing: it is empty')!r}"
            )
        return cls(index=index, ids=ids, sources=sources, **facts)

    def find(self, search: Search, k: int) -> Callable[[str], Sequence[Hit]]:
        """Returns a function that finds pages for a query."""
        return lambda query: self.index.search(query, k=k, **search.options)

    def wanted(self, search: Search, query: JudgedQuery, found: Sequence[str]) -> tuple[WantedPage, ...]:
        """The pages that answer a query and were not found, with the score that this search gives them."""
        missing = [page for page in query.relevant if page not in found][:_WANTED]
        return tuple(self._wanted(search, query.text, page) for page in missing)

    def _wanted(self, search: Search, query: str, page: str) -> WantedPage:
        where = self._filter(page)
        if where is None:
            return WantedPage(page=page)
        comparable = search.reranker is not None or search.mode != "hybrid"  # a fusion score tells a rank alone
        options = search.options if comparable else {"rerank": False, "mode": "dense"}
        hits = self.index.search(query, k=1, filter=where, **{**options, "candidates": None})
        if not hits:
            return WantedPage(page=page)
        score = hits[0].score if comparable and abs(hits[0].score) != float("inf") else None
        return WantedPage(page=page, score=score, id=hits[0].page.id, text=text_of(hits[0]))

    def _filter(self, page: str) -> dict[str, Any] | None:
        file, separator, number = page.rpartition("#page=")
        if not self.ids.is_of_files:
            return {"id": page}
        return (
            {"source": self.sources[file], "page_number": int(number)} if separator and file in self.sources else None
        )


def fill(
    index: PageIndex,
    dataset: Dataset,
    pages: Sequence[str | os.PathLike[str]],
    embedder: ReadingEmbedder | ReadingManyVectors,
    *,
    folder: Path,
    progress: bool,
) -> dict[str, Any]:
    """Bring the pages into an index, as far as they are not there; returns its costs and notes.

    Args:
        index: empty, or of an earlier run.
        dataset: brings the pages, unless `pages` do.
        pages: files and folders.
        embedder: of the index.
        folder: of the index; what its pages cost is kept beside it.
        progress: show a bar.
    """
    facts_file = _beside(folder)
    facts = _read(facts_file)
    if dataset.corpus is None:
        report = index.sync([*pages], progress=progress)
    elif facts.get("complete"):
        report = AddReport(unchanged=index.count())
    else:
        report = index.add(dataset.corpus.pages(), progress=progress)
    count = index.count()
    if report.added:
        facts |= {
            "seconds_per_page": report.seconds["total"] / report.added,
            "vector_bytes_per_page": embedder.passage_bytes / max(1, embedder.passages),
        }
    facts |= {"complete": True, "stored_bytes_per_page": _size(folder) / max(1, count), "pages": count}
    _write(facts_file, facts)
    notes = _failure_notes(report)
    return {"costs": _costs(facts), "notes": notes}


def note_query_bytes(folder: Path, embedder: ReadingEmbedder | ReadingManyVectors) -> float | None:
    """What the vectors of a query take; noted beside the index, for a run in which nothing is embedded."""
    path = _beside(folder)
    facts = _read(path)
    if embedder.queries:
        facts["vector_bytes_per_query"] = embedder.query_bytes / embedder.queries
        _write(path, facts)
    return facts.get("vector_bytes_per_query")


def known_costs(folder: Path) -> Costs:
    """What is noted beside an index."""
    return _costs(_read(_beside(folder)))


def _beside(folder: Path) -> Path:
    """Where the costs of an index are noted."""
    return folder.with_name(f"{folder.name}.json")


def _costs(facts: dict[str, Any]) -> Costs:
    names = ("seconds_per_page", "vector_bytes_per_page", "vector_bytes_per_query", "stored_bytes_per_page")
    return Costs(**{name: facts.get(name) for name in names})


def _failure_notes(report: AddReport) -> tuple[str, ...]:
    if not report.failures:
        return ()
    named = "; ".join(str(failure) for failure in report.failures[:_NAMED])
    more = f" and {len(report.failures) - _NAMED} more" if len(report.failures) > _NAMED else ""
    return (f"{len(report.failures)} could not be read and count as not found: {named}{more}",)


def _size(folder: Path) -> int:
    """Bytes of the index's files on the disk, without the page images."""
    total = 0
    for base, folders, names in os.walk(folder):
        if Path(base) == folder and "images" in folders:
            folders.remove("images")
        for name in names:
            with suppress(OSError):
                found = (Path(base) / name).stat()
                total += min(found.st_size, getattr(found, "st_blocks", found.st_size // 512 + 1) * 512)
    return total


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, facts: dict[str, Any]) -> None:
    try:
        write_whole(path, json.dumps(facts, indent=1).encode())
    except OSError as error:
        raise NemotronRagError(f"cannot write {path}: {error.strerror}") from error
