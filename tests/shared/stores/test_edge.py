"""Qdrant Edge in a folder: kill -9, one writer and many readers, read-only disks, number formats, a client's calls."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient, models

from nemotron_rag.errors import StoreError
from nemotron_rag.stores.qdrant import Qdrant, QdrantStore, opening
from nemotron_rag.stores.qdrant.edge import client as client_module
from nemotron_rag.stores.qdrant.edge import copies as copies_module
from nemotron_rag.stores.qdrant.edge import place as place_module
from nemotron_rag.stores.qdrant.edge import turns as turns_module
from nemotron_rag.stores.qdrant.edge.client import EdgeClient
from nemotron_rag.types import Page, StoredPage, page_uuid

COSINE = models.VectorParams(size=4, distance=models.Distance.COSINE)


def page(number: int, **fields) -> StoredPage:
    return StoredPage.of(Page(id=f"p{number}", source="a.pdf", number=number, **fields), content_hash="c")


def rows(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32))


def filled(folder: Path, count: int = 5) -> QdrantStore:
    store = QdrantStore(folder)
    store.create(dimensions=4, record={"model": "m"})
    store.put([page(n) for n in range(count)], rows(count))
    return store


def elsewhere(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in another process, with `store` being that of the first argument."""
    head = (
        "import sys\nfrom nemotron_rag.errors import StoreError\n"
        "from nemotron_rag.stores.qdrant import QdrantStore\nstore = QdrantStore(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


# ---- the folder

WRITER = """
import sys, numpy as np
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.types import Page, StoredPage
store = QdrantStore(sys.argv[1])
store.create(dimensions=4, record={"model": "m"})
number = store.count()
while True:
    pages = [StoredPage.of(Page(id=f"p{n}", source="a.pdf", number=n), content_hash="c") for n in range(number, number + 16)]
    store.put(pages, list(np.full((16, 4), number + 1, np.float32)))
    number += 16
    print(number, flush=True)
"""  # noqa: E501


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_has_every_acknowledged_page(tmp_path):
    choice = random.Random(7)
    for _ in range(int(os.environ.get("NEMOTRON_RAG_TEST_KILLS", "3"))):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.stderr.read()
        time.sleep(choice.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        said = [first, *process.communicate()[0].splitlines()]
        acknowledged = max(int(line) for line in said if line.strip().isdigit())
        store = QdrantStore(tmp_path)
        pages = list(store.pages())
        assert store.read_record() == {"model": "m"}
        assert {stored.page.number for stored in pages} >= set(range(acknowledged))
        assert len(pages) == store.count() == len({stored.page.id for stored in pages})
        assert len(store.query(np.ones(4, np.float32), k=len(pages))) == len(pages)
        store.close()


@pytest.mark.slow
def test_others_read_while_one_process_writes(tmp_path):
    store = filled(tmp_path)
    read = (
        "import numpy as np\n"
        "print(store.count(), store.read_record(), [p.page.id for p, _ in store.query(np.ones(4), k=9)])"
    )
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: elsewhere(read, tmp_path), range(3)))
    assert len({(answer.stdout, answer.stderr) for answer in answers}) == 1, answers
    assert answers[0].stdout.startswith("5 {'model': 'm'} ['p"), answers[0].stderr
    write = "try: store.remove(['p1'])\nexcept StoreError as error: print(error)\nprint(store.count())"
    refused = elsewhere(write, tmp_path).stdout.splitlines()
    assert refused[0].startswith(
        f"the index folder {tmp_path} is in use by another process, which alone may write; close"
    )
    assert refused[1:] == ["5"]
    assert store.count() == 5
    store.close()
    assert elsewhere(write, tmp_path).stdout == "4\n"


def test_a_reader_follows_the_writer_and_may_write_once_that_one_is_gone(tmp_path):
    writer, reader = EdgeClient(tmp_path), EdgeClient(tmp_path)
    writer.create_collection("docs", COSINE)
    writer.upsert("docs", [models.PointStruct(id=1, vector=[1, 0, 0, 0])])
    assert reader.count("docs").count == 1
    writer.upsert("docs", [models.PointStruct(id=2, vector=[0, 1, 0, 0])])
    copies = reader._place.copies._root
    assert comes_true(lambda: reader.count("docs").count == 2)
    with writer._place.turns.writing():  # as it does for long when it puts a folder in order
        writer._shard("docs").update(edge.UpdateOperation.delete_points([2]))
        time.sleep(0.1)
        assert reader.count("docs").count == 2
    assert comes_true(lambda: reader.count("docs").count == 1)
    assert len(list(copies.iterdir())) == 1
    with pytest.raises(StoreError, match="in use by another process"):
        reader.delete("docs", [1])
    writer.close()
    reader.upsert("docs", [models.PointStruct(id=3, vector=[0, 0, 1, 0])])
    assert reader.count("docs").count == 2
    assert not copies.exists()
    reader.close()
    reader.close()
    with pytest.raises(RuntimeError, match="closed"):
        reader.count("docs")


