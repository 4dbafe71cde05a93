"""A stage: what would be stored, as Parquet files in a folder, to be loaded into any store later."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from nemotron_rag.batch.pages import NewPage
from nemotron_rag.batch.rows import Row, from_row, from_table, to_row, to_table, vectors_of
from nemotron_rag.batch.stage_folder import StageFolder
from nemotron_rag.errors import ClosedError, ImageError, InputError, StoreError
from nemotron_rag.late_interaction.projection import mean_vector
from nemotron_rag.stores.filters import matches, matching_files, parse_filter
from nemotron_rag.stores.page_images import PageImages, StoredImage
from nemotron_rag.types import (
    Filter,
    FloatArray,
    IndexedType,
    Page,
    PageFile,
    PageVectors,
    StoredPage,
    TokenStorage,
    page_uuid,
)

__all__ = ["STAGE", "STAGED_IMAGES", "ParquetStage", "is_stage"]

STAGE = "parquet://"
"""How the location of a stage begins: ``parquet://`` and a folder or fsspec URL."""

STAGED_IMAGES = "memory://nemotron-rag-stage-"
"""How the place of images begins that are on their way into a stage."""

_RECORD = "record.json"
_FORMAT = 1
_PAGES, _FILES = "pages-", "files-"
_LARGE = ("image", "words", "vector", "text")
_COLUMNS = tuple(to_row(NewPage(Page(id=""), "")))
_LIGHT = 256  # files of which what is small is kept in memory


def is_stage(location: object) -> bool:
    """Whether a location is that of a stage."""
    return isinstance(location, str) and location.startswith(STAGE)


