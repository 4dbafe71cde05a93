"""Load a stage into an index: no model, no document, many pages at a time, and a look whether they are all there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Unpack

from nemotron_rag.batch.pages import NewPage
from nemotron_rag.batch.parquet import ParquetStage
from nemotron_rag.batch.writing import PageWriter
from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.index.ingest import progress_bar
from nemotron_rag.index.record import IndexRecord, compare
from nemotron_rag.index.sample import Sample, look_for
from nemotron_rag.index.state import Images, images_of
from nemotron_rag.runtime.timing import Timer
from nemotron_rag.stores.collection_options import CollectionOptions
from nemotron_rag.stores.page_images import PageImages, StoredImage
from nemotron_rag.stores.server import ConnectionOptions
from nemotron_rag.stores.tenant import Tenant, TenantKey
from nemotron_rag.types import Failure, Page, PageFile, PageVectors, StoredPage

__all__ = ["LoadReport", "load_stage"]

_THREADS = 4
_SAMPLE = 32
_BATCH, _BATCH_BYTES = 64, 16 * 2**20  # pages and bytes that a thread has at once
_Item = tuple[NewPage, PageVectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What `load_stage` did, and found.

    Args:
        staged: pages in the stage.
        added: pages written.
        unchanged: pages that were there already.
        failures: pages that could not be written.
        stored: pages in the index afterwards.
        sample: of the staged pages, looked for in the index.
        indexed: whether the store has built its indexes; a server goes on with that in the background.
        seconds: by stage: ``load`` (of all threads together), ``indexes``, ``check``, ``total``.
    """

    staged: int
    added: int
    unchanged: int
    failures: tuple[Failure, ...] = ()
    stored: int = 0
    sample: Sample = field(default_factory=Sample)
    indexed: bool = True
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every staged page is there, and every one of the sample was found."""
        there = self.added + self.unchanged == self.staged <= self.stored
        return there and not self.failures and not self.sample.lost


def load_stage(
    stage: str,
    to: str | os.PathLike[str],
    *,
    collection: str = "pages",
    images: Images = True,
    tenant: TenantKey | None = None,
    collection_options: CollectionOptions | Mapping[str, Any] | None = None,
    threads: int = _THREADS,
    sample: int = _SAMPLE,
    progress: bool = True,
    **connection: Unpack[ConnectionOptions],
) -> LoadReport:
    """Load what was staged into a folder or a Qdrant server; the index is the one that `PageIndex.add` would have made.

    A new collection on a server gets its payload indexes and its graph when all pages are there. Interrupted at any
    moment and called again, it goes on.

    Args:
        stage: ``parquet://`` and a folder or fsspec URL; see `PageIndex`.
        to: a folder, or the url of a Qdrant server.
        collection: of the index.
        images: where page images are stored; see `PageIndex`. If the stage was written with `images=` of its own, the
            same place.
        tenant: whose pages these become; see `PageIndex`.
        collection_options: of a new collection.
        threads: that read and write at the same time; one folder is written by one at a time.
        sample: pages that are looked for afterwards, each by its own vectors.
        progress: show a bar on stderr.
        **connection: to a server; see `ConnectionOptions`.

    Raises:
        InputError: an argument cannot be used.
        IndexMismatchError: the index was written with another model or other settings.
        StoreError: the stage cannot be read, or the store failed for longer than its patience.

    Example:
        >>> import tempfile
        >>> from nemotron_rag import Page, PageIndex
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> with PageIndex("parquet://memory://load-example", embedder=FakeEmbedder()) as staged:
        ...     staged.add([Page(id="p1", text="apples"), Page(id="p2", text="pears")], progress=False).added
        2
        >>> folder = tempfile.TemporaryDirectory()
        >>> report = load_stage("parquet://memory://load-example", folder.name, progress=False)
        >>> report.added, report.sample.found, report.is_complete
        (2, 2, True)
        >>> folder.cleanup()
    """
    from nemotron_rag.stores.qdrant import QdrantStore  # noqa: PLC0415  needs the extra `qdrant`

    if threads < 1 or sample < 0:
        raise InputError(f"threads must be at least 1 and sample at least 0, got {threads} and {sample}")
    source, whose = ParquetStage(stage), Tenant.of(tenant)
    options = CollectionOptions.of(collection_options)
    store = QdrantStore(to, collection=collection, tenant=whose, collection_options=options, **connection)
    try:
        kept = images_of(images, store)
        if kept is not None and whose is not None:
            kept = kept.of_tenant(whose)
        return _Load(source, store, kept, whose, threads).run(sample, progress=progress)
    finally:
        store.close()
        source.close()


class _Load:
    def __init__(
        self, stage: ParquetStage, store: Any, images: PageImages | None, tenant: Tenant | None, threads: int
    ) -> None:
        self._stage, self._store, self._images, self._tenant, self._threads = stage, store, images, tenant, threads
        self._stopped = threading.Event()
        self._timers = {name: Timer() for name in ("load", "indexes", "check", "total")}

    def run(self, sample: int, *, progress: bool) -> LoadReport:
        with self._timers["total"]:
            self._prepare()
            staged, names = self._stage.count(), self._stage.files()
            with progress_bar(shown=progress) as bar:
                task = bar.add_task("loading", total=staged)
                with ThreadPoolExecutor(self._threads, thread_name_prefix="nemotron-rag load") as pool:
                    parts = [names[at :: self._threads] for at in range(self._threads)]
                    runs = [pool.submit(self._load, part, lambda n: bar.advance(task, n)) for part in parts if part]
                    done = [run.result() for run in self._ending(runs)]
            with self._timers["indexes"]:
                self._store.optimize()
                indexed = self._store.finish_indexes()
            with self._timers["check"]:
                stored = self._store.count()
                looked = look_for(self._store, self._sampled(names, sample))
        return LoadReport(
            staged=staged,
            added=sum(added for added, _, _ in done),
            unchanged=sum(unchanged for _, unchanged, _ in done),
            failures=tuple(failure for _, _, failures in done for failure in failures),
            stored=stored,
            sample=looked,
            indexed=indexed,
            seconds={name: timer.seconds for name, timer in self._timers.items()},
        )

    def _ending(self, runs: Sequence[Any]) -> Iterator[Any]:
        """The runs; when one fails, the others end too."""
        try:
            for run in runs:
                run.result()
                yield run
        except BaseException:
            self._stopped.set()
            raise

    def _prepare(self) -> None:
        """Make the index, or see that it is one of the same model."""
        found = self._stage.read_record()
        dimensions, storage = self._stage.shape
        if found is None:
            raise StoreError(f"{self._stage} holds nothing")
        record = replace(IndexRecord.from_json(found, where=str(self._stage)), engine=self._store.engine)
        there = self._store.read_record()
        if there is None:
            self._store.create(dimensions=dimensions, record=record.to_json(), token_storage=storage, deferred=True)
            there = self._store.read_record()
        _check_same(str(self._store), IndexRecord.from_json(there, where=str(self._store)), record)

    def _load(self, names: Sequence[str], advance: Any) -> tuple[int, int, list[Failure]]:
        writer, failures, unchanged = PageWriter(self._store, self._images), list[Failure](), 0
        for some in _cut(self._items(names)):
            if self._stopped.is_set():
                break
            with self._timers["load"]:
                todo, lost = self._with_images(self._missing(some))
                unchanged += len(some) - len(todo) - len(lost)
                failures += lost
                refused = writer.write([new for new, _ in todo], [vectors for _, vectors in todo])
            failures += [new.failure(error) for new, error in refused]
            advance(len(some))
        return writer.added, unchanged, failures

    def _items(self, names: Sequence[str]) -> Iterator[_Item]:
        for name in names:
            for stored, page, vectors in self._stage.whole(name):
                yield self._new(stored, page), vectors

    def _new(self, stored: StoredPage, page: Page) -> NewPage:
        if self._tenant is not None:
            stored = _of_tenant(stored, self._tenant)
        image = None if self._images is None else page.image
        if isinstance(image, StoredImage) and image.data is None:
            image = replace(image, root="" if self._images is None else self._images.root)
        words = None if image is None else page.word_boxes
        return NewPage.of_stored(replace(stored, page=replace(stored.page, text=page.text)), image, words)

    def _missing(self, items: Sequence[_Item]) -> list[_Item]:
        """Those that are not there as they are here."""
        known = self._store.get([new.page.id for new, _ in items])
        todo = []
        for new, vectors in items:
            old, wanted = known.get(new.page.id), new.stored(None)
            if old is None or wanted.replacing(old).files != old.files or wanted.content_hash != old.content_hash:
                todo.append((replace(new, replaces=old is not None), vectors))
        return todo

    def _with_images(self, items: Sequence[_Item]) -> tuple[list[_Item], list[Failure]]:
        """Those whose image is in the stage or in its place, and failures of the others."""
        good, bad = list[_Item](), list[Failure]()
        for new, vectors in items:
            image, images = new.page.image, self._images
            if isinstance(image, StoredImage) and image.data is None and images is not None and not images.has(image):
                reason = f"its image is neither in the stage nor at {images.root}; give images= where it was written"
                bad.append(Failure(new.page.source, reason, new.page.number))
            else:
                good.append((new, vectors))
        return good, bad

    def _sampled(self, names: Sequence[str], count: int) -> dict[str, PageVectors]:
        """Some pages and their vectors, from files that lie evenly among all."""
        step = max(1, len(names) // max(1, count))
        chosen = names[::step][:count] if count else []
        each = -(-count // max(1, len(chosen)))
        found: dict[str, PageVectors] = {}
        for name in chosen:
            for stored, _, vectors in islice(self._stage.whole(name), each):
                found[stored.page.id] = vectors
        return dict(islice(found.items(), count))


def _cut(items: Iterator[_Item]) -> Iterator[list[_Item]]:
    """Batches of so many pages or bytes, whichever is reached first."""
    some, size = list[_Item](), 0
    for new, vectors in items:
        data = new.page.image.data if isinstance(new.page.image, StoredImage) else new.page.image
        some.append((new, vectors))
        size += vectors.nbytes + len(new.page.text) + (len(data) if isinstance(data, bytes) else 0)
        if len(some) == _BATCH or size >= _BATCH_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _of_tenant(stored: StoredPage, tenant: Tenant) -> StoredPage:
    for file in stored.files:
        tenant.check(file.metadata)
    files = [PageFile(file.source, {**file.metadata, **tenant.metadata}) for file in stored.files]
    return stored.held_by(files) or stored


def _check_same(where: str, mine: IndexRecord, staged: IndexRecord) -> None:
    """Raise unless the vectors of a stage fit an index.

    Raises:
        IndexMismatchError: they do not.
    """
    compare(where, has=dict(mine.identity), given=dict(staged.identity))
    if mine.token_vectors != staged.token_vectors:
        raise IndexMismatchError(f"{where} stores token vectors in another way than the stage; use another collection")