def test_who_only_reads_makes_room_for_who_writes(tmp_path):
    filled(tmp_path).close()
    reader, other = EdgeClient(tmp_path), EdgeClient(tmp_path)
    assert reader.count("pages").count == other.count("pages").count == 6
    assert (reader._place.copies._root, reader._place.turns.has_files) == (None, True)
    writer = EdgeClient(tmp_path)
    writer.delete("pages", [page_uuid("p1")])
    assert not reader._place.turns.has_files
    for client in (reader, other):
        assert comes_true(lambda client=client: client.count("pages").count == 5)
        with pytest.raises(StoreError, match="in use by another process"):
            client.delete("pages", [page_uuid("p2")])
    writer.close()
    reader.delete("pages", [page_uuid("p2")])
    assert comes_true(lambda: other.count("pages").count == 4)
    for client in (reader, other):
        client.close()


def test_a_note_of_a_process_that_was_killed_stops_nobody(tmp_path):
    filled(tmp_path).close()
    note = tmp_path / "edge" / ".wanted"
    note.touch()
    os.utime(note, (1, 1))
    reader = EdgeClient(tmp_path)
    assert reader._place.turns.has_files
    time.sleep(0.3)
    assert reader.count("pages").count == 6
    assert reader._place.turns.has_files
    reader.close()


def test_who_reads_and_does_not_make_room_is_told_of(tmp_path, monkeypatch):
    filled(tmp_path).close()
    monkeypatch.setattr(turns_module, "_PATIENCE", 0.2)
    reader, writer = EdgeClient(tmp_path), EdgeClient(tmp_path)
    with reader._alone, ThreadPoolExecutor(1) as pool, pytest.raises(StoreError, match="in use by another process"):
        pool.submit(writer.delete, "pages", [page_uuid("p1")]).result()
    assert not (tmp_path / "edge" / ".wanted").exists()
    monkeypatch.undo()
    writer.delete("pages", [page_uuid("p1")])
    for client in (reader, writer):
        client.close()


def comes_true(condition) -> bool:
    """Whether it does, within some seconds."""
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_readers_who_copy_while_pages_are_written_find_a_whole_index(tmp_path):
    store = filled(tmp_path, 1)
    done: list[int] = []

    def write() -> None:
        for start in range(1, 400, 8):
            store.put([page(n) for n in range(start, start + 8)], rows(8, seed=start))
        done.append(1)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        counts = []
        while not done and not writing.done():
            reader = EdgeClient(tmp_path)
            count = reader.count("pages").count
            points, _ = reader.scroll("pages", limit=10_000)
            assert len({point.payload.get("id") for point in points}) == len(points) >= count  # it follows the writer
            counts.append(count)
            reader.close()
        writing.result()
    assert counts == sorted(counts)
    store.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid"), reason="rights of files are others there")
def test_a_folder_that_cannot_be_written_to_is_searched(tmp_path):
    filled(tmp_path).close()
    paths = [tmp_path, *tmp_path.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    drop = "import os\nif os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    code = drop + (
        "print(store.count())\ntry: store.remove(['p1'])\nexcept StoreError as error: print(error)\nstore.close()\n"
    )
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != tmp_path:
            parent.chmod(parent.stat().st_mode | 0o055)
    try:
        answers = [elsewhere(code, tmp_path) for _ in range(2)]
    finally:
        for path in paths:
            path.chmod(0o755)
    for answer in answers:
        assert answer.stdout.splitlines() == [
            "5",
            f"the index folder {tmp_path} cannot be written to: its disk or its rights forbid it",
        ], answer.stderr


def test_what_a_killed_process_left_of_a_new_collection_is_no_collection(tmp_path):
    filled(tmp_path).close()
    (tmp_path / "edge" / "other" / "shard").mkdir(parents=True)
    (tmp_path / "edge" / ".old-1").mkdir()
    client = EdgeClient(tmp_path)
    assert [each.name for each in client.get_collections().collections] == ["pages"]
    assert client.create_collection("other", COSINE)
    assert client.count("other").count == 0
    assert not (tmp_path / "edge" / ".old-1").exists()
    assert (client.delete_collection("other"), client.delete_collection("other")) == (True, False)
    assert not client.collection_exists("other")
    client.close()


