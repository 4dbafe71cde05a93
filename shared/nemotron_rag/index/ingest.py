"""The pipeline behind `PageIndex.add`: read ahead, embed in batches, write in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nemotron_rag.batch.embedding import EmbeddedPages, embed_pages
from nemotron_rag.batch.pages import NewPage
from nemotron_rag.batch.writing import PageWriter
from nemotron_rag.documents.pdf import Interruption, interruptible
from nemotron_rag.index.documents import Documents
from nemotron_rag.index.found_sources import LeftOut
from nemotron_rag.index.plan import Finished, Known, Step, Steps
from nemotron_rag.index.read_ahead import read_ahead
from nemotron_rag.index.state import IndexState
from nemotron_rag.runtime.timing import Timer, timed
from nemotron_rag.stores.patience import stoppable
from nemotron_rag.types import AddReport, Failure

__all__ = ["BATCH", "BATCH_PIXELS", "Ingest", "progress_bar", "tell_what_is_done"]

BATCH = 16
BATCH_PIXELS = 2**26
_HELD_PIXELS = 3 * BATCH_PIXELS  # of all pages on their way, 576 MiB as RGB; more is one image alone
_IN_FLIGHT = 2  # batches being embedded or written while the next one is read
_WRITERS = 4  # threads that encode and write images; Pillow lets go of the interpreter while it encodes
_CHECKS = 64  # documents whose older versions are looked for at once: an embedded Qdrant reads all pages for that


class _Full:
    """Stands among the steps where there is no room for the next one before those in front have gone on."""


class _Room:
    """For the decoded images of pages on their way; an image that has more pixels has all the room to itself."""

    def __init__(self, pixels: int) -> None:
        self._pixels, self._held, self._closed = pixels, 0, False
        self._changed = threading.Condition()

    def has(self, pixels: int) -> bool:
        """Whether there is room for so many more pixels now."""
        with self._changed:
            return self._fits(pixels)

    def take(self, pixels: int) -> None:
        """Wait for room; not once this was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(pixels))
            self._held += pixels

    def give_back(self, pixels: int) -> None:
        """Of images that are not needed any more."""
        with self._changed:
            self._held -= pixels
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        return not self._held or self._held + pixels <= self._pixels


