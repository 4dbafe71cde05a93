"""Moves a folder of qdrant-client's local mode to Qdrant Edge, row by row; rows that cannot be read are left out."""

from __future__ import annotations

import io
import json
import pickle  # read through an allow-list only
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import portalocker
from qdrant_client import models

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import InputError, StoreError
from nemotron_rag.stores.qdrant.collection import Collection
from nemotron_rag.stores.qdrant.connection import Qdrant
from nemotron_rag.stores.qdrant.edge.client import EdgeClient
from nemotron_rag.stores.qdrant.edge.place import holds_edge
from nemotron_rag.stores.qdrant.layout import RECORD_ID, RECORD_KEY, read_record

__all__ = ["Migration", "migrate"]

_POINTS = 256  # written at once
_ALLOWED = {  # what points of local mode are made of
    ("qdrant_client.http.models.models", "PointStruct"),
    ("qdrant_client.http.models.models", "SparseVector"),
    ("_codecs", "encode"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("uuid", "SafeUUID"),
    ("uuid", "UUID"),
}


@dataclass(frozen=True, slots=True)
class Migration:
    """What was moved.

    Args:
        points: of each collection, by its name.
        unreadable: rows of each collection that were left out.
    """

    points: Mapping[str, int]
    unreadable: Mapping[str, int]


def migrate(folder: Path) -> Migration:
    """Move the collections of a folder to Qdrant Edge; the old files go when the new ones are complete.

    Interrupted at any moment, the folder is still the old one, or the new one. Nobody may have it open.

    Args:
        folder: of an index.

    Raises:
        InputError: there is no index of local mode.
        StoreError: the folder is in use, or cannot be moved.
    """
    if holds_edge(folder):
        if not (folder / "collection").is_dir():
            raise InputError(f"the index folder {folder} was written by Qdrant Edge already; there is nothing to do")
        _remove_old(folder)  # interrupted when all was moved
        return Migration({}, {})
    if not (folder / "meta.json").is_file():
        raise InputError(f"there is no index in the folder {folder}; check its name")
    with _alone(folder):
        try:
            done = _move(folder, folder / ".migrating")
        except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:
            reason = one_line(str(error), limit=300)
            raise StoreError(f"could not move {folder} to Qdrant Edge: {reason}; it is as it was before") from error
    _remove_old(folder)
    return done


def _move(folder: Path, work: Path) -> Migration:
    shutil.rmtree(work, ignore_errors=True)
    made = json.loads((folder / "meta.json").read_bytes())["collections"]
    points, unreadable = dict[str, int](), dict[str, int]()
    with closing(EdgeClient(work)) as client:
        for name, description in made.items():
            config = models.CreateCollection(**{key: value for key, value in description.items() if key != "init_from"})
            client.create_collection(name, config.vectors, config.sparse_vectors, metadata=config.metadata)
            rows = _Rows(folder / "collection" / name / "storage.sqlite")
            points[name] = _copy(rows, client, name)
            unreadable[name] = rows.unreadable
            client.optimize(name)
    with closing(Qdrant(work)) as qdrant:
        for collection in (Collection(qdrant, name) for name in made):
            if read_record(collection.call("retrieve", ids=[RECORD_ID])) is not None:
                collection.index_fields()
    (work / "edge").rename(folder / "edge")
    work.rmdir()
    return Migration(points, unreadable)


def _copy(rows: _Rows, client: EdgeClient, name: str) -> int:
    count, batch = 0, list[models.PointStruct]()
    for point in rows:
        batch.append(_renamed(point))
        if len(batch) == _POINTS:
            client.upsert(name, batch)
            count, batch = count + len(batch), []
    if batch:
        client.upsert(name, batch)
    return count + len(batch)


def _renamed(point: models.PointStruct) -> models.PointStruct:
    """The record of an index says which engine wrote it."""
    record = (point.payload or {}).get(RECORD_KEY)
    if not isinstance(record, dict) or "engine" not in record:
        return point
    payload = {**(point.payload or {}), RECORD_KEY: {**record, "engine": "edge"}}
    return models.PointStruct.model_construct(id=point.id, vector=point.vector, payload=payload)


class _Rows:
    """The points of a collection of local mode, the newest of each id; `unreadable` counts the others."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.unreadable = 0

    def __iter__(self) -> Iterator[models.PointStruct]:
        if not self._file.is_file():
            return
        seen: set[str] = set()
        with closing(sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro", uri=True)) as storage:
            rowids = [rowid for (rowid,) in storage.execute("SELECT rowid FROM points ORDER BY rowid DESC")]
            for rowid in rowids:
                point = self._read(storage, rowid)
                if point is not None and str(point.id) not in seen:
                    seen.add(str(point.id))
                    yield point

    def _read(self, storage: sqlite3.Connection, rowid: int) -> models.PointStruct | None:
        try:
            (data,) = storage.execute("SELECT point FROM points WHERE rowid = ?", (rowid,)).fetchone()
            point = _Unpickler(io.BytesIO(data)).load()
            checked = models.PointStruct.model_construct(
                id=point.id if isinstance(point.id, int) else str(point.id), vector=point.vector, payload=point.payload
            )
        except Exception:  # whatever a damaged row makes SQLite or pickle raise
            self.unreadable += 1
            return None
        return checked


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"a point holds {module}.{name}, which is not opened")
        return super().find_class(module, name)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of local mode."""
    with (folder / ".lock").open("a") as lock:
        try:
            portalocker.lock(lock, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.exceptions.LockException as error:
            raise StoreError(f"the index folder {folder} is in use; close it everywhere, then move it") from error
        yield


def _remove_old(folder: Path) -> None:
    shutil.rmtree(folder / "collection", ignore_errors=True)
    for name in ("meta.json", ".lock"):
        (folder / name).unlink(missing_ok=True)