def test_a_folder_that_was_removed_is_closed_without_a_word(tmp_path):
    store = filled(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    store.close()
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", ".", "..", "é ?*", "x" * 80, ".hidden"])
def test_names_of_collections_stay_in_the_folder(tmp_path, name):
    store = QdrantStore(tmp_path / "i", collection=name)
    store.create(dimensions=4, record={"model": "m"})
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    assert [path.name for path in (tmp_path / "i").iterdir()] == ["edge"]
    again = EdgeClient(tmp_path / "i")
    assert [each.name for each in again.get_collections().collections] == [name]
    again.close()


def test_a_client_of_local_mode_is_refused_for_a_folder_of_edge(tmp_path):
    filled(tmp_path).close()
    client = QdrantClient(path=str(tmp_path))
    with pytest.raises(
        StoreError, match=r"was written by Qdrant Edge, which this client does not read; give the folder"
    ):
        QdrantStore(client=client).count()
    client.close()


def test_each_folder_keeps_its_engine(tmp_path, monkeypatch):
    QdrantClient(path=str(tmp_path / "local")).close()
    filled(tmp_path / "edge").close()
    places = [Qdrant(tmp_path / name) for name in ("local", "edge", "new")]
    assert [place.engine for place in places] == ["local", "edge", "edge"]
    assert (Qdrant().engine, Qdrant("http://localhost:6333").engine) == ("local", "server")
    monkeypatch.setattr(opening, "EdgeClient", None)
    assert [place.engine for place in places] == ["local", "edge", "local"]
    with pytest.raises(StoreError, match="was written by Qdrant Edge; install it with: pip install qdrant-edge-py"):
        QdrantStore(tmp_path / "edge").count()


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    filled(tmp_path).close()
    monkeypatch.setattr("pickle.loads", None)
    monkeypatch.setattr("pickle.load", None)
    store = QdrantStore(tmp_path)
    assert len(store.query(np.ones(4, np.float32), k=9)) == 5
    store.close()


def test_a_full_disk_is_an_error_and_costs_nothing(tmp_path, monkeypatch, caplog):
    store = filled(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(place_module.shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    for write in (
        lambda: store.put([page(9)], rows(1)),
        lambda: QdrantStore(tmp_path, collection="more").create(dimensions=4, record={}),
    ):
        with pytest.raises(StoreError, match="no space left: 1 MiB of"):
            write()
    assert store.optimize() is False
    assert "is not put in order: no space left" in caplog.text
    assert (store.count(), store.remove(["p1"]), store.count()) == (5, 1, 4)  # what makes room is not refused
    monkeypatch.undo()
    store.put([page(9)], rows(1))
    assert store.count() == 5
    store.close()


def test_a_copy_that_was_not_finished_is_made_again(tmp_path, monkeypatch):
    store = filled(tmp_path)
    reader, copy = EdgeClient(tmp_path), copies_module._copy_file
    with monkeypatch.context() as patch:

        def fail(source, target):
            copy(source, target)
            raise OSError("no space left")

        patch.setattr(copies_module, "_copy_file", fail)
        with pytest.raises(OSError, match="no space left"):
            reader.count("pages")
    assert reader.count("pages").count == 6
    reader.close()
    store.close()


# ---- the engine


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "binary", "turbo4"])
def test_token_vectors_in_every_number_format(tmp_path, storage):
    store = QdrantStore(tmp_path)
    store.create(dimensions=64, record={}, token_storage=storage)
    random_rows = np.random.default_rng(0).standard_normal((30, 6, 64)).astype(np.float32)
    vectors = list(random_rows / np.linalg.norm(random_rows, axis=-1, keepdims=True))
    store.put([page(n) for n in range(30)], vectors)
    for number in (3, 17):
        assert store.query(vectors[number], k=3)[0][0].page.number == number
    store.close()


def test_large_collections_are_put_in_order_by_a_process_of_their_own(tmp_path, monkeypatch):
    store = filled(tmp_path, 40)
    monkeypatch.setattr(client_module, "_LARGE", 0)
    ran: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setattr(
        client_module.subprocess, "run", lambda command, **how: ran.append(command) or run(command, **how)
    )
    assert store.optimize() is False  # so few are left for the next time
    assert ran == []
    monkeypatch.setattr(client_module, "_FEW", 10)
    store.optimize()
    assert len(ran) == 1
    assert store.count() == 40
    assert len(store.query(np.ones(4, np.float32), k=50)) == 40
    store.optimize()
    assert len(ran) == 1  # nothing was written since
    monkeypatch.setattr(client_module, "_OPTIMIZE", "raise SystemExit('no space left')")
    store.remove(["p1"])
    with pytest.raises(StoreError, match="could not optimize a collection in .*: no space left"):
        store.optimize()
    assert store.count() == 39
    store.close()


def test_the_calls_of_a_client(tmp_path):
    client = EdgeClient(tmp_path)
    client.create_collection(
        "docs",
        {"a": COSINE, "b": models.VectorParams(size=2, distance=models.Distance.EUCLID)},
        {"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={"made": "by hand"},
    )
    with pytest.raises(ValueError, match="already exists"):
        client.create_collection("docs", COSINE)
    info = client.get_collection("docs").config
    assert (info.params.vectors["b"].distance, info.metadata) == (models.Distance.EUCLID, {"made": "by hand"})
    words = models.SparseVector(indices=[1, 5], values=[1.0, 2.0])
    vectors = {"a": [[1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0, 0, 1.0, 0]], "words": [words] * 3}
    batch = models.Batch(ids=[1, 2, 3], vectors=vectors, payloads=[{"n": n, "kind": "x"} for n in (1, 2, 3)])
    client.upsert("docs", batch)
    client.create_payload_index("docs", "kind", models.PayloadSchemaType.KEYWORD)
    client.create_payload_index("docs", "n", models.IntegerIndexParams(type="integer", lookup=True, range=True))
    assert set(client.get_collection("docs").payload_schema) == {"kind", "n"}
    one = models.Filter(must=models.FieldCondition(key="n", match=models.MatchValue(value=1)))
    client.set_payload("docs", {"kind": "y"}, points=one)
    client.set_payload("docs", {"deep": 1}, points=[2], key="about")
    client.overwrite_payload("docs", {"n": 3}, points=models.PointIdsList(points=[3]))
    client.delete_payload("docs", ["n"], points=models.FilterSelector(filter=one))
    (first, second, third) = client.retrieve("docs", [1, 2, 3, 9], with_vectors=["words"])
    assert (first.payload, second.payload["about"], third.payload) == ({"kind": "y"}, {"deep": 1}, {"n": 3})
    assert first.vector["words"] == words
    facets = {hit.value: hit.count for hit in client.facet("docs", "kind").hits}
    assert facets == {"x": 1, "y": 1}
    only = models.UpdateMode.INSERT_ONLY
    client.upsert("docs", [models.PointStruct(id=1, vector={}, payload={"new": 1})], update_mode=only)
    assert client.retrieve("docs", [1])[0].payload == {"kind": "y"}
    is_y = models.Filter(must=[models.FieldCondition(key="kind", match=models.MatchValue(value="y"))])
    for id, expected in ((1, {"kind": "z"}), (2, second.payload)):  # 2 is no y
        client.upsert("docs", [models.PointStruct(id=id, vector={}, payload={"kind": "z"})], update_filter=is_y)
        assert client.retrieve("docs", [id])[0].payload == expected
    client.upsert("docs", [models.PointStruct(id=1, vector={"a": [1.0, 0, 0, 0]}, payload={"n": 1})])
    client.upsert("docs", [models.PointStruct(id=2, vector={"a": [0.9, 0.1, 0, 0]}, payload={"n": 2})])
    diverse = models.NearestQuery(nearest=[1.0, 0.05, 0.1, 0], mmr=models.Mmr(diversity=0.9, candidates_limit=3))
    plain = client.query_points("docs", diverse.nearest, using="a", limit=2).points
    assert [point.id for point in plain] in ([1, 2], [2, 1])
    assert 3 in [point.id for point in client.query_points("docs", diverse, using="a", limit=2).points]
    ordered = client.query_points(
        "docs", models.OrderByQuery(order_by=models.OrderBy(key="n", direction="desc")), limit=9
    )
    assert [point.id for point in ordered.points] == [3, 2, 1]
    assert [record.id for record in client.scroll("docs", order_by="n")[0]] == [1, 2, 3]
    records, following = client.scroll("docs", limit=2)
    assert ([record.id for record in records], following) == ([1, 2], 3)
    with pytest.raises(ValueError, match="compares vectors, got str"):
        client.query_points("docs", "no vector")
    with pytest.raises(RuntimeError, match="nothing"):
        client.query_points("docs", [1.0], using="nothing")
    with pytest.raises(ValueError, match="Collection none not found"):
        client.count("none")
    client.close()


def test_a_description_is_plain_json(tmp_path):
    filled(tmp_path).close()
    assert set(json.loads((tmp_path / "edge/pages/collection.json").read_bytes())) >= {"vectors", "sparse_vectors"}
