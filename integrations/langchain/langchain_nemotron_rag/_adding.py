"""Documents on their way into a vector store: batch by batch, and a bad one costs only itself."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

from langchain_core.documents import Document
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from langchain_nemotron_rag._documents import Ids, check_ids, text_of
from langchain_nemotron_rag._page_embedding import PageEmbedding
from langchain_nemotron_rag._plain import image_mark, plain_json
from langchain_nemotron_rag._stored import DocumentImages, DocumentLayout
from nemotron_rag.documents.held import in_parts
from nemotron_rag.errors import InputError
from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.stores.qdrant import ForeignCollection, from_payload
from nemotron_rag.types import Failure, ImageSource

__all__ = ["AddOptions", "Adding", "Entry", "Reader", "entries_of"]

T = TypeVar("T")
OnError = Literal["raise", "skip"]
_REMEMBERED = 10_000  # documents of a call that are compared with later ones of the same id
_log = logging.getLogger("nemotron_rag")


class AddOptions(TypedDict, total=False):
    """How documents are added; see `NemotronPageVectorStore.add_documents`."""

    on_error: OnError
    report: Callable[[Failure], None] | None
    progress: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A document to add.

    Args:
        index: its place in all that are added.
        document: unchanged.
        id: under which it is stored.
        name: what to call it in messages.
        image: not opened yet.
        is_new: whether the id was made just now, so that nothing is stored under it.
    """

    index: int
    document: Document
    id: str
    name: str
    image: ImageSource | None
    is_new: bool = False


Reader: TypeAlias = Callable[[Sequence[Any], int], Sequence[Entry]]
"""From a part of what is added, and the place of its first document, to entries."""


def entries_of(documents: Any, ids: Ids, images: DocumentImages) -> Reader:
    """What makes entries of documents and their ids; where all are there, they are checked first.

    Raises:
        InputError: they are not several, or not one id for each.
    """
    if isinstance(ids, str):
        raise InputError("ids must be a list of str, got a single str; put it into a list")
    if isinstance(documents, Document):
        raise InputError("documents must be a list of Document, got a single one; put it into a list")
    if isinstance(documents, Sequence) and (ids is None or isinstance(ids, Sequence)):
        check_ids(documents, ids)

    def read(part: Sequence[tuple[Document, str | None]], first: int) -> list[Entry]:
        documents = [document for document, _ in part]
        chosen = check_ids(documents, [id for _, id in part], first)
        named = images.of_documents(documents, first)
        return [
            Entry(first + index, document, id, *image, is_new=(given or document.id) is None)
            for index, ((document, given), id, image) in enumerate(zip(part, chosen, named, strict=True))
        ]

    return read


@dataclass(slots=True)
class _Item:
    """An entry on its way: what is written of it."""

    entry: Entry
    metadata: dict[str, Any]
    fingerprint: str | None
    owner: str | None = None  # id of the document whose image it shares: they are chunks of one page
    pixels: Image.Image | None = None
    row: list[float] = field(default_factory=list)