@dataclass
class _Batch:
    fresh: list[NewPage] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)  # to be done once `fresh` is stored
    finished: list[Finished] = field(default_factory=list)  # and after that
    failures: list[Failure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    has_room: bool = True
    pixels: int = 0  # of the decoded images
    checks: int = 0  # of documents and single pages

    def take(self, step: NewPage | Known | Failure | LeftOut | _Full) -> None:
        """One step more."""
        match step:
            case NewPage():
                self.fresh.append(step)
                self.pixels += _pixels(step)
            case Known():
                self._note(step)
            case Failure():
                self.failures.append(step)
                self.checks += 1
            case LeftOut():
                self.left_out += step.sources
            case _Full():
                self.has_room = False

    def _note(self, known: Known) -> None:
        """Stored pages, together with those before them if these are of the same file and metadata."""
        self.checks += 1
        last = self.known[-1] if self.known else None
        if last is not None and _says_the_same(last, known) and set(last.ids).isdisjoint(known.ids):
            self.known[-1] = replace(last, ids=[*last.ids, *known.ids])
        else:
            self.known.append(known)

    def is_full(self, size: int, pixels: int) -> bool:
        if len(self.fresh) >= size or self.finished or self.checks >= _CHECKS or not self.has_room:
            return True
        return self.pixels >= pixels


class Ingest:
    """One run of `add`.

    Args:
        plan: what to read.
        index: where it goes.
        progress: show a bar on stderr.
        batch_size: pages embedded and written at once; at most five times as many are in memory, about 5 MB each as
            images.
        batch_pixels: larger images make smaller batches: 2**26 pixels take 192 MiB.
    """

    def __init__(
        self,
        plan: Steps,
        index: IndexState,
        *,
        progress: bool,
        batch_size: int | None = None,
        batch_pixels: int | None = None,
    ) -> None:
        self._plan = plan
        self._index = index
        self._batch_size, self._batch_pixels = batch_size or BATCH, batch_pixels or BATCH_PIXELS
        self._progress = progress
        self._timers = {stage: Timer() for stage in ("render", "preprocess", "embed", "store", "optimize", "total")}
        self._raises = plan.on_error == "raise"
        self._writer = PageWriter(index.store, index.images, raises=self._raises)
        self._documents = Documents(index)
        self._failures: list[Failure] = []
        self._left_out: list[str] = []
        self._broken = False
        self._room = _Room(_HELD_PIXELS)

    def run(self) -> AddReport:
        """Carry out the plan.

        Raises:
            NemotronRagError: the store or the model failed, or a page did and `on_error` is ``raise``. What was
                written before stays, its `report` says what that is, and the same call made again goes on from there.
        """
        try:
            with stoppable() as stop, interruptible() as interruption, self._timers["total"]:
                self._index.finish_removals()
                self._work(stop, interruption)
                optimized = self._optimize()
        except BaseException as error:
            tell_what_is_done(error, self._report())
            raise
        return self._report(optimized=optimized)

    def _work(self, stop: threading.Event, interruption: Interruption) -> None:
        total = self._plan.total() if self._progress else None
        with (
            progress_bar(shown=self._progress) as bar,
            closing(read_ahead(self._as_there_is_room(), depth=self._batch_size, leave=interruption.come)) as steps,
            closing(self._room),
            closing(self._through_stages(self._cut(steps), stop)) as settled,
        ):
            task = bar.add_task("indexing", total=total)
            for done in settled:
                bar.advance(task, done)

    def _report(self, *, optimized: bool = False) -> AddReport:
        return AddReport(
            added=self._writer.added,
            unchanged=self._documents.unchanged,
            removed=self._documents.removed,
            failures=tuple(self._failures),
            left_out=tuple(self._left_out),
            optimized=optimized,
            seconds={stage: clock.seconds for stage, clock in self._timers.items()},
        )

    def _optimize(self) -> bool:
        if not self._writer.added and not self._documents.removed:
            return False
        with self._timers["optimize"]:
            return self._index.store.optimize()

    def _timed(self, steps: Generator[Step, None, None]) -> Generator[Step, None, None]:
        with closing(steps):
            while True:
                with self._timers["render"]:
                    step = next(steps, None)
                if step is None:
                    return
                yield step

    def _as_there_is_room(self) -> Generator[Step | _Full, None, None]:
        """The steps; before one whose image would be too much, those in front are told to go on without it."""
        with closing(self._timed(self._plan.steps())) as steps:
            for step in steps:
                pixels = _pixels(step)
                if pixels and not self._room.has(pixels):
                    yield _Full()
                self._room.take(pixels)
                yield step

    def _cut(self, steps: Iterable[Step | _Full]) -> Iterator[_Batch]:
        """Batches in order, but with documents finished only once there are many of them, and at the end."""
        batch, finished = _Batch(), list[Finished]()
        for step in steps:
            if isinstance(step, Finished):
                finished.append(step)
            else:
                batch.take(step)
            if len(finished) == _CHECKS:
                batch.finished, finished = finished, []
            if batch.is_full(self._batch_size, self._batch_pixels):
                yield batch
                batch = _Batch()
        batch.finished += finished
        yield batch

    def _through_stages(self, batches: Iterable[_Batch], stop: threading.Event) -> Generator[int, None, None]:
        """Embed ahead and write behind; yields how many pages are settled each time a batch is.

        Args:
            batches: in order.
            stop: set when this ends before its time, so that nobody waits for a server any longer.
        """
        waiting: deque[Future[int]] = deque()
        # Two batches are embedded at once, so that one is cut into tiles while the other one is computed.
        with (
            _pool(1, "store") as store,
            _pool(_IN_FLIGHT, "embed") as embed,
            _pool(_WRITERS, "image") as images,
            _set_when_interrupted(stop),
        ):
            for batch in batches:
                if batch.fresh:
                    self._index.prepare()
                embedding = embed.submit(copy_context().run, self._embed, batch)
                waiting.append(store.submit(copy_context().run, self._settle, batch, embedding, images))
                if len(waiting) > _IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _embed(self, batch: _Batch) -> EmbeddedPages:
        if not batch.fresh:
            return EmbeddedPages()
        with self._timers["embed"], timed(self._timers):
            return embed_pages(self._index.embed, batch.fresh, raises=self._raises)

    def _settle(self, batch: _Batch, embedding: Future[EmbeddedPages], pool: ThreadPoolExecutor) -> int:
        """Write one batch; batches are settled one after the other, and none after one that failed."""
        try:
            return self._settle_in_turn(batch, embedding, pool)
        finally:
            self._room.give_back(batch.pixels)

    def _settle_in_turn(self, batch: _Batch, embedding: Future[EmbeddedPages], pool: ThreadPoolExecutor) -> int:
        if self._broken:
            return 0
        self._broken = True  # until all of it is acknowledged: old pages must not go while new ones are missing
        embedded = embedding.result()
        with self._timers["store"]:
            refused = [
                page.failure(error)
                for page, error in self._writer.write(embedded.pages, embedded.vectors, map=pool.map)
            ]
            refused += self._documents.attach(batch.known)
            self._documents.finish(batch.finished)
        self._broken = False
        self._failures += batch.failures + embedded.failures + refused
        self._left_out += batch.left_out
        unread = sum(failure.number is not None for failure in batch.failures)
        return len(batch.fresh) + sum(len(known.ids) for known in batch.known) + unread


def progress_bar(*, shown: bool) -> Progress:
    """Pages done, of how many, and how long it will take; on stderr, in notebooks too."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("pages"))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not shown)


@contextmanager
def _pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what has not begun when its block is left by an error."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=f"nemotron-rag {name}")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _says_the_same(one: Known, other: Known) -> bool:
    """Of its pages; 1 and True are not the same."""
    return one.source == other.source and repr(one.metadata) == repr(other.metadata)


def _pixels(step: object) -> int:
    """Of the decoded image that a step holds."""
    image = step.page.image if isinstance(step, NewPage) else None
    return image.width * image.height if isinstance(image, Image.Image) else 0


def tell_what_is_done(error: BaseException, report: AddReport) -> None:
    """Give an error that ends a run the report of what is stored, for programs and for people."""
    error.report = report  # type: ignore[attr-defined]  # also an error of others
    done = f"{report.added} pages added, {report.unchanged} unchanged, {report.removed} removed"
    error.add_note(f"before this error: {done}, {len(report.failures)} failures; what is stored stays")


@contextmanager
def _set_when_interrupted(stop: threading.Event) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stop.set()
        raise
