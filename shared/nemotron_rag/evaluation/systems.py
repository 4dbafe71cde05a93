"""The systems of an evaluation, asked in turn: over indexes that are made, indexes that there are, retrievers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from nemotron_rag.documents.pdf import PdfEngine
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.answer_log import AnswerLog, file_stem
from nemotron_rag.evaluation.dataset import Dataset, JudgedQuery
from nemotron_rag.evaluation.documents import JudgedFiles
from nemotron_rag.evaluation.indexes import IndexUnderTest, Search, fill, known_costs, note_query_bytes
from nemotron_rag.evaluation.page_ids import PageIds
from nemotron_rag.evaluation.plan import Planned, model_settings, plan
from nemotron_rag.evaluation.reading import ReadingReranker, reading_embedder
from nemotron_rag.evaluation.results import Answered, Costs, WantedPage
from nemotron_rag.evaluation.retrievers import Find, as_find, distinct_pages, score_of, text_of
from nemotron_rag.index import Mode, PageIndex
from nemotron_rag.late_interaction.heatmap import compute_heatmap
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.protocols import AnyEmbedder, Reranker
from nemotron_rag.report import HeatmapOf
from nemotron_rag.types import Hit, Modality

__all__ = ["Asked", "Found", "Given", "Grid"]

_Wanted = Callable[[JudgedQuery, Sequence[str]], tuple[WantedPage, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What indexes are made of, and how they are searched; see `evaluate`."""

    embedders: Sequence[LazyModel[AnyEmbedder]]
    rerankers: Sequence[LazyModel[Reranker]]
    modalities: Sequence[Modality]
    modes: Sequence[Mode | None]
    candidates: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What there is already; see `evaluate`."""

    indexes: Mapping[str, PageIndex | str | os.PathLike[str]]
    retrievers: Mapping[str, Any]
    key: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a system found."""

    name: str
    settings: Mapping[str, Any]
    answers: tuple[Answered, ...]
    costs: Costs
    notes: tuple[str, ...] = ()
    index: PageIndex | Path | None = None
    heatmap: HeatmapOf | None = None


