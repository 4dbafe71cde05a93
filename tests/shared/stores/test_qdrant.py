"""The collection: embedded, in memory and behind a server; filters, shared pages, the record, errors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import warnings

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from nemotron_rag.errors import ClosedError, InputError, StoreError
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.stores.qdrant.layout import batches
from nemotron_rag.types import Page, PageFile, StoredPage, page_uuid
from support.qdrant_server import Server

pytestmark = pytest.mark.slow

RECORD = {"model": "m", "dimensions": 4}


def stored(name: str, *, source: str = "a.pdf", content: str = "c", **fields) -> StoredPage:
    return StoredPage.of(Page(id=name, source=source, **fields), content_hash=content)


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def put(store: QdrantStore, *pages: StoredPage) -> None:
    store.put(pages, np.eye(len(pages), 4, dtype=np.float32) + np.float32(0.1))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=["memory", "folder", "server"])
def store(request, tmp_path, server):
    options = {
        "memory": {},
        "folder": {"location": tmp_path / "store"},
        "server": {"client": server.client() if request.param == "server" else None},
    }[request.param]
    opened = QdrantStore(**options)
    opened.create(dimensions=4, record=RECORD)
    yield opened
    opened.close()


def test_pages_come_back_as_they_were_put_nearest_first(store):
    page = Page(id="p1", source="a.pdf", number=3, text="tëxt", metadata={"year": 2020, "tags": ["x"]})
    put(store, dataclasses.replace(StoredPage.of(page, content_hash="c"), image_key="k"), stored("p2"))
    (first, score), (second, lower) = store.query(vector(1, 0, 0, 0), k=5)
    assert first == StoredPage(page=page, files=(PageFile("a.pdf", page.metadata),), content_hash="c", image_key="k")
    assert (first.page.text, first.page.metadata) == ("tëxt", {"year": 2020, "tags": ["x"]})
    assert second.page.id == "p2"
    assert 1 >= score > lower > 0
    assert store.get(["p2", "p9"]).keys() == {"p2"}


def test_the_record_is_no_page(store):
    assert store.read_record() == RECORD
    assert (store.count(), store.sources(), list(store.pages())) == (0, [], [])
    assert store.query(vector(1, 0, 0, 0), k=5) == []
    put(store, stored("p1"))
    assert (store.count(), store.sources()) == (1, ["a.pdf"])
    assert len(store.query(vector(1, 0, 0, 0), k=5)) == 1
    assert store.count(models.Filter(must_not=[models.HasIdCondition(has_id=[page_uuid("p1")])])) == 0


def test_making_a_collection_again_keeps_it(store):
    put(store, stored("p1"))
    store.create(dimensions=4, record=RECORD)
    assert store.count() == 1
    with pytest.raises(StoreError, match="5-d"):
        store.create(dimensions=5, record=RECORD)


@pytest.mark.parametrize(
    ("filter", "numbers"),
    [
        ({"source": "a.pdf"}, {1, 2}),
        ({"source": ["b.pdf", "c.pdf"]}, {3}),
        ({"number": [1, 3]}, {1, 3}),
        ({"number": {"gte": 2}}, {2, 3}),
        ({"id": "p2"}, {2}),
        ({"content_hash": "h3"}, {3}),
        ({"year": 2021}, {2}),
        ({"year": {"gt": 2019, "lt": 2022}}, {1, 2}),
        ({"metadata.year": 2020}, {1}),
        ({"number": {"lte": 2}, "year": {"gte": 2021}}, {2}),
        ({"draft": True}, {1}),
        ({"draft": None}, {3}),
        ({"weight": 0.5}, {2}),
        ({"date": {"gte": "2024-01-01"}}, {2}),
        ({"mixed": [1, "one"]}, {1, 2}),
        ({"author.name": "Ada"}, {3}),
        ({"with space": "yes"}, {3}),
        ({"number": []}, set()),
        ({}, {1, 2, 3}),
        (models.Filter(must=[models.FieldCondition(key="number", match=models.MatchValue(value=2))]), {2}),
    ],
)
def test_filters(store, filter, numbers):
    more = [
        {"year": 2020, "draft": True, "mixed": 1, "date": "2023-05-01"},
        {"year": 2021, "draft": False, "mixed": "one", "weight": 0.5, "date": "2024-05-01T10:00:00Z"},
        {"year": 2030, "author": {"name": "Ada"}, "with space": "yes"},
    ]
    sources = ["a.pdf", "a.pdf", "b.pdf"]
    put(
        store,
        *[stored(f"p{n}", source=sources[n - 1], number=n, metadata=more[n - 1], content=f"h{n}") for n in (1, 2, 3)],
    )
    assert {found.page.number for found in store.pages(filter)} == numbers
    assert {found.page.number for found, _ in store.query(vector(1, 1, 1, 1), k=9, filter=filter)} == numbers
    assert store.count(filter) == len(numbers)


@pytest.mark.parametrize(
    "filter",
    [
        {"year": {"above": 3}},
        {"year": {}},
        {"year": {"gte": "not a date"}},
        {"year": {"gte": 1, "lt": "2020-01-01"}},
        {"year": object()},
        {"": 1},
        {'a"b': 1},
        {3: 1},
        ["year", 2020],
    ],
)
def test_filters_that_make_no_sense_are_refused(filter):
    store = QdrantStore()
    store.create(dimensions=4, record=RECORD)
    with pytest.raises(InputError):
        store.count(filter)


def test_sources_are_added_and_taken_away(store):
    put(store, stored("p1"), stored("p2"))
    assert store.attach(["p1", "p9"], source="b.pdf", metadata={"year": 1}) == 1
    assert store.count({"source": "b.pdf", "year": 1}) == 1
    removed: list[StoredPage] = []
    assert store.remove(["p1", "p2"], filter={"source": "a.pdf"}, after=removed.extend) == 1
    assert [page.page.id for page in removed] == ["p2"]
    assert store.get(["p1"])["p1"].sources == ("b.pdf",)
    assert store.remove(["p1", "p9"]) == 1
    assert store.count() == 0


def test_writing_the_same_content_again_keeps_other_sources_and_new_content_does_not(store):
    put(store, stored("p1", source="a.pdf"))
    put(store, stored("p1", source="b.pdf"))
    assert store.sources() == ["a.pdf", "b.pdf"]
    put(store, stored("p1", source="b.pdf", content="new"))
    assert store.sources() == ["b.pdf"]


def test_attaching_what_is_there_writes_nothing(server):
    store = QdrantStore(client=server.client())
    store.create(dimensions=4, record=RECORD)
    put(store, stored("p1", metadata={"year": 1}))
    server.requests.clear()
    store.attach(["p1"], source="a.pdf", metadata={"year": 1})
    assert {verb for verb, _, _ in server.requests} == {"POST"}


def test_a_server_gets_payload_indexes_and_waits_for_writes(server):
    store = QdrantStore(client=server.client())
    store.create(dimensions=4, record=RECORD)
    store.index_metadata("year", "integer")
    fields = {body["field_name"]: body["field_schema"] for body in server.asked("PUT", "/index?wait=true")}
    ours = {"id": "keyword", "source": "keyword", "number": "integer", "content_hash": "keyword"}
    assert fields == {
        **{f"files[].{field}": {"type": kind, "nested": "files"} for field, kind in ours.items()},
        "files[].metadata.year": {"type": "integer", "nested": "files"},
        "state": {"type": "integer", "lookup": True, "range": False},
    }
    put(store, stored("p1"))
    store.remove(["p1"])
    writes = [url for verb, url, _ in server.requests if (verb == "PUT" and "points" in url) or "batch" in url]
    assert len(writes) == 3
    assert all("wait=true" in url for url in writes)


def test_embedded_collections_leak_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = QdrantStore(tmp_path)
        store.create(dimensions=4, record=RECORD)
        store.index_metadata("year", "integer")
        store.close()


def test_requests_are_cut_by_count_and_by_size():
    small, large = {"text": "x"}, {"text": "x" * 9_000_000}
    assert [len(range(600)[part]) for part in batches([small] * 600, [80] * 600)] == [256, 256, 88]
    assert [len(range(5)[part]) for part in batches([small, large, large, small, large], [80] * 5)] == [2, 2, 1]
    assert [len(range(5)[part]) for part in batches([small] * 5, [80, 2**24, 2**24, 80, 80])] == [1, 1, 1, 2]
    assert list(batches([], [])) == []
    with pytest.raises(InputError, match="2 pages"):
        QdrantStore().put([stored("a"), stored("b")], np.zeros((1, 4), np.float32))


def test_a_foreign_collection_is_refused_and_left_alone():
    client = QdrantClient(":memory:")
    params = models.VectorParams(size=4, distance=models.Distance.COSINE)
    client.create_collection("pages", vectors_config={"dense": params})
    store = QdrantStore(client=client)
    assert store.read_record() is None  # empty and alike: ours, interrupted before its record was written
    client.upsert("pages", [models.PointStruct(id=1, vector={"dense": [1.0, 0, 0, 0]}, payload={"mine": 1})])
    with pytest.raises(StoreError, match="no record of nemotron-rag"):
        store.read_record()
    client.create_collection("other", vectors_config=params)
    with pytest.raises(StoreError, match="no record of nemotron-rag"):
        QdrantStore(client=client, collection="other").read_record()
    store.close()
    assert client.count("pages").count == 1  # a client that was handed in stays open
    client.close()


def test_a_record_written_while_it_is_looked_for_is_found(monkeypatch):
    store = QdrantStore()
    store.create(dimensions=4, record=RECORD)
    retrieve, answers = store._qdrant.client.retrieve, [[]]
    monkeypatch.setattr(
        store._qdrant.client, "retrieve", lambda *a, **o: answers.pop() if answers else retrieve(*a, **o)
    )
    assert store.read_record() == RECORD


def test_a_payload_others_have_changed_is_read_without_fear(store):
    put(store, stored("p1"))
    payload = {"id": "p1", "files": [5], "source": "no list", "number": "3", "text": None, "metadata": [], "image": 5}
    store._qdrant.client.set_payload("pages", payload, points=[page_uuid("p1")])
    ((found, _),) = store.query(vector(1, 0, 0, 0), k=1)
    assert found == StoredPage(page=Page(id="p1"), files=(PageFile(),), content_hash="c", image_key=None)


def test_an_index_of_the_version_before_opens(tmp_path):
    """Names, ids and payload as they have been written so far: they may never change."""
    client = QdrantClient(path=str(tmp_path))
    cosine, dot = models.Distance.COSINE, models.Distance.DOT
    maxsim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    client.create_collection(
        "pages",
        {
            "dense": models.VectorParams(size=2, distance=cosine),
            "tokens": models.VectorParams(size=2, distance=dot, multivector_config=maxsim),
            "sketches": models.VectorParams(size=1, distance=dot, multivector_config=maxsim),
        },
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    payload = {
        **{"id": "p1", "source": ["a.pdf", "b.pdf"], "number": 3, "text": "red apples", "metadata": {"year": 2020}},
        **{"content_hash": "c", "image": "0b/x.png"},
    }
    vector_of_page = {"dense": [1.0, 0], "tokens": [[1.0, 0]], "sketches": [[1.0]]}
    basis = {"nemotron_rag_directions": "ADwAAA==", "shape": [2, 1]}  # 1 and 0 as float16
    points = [
        ("9e0c71e9-ca6f-5632-a555-89663adc2a63", {}, {"nemotron_rag_index": {"model": "m"}}),
        ("d06ef28e-ba45-5e56-aadd-a8495de10532", {}, basis),
        ("a108aad5-bce3-5bba-abca-2ffca4b2a219", vector_of_page, payload),
    ]
    client.upsert("pages", [models.PointStruct(id=id, vector=row, payload=more) for id, row, more in points])
    client.close()
    store = QdrantStore(tmp_path)
    assert store.read_record() == {"model": "m"}
    page = Page(id="p1", source="a.pdf", number=3, text="red apples", metadata={"year": 2020})
    files = tuple(PageFile(name, {"year": 2020}) for name in ("a.pdf", "b.pdf"))
    expected = StoredPage(page=page, files=files, content_hash="c", image_key="0b/x.png")
    assert store.query(np.array([[1, 0]], np.float32), k=3) == [(expected, 1.0)]
    assert (expected.image_size, expected.image_hash) == (None, None)
    assert store.get(["p1"]).keys() == {"p1"}
    assert (store.count({"page_number": 3}), store.count()) == (1, 1)
    store.put([StoredPage.of(page, content_hash="c")], [np.array([[0, 1]], np.float32)])
    assert (store.count(), store.get(["p1"])["p1"].sources) == (1, ("a.pdf", "b.pdf"))
    # Written on as it was begun: one set of metadata for all files of a page.
    assert store.attach(["p1"], source="0.pdf", metadata={"draft": True}) == 1
    assert store.count({"source": "a.pdf", "year": 2020, "draft": True}) == 1
    assert store.get(["p1"])["p1"].sources == ("a.pdf", "b.pdf", "0.pdf")
    assert store.remove(["p1"], filter={"source": "a.pdf"}) == 0
    (record,) = store._qdrant.client.retrieve("pages", [page_uuid("p1")])
    assert (record.payload["source"], "files" in record.payload) == (["b.pdf", "0.pdf"], False)
    assert store.remove(["p1"]) == 1
    store.close()


# ---- opening and errors -----------------------------------------------------------------------------------------


def test_stores_of_one_process_share_a_folder_until_the_last_is_closed(tmp_path):
    one, other = QdrantStore(tmp_path / "q"), QdrantStore(tmp_path / "x" / ".." / "q", collection="other")
    one.create(dimensions=4, record=RECORD)
    put(one, stored("p1"))
    other.create(dimensions=4, record=RECORD)
    again = QdrantStore(tmp_path / "q")
    assert (again.count(), other.count()) == (1, 0)
    again.close()
    one.close()
    put(other, stored("p2"))
    assert other.count() == 1
    with pytest.raises(ClosedError, match="was closed; open it again"):
        one.count()
    other.close()
    QdrantClient(path=str(tmp_path / "q")).close()  # nobody holds the folder any more


def test_a_folder_in_use_by_another_client_is_refused_in_one_line(tmp_path):
    client = QdrantClient(path=str(tmp_path))
    store = QdrantStore(tmp_path)
    with pytest.raises(StoreError, match="in use by another") as caught:
        store.exists()
    assert "\n" not in str(caught.value)
    client.close()
    assert not store.exists()
    store.close()


def test_a_folder_in_use_by_another_process_is_refused(tmp_path):
    hold = "import sys; from qdrant_client import QdrantClient as Q; c = Q(path=sys.argv[1]); print('held'); input()"
    command = [sys.executable, "-u", "-c", hold, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"held"
    store = QdrantStore(tmp_path)
    for use in (store.exists, store.read_record, lambda: store.create(dimensions=4, record=RECORD)):
        with pytest.raises(StoreError, match=r"index folder .* is in use by another process.*; close that one, or run"):
            use()
    process.communicate(b"\n")
    store.create(dimensions=4, record=RECORD)
    refused = (
        "import sys; from nemotron_rag.stores.qdrant import QdrantStore\n"
        "from nemotron_rag.errors import StoreError\n"
        "try: QdrantStore(sys.argv[1]).count()\n"
        "except StoreError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", refused, str(tmp_path)], capture_output=True, text=True)
    assert ran.stdout.startswith(f"the index folder {tmp_path} is in use by another process")
    store.close()


@pytest.mark.parametrize("files", [None, [], ["mine.txt"], ["meta.json"]])
def test_construction_and_reads_leave_nothing_on_disk(tmp_path, files):
    folder = tmp_path / "index"
    if files is not None:
        folder.mkdir()
    for name in files or []:
        (folder / name).write_text("")
    before = sorted(tmp_path.rglob("*"))
    store = QdrantStore(folder)
    assert (store.exists(), store.read_record(), store.image_root) == (False, None, str(folder / "images" / "pages"))
    for read in (store.count, store.sources, lambda: store.get(["p1"]), lambda: store.query(vector(1, 0, 0, 0), k=1)):
        with pytest.raises(StoreError, match="no index was written there yet"):
            read()
    store.close()
    assert sorted(tmp_path.rglob("*")) == before
    again = QdrantStore(folder)
    again.create(dimensions=4, record=RECORD)
    assert (again.exists(), again.read_record()) == (True, RECORD)
    again.close()


def test_damaged_folders_are_refused_and_a_first_moment_is_forgiven(tmp_path):
    (tmp_path / "meta.json").write_text("")
    store = QdrantStore(tmp_path)
    store.create(dimensions=4, record=RECORD)
    store.close()
    for file in tmp_path.glob("edge/pages/shard/segments/*/segment.json"):
        file.write_text("{ not json")
    with pytest.raises(StoreError, match="could not read points in .*segment"):
        QdrantStore(tmp_path).read_record()
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "meta.json").write_text("{ not json")
    with pytest.raises(StoreError, match="could not open the index folder"):
        QdrantStore(tmp_path / "local").exists()


def test_where_images_can_lie(tmp_path, server):
    assert QdrantStore(tmp_path, collection="mine").image_root == str(tmp_path / "images" / "mine")
    roots = {QdrantStore().image_root, QdrantStore(":memory:").image_root}
    assert len(roots) == 2
    assert all(root.startswith("memory://nemotron-rag-") for root in roots)
    assert QdrantStore("http://localhost:6333").image_root is None
    assert QdrantStore(client=server.client()).image_root is None
    client = QdrantClient(path=str(tmp_path / "q"))
    assert QdrantStore(client=client).image_root == str(tmp_path / "q" / "images" / "pages")
    client.close()


def test_location_and_client_exclude_each_other(server):
    with pytest.raises(InputError, match="not both"):
        QdrantStore("folder", client=server.client())


def test_a_server_that_cannot_be_reached_is_a_store_error():
    store = QdrantStore("http://localhost:1")  # the tests' guard against sockets stands in for a dead server
    with pytest.raises(StoreError, match="check that the server runs") as caught:
        store.exists()
    assert "\n" not in str(caught.value)
    store.close()


def test_connections_refused_and_answers_of_failure_are_store_errors(server):
    store = QdrantStore(client=server.client(), patience=0)
    server.answers = [httpx.ConnectError("connection refused")]
    with pytest.raises(StoreError, match="connection refused; check that the server runs"):
        store.exists()
    server.answers = [httpx.Response(403, json={"status": {"error": "forbidden"}})]
    with pytest.raises(StoreError, match="HTTP 403"):
        store.count()


def test_threads_share_one_embedded_client():
    client = QdrantClient(":memory:")
    stores = [QdrantStore(client=client, collection="pages") for _ in range(2)]
    stores[0].create(dimensions=4, record=RECORD)
    errors: list[Exception] = []

    def work(store: QdrantStore, part: int) -> None:
        try:
            for n in range(40):
                put(store, stored(f"{part}-{n}"))
                assert store.query(vector(1, 0, 0, 0), k=3)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(stores[part % 2], part)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert stores[0].count() == 160
    client.close()


@pytest.mark.parametrize(("package", "module"), [("qdrant_client", "qdrant"), ("fsspec", "page_images")])
def test_a_missing_extra_is_named(package, module):
    code = f"import sys; sys.modules[{package!r}] = None; import nemotron_rag.stores.{module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"MissingExtraError: '{package}' is not installed" in result.stderr
    assert "nemotron-rag[qdrant]" in result.stderr


def test_an_index_that_is_never_closed_ends_quietly(tmp_path):
    code = (
        "import sys; from nemotron_rag.stores.qdrant import QdrantStore\n"
        "store = QdrantStore(sys.argv[1]); store.create(dimensions=2, record={}); print(store.count())"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "index")], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n", "")
