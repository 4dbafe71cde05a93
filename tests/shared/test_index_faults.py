"""Adding to a server that fails: the run goes on, or ends with a report; a bad page costs only itself."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from nemotron_rag.errors import InputError, RefusedError, StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores import patience
from nemotron_rag.stores.qdrant.layout import BASIS_ID, RECORD_ID
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakePageStore
from nemotron_rag.types import Page
from support.pages import add, contents, same, text_page
from support.qdrant_http import FAULTS, HttpServer
from support.qdrant_server import Server

HURRY = 20
on_sockets = pytest.mark.enable_socket


def pages(count: int) -> list[Page]:
    return [text_page(n, f"page number {n}", source=f"{n % 7}.pdf", metadata={"year": n}) for n in range(count)]


def index_at(server: Server, **options) -> PageIndex:
    return PageIndex(client=server.client(), images=None, embedder=FakeEmbedder(dimensions=8), **options)


def filled(count: int) -> dict[str, tuple]:
    server = Server()
    add(index_at(server), pages(count))
    return contents(index_at(server))


# ---- a server that fails ----


@pytest.mark.parametrize("kind", ["lost", pytest.param(httpx.Response(503), marks=pytest.mark.slow)], ids=str)
def test_a_fault_at_any_request_of_a_run_changes_nothing(kind):
    class Faulty(Server):
        fails_at = -1

        def _answer(self, request):
            is_fault = len(self.requests) == self.fails_at
            if is_fault and kind != "lost":
                self.answers = [kind]
            answer = super()._answer(request)
            if is_fault and kind == "lost":
                raise httpx.ReadError("reset")
            return answer

    first, second = pages(4), [*pages(3), text_page(3, "new text", source="1.pdf")]
    server = Faulty()
    index = index_at(server)
    add(index, first)
    add(index, second, metadata={"draft": True})
    wanted, number = contents(index), len(server.requests) - 1
    for place in range(number):
        server = Faulty()
        server.fails_at = place
        index = index_at(server)
        reports = [add(index, first), add(index, second, metadata={"draft": True})]
        assert [(report.added, report.unchanged, report.failures) for report in reports] == [(4, 0, ()), (1, 3, ())]
        assert same(contents(index), wanted)


@pytest.fixture
def hurried(monkeypatch):
    """Pauses are a twentieth as long as they count."""
    monkeypatch.setattr(patience, "_wait", lambda seconds: time.sleep(seconds / HURRY) or True)


@on_sockets
@pytest.mark.slow
def test_pages_over_sockets_get_over_a_fault_at_any_request(hurried):
    wanted = filled(40)
    with HttpServer() as http, PageIndex(http.url, images=None, embedder=FakeEmbedder(dimensions=8)) as index:
        add(index, pages(40))
        number = http.asked
    for place in range(number):
        kind = FAULTS[place % len(FAULTS)]
        _check(lambda n, place=place, kind=kind: kind if n == place else None, wanted)


@on_sockets
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_pages_over_sockets_get_over_faults_of_a_twentieth_of_all_requests(hurried, seed):
    dice = random.Random(seed)
    _check(lambda n: dice.choice(FAULTS) if dice.random() < 0.05 else None, filled(100))


def _check(fault, wanted: dict[str, tuple]) -> None:
    with HttpServer(fault) as http, PageIndex(http.url, images=None, embedder=FakeEmbedder(dimensions=8)) as index:
        report = add(index, pages(len(wanted) - 1))  # one is the record
        assert (report.added, report.failures) == (len(wanted) - 1, ())
        http.fault = lambda n: None
        assert same(contents(index), wanted)


@on_sockets
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, 10, 60])
def test_a_server_that_is_away_for_a_while_is_waited_for(hurried, seconds):
    wanted = filled(100)
    with HttpServer() as http, PageIndex(http.url, images=None, embedder=FakeEmbedder(dimensions=8)) as index:
        away: list[threading.Thread] = []

        def fault(number: int) -> None:
            if number == 20:
                away.append(threading.Thread(target=http.pause, args=(seconds / HURRY,)))
                away[0].start()

        http.fault = fault
        assert add(index, pages(100)).added == 100
        away[0].join()
        assert same(contents(index), wanted)


def test_an_error_that_ends_a_run_tells_what_is_stored():
    class Dying(Server):
        def _answer(self, request):
            if len(self.asked("PUT", "/points?wait=true")) >= 4:  # the record, and three batches
                raise httpx.ConnectError("refused")
            return super()._answer(request)

    server = Dying()
    with pytest.raises(StoreError, match="refused") as caught:
        add(index_at(server), [*pages(80), Page(id="p99", text=None)])
    report = caught.value.report
    stored = index_at(_revived(server))
    assert 0 < report.added <= stored.count() < 80
    assert f"before this error: {report.added} pages added" in caught.value.__notes__[0]
    missing = 80 - stored.count()
    assert add(stored, pages(80)).added == missing


def _revived(server: Server) -> Server:
    again = Server()
    again.local = server.local
    return again


# ---- pages that cannot be stored ----


class Ill:
    size = pixel_hash = None

    def open(self):
        raise ZeroDivisionError("the caller's own fault")


def _nested(depth: int) -> dict:
    return {"a": _nested(depth - 1)} if depth else {}


BAD = [
    Page(id="a", text=None),
    Page(id=None, text="x"),
    Page(id="", text="x"),
    Page(id="\ud800", text="x"),
    Page(id=7, text="x"),
    Page(id="a", text="x", source="\ud800.pdf"),
    Page(id="a", text="x", source=None),
    Page(id="a", text="x", number="3"),
    Page(id="a", text="x", number=2**70),
    Page(id="a", text="x", metadata=None),
    Page(id="a", text="x", metadata={"a": "\ud800"}),
    Page(id="a", text="x", metadata={"a": float("nan")}),
    Page(id="a", text="x", metadata={"a": object()}),
    Page(id="a", text="x", metadata={"a": {1: 2}} | {3: 4, "3": 5} | {"s": {1}}),
    Page(id="a", text="x", metadata=_nested(300)),
    Page(id="a", text="x", image=b"no image"),
    Page(id="a", text="x", image=Ill()),
    Page(id="a", text="x", image=Image.new("F", (0, 3))),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_page_costs_only_itself(bad):
    server = Server()
    index = index_at(server)
    report = add(index, [text_page(1, "good"), bad, text_page(2, "good too")])
    assert (report.added, len(report.failures), index.count()) == (2, 1, 2)
    assert "\n" not in str(report.failures[0])
    str(report.failures[0]).encode()
    with pytest.raises(InputError):
        add(index, bad, on_error="raise")
    assert add(index, [bad]).added == 0


def test_metadata_nested_out_of_sight_is_refused():
    deep: dict = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(InputError, match="metadata"):
        add(index_at(Server()), [text_page(1, "x")], metadata=deep)
    assert len(add(index_at(Server()), [text_page(1, "x", metadata=deep)]).failures) == 1


@pytest.mark.parametrize("embedder", [FakeEmbedder(), FakeMultiVectorEmbedder()], ids=["1", "n"])
def test_no_id_of_a_page_is_that_of_the_record(embedder):
    server = Server()
    for name in (RECORD_ID, BASIS_ID, "index record", RECORD_ID.upper()):
        index = PageIndex(client=server.client(), images=None, embedder=embedder)
        assert add(index, [Page(id=name, text=f"says {name}"), text_page(1, "another one")]).failures == ()
        again = PageIndex(client=server.client(), images=None, embedder=embedder)
        assert again.count() == 2
        assert name in [hit.page.id for hit in again.search(f"says {name}", k=2)]
        assert again.delete(ids=[name]) == 1
        assert again.count() == 1


class Picky(Server):
    """Refuses requests that hold a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def _answer(self, request):
        if self.word.encode() in request.content:
            return httpx.Response(400, json={"status": {"error": f"I do not like {self.word}"}})
        return super()._answer(request)