@dataclass
class Asked:
    """One run.

    Args:
        dataset: what is asked.
        files: the documents, if they were given.
        pages: what was given of them.
        k: pages that systems are asked for.
        folder: for what is found, and for indexes.
        is_kept: whether the folder outlives the run.
        progress: show bars.
        pdf_engine: what renders PDFs.
    """

    dataset: Dataset
    files: JudgedFiles | None
    pages: Sequence[Path]
    k: int
    folder: Path
    is_kept: bool
    progress: bool
    pdf_engine: PdfEngine = "auto"
    _jobs: list[Callable[[], Iterator[Found]]] = field(default_factory=list)

    def plan(self, grid: Grid, given: Given) -> tuple[list[str], list[str]]:
        """The names of all systems, and what was left out; nothing is loaded.

        Raises:
            InputError: there is nothing to evaluate, two systems have one name, or there are no pages to index.
        """
        names: list[str] = []
        notes: list[str] = []
        options: dict[str, Any] = {
            "modalities": grid.modalities,
            "modes": grid.modes,
            "rerankers": grid.rerankers,
            "candidates": grid.candidates,
            "k": self.k,
            "notes": notes,
        }
        for embedder in grid.embedders:
            planned = [*plan(embedder, name=Path(embedder.name).name or embedder.name, **options)]
            names += [each.name for each in planned]
            for modality in dict.fromkeys(each.modality for each in planned):
                of_one = [each for each in planned if each.modality == modality]
                self._jobs.append(partial(self._over_new_index, embedder, of_one))
        for name, index in given.indexes.items():
            planned = [*plan(None, name=name, **options)]
            names += [each.name for each in planned]
            self._jobs.append(partial(self._over_index, name, index, planned))
        for name, retriever in given.retrievers.items():
            names.append(name)
            find = as_find(retriever, k=self.k)
            self._jobs.append(partial(self._of_retriever, name, find, given.key))
        self._check(names, notes, makes_indexes=bool(grid.embedders))
        return names, notes

    def answers(self) -> Iterator[Found]:
        """What each system found, in the order of their names."""
        for job in self._jobs:
            yield from job()

    def _check(self, names: Sequence[str], notes: Sequence[str], *, makes_indexes: bool) -> None:
        if not names:
            why = f": {'; '.join(notes)}" if notes else "; give embedders=, indexes= or retrievers="
            raise InputError(f"there is nothing to evaluate{why}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"two systems are called {twice[0]!r}; give each index and retriever a name of its own")
        if makes_indexes and self.dataset.corpus is None and not self.pages:
            raise InputError("the queries are about files; give pages=, the PDFs or their folder, to index them")

    def _over_new_index(self, embedder: LazyModel[AnyEmbedder], planned: Sequence[Planned]) -> Iterator[Found]:
        model = model_settings(embedder)
        modality = planned[0].modality or "image_text"
        place = [model, modality, self.dataset.digest if self.dataset.corpus else [str(path) for path in self.pages]]
        rendered = {} if self.pdf_engine == "auto" else {"pdf_engine": self.pdf_engine}
        place += [*rendered.values()]
        location = self.folder / "indexes" / file_stem(f"{Path(embedder.name).name}-{modality}", place)
        files = None if self.files is None else self.files.state
        settings = {each.name: {"embedder": model, "pages": files, **rendered, **each.settings} for each in planned}
        if self.is_kept and (known := self._all_known(settings)):
            for name, answers in known.items():
                more = {"index": location, "heatmap": _heatmap_of(embedder)}
                yield self._found(name, settings[name], answers, known_costs(location), **more)
            return
        with ExitStack() as stack:
            reading = reading_embedder(embedder.get(), modality)
            stack.callback(embedder.close)
            location.parent.mkdir(parents=True, exist_ok=True)
            index = stack.enter_context(closing(PageIndex(location, embedder=reading, pdf_engine=self.pdf_engine)))
            facts = fill(index, self.dataset, self.pages, reading, folder=location, progress=self.progress)
            tested = IndexUnderTest.of(index, self.dataset, f"the index of {embedder.name}", **facts)
            for found in self._searched(tested, planned, settings):
                costs = replace(found.costs, vector_bytes_per_query=note_query_bytes(location, reading))
                where = location if self.is_kept else None
                yield replace(found, costs=costs, index=where, heatmap=_heatmap_of(embedder))

    def _over_index(
        self, name: str, given: PageIndex | str | os.PathLike[str], planned: Sequence[Planned]
    ) -> Iterator[Found]:
        with ExitStack() as stack:
            index = given
            if not isinstance(index, PageIndex):
                index = stack.enter_context(closing(PageIndex(index, create=False)))
            tested = IndexUnderTest.of(index, self.dataset, name)
            state = {"index": repr(index), "pages": index.count(), "documents": index.sources()}
            settings = {each.name: {**state, **each.settings} for each in planned}
            yield from (
                replace(found, index=given if isinstance(given, PageIndex) else Path(given))
                for found in self._searched(tested, planned, settings)
            )

    def _searched(
        self, tested: IndexUnderTest, planned: Sequence[Planned], settings: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[Found]:
        for each in planned:
            reranker = None if each.reranker is None else each.reranker.get()
            if reranker is not None and each.modality is not None:
                reranker = ReadingReranker(reranker, each.modality)
            search = Search(mode=each.mode, reranker=reranker, candidates=each.candidates)

            def wanted(query: JudgedQuery, found: Sequence[str], search: Search = search) -> tuple[WantedPage, ...]:
                return tested.wanted(search, query, found)

            find = tested.find(search, self.k)
            answers = self._ask(each.name, settings[each.name], find, tested.ids, wanted, warm=True)
            yield self._found(
                each.name, settings[each.name], answers, tested.costs, notes=tested.notes, index=tested.index
            )

    def _of_retriever(self, name: str, find: Find, key: Callable[[Any], Any] | None) -> Iterator[Found]:
        ids = PageIds(self.dataset, key)
        answers = self._ask(name, {"retriever": name}, find, ids, lambda *_: (), warm=False)
        notes = []
        most = max((len(answer.pages) for answer in answers), default=0)
        if most < self.k:
            notes.append(f"{name} returned {most} pages at most, fewer than k={self.k}: let it return more")
        if not self._any_judged(answers):
            notes.append(
                f"no page that {name} returned is of a judged document: it names {_first_page(answers)!r}, the "
                f"judgements {next(iter(self.dataset.queries[0].judgements))!r}; give key="
            )
        yield self._found(name, {"retriever": name}, answers, Costs(), notes=tuple(notes))

    def _any_judged(self, answers: Sequence[Answered]) -> bool:
        if self.dataset.corpus is not None:
            return True
        return any(page.rpartition("#page=")[0] in self.dataset.files for answer in answers for page in answer.pages)

    def _all_known(self, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Answered, ...]] | None:
        """The answers of systems that are all finished; None if one is not."""
        found = {}
        for name, each in settings.items():
            with closing(self._log(name, each)) as log:
                if any(query.id not in log.answers for query in self.dataset.queries):
                    return None
                found[name] = tuple(log.answers[query.id] for query in self.dataset.queries)
        return found

    def _log(self, name: str, settings: Mapping[str, Any]) -> AnswerLog:
        whole = {"dataset": self.dataset.digest, "k": self.k, **settings}
        return AnswerLog(self.folder / "answers" if self.is_kept else None, name, whole)

    def _ask(
        self, name: str, settings: Mapping[str, Any], find: Find, ids: PageIds, wanted: _Wanted, *, warm: bool
    ) -> tuple[Answered, ...]:
        """All answers of one system; those of an earlier run are kept."""
        with closing(self._log(name, settings)) as log:
            waiting = [query for query in self.dataset.queries if query.id not in log.answers]
            if waiting and warm:
                find(waiting[0].text)  # what is made at first use is not the query's time
            console = Console(stderr=True)
            for query in track(waiting, name, console=console, disable=not (self.progress and waiting)):
                log.add(self._answer(query, find, ids, wanted))
            return tuple(log.answers[query.id] for query in self.dataset.queries)

    def _answer(self, query: JudgedQuery, find: Find, ids: PageIds, wanted: _Wanted) -> Answered:
        began = time.perf_counter()
        found = find(query.text)
        seconds = time.perf_counter() - began
        pages = distinct_pages(found, ids, self.k)
        return Answered(
            query=query.id,
            pages=tuple(pages),
            scores=tuple(map(score_of, pages.values())),
            seconds=seconds,
            ids=tuple(each.page.id for each in pages.values() if isinstance(each, Hit)),
            texts=tuple(map(text_of, pages.values())),
            wanted=wanted(query, [*pages]),
        )

    def _found(
        self, name: str, settings: Mapping[str, Any], answers: tuple[Answered, ...], costs: Costs, **more: Any
    ) -> Found:
        seconds = [answer.seconds for answer in answers]
        timed = replace(
            costs,
            seconds_per_query=float(np.mean(seconds)),
            slowest_seconds=float(np.quantile(seconds, 0.95)),
        )
        return Found(name=name, settings=settings, answers=answers, costs=timed, **more)


def _heatmap_of(embedder: LazyModel[AnyEmbedder]) -> HeatmapOf | None:
    if embedder.kind != "multivector_embedder":
        return None
    return lambda page, query: compute_heatmap(embedder.get(), page, query)


def _first_page(answers: Sequence[Answered]) -> str:
    return next((page for answer in answers for page in answer.pages), "none")
