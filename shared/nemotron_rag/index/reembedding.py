"""Embed the pages of an index anew, with another model and into another index, from the images and texts it stores.

No document is read again. Old and new index stand side by side until whoever searches opens the new one, or until an
alias leads to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from nemotron_rag.batch.pages import NewPage
from nemotron_rag.batch.place import IndexPlace
from nemotron_rag.batch.stages import StoredPages
from nemotron_rag.batch.workers import Workers
from nemotron_rag.documents.pdf import OnError
from nemotron_rag.errors import InputError
from nemotron_rag.index.ingest import Ingest
from nemotron_rag.index.plan import Known, Step
from nemotron_rag.index.sample import Sample, look_for
from nemotron_rag.index.spread import SpreadIngest, Work, check_engine
from nemotron_rag.index.state import IndexState
from nemotron_rag.types import AddReport, PageFile, StoredPage, page_uuid

if TYPE_CHECKING:
    from nemotron_rag.index.page_index import AddEngine, PageIndex

__all__ = ["Part", "check_copy", "point_alias", "reembed"]

Part = tuple[int, int]
"""Which of how many: ``(1, 4)`` is the first quarter of the pages."""

_TOGETHER = 1000  # pages that are looked for at once


def reembed(
    old: PageIndex,
    new: PageIndex,
    *,
    part: Part | None = None,
    on_error: OnError = "skip",
    progress: bool = True,
    engine: AddEngine | None = None,
    workers: Workers | None = None,
) -> AddReport:
    """Embed all pages of one index with the model of another one, into that.

    Ids, texts, metadata and the documents that hold a page stay. Images are copied as files, unless both indexes keep
    them in one place. Interrupted at any moment and called again, it goes on with what is missing; pages that came into
    the old index meanwhile are such.

    Args:
        old: which is only read. It must have the pages' images, for models that read images.
        new: another collection, folder or server.
        part: which share of the pages, ``(1, 4)`` to ``(4, 4)`` in four processes or machines at once: no page is in
            two of them. None for all.
        on_error: "skip" reports pages that cannot be embedded and goes on; "raise" raises.
        progress: show a bar on stderr.
        engine: for many processes, as in `PageIndex.add`; both indexes must be where all reach them.
        workers: of the engine.

    Raises:
        InputError: an argument cannot be used.
        NemotronRagError: as from `PageIndex.add`.

    Example:
        >>> from nemotron_rag import Page, PageIndex
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> with PageIndex(embedder=FakeEmbedder()) as old, PageIndex(embedder=FakeEmbedder(dimensions=16)) as new:
        ...     _ = old.add([Page(id="p1", text="apples"), Page(id="p2", text="pears")], progress=False)
        ...     reembed(old, new, progress=False).added, new.search("pears", k=1)[0].page.id
        (2, 'p2')
    """
    source, target = old._state, new._state
    _check(old, new, part)
    if source.record is not None and not target.exists():
        target.follow(source.record)
    plan = _Plan(source, target, part, on_error)
    if engine is None and workers is None:
        return Ingest(plan, target, progress=progress).run()
    run = check_engine(engine)
    place = old._place()
    if place is None:
        raise InputError(f"other processes cannot read {source}; leave out engine=, or use a folder or a server")
    return _SpreadReembedding(
        plan, target, new._place(), workers=workers or Workers(), progress=progress, engine=run, old=place
    ).run()


def check_copy(old: PageIndex, new: PageIndex, *, sample: int = 32) -> tuple[int, Sample]:
    """What the new index lacks of the old one, before searches go to it.

    Args:
        old: that was embedded anew.
        new: what came of it.
        sample: pages of the new one that are looked for by their own vectors.

    Returns:
        How many pages of the old index the new one has not, and what was found of the sample.

    Raises:
        StoreError: a store could not be reached.
    """
    lacking, looked = 0, dict[str, Any]()
    for some in _together(old._state.store.pages()):
        known = new._state.store.get([stored.page.id for stored in some])
        lacking += sum(stored.page.id not in known for stored in some)
        if len(looked) < sample and not new.is_multivector:
            looked |= new._state.store.vectors(list(islice(known, sample - len(looked))))
    return lacking, look_for(new._state.store, looked)


def point_alias(index: PageIndex, alias: str) -> None:
    """Make another collection name lead to an index, at once for all who use it: ``PageIndex(url, collection=alias)``.

    Args:
        index: on a server.
        alias: a name that no collection has; one that leads to another index leads to this one from now on.

    Raises:
        InputError: the store of the index has no such names.
        StoreError: the server refused.
    """
    store = index._state.store
    if not hasattr(store, "point_alias"):
        raise InputError(f"{store} has no aliases")
    store.point_alias(alias)


@dataclass(frozen=True)
class _Plan:
    """What is to be embedded, as `Steps`."""

    source: IndexState
    target: IndexState
    part: Part | None
    on_error: OnError

    def total(self) -> int | None:
        """How many pages there are, if all are asked for."""
        return self.source.store.count() if self.part is None else None

    def steps(self) -> Generator[Step, None, None]:
        """Pages to embed, and what is to be noted of those that are there."""
        for missing, known in self.sorted_out(texts=True):
            yield from known
            for stored in missing:
                yield self._new(stored)

    def sorted_out(self, *, texts: bool) -> Iterator[tuple[list[StoredPage], list[Known]]]:
        """Pages that are not there, and documents of those that are."""
        mine = filter(self._is_mine, self.source.store.pages(texts=texts))
        for some in _together(mine):
            known = self.target.lookup([stored.page.id for stored in some])
            missing = [each for each in some if not _is_same(each, known.get(each.page.id))]
            lacking = {each.page.id for each in missing}
            there = [each for each in some if each.page.id not in lacking]
            yield missing, _files(there)

    def _is_mine(self, stored: StoredPage) -> bool:
        if self.part is None:
            return True
        number, parts = self.part
        return int(page_uuid(stored.page.id).replace("-", ""), 16) % parts == number - 1

    def _new(self, stored: StoredPage) -> NewPage:
        images = self.source.images
        image = None if images is None else images.of(stored)
        is_moved = images is not None and self.target.images is not None and images.root != self.target.images.root
        words = images.words(stored) if images is not None and is_moved else None
        return NewPage.of_stored(stored, image, words)


class _SpreadReembedding(SpreadIngest):
    def __init__(
        self, plan: _Plan, index: IndexState, place: IndexPlace | None, *, old: IndexPlace, **options: Any
    ) -> None:
        super().__init__(cast("Any", plan), index, place, **options)  # of which only `on_error` is asked here
        self._old, self._copy = old, plan

    def _listed(self) -> Work:
        work = Work()
        for missing, known in self._copy.sorted_out(texts=False):
            work.known += known
            work.total += len(missing)
            size = self._workers.span
            for at in range(0, len(missing), size):
                work.spans.append({"ids": json.dumps([each.page.id for each in missing[at : at + size]])})
        return work

    def _reader(self) -> Callable[[], Any]:
        return partial(StoredPages, self._old)


def _check(old: PageIndex, new: PageIndex, part: Part | None) -> None:
    if not old._state.exists():
        raise InputError(f"{old._state} has no pages to embed anew")
    if str(old._state) == str(new._state) and (old._where is not None or old is new):
        raise InputError(f"{new._state} cannot be embedded into itself; give the new index another collection")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise InputError(f"part must be such as (1, 4), the first of four, got {part!r}")


def _is_same(stored: StoredPage, known: StoredPage | None) -> bool:
    return known is not None and known.content_hash == stored.content_hash


def _files(pages: Sequence[StoredPage]) -> list[Known]:
    """Which documents hold pages, those that say the same of them together."""
    files: dict[tuple[str, str], PageFile] = {}
    ids: dict[tuple[str, str], list[str]] = {}
    for stored in pages:
        for file in stored.files:
            key = (file.source, repr(file.metadata))
            files[key] = file
            ids.setdefault(key, []).append(stored.page.id)
    return [Known(ids[key], file.source, file.metadata) for key, file in files.items()]


def _together(pages: Iterator[StoredPage]) -> Iterator[list[StoredPage]]:
    while some := list(islice(pages, _TOGETHER)):
        yield some
