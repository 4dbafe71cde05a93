"""A folder of qdrant-client's local mode, moved to Qdrant Edge."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from nemotron_rag.errors import InputError, StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.qdrant import Qdrant, QdrantStore, migrate, opening
from nemotron_rag.stores.qdrant.edge import migration
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder
from nemotron_rag.types import Page

TEXTS = ["red apples", "green pears", "blue whales sing", "red whales"]


def old_folder(folder, embedder=FakeEmbedder):
    """An index that the local mode wrote, and what it answers."""
    QdrantClient(path=str(folder)).close()
    with PageIndex(folder, embedder=embedder()) as index:
        pages = [
            Page(id=f"p{n}", source="a.pdf", number=n, text=text, metadata={"n": n}) for n, text in enumerate(TEXTS)
        ]
        index.add(pages, progress=False)
        assert Qdrant(folder).engine == "local"
        return answers(index)


def answers(index):
    return [
        [(hit.page.id, hit.page.metadata, round(hit.score, 1)) for hit in index.search("red whales", k=4, **options)]
        for options in ({}, {"mode": "hybrid"}, {"filter": {"n": {"gte": 2}}})
    ]


@pytest.mark.parametrize("embedder", [FakeEmbedder, FakeMultiVectorEmbedder])
def test_a_moved_index_answers_the_same(tmp_path, embedder):
    before = old_folder(tmp_path, embedder)
    moved = migrate(tmp_path)
    assert moved["pages"][0] > len(TEXTS)  # the record is a point, too
    assert moved["pages"][1] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge"]
    with PageIndex(tmp_path, embedder=embedder()) as index:
        store = index._state.store
        assert (store.engine, store.read_record()["engine"]) == ("edge", "edge")
        assert "source" in str(store._qdrant.call("get_collection", collection_name="pages").payload_schema)
        assert [sorted(found) for found in answers(index)] == [sorted(found) for found in before]
        report = index.add([Page(id="p9", text="new")], progress=False)
        assert (report.added, index.count()) == (1, 5)
    with pytest.raises(InputError, match="was written by Qdrant Edge already"):
        migrate(tmp_path)


def test_collections_of_others_are_moved_too(tmp_path):
    client = QdrantClient(path=str(tmp_path))
    client.create_collection(
        "docs", models.VectorParams(size=2, distance=models.Distance.EUCLID), metadata={"made": "by hand"}
    )
    client.upsert("docs", [models.PointStruct(id=7, vector=[1, 2], payload={"when": "2024-01-01"})])
    client.close()
    assert migrate(tmp_path) == {"docs": (1, 0)}
    moved = Qdrant(tmp_path)
    (point,) = moved.call("query_points", collection_name="docs", query=[1.0, 2.0], with_vectors=True).points
    assert (point.id, point.vector, point.payload) == (7, [1, 2], {"when": "2024-01-01"})
    assert moved.call("get_collection", collection_name="docs").config.metadata == {"made": "by hand"}
    moved.close()


def test_damaged_rows_and_foreign_objects_are_left_out(tmp_path):
    old_folder(tmp_path)

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    with sqlite3.connect(tmp_path / "collection" / "pages" / "storage.sqlite") as storage:
        rows = storage.execute("SELECT rowid, point FROM points").fetchall()
        pages = [rowid for rowid, point in rows if b"content_hash" in point]
        storage.execute("UPDATE points SET point = ? WHERE rowid = ?", (pickle.dumps(Attack()), pages[0]))
        storage.execute("UPDATE points SET point = ? WHERE rowid = ?", (b"no pickle", pages[1]))
    storage.close()
    assert migrate(tmp_path)["pages"][1] == 2
    assert not (tmp_path / "attacked").exists()
    store = QdrantStore(tmp_path)
    assert store.count() == 2
    assert len(store.query(np.ones(64, np.float32), k=9)) == 2
    store.close()


def test_a_move_that_is_interrupted_leaves_the_old_index_or_the_new(tmp_path, monkeypatch):
    before = old_folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(migration.EdgeClient, "optimize", lambda *_: (_ for _ in ()).throw(RuntimeError("no space left")))
        with pytest.raises(StoreError, match="no space left; it is as it was before"):
            migrate(tmp_path)
    with PageIndex(tmp_path) as index:
        assert (index._state.store.engine, index.count()) == ("local", 4)
    with monkeypatch.context() as patch:
        patch.setattr(migration, "_remove_old", lambda folder: None)  # as if killed before
        migrate(tmp_path)
    with PageIndex(tmp_path, embedder=FakeEmbedder()) as index:
        assert index._state.store.engine == "edge"
        assert [sorted(found) for found in answers(index)] == [sorted(found) for found in before]
    assert migrate(tmp_path) == {}
    assert not (tmp_path / "meta.json").exists()


def test_what_cannot_be_moved(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no index in the folder"):
        migrate(tmp_path / "none")
    client = QdrantClient(path=str(tmp_path / "used"))
    with pytest.raises(StoreError, match="is in use; close it everywhere"):
        migrate(tmp_path / "used")
    client.close()
    shutil.copy(__file__, tmp_path / "used" / "meta.json")
    with pytest.raises(StoreError, match="could not move .*; it is as it was before"):
        migrate(tmp_path / "used")
    monkeypatch.setattr(opening, "EdgeClient", None)
    with pytest.raises(StoreError, match="install it with: pip install qdrant-edge-py"):
        migrate(tmp_path / "used")