class Adding:
    """One call that adds documents; batches are given to `add` one after the other, from any thread.

    Args:
        embedding: of the documents.
        collection: where they go.
        layout: of their points.
        images: where images go.
        on_error: see `NemotronPageVectorStore.add_documents`.
        report: see there.
        progress: see there.
        total: of documents, if it is known.

    Raises:
        InputError: `on_error` is none of these.
    """

    def __init__(
        self,
        embedding: PageEmbedding,
        collection: ForeignCollection,
        layout: DocumentLayout,
        images: DocumentImages,
        *,
        on_error: OnError = "raise",
        report: Callable[[Failure], None] | None = None,
        progress: bool = False,
        total: int | None = None,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        self._embedding, self._collection, self._layout, self._images = embedding, collection, layout, images
        self._on_error, self._report = on_error, report or _warn
        self._ids: dict[int, str] = {}
        self._failed: list[tuple[Entry, Exception]] = []
        self._previous: Entry | None = None
        self._owner: tuple[str, StoredImage | None] = "", None
        self._added: dict[str, Mapping[str, Any]] = {}
        self._said = False
        self.seen = 0  # documents that were given to `add`
        self._bar = _bar(shown=progress)
        self._task = self._bar.add_task("documents", total=total)

    def add_part(self, read: Reader, part: Sequence[Any]) -> None:
        """Add what a reader makes of a part; see `add`."""
        self.add(read(part, self.seen))

    def add(self, entries: Sequence[Entry]) -> None:
        """Add a batch.

        Raises:
            StoreError: a write was not acknowledged.
            NemotronRagError: the model cannot be loaded, or does not fit the collection.
        """
        self._bar.start()
        items = [item for entry in entries if (item := self._tried(entry, self._item, entry)) is not None]
        opened = (item for item in self._changed(items) if self._tried(item.entry, self._open, item) is not None)
        for part in in_parts(opened, _pixels):  # images are decoded as they are taken, and go with their part
            embedded = self._embedded(part)
            if embedded:
                self._write(embedded)
            for item in part:
                item.pixels = None
        self.seen += len(entries)
        self._bar.advance(self._task, len(entries))

    def give_up(self) -> None:
        """Report what failed before the documents themselves could not be read any further."""
        self._on_error = "skip"
        self.finish()

    def finish(self) -> list[str]:
        """The ids of what is stored, in the order of the documents.

        Raises:
            InputError: some could not be added, and `on_error` is "raise"; all others are stored.
        """
        self._bar.stop()
        for entry, error in self._failed if self._on_error == "skip" else []:
            self._report(Failure.of(entry.name, error))
        if self._failed and self._on_error == "raise":
            entry, error = self._failed[0]
            reason = str(error) if str(error).startswith(entry.name) else f"{entry.name}: {error}"
            rest = f"; {len(self._failed)} documents were not added, {len(self._ids)} are stored"
            raise type(error)(reason + (rest if self._ids or len(self._failed) > 1 else "")) from error
        return [self._ids[index] for index in sorted(self._ids)]

    def _tried(self, entry: Entry, work: Callable[[Any], T], *given: Any) -> T | None:
        """What some work on one document gives; None if it cannot be used, which is noted."""
        try:
            return work(*given)
        except InputError as error:
            self._failed.append((entry, error))
            return None

    def _item(self, entry: Entry) -> _Item:
        self._embedding.check(entry.document, entry.name, has_image=entry.image is not None)
        key = self._images.image_key
        held = entry.document.metadata.get(key)
        metadata = {
            name: value for name, value in entry.document.metadata.items() if entry.image is None or name != key
        }
        plain = {str(name): plain_json(value, str(name)) for name, value in metadata.items()}
        fingerprint = None
        image = "" if entry.image is None else image_mark(held)
        if image is not None:
            content = json.dumps([entry.document.page_content, plain, image], sort_keys=True)
            fingerprint = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()
        owner = self._owner_of(entry, held)
        if owner is None:
            self._previous = entry
        return _Item(entry, plain, fingerprint, owner)

    def _owner_of(self, entry: Entry, held: Any) -> str | None:
        """The document before, if this one is another part of the same page: a chunk, with a text of its own."""
        before = self._previous
        if before is None or entry.image is None or not text_of(entry.document).strip():
            return None
        page = entry.document.metadata.get("page_id")
        same = page is not None and page == before.document.metadata.get("page_id")
        differs = text_of(entry.document) != text_of(before.document)
        return before.id if same and differs and held == before.document.metadata.get(self._images.image_key) else None

    def _changed(self, items: Sequence[_Item]) -> list[_Item]:
        """The items without those that are stored already as they are, by the same embedding."""
        known = [self._collection.point_id(item.entry.id) for item in items if not item.entry.is_new]
        shape = self._collection.shape() if known else None
        records = [] if shape is None else self._collection.get(known)
        stored: dict[Any, Mapping[str, Any]] = {record.id: record.payload or {} for record in records}
        identity = self._embedding.identity if stored else None
        trusted = shape is not None and identity is not None and dict(identity) == dict(shape.identity or {})
        changed = []
        for item in items:
            payload = stored.get(self._collection.point_id(item.entry.id))
            if trusted and payload is not None and item.fingerprint and payload.get("content_hash") == item.fingerprint:
                self._ids[item.entry.index] = item.entry.id
                if item.owner is None and self._images.images is not None:
                    self._owner = item.entry.id, self._images.images.of(from_payload(payload))
                continue
            self._say_what_is_replaced(item, payload)
            changed.append(item)
        return changed

    def _say_what_is_replaced(self, item: _Item, payload: Mapping[str, Any] | None) -> None:
        name, id = item.entry.name, item.entry.id
        again = self._added.pop(id, None)
        self._added[id] = item.metadata
        if len(self._added) > _REMEMBERED:
            del self._added[next(iter(self._added))]
        held = again if again is not None else {} if payload is None else payload.get(self._layout.metadata_key)
        old = held if isinstance(held, Mapping) else {}
        differing = sorted(key for key in old.keys() & item.metadata.keys() if old[key] != item.metadata[key])
        if self._said or (again is None and not (differing and payload is not None and self._has_text(payload, item))):
            return
        self._said = True
        other = f"and other metadata ({', '.join(differing)})" if differing else "in this call"
        advice = "give ids=, or a tenant= where the store is opened, to keep both"
        _log.warning("%s takes the place of a document with the same id %r %s; %s", name, id, other, advice)

    def _has_text(self, payload: Mapping[str, Any], item: _Item) -> bool:
        return bool(payload.get(self._layout.content_key) == item.entry.document.page_content)

    def _open(self, item: _Item) -> _Item:
        if item.owner is None:
            (item.pixels,) = self._images.open([(item.entry.name, item.entry.image)])
        return item

    def _embedded(self, items: Sequence[_Item]) -> list[_Item]:
        """The items with their vectors; if one cannot be embedded, each is tried alone."""
        try:
            return self._embed(items)
        except InputError:
            tried = [self._tried(item.entry, self._embed, [item]) for item in items]
            return [item for found in tried if found is not None for item in found]

    def _embed(self, items: Sequence[_Item]) -> list[_Item]:
        rows = (
            self._embedding.embed([item.entry.document for item in items], [item.pixels for item in items])
            if items
            else []
        )
        for item, row in zip(items, rows, strict=True):
            item.row = row
        return list(items)

    def _write(self, items: Sequence[_Item]) -> None:
        self._collection.ensure(len(items[0].row), self._embedding.identity)
        stored = [self._stored_image(item) for item in items]  # before the points: they never name what is not there
        self._collection.upsert(
            [
                self._layout.point(
                    item.entry.document.model_copy(update={"metadata": item.metadata}),
                    id=item.entry.id,
                    vector=item.row,
                    image=image,
                    image_key=self._images.image_key,
                    content_hash=item.fingerprint,
                )
                for item, image in zip(items, stored, strict=True)
            ],
            [text_of(item.entry.document) for item in items],
        )
        for item in items:
            self._ids[item.entry.index] = item.entry.id

    def _stored_image(self, item: _Item) -> StoredImage | None:
        owner, shared = self._owner
        if item.owner is not None and item.owner == owner and shared is not None:
            return shared
        if item.owner is not None:  # that document could not be added
            (item.pixels,) = self._images.open([(item.entry.name, item.entry.image)])
        (image,) = self._images.write([self._collection.point_id(item.entry.id)], [item.pixels])
        self._owner = item.owner or item.entry.id, image
        return image


def _pixels(item: _Item) -> int:
    return 0 if item.pixels is None else item.pixels.width * item.pixels.height


def _warn(failure: Failure) -> None:
    _log.warning("not added: %s", failure)


def _bar(*, shown: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