def test_a_page_that_the_store_refuses_costs_only_itself(tmp_path):
    some = [text_page(n, "poison" if n == 5 else f"page {n}", image=Image.new("L", (2, 2), n)) for n in range(20)]
    index = PageIndex(client=Picky("poison").client(), images=tmp_path, embedder=FakeEmbedder())
    report = add(index, some)
    assert (report.added, index.count(), len(list(tmp_path.rglob("*.png")))) == (19, 19, 19)
    (failure,) = report.failures
    assert failure.number == 5
    assert "HTTP 400" in failure.reason
    with pytest.raises(RefusedError, match="I do not like poison"):
        add(index, some, on_error="raise")
    with pytest.raises(RefusedError, match="I do not like page"):  # all of them: it is not the pages
        add(index_at(Picky("page")), some)


# ---- many processes ----

SCRIPT = """
import sys
from pathlib import Path
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
url, images, *folders = sys.argv[1:]
with PageIndex(url, images=images, embedder=FakeEmbedder(dimensions=8)) as index:
    for folder in folders:
        index.add(sorted(Path(folder).iterdir()), metadata={"folder": folder}, progress=False)
"""


@on_sockets
@pytest.mark.slow
def test_four_processes_that_add_overlapping_folders_end_where_one_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate("abcd"):
        Path(folder).mkdir()
        for n in range(6):
            Image.new("L", (6, 6), 10 * number + n).save(f"{folder}/{n}.png")
        Image.new("L", (6, 6), 255).save(f"{folder}/same.png")
    orders = ["abcd", "dcba", "badc", "cdab"]
    with HttpServer() as one, PageIndex(one.url, images="one", embedder=FakeEmbedder(dimensions=8)) as index:
        for folder in orders[0]:
            add(index, sorted(Path(folder).iterdir()), metadata={"folder": folder})
        wanted = contents(index)
        assert (index.count(), index.count({"folder": "b"})) == (25, 7)
    with HttpServer() as many:
        commands = [[sys.executable, "-c", SCRIPT, many.url, "many", *order] for order in orders]
        running = [subprocess.Popen(command) for command in commands]
        assert [process.wait(120) for process in running] == [0] * 4
        with PageIndex(many.url, images="many", embedder=FakeEmbedder(dimensions=8)) as index:
            assert same(contents(index), wanted)
            assert [hit.page.image.open().size for hit in index.search("x", k=25)] == [(6, 6)] * 25
    assert len(list(Path("many").rglob("*.png"))) == len(list(Path("one").rglob("*.png"))) == 25


