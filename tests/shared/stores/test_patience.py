"""Requests that a server does not answer are made again: which, for how long, and with which pauses."""

from __future__ import annotations

import datetime
import email.utils
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import grpc
import httpx
import numpy as np
import pytest

from nemotron_rag.errors import InputError, RefusedError, StoreError
from nemotron_rag.stores import patience
from nemotron_rag.stores.patience import Waiting, stoppable
from nemotron_rag.stores.qdrant import Qdrant, QdrantStore
from nemotron_rag.stores.qdrant.failures import asked_pause
from nemotron_rag.stores.server import Connection
from nemotron_rag.types import Page, StoredPage
from support.qdrant_server import Server

ROW = np.eye(1, 4, dtype=np.float32)
PAGE = StoredPage.of(Page(id="p1", source="a.pdf"), content_hash="c")
HICCUPS = [
    httpx.Response(503),
    httpx.Response(502, text="<html>bad gateway</html>"),
    httpx.Response(429),
    httpx.Response(429, headers={"Retry-After": "1"}, json={"status": {"error": "slow down"}}),
    httpx.Response(500, json={"status": {"error": "panic"}}),
    httpx.Response(200, text="<html>welcome to the airport</html>"),
    httpx.Response(200, text='{"result": {"poi'),
    httpx.ConnectError("refused"),
    httpx.ReadError("reset by peer"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
]


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(patience, "_wait", lambda seconds: made.append(seconds) or True)
    return made


@pytest.fixture
def server() -> Server:
    return Server()


def work(store: QdrantStore) -> None:
    """Every kind of request there is."""
    store.exists()
    store.create(dimensions=4, record={})
    store.read_record()
    store.index_metadata("year", "integer")
    store.put([PAGE], ROW)
    store.attach(["p1"], source="b.pdf", metadata={"year": 1})
    assert store.count({"year": 1}) == len(list(store.pages())) == len(store.query(ROW[0], k=3)) == 1
    store.remove(["p1"])


@pytest.mark.parametrize("hiccup", HICCUPS, ids=str)
def test_one_hiccup_at_any_request_is_got_over(server, pauses, hiccup):
    work(QdrantStore(client=server.client()))
    number = len(server.requests)
    for place in range(number):
        one = Server()
        one.answers = [*[None] * place, hiccup]
        store = QdrantStore(client=one.client())
        work(store)
        assert store.count() == 0
        assert len(pauses) == 1
        pauses.clear()


@pytest.mark.parametrize("answer", [httpx.Response(code, json={}) for code in (401, 403, 404, 400)], ids=str)
def test_what_will_not_help_is_not_tried_again(server, pauses, answer):
    store = QdrantStore(client=server.client())
    server.answers = [answer]
    with pytest.raises(StoreError) as caught:
        store.exists()
    assert (pauses, isinstance(caught.value, RefusedError)) == ([], answer.status_code == 400)


def test_the_patience_can_be_set_and_pauses_grow(server, pauses, caplog):
    store = QdrantStore(client=server.client(), patience=3600)
    store.exists()
    server.answers = [httpx.ConnectError("refused")] * 1000
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"), pytest.raises(StoreError, match="refused"):
        store.count()
    assert sum(pauses) == pytest.approx(3600, abs=5)
    assert pauses[0] < 1 < pauses[4]
    assert 10 < max(pauses) < 20
    (said,) = [record.getMessage() for record in caplog.records]
    assert "trying again for up to 3600 s" in said


@pytest.mark.parametrize(("given", "first", "later", "search"), [(None, 5, 120, 5), (0, 0, 0, 0), (3, 3, 3, 3)])
def test_how_long_is_waited_unless_it_is_said(server, pauses, given, first, later, search):
    store = QdrantStore(client=server.client(), patience=given)

    def waited(use) -> float:
        pauses.clear()
        server.answers = [httpx.Response(503)] * 1000
        with pytest.raises(StoreError, match="HTTP 503"):
            use()
        server.answers = []
        return sum(pauses)

    assert waited(store.exists) == pytest.approx(first, abs=0.5)
    store.create(dimensions=4, record={})
    assert waited(store.count) == pytest.approx(later, abs=2)
    assert waited(lambda: store.query(ROW[0], k=1)) == pytest.approx(search, abs=0.5)


def test_a_server_that_asks_to_wait_is_left_alone_so_long(server, pauses):
    store = QdrantStore(client=server.client())
    store.exists()
    at = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90))
    for code, value, least in ((429, "30", 30), (503, "30", 30), (503, at, 80), (429, at, 0.1), (503, "soon", 0.1)):
        pauses.clear()
        server.answers = [httpx.Response(code, headers={"Retry-After": value}, json={"status": {"error": "busy"}})]
        store.exists()
        assert len(pauses) == 1
        assert least <= pauses[0] <= max(91, least)
    server.answers = [httpx.Response(429, headers={"Retry-After": "4000"})]
    pauses.clear()
    with pytest.raises(StoreError):  # longer than anybody is willing to wait
        store.exists()
    assert pauses == []
    assert asked_pause(None) == asked_pause(grpc.RpcError()) == 0


def test_a_request_that_was_done_but_not_acknowledged_may_be_made_again(pauses):
    class Forgetful(Server):
        """Does what it is asked, and loses the answer of each request once."""

        def _answer(self, request):
            answer = super()._answer(request)
            if not self.requests[-1:] == self.requests[-2:-1]:
                raise httpx.ReadError("reset by peer")
            return answer

    server = Forgetful()
    store = QdrantStore(client=server.client())
    store.create(dimensions=4, record={"model": "m"})
    store.put([PAGE], ROW)
    assert store.attach(["p1"], source="b.pdf", metadata={}) == 1
    assert (store.read_record(), store.get(["p1"])["p1"].sources) == ({"model": "m"}, ("a.pdf", "b.pdf"))
    assert (store.remove(["p1"]), store.count()) == (1, 0)


def test_nobody_waits_for_what_nobody_needs_any_more(server, monkeypatch):
    monkeypatch.undo()
    store = QdrantStore(client=server.client(), patience=3600)
    server.answers = [httpx.ConnectError("refused")] * 1000
    with stoppable() as stop, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(copy_context().run, store.exists)
        threading.Timer(0.1, stop.set).start()
        begun = time.monotonic()
        with pytest.raises(StoreError, match="refused"):
            waiting.result(20)
    assert time.monotonic() - begun < 15


def test_embedded_qdrants_are_not_waited_for(pauses):
    qdrant = Qdrant()
    with pytest.raises(StoreError):
        qdrant.call("count", collection_name="none")
    assert pauses == []
    waiting = Waiting()
    assert waiting.pause(1)
    assert not waiting.pause(0)


@pytest.mark.parametrize("value", [-1, True, "60", float("inf"), float("nan")])
def test_a_patience_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="patience must be a number of seconds"):
        Connection(patience=value)