class ParquetStage:
    """A `PageStore` that only keeps: pages as rows of `nemotron_rag.batch.rows`, images and vectors in them.

    Each write is one new file, whole or not at all, so that any number of processes may write at once, and whoever is
    killed leaves nothing broken. Which documents hold a page may change; that is noted in files of JSON beside them.

    Args:
        location: ``parquet://`` and a folder or an fsspec URL.

    Raises:
        InputError: it is none.

    Example:
        >>> from nemotron_rag.types import Page
        >>> stage = ParquetStage("parquet://memory://stage-example")
        >>> stage.create(dimensions=2, record={"model": "m"})
        >>> page = StoredPage.of(Page(id="p1", source="a.pdf", number=1, text="apples"), content_hash="h")
        >>> stage.put([page], np.eye(1, 2, dtype=np.float32))
        >>> stage.count(), stage.sources(), len(stage.files())
        (1, ['a.pdf'], 1)
    """

    def __init__(self, location: str) -> None:
        root = location.removeprefix(STAGE)
        if not is_stage(location) or not root:
            raise InputError(f"a stage is parquet:// and a folder or URL, as in parquet://my-stage, got {location!r}")
        self._folder = StageFolder(root)
        self.root = self._folder.root
        self.image_root = f"{STAGED_IMAGES}{uuid.uuid4().hex}"
        """Where images are until the page is put: they come into its row."""
        self._images = PageImages(self.image_root)
        self._lock = threading.RLock()
        self._seen: set[str] = set()  # names of files whose pages are in what follows
        self._shards: dict[str, list[str]] = {}  # names of files by page id
        self._ids: dict[str, set[str]] = {}  # of pages that a document holds or held
        self._changes: dict[str, list[tuple[str, str, str, Any]]] = {}
        self._light = lru_cache(maxsize=_LIGHT)(self._read_light)
        self._closed = False

    def __str__(self) -> str:
        """``stage my-stage``."""
        return f"stage {self.root}"

    def exists(self) -> bool:
        """Whether `create` was called."""
        return self.read_record() is not None

    @property
    def shape(self) -> tuple[int, TokenStorage | None]:
        """Length of the vectors, and the number format of token vectors.

        Raises:
            StoreError: nothing is staged there.
        """
        noted = self._noted()
        if noted is None:
            raise StoreError(f"{self} holds nothing; write it with nemotron-rag index --stage {STAGE}{self.root}")
        return noted["dimensions"], noted["token_storage"]

    def read_record(self) -> dict[str, Any] | None:
        """The record given to `create`; None before that.

        Raises:
            StoreError: it cannot be read, or something else is there.
        """
        noted = self._noted()
        return None if noted is None else dict(noted["record"])

    def create(self, *, dimensions: int, record: Mapping[str, Any], token_storage: TokenStorage | None = None) -> None:
        """Note what writes the stage; what is there already stays.

        Raises:
            StoreError: it is there with other vectors, or cannot be written.
        """
        if not self.exists():
            noted = {"format": _FORMAT, "dimensions": dimensions, "token_storage": token_storage, "record": record}
            self._folder.write(_RECORD, json.dumps(noted).encode())
        if self.shape != (dimensions, token_storage):
            raise StoreError(f"{self} has other vectors than {dimensions}-d ones; give another folder")

    def put(self, pages: Sequence[StoredPage], vectors: Sequence[PageVectors] | PageVectors) -> None:
        """Write pages, as one file; one whose id and content are there already stays with its other files too.

        Raises:
            InputError: not one array for each page; nothing is written.
            StoreError: the file cannot be written.
        """
        if len(pages) != len(vectors):
            raise InputError(f"{len(pages)} pages need as many vectors or arrays of them, got {len(vectors)}")
        if not len(pages):
            return
        rows = [self._row(stored, each) for stored, each in zip(pages, vectors, strict=True)]
        name = f"{_PAGES}{_stamp()}.parquet"
        self._folder.write_table(name, to_table(rows))
        with self._lock:
            if self._seen:
                self._take_rows(name, rows)
        for stored in pages:
            self._images.delete(page_uuid(stored.page.id))

    def attach(self, ids: Sequence[str], *, source: str, metadata: Mapping[str, Any]) -> int:
        """Note that `source` holds stored pages too; what others say of them stays. No change, no write."""
        changes = []
        if not self._known().keys() >= set(ids):
            self._refresh()  # another process may have written them
        known = self.get(ids)
        for stored in known.values():
            new = stored.with_source(source, metadata)
            if new.files != stored.files:
                said = {file.source: dict(file.metadata) for file in new.files}
                changes.append((stored.page.id, stored.content_hash, source, said[source]))
        self._change(changes)
        return len(known)

    def remove(
        self,
        ids: Sequence[str],
        *,
        filter: Filter | None = None,
        after: Callable[[Sequence[StoredPage]], None] = lambda removed: None,
    ) -> int:
        """Take pages away from the files that hold them; pages that no file holds any more are not loaded."""
        conditions, changes, removed = parse_filter(filter), [], []
        for stored in self.get(ids).values():
            leaving = matching_files(conditions, stored)
            changes += [(stored.page.id, stored.content_hash, file.source, None) for file in leaving]
            if len(leaving) == len(stored.files):
                removed.append(stored)
        self._change(changes)
        after(removed)
        return len(removed)

    def get(self, ids: Sequence[str]) -> dict[str, StoredPage]:
        """The staged ones of these pages by id, without their texts."""
        shards = self._known()
        found = {page_id: self._merged(page_id) for page_id in ids if page_id in shards}
        return {page_id: stored for page_id, stored in found.items() if stored is not None}

    def pages(self, filter: Filter | None = None, *, texts: bool = False) -> Iterator[StoredPage]:
        """The pages that a filter, or each of a tuple of them, matches, read as they are consumed."""
        conditions = [parse_filter(each) for each in (filter if isinstance(filter, tuple) else (filter,))]
        files, shards = self.files(), self._known()
        if isinstance(filter, Mapping) and set(filter) == {"source"}:
            sources = [filter["source"]] if isinstance(filter["source"], str) else filter["source"]
            if isinstance(sources, list):
                files = sorted({shards[page_id][-1] for each in sources for page_id in self._ids.get(each, ())})
        for name in files:
            rows = self._rows(name, without=("image", "words", "vector")) if texts else self._light(name).values()
            for row in rows:
                stored = self._current(row["id"], name)
                if stored is not None and all(matches(each, stored) for each in conditions):
                    yield replace(stored, page=replace(stored.page, text=row["text"])) if texts else stored

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Of the staged ones of these pages the vector, or the mean of the token vectors, by id: (dimensions,)."""
        wanted: dict[str, list[str]] = {}
        for page_id in self.get(ids):
            wanted.setdefault(self._known()[page_id][-1], []).append(page_id)
        found: dict[str, FloatArray] = {}
        for name, some in wanted.items():
            rows = {row["id"]: vectors_of(row) for row in self._rows(name, without=("image", "words", "text"))}
            found |= {page_id: _one(rows[page_id]) for page_id in some}
        return found

    def sources(self) -> list[str]:
        """The documents that have pages here, sorted."""
        return sorted({source for stored in self.pages() for source in stored.sources})

    def count(self, filter: Filter | None = None) -> int:
        """How many pages a filter matches."""
        self._refresh()
        if filter is None and not self._changes:
            return len(self._shards)
        return sum(1 for _ in self.pages(filter))

    def query(self, vectors: PageVectors, **options: Any) -> list[tuple[StoredPage, float]]:
        """Nothing can be searched here.

        Raises:
            StoreError: always.
        """
        raise StoreError(f"{self} cannot be searched; load it first: nemotron-rag load {STAGE}{self.root} --to INDEX")

    def index_metadata(self, key: str, kind: IndexedType) -> None:
        """Nothing is searched here."""

    def optimize(self) -> bool:
        """Nothing is searched here."""
        return False

    def close(self) -> None:
        """Let go of what was read."""
        self._closed = True
        self._light.cache_clear()

    def files(self) -> list[str]:
        """The names of the files with pages, in the order in which they were written."""
        self._refresh()
        return sorted(name for name in self._seen if name.startswith(_PAGES))

    def whole(self, name: str) -> Iterator[tuple[StoredPage, Page, PageVectors]]:
        """The pages of a file: as they would be stored, with text, image and places of words, and their vectors.

        Args:
            name: of the file; a page with a later version in another one, or that no document holds, is left out.

        Raises:
            StoreError: it cannot be read.
        """
        for row in self._rows(name):
            stored = self._current(row["id"], name)
            if stored is not None:
                yield stored, from_row(row).page, vectors_of(row)

    def _current(self, page_id: str, name: str) -> StoredPage | None:
        """A page, if its last version is in this file, and a document holds it."""
        return self._merged(page_id) if self._shards[page_id][-1] == name else None

    def _row(self, stored: StoredPage, vectors: PageVectors) -> Row:
        row = to_row(NewPage.of_stored(stored, None), vectors)
        if stored.image_key is None:
            return row
        known = {"key": stored.image_key, "size": stored.image_size, "hash": stored.image_hash, "root": ""}
        row["stored_image"] = json.dumps(known)
        here = self._images.of(stored)
        with suppress(ImageError):  # its images are kept elsewhere
            kept = to_row(NewPage.of_stored(stored, here, self._images.words(stored)))
            row |= {"image": kept["image"], "words": kept["words"]}
        return row

    def _merged(self, page_id: str) -> StoredPage | None:
        """A page with all documents that hold it now."""
        stored: StoredPage | None = None
        events = [(name, None) for name in self._known()[page_id]]
        changes = [(change[0], change) for change in self._changes.get(page_id, ())]
        for name, change in sorted([*events, *changes], key=lambda event: event[0].partition("-")[2]):
            if change is None:
                new = _stored(self._light(name)[page_id])
                stored = new.replacing(stored)
            elif stored is not None and stored.content_hash == change[1]:
                files = [file for file in stored.files if file.source != change[2]]
                if change[3] is not None:
                    files.append(PageFile(change[2], change[3]))
                stored = stored.held_by(sorted(files, key=lambda file: (not file.source, file.source)))
        return stored

    def _change(self, changes: Sequence[tuple[str, str, str, Any]]) -> None:
        if not changes:
            return
        name = f"{_FILES}{_stamp()}.json"
        self._folder.write(name, json.dumps(changes).encode())
        with self._lock:
            if self._seen:
                self._take_changes(name, changes)

    def _take_changes(self, name: str, changes: Any) -> None:
        self._seen.add(name)
        for page_id, content, source, metadata in changes:
            self._changes.setdefault(page_id, []).append((name, content, source, metadata))
            self._ids.setdefault(source, set()).add(page_id)

    def _take_rows(self, name: str, rows: Sequence[Row]) -> None:
        self._seen.add(name)
        for row in rows:
            names = self._shards.setdefault(row["id"], [])
            names.append(name)
            names.sort()
            for source in (row["source"], *(source for source, _ in json.loads(row["others"] or "[]"))):
                self._ids.setdefault(source, set()).add(row["id"])

    def _known(self) -> dict[str, list[str]]:
        """In which files each page is, as far as this object has looked."""
        if not self._seen:
            self._refresh()
        return self._shards

    def _refresh(self) -> None:
        """Look for what other processes have written meanwhile."""
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self} was closed; open it again")
            new = [name for name in self._folder.names(_PAGES, _FILES) if name not in self._seen]
            for name in new:
                if name.startswith(_PAGES):
                    self._take_rows(name, self._folder.table(name, ["id", "source", "others"]).to_pylist())
                else:
                    self._take_changes(name, json.loads(self._folder.read(name)))

    def _read_light(self, name: str) -> dict[str, Row]:
        return {row["id"]: row for row in self._rows(name, without=_LARGE)}

    def _rows(self, name: str, *, without: Sequence[str] = ()) -> list[Row]:
        columns = [column for column in _COLUMNS if column not in without]
        return [{**dict.fromkeys(without), "text": "", **row} for row in from_table(self._folder.table(name, columns))]

    def _noted(self) -> dict[str, Any] | None:
        if self._closed:
            raise ClosedError(f"{self} was closed; open it again")
        try:
            noted = json.loads(self._folder.read(_RECORD))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{self} has a damaged {_RECORD}; write it anew, elsewhere") from error
        if not isinstance(noted, dict) or noted.get("format") != _FORMAT:
            raise StoreError(f"{self} is none of this version of nemotron-rag; write it anew, elsewhere")
        return noted


def _stored(row: Row) -> StoredPage:
    new = from_row(row)
    image = new.page.image
    return new.stored(image if isinstance(image, StoredImage) else None)


def _one(vectors: PageVectors) -> FloatArray:
    return np.asarray(mean_vector(vectors) if vectors.ndim == 2 else vectors, np.float32)


def _stamp() -> str:
    """When, and by whom: names of files are in the order of the writes."""
    return f"{time.time_ns():020d}-{uuid.uuid4().hex}"