def test_pages_that_another_process_removes_meanwhile_are_told():
    class Meddled(FakePageStore):
        def attach(self, ids, *, source, metadata):
            self.remove(list(ids)[:1])
            return super().attach(ids, source=source, metadata=metadata)

    with PageIndex(store=Meddled(), images=None, embedder=FakeEmbedder()) as index:
        add(index, pages(3))
        report = add(index, pages(3))
        assert (report.unchanged, len(report.failures)) == (0, 3)
        assert "removed meanwhile; add it again" in report.failures[0].reason
        assert add(index, pages(3)).added == 3


def test_an_image_that_was_exchanged_is_noticed_and_mended(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(f"{colour}.png")
    with PageIndex("index", embedder=FakeEmbedder()) as index:
        add(index, ["red.png", "blue.png"])
        red, blue = (index.search("x", filter={"source": name})[0].page.image for name in ("red.png", "blue.png"))
        before = red.open().getpixel((0, 0))
        red.path.write_bytes(blue.path.read_bytes())
        caplog.clear()
        blue.open()
        assert not caplog.records
        red.open()
        assert "is not the one that was stored" in caplog.text
        blue.path.unlink()
        index.repair()
        assert index.count() == 0
        assert add(index, ["red.png", "blue.png"]).added == 2
        (found,) = index.search("x", filter={"source": "red.png"})
        assert found.page.image.open().getpixel((0, 0)) == before
