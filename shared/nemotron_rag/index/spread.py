"""`PageIndex.add` on many processes: this one lists documents and settles them, an engine does what is between."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nemotron_rag.batch.embedding import EmbedderFacts
from nemotron_rag.batch.job import Engine, Job
from nemotron_rag.batch.place import IndexPlace
from nemotron_rag.batch.rows import Row, failure_of, from_row, good_and_bad, to_row, vectors_of
from nemotron_rag.batch.stages import EmbedPages, RenderPages, WritePages, span_rows
from nemotron_rag.batch.workers import Workers
from nemotron_rag.batch.writing import PageWriter
from nemotron_rag.errors import IndexMismatchError, InputError
from nemotron_rag.index.documents import Documents
from nemotron_rag.index.found_sources import LeftOut
from nemotron_rag.index.ingest import progress_bar, tell_what_is_done
from nemotron_rag.index.plan import Finished, Known, Missing, Plan
from nemotron_rag.index.state import IndexState
from nemotron_rag.runtime.timing import Timer
from nemotron_rag.types import AddReport, Failure

__all__ = ["SpreadIngest", "Work", "check_engine"]

_FINISHED_AT_ONCE = 64


@dataclass
class Work:
    """What is to be done, sorted by who does it."""

    spans: list[Row] = field(default_factory=list)
    pages: list[Row] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    total: int = 0


class SpreadIngest:
    """One run of `add` on an engine.

    Killed at any moment and run again, it ends with the same index: ids follow from content, the store is asked which
    pages it has before any is rendered, and a page that two workers write is one.

    Args:
        plan: what to read.
        index: where it goes.
        place: the same, for workers; None if only this process can write there.
        workers: how many.
        progress: show a bar on stderr.
        engine: None for Ray.

    Raises:
        InputError: a loaded model was given that cannot be sent to another process.
    """

    def __init__(
        self,
        plan: Plan,
        index: IndexState,
        place: IndexPlace | None,
        *,
        workers: Workers,
        progress: bool,
        engine: Engine | None = None,
    ) -> None:
        self._engine = engine
        self._plan, self._index, self._progress = plan, index, progress
        self._place = place if place is not None and place.is_shared else None
        self._workers = workers
        _check_sendable(index.models.to_load(index.record)[0])
        self._writer = PageWriter(index.store, index.images, raises=plan.on_error == "raise")
        self._documents = Documents(index)
        self._added, self._failures = 0, list[Failure]()
        self._left_out: list[str] = []
        self._timers = {stage: Timer() for stage in ("list", "store", "optimize", "total")}

    def run(self) -> AddReport:
        """Carry out the plan.

        Raises:
            NemotronRagError: as from `Ingest.run`.
        """
        try:
            with self._timers["total"]:
                self._index.finish_removals()
                self._work()
                optimized = self._optimize()
        except BaseException as error:
            tell_what_is_done(error, self._report())
            raise
        return self._report(optimized=optimized)

    def _work(self) -> None:
        with self._timers["list"]:
            work = self._listed()
        self._failures, self._left_out = work.failures, work.left_out
        if work.spans or work.pages:
            if self._engine is None:
                self._on_ray(work)
            else:
                self._index.prepare()
                self._through(self._engine, work, writes=True)
        with self._timers["store"]:
            self._failures += self._documents.attach(work.known)
            unread = {failure.source for failure in self._failures if failure.number is None}
            done = [each for each in work.finished if each.source not in unread]
            for at in range(0, len(done), _FINISHED_AT_ONCE):
                self._documents.finish(done[at : at + _FINISHED_AT_ONCE])

    def _listed(self) -> Work:
        work, seen = Work(), dict[str, str]()
        for part in self._plan.parts(seen):
            match part:
                case Missing():
                    work.spans += self._spans(part)
                    work.total += len(part.numbers)
                    seen |= dict.fromkeys(part.document.ids(part.numbers), part.document.document.content_hash)
                case Known():
                    work.known.append(part)
                case Finished():
                    work.finished.append(part)
                case Failure():
                    work.failures.append(part)
                case LeftOut():
                    work.left_out += part.sources
                case _:
                    work.pages.append(to_row(part))
                    work.total += 1
        return work

    def _spans(self, missing: Missing) -> list[Row]:
        document = missing.document
        return span_rows(
            document.location,
            missing.numbers,
            source=document.source,
            content_hash=document.document.content_hash,
            metadata=self._plan.metadata,
            size=self._workers.span,
        )

    def _on_ray(self, work: Work) -> None:
        from nemotron_rag.batch.ray import cluster  # noqa: PLC0415  needs the extra `ray`

        with cluster(self._workers, is_shared=self._place is not None) as machines:
            if not self._index.exists():
                model, options = self._index.models.to_load(None)
                self._index.prepare(machines.call(partial(_facts_of, model, options)))
            self._through(machines.run, work, writes=bool(machines.pools.write))

    def _through(self, engine: Engine, work: Work, *, writes: bool) -> None:
        record = self._index.record
        if record is None:
            raise IndexMismatchError(f"{self._index} no longer exists; open the index again")
        model, options = self._index.models.to_load(record)
        place = self._place if writes else None
        embed = partial(
            EmbedPages, model, token_vectors=record.token_vectors, identity=record.identity, options=options
        )
        write = None if place is None else partial(WritePages, place)
        rows = iter(engine(Job(work.spans, work.pages, self._reader(), embed, write)))
        came = 0
        with progress_bar(shown=self._progress) as bar, _closed(rows):
            task = bar.add_task("indexing", total=work.total)
            for some in rows:
                good, bad = good_and_bad(some)
                self._take_failures([failure_of(row) for row in bad])
                if place is None:
                    self._write(good)
                else:
                    self._added += len(good)
                done = len(good) + sum(row["number"] > 0 for row in bad)
                came += done
                bar.advance(task, done)
        if came < work.total and not any(failure.number is None for failure in self._failures):
            raise InputError(f"the engine returned {came} of {work.total} pages; run it again, it goes on from there")

    def _reader(self) -> Callable[[], Any]:
        """Makes the stage that turns spans into pages."""
        return partial(RenderPages, password=self._plan.password, **self._plan.pdf_options)

    def _write(self, rows: Sequence[Row]) -> None:
        with self._timers["store"]:
            size = self._workers.batch
            for at in range(0, len(rows), size):
                some = rows[at : at + size]
                pages = [from_row(row) for row in some]
                refused = self._writer.write(pages, [vectors_of(row) for row in some])
                self._take_failures([page.failure(error) for page, error in refused])
        self._added = self._writer.added

    def _take_failures(self, failures: Sequence[Failure]) -> None:
        if failures and self._plan.on_error == "raise":
            raise InputError(str(failures[0]))
        self._failures += failures

    def _optimize(self) -> bool:
        if not self._added and not self._documents.removed:
            return False
        with self._timers["optimize"]:
            return self._index.store.optimize()

    def _report(self, *, optimized: bool = False) -> AddReport:
        return AddReport(
            added=self._added,
            unchanged=self._documents.unchanged,
            removed=self._documents.removed,
            failures=tuple(sorted(self._failures, key=lambda each: (each.source, each.number or 0))),
            left_out=tuple(self._left_out),
            optimized=optimized,
            seconds={stage: clock.seconds for stage, clock in self._timers.items()},
        )


def check_engine(engine: object) -> Engine | None:
    """The function that was given as an engine; None for Ray.

    Raises:
        InputError: it is neither.
    """
    if engine == "ray":
        return None
    if not callable(engine):
        raise InputError(f"engine must be 'ray' or a function that runs a Job, got {engine!r}; workers= are of one")
    return engine


@contextmanager
def _closed(rows: Any) -> Iterator[None]:
    """End what makes the rows when the block is left."""
    try:
        yield
    finally:
        if hasattr(rows, "close"):
            rows.close()


def _facts_of(model: Any, options: Any) -> EmbedderFacts:
    return EmbedPages(model, options=options).facts()


def _check_sendable(model: object) -> None:
    if isinstance(model, str):
        return
    try:
        pickle.dumps(model)
    except Exception as error:  # whatever a model of the caller's raises
        name = getattr(model, "name", type(model).__name__)
        raise InputError(
            f"{name} was given loaded, and cannot be sent to other processes; give its name or folder instead"
        ) from error
