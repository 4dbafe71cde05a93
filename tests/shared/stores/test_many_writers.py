"""Many writers of the same pages at once: nothing is lost, nothing is there twice, whoever comes first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from nemotron_rag.errors import StoreError
from nemotron_rag.stores.qdrant import QdrantStore, opening
from nemotron_rag.types import Page, PageFile, StoredPage
from support.qdrant_grpc import GrpcServer
from support.qdrant_server import Server

ROWS = np.eye(4, dtype=np.float32)


def stored(name: str = "p1", *, source: str = "a.pdf", content: str = "c", **metadata) -> StoredPage:
    return StoredPage.of(Page(id=name, source=source, metadata=metadata), content_hash=content)


@pytest.fixture(params=["rest", pytest.param("grpc", marks=pytest.mark.slow)])
def two(request, monkeypatch):
    """Two stores of one collection, each with a connection of its own, as two processes have them."""
    with ExitStack() as until:
        if request.param == "rest":
            server = Server()
            stores = [QdrantStore(client=server.client()) for _ in range(2)]
        else:
            server = until.enter_context(GrpcServer())
            monkeypatch.setattr(opening, "answers_grpc", lambda url: True)
            monkeypatch.setattr(opening, "GRPC_PORT", server.port)
            stores = [QdrantStore("http://127.0.0.1:6333") for _ in range(2)]
        for store in stores:
            until.callback(store.close)
            store.create(dimensions=4, record={})
        yield stores


def race(two, *work) -> list:
    """Let two stores work at once: both have read what is there before one of them writes."""
    both = threading.Barrier(2, timeout=20)
    for store in two:
        _wait_after_the_first_read(store, both)
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(each, store) for each, store in zip(work, two, strict=True)]]


def _wait_after_the_first_read(store: QdrantStore, both: threading.Barrier) -> None:
    read, turns = store._writer.read, iter(range(1000))

    def reading(ids):
        found = read(ids)
        if next(turns) == 0:
            both.wait()
        return found

    store._writer.read = reading


def test_two_who_put_one_page_are_both_its_files(two):
    race(
        two,
        lambda store: store.put([stored(source="b.pdf", by="bob")], ROWS[:1]),
        lambda store: store.put([stored(source="a.pdf", by="ann")], ROWS[:1]),
    )
    assert two[0].count() == 1
    assert two[0].get(["p1"])["p1"].files == (PageFile("a.pdf", {"by": "ann"}), PageFile("b.pdf", {"by": "bob"}))
    assert [score for _, score in two[1].query(ROWS[0], k=5)] == [1.0]


def test_two_who_add_a_file_to_pages_are_both_there(two):
    names = [f"p{n}" for n in range(20)]
    two[0].put([stored(name, source="a.pdf") for name in names], [ROWS[0]] * 20)
    assert race(
        two,
        lambda store: store.attach([*names, "p99"], source="b.pdf", metadata={"by": "bob"}),
        lambda store: store.attach(names[5:], source="c.pdf", metadata={"by": "cid"}),
    ) == [20, 15]
    found = two[0].get(names)
    assert [found[name].sources for name in ("p0", "p19")] == [("a.pdf", "b.pdf"), ("a.pdf", "b.pdf", "c.pdf")]
    assert (two[1].count({"by": "bob"}), two[1].count({"by": "cid"})) == (20, 15)


def test_a_page_that_one_deletes_while_another_one_adds_a_file_stays_with_that(two):
    two[0].put([stored("p1"), stored("p2")], ROWS[:2])
    removed, _ = race(
        two,
        lambda store: store.remove(["p1", "p2"], filter={"source": "a.pdf"}),
        lambda store: store.put([stored("p1", source="b.pdf")], ROWS[:1]),
    )
    assert {name: page.sources for name, page in two[0].get(["p1", "p2"]).items()} == {"p1": ("b.pdf",)}
    assert removed in (1, 2)  # 2 if it was deleted and then came anew


def test_new_content_and_a_new_file_of_the_old_content_do_not_mix(two):
    two[0].put([stored("p1", content="old")], ROWS[:1])
    race(
        two,
        lambda store: store.put([stored("p1", source="a.pdf", content="new", v=2)], ROWS[1:2]),
        lambda store: store.attach(["p1"], source="b.pdf", metadata={"v": 1}),
    )
    page = two[0].get(["p1"])["p1"]
    assert page.content_hash == "new"
    assert page.files[0] == PageFile("a.pdf", {"v": 2})
    assert two[0].query(ROWS[1], k=1)[0][1] == 1.0


def test_many_who_write_everything_at_once_end_where_one_would():
    server = Server()
    names = [f"p{n}" for n in range(12)]

    def work(part: int) -> None:
        store = QdrantStore(client=server.client())
        store.create(dimensions=4, record={})
        for start in range(0, 12, 4):
            some = [names[(start + part + n) % 12] for n in range(6)]
            store.put([stored(name, source=f"{part}.pdf", part=part) for name in some], [ROWS[0]] * 6)
            store.attach(some, source="all.pdf", metadata={f"by{part}": True})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    store = QdrantStore(client=server.client())
    found = store.get(names)
    assert (len(found), store.count()) == (12, 12)
    for part in range(6):
        some = {names[(start + part + n) % 12] for start in range(0, 12, 4) for n in range(6)}
        assert {name for name, page in found.items() if f"{part}.pdf" in page.sources} == some
        assert store.count({"source": f"{part}.pdf", "part": part}) == len(some)
        assert store.count({"source": "all.pdf", f"by{part}": True}) == len(some)


def test_who_is_always_too_late_is_told(two, monkeypatch):
    monkeypatch.setattr("nemotron_rag.stores.qdrant.writes._TURNS", 3)
    two[0].put([stored()], ROWS[:1])
    read = two[0]._writer.read
    numbers = iter(range(100))

    def meddled(ids):
        found = read(ids)
        two[1].attach(["p1"], source="other.pdf", metadata={"n": next(numbers)})
        return found

    two[0]._writer.read = meddled
    with pytest.raises(StoreError, match="others keep changing the same pages"):
        two[0].attach(["p1"], source="b.pdf", metadata={})
