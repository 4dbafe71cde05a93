"""How a server is reached: what is sent to it, and that no message, repr, log or pickle shows a key."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient

from nemotron_rag.cli import main
from nemotron_rag.errors import InputError, NemotronRagError, StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.index.lazy import LazyIndex
from nemotron_rag.stores.qdrant import Qdrant, QdrantStore, opening
from nemotron_rag.stores.server import Connection, shown_url, warn_if_open
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import Page, StoredPage
from support.pages import add, text_page
from support.qdrant_grpc import GrpcServer
from support.qdrant_server import Server

URL = "https://qdrant.invalid:6333"
KEY = "t0p-s3cret-key"
UNCHECKED = {"check_compatibility": False}
ASK = {"method": "collection_exists", "collection_name": "pages"}


@pytest.fixture
def server(monkeypatch) -> Server:
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    standing_in = Server()
    standing_in.answer_at_urls(monkeypatch)
    return standing_in


def said(error: BaseException) -> str:
    """All that a traceback prints of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error)


@pytest.mark.parametrize("way", ["argument", "environment", "secret"])
def test_the_key_goes_with_every_request(server, monkeypatch, way):
    class Secret:
        def get_secret_value(self):
            return KEY

    if way == "environment":
        monkeypatch.setenv("QDRANT_API_KEY", f"{KEY}\n")  # as `read` from a file
    given = {"argument": KEY, "environment": None, "secret": Secret()}[way]
    with PageIndex(URL, embedder=FakeEmbedder(), images=None, api_key=given, headers={"X-Team": "search"}) as index:
        add(index, [text_page(1, "apples")])
        assert index.search("apples")[0].page.id == "p1"
        asyncio.run(index._state.store._qdrant.acall(**ASK))
        assert KEY not in repr(index)
    assert len(server.requests) > 10
    assert {(sent.get("api-key"), sent.get("x-team")) for sent in server.headers} == {(KEY, "search")}


def test_an_argument_is_taken_before_the_environment_and_a_folder_needs_neither(server, monkeypatch, tmp_path):
    monkeypatch.setenv("QDRANT_API_KEY", "other")
    Qdrant(URL, api_key=KEY).call(**ASK)
    assert server.headers[-1]["api-key"] == KEY
    assert Qdrant(tmp_path).call(**ASK) is False
    assert Qdrant()._connection.api_key is None


@pytest.mark.slow
def test_key_and_headers_go_by_grpc_too(monkeypatch):
    with GrpcServer() as running:
        monkeypatch.setattr(opening, "answers_grpc", lambda url: True)
        monkeypatch.setattr(opening, "GRPC_PORT", running.port)
        store = QdrantStore("http://127.0.0.1:6333", api_key=KEY, headers={"Authorization": "Bearer abcdef"})
        store.create(dimensions=4, record={})
        page = StoredPage.of(Page(id="p1", text="apples"), content_hash="c")
        store.put([page], np.eye(1, 4, dtype=np.float32))
        assert store.count() == 1
        assert len(running.headers) > 5
        assert {(sent["api-key"], sent["authorization"]) for sent in running.headers} == {(KEY, "Bearer abcdef")}
        store.close()


def test_the_timeout_is_that_of_the_client(server):
    assert Qdrant(URL, timeout=7).client.init_options["timeout"] == 7
    assert Qdrant(URL, timeout=0.2).client.init_options["timeout"] == 1
    assert Qdrant(URL).client.init_options["timeout"] == 60


@pytest.mark.parametrize(
    ("location", "options", "wanted"),
    [
        ("https://user:t0p-s3cret-key@host:6333", {}, "holds no user and no password"),
        ("https://t0p-s3cret-key@host:6333", {}, "holds no user and no password"),
        ("https://host:6333?api_key=t0p-s3cret-key", {}, "api_key= or set QDRANT_API_KEY"),
        ("https://host:6333/#t0p-s3cret-key", {}, "ends with its path"),
        ("ftp://user:t0p-s3cret-key@host", {}, "a folder or an http"),
        ("https://user:t0p-s3cret-key@", {}, "http(s)://host:port"),
        ("https://user:t0p-s3cret-key@host:port", {}, "http(s)://host:port"),
        ("https://[t0p-s3cret-key", {}, "http(s)://host:port"),
        (URL, {"api_key": "t0p-s3cret-key\u00fc"}, "printable ASCII"),
        (URL, {"api_key": "t0p-s3cret-key\nx: y"}, "printable ASCII"),
        (URL, {"api_key": b"t0p-s3cret-key"}, "api_key must be a str, got bytes"),
        (URL, {"headers": {"X-Key": "t0p-s3cret-key\r\nx: y"}}, "header 'X-Key' has characters"),
        (URL, {"headers": {"X-Key": 5}}, "str by str"),
        (URL, {"headers": {"bad name": "t0p-s3cret-key"}}, "names must be letters"),
        (URL, {"headers": {"x-bin": "t0p-s3cret-key"}}, "names must be letters"),
        (URL, {"timeout": 0}, "timeout must be a positive number"),
        ("folder", {"api_key": KEY}, "belongs to the http"),
        (None, {"headers": {"a": "b"}}, "belongs to the http"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_shown(server, location, options, wanted):
    for make in (Qdrant, PageIndex, LazyIndex):
        if location is None and make is LazyIndex:
            continue
        with pytest.raises(InputError) as caught:
            make(location, **options)
        assert wanted in str(caught.value)
        shown = said(caught.value)
        assert "s3cret" not in shown.replace(repr(location), "")  # a traceback quotes this very file's lines
    assert server.requests == []


def test_a_server_that_quotes_the_key_does_not_show_it(server, caplog):
    for content in (f"no such key {KEY}".encode(), f'{{"error": "Bearer {KEY}"}}'.encode()):
        server.answers = [httpx.Response(401, content=content)]
        with pytest.raises(StoreError) as caught:
            QdrantStore(URL, api_key=KEY, headers={"Authorization": f"Bearer {KEY}"}).count()
        assert KEY not in said(caught.value)
        assert "HTTP 401" in str(caught.value)
        assert "check api_key= or the environment variable QDRANT_API_KEY" in str(caught.value)
    assert KEY not in caplog.text


def test_the_key_of_a_client_is_not_shown_either(server):
    client = QdrantClient(
        url="https://me:hunter22@qdrant.invalid", api_key=KEY, transport=httpx.MockTransport(server._answer),
        check_compatibility=False,
    )  # fmt: skip
    server.answers = [httpx.Response(403, content=f"bad {KEY}".encode())]
    qdrant = Qdrant(client=client)
    with pytest.raises(StoreError) as caught:
        qdrant.call(**ASK)
    shown = said(caught.value) + qdrant.name
    assert "hunter22" not in shown
    assert KEY not in shown


def test_a_pickle_holds_no_key_and_the_environment_gives_it(server, monkeypatch):
    for made in (
        Qdrant(URL, api_key=KEY, timeout=9),
        Qdrant(client=QdrantClient(url=URL, api_key=KEY, timeout=9, **UNCHECKED)),
    ):
        pickled = pickle.dumps(made)
        assert KEY.encode() not in pickled
        monkeypatch.setenv("QDRANT_API_KEY", "of-this-process")
        again = pickle.loads(pickled)
        assert "of-this-process" in str(again.client.init_options)
        assert again.client.init_options["timeout"] == 9
    for made in (
        Qdrant(URL, headers={"a": "b"}),
        Qdrant(client=QdrantClient(url=URL, headers={"a": "b"}, **UNCHECKED)),
    ):
        with pytest.raises(InputError, match="headers"):
            pickle.dumps(made)


def test_a_lazy_index_hides_what_it_holds(server):
    lazy = LazyIndex(URL, embedder=FakeEmbedder(), images=None, api_key=KEY, timeout=3)
    assert KEY not in repr(lazy) + repr(vars(lazy))
    with PageIndex(URL, embedder=FakeEmbedder(), images=None) as index:
        add(index, [text_page(1, "apples")])
    opened = lazy.get()
    assert opened.count() == 1
    assert server.headers[-1]["api-key"] == KEY
    lazy.close()


def test_an_open_connection_is_warned_of_once(server, caplog):
    warn_if_open.cache_clear()
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        for _ in range(2):
            Qdrant("http://qdrant.invalid", api_key=KEY)
        Qdrant("http://localhost:6333", api_key=KEY)
        Qdrant("http://other.invalid")
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "the API key goes to http://qdrant.invalid unencryp"
    ]
    assert KEY not in caplog.text


def test_the_command_line_takes_key_headers_and_timeout(server, capsys, monkeypatch):
    with PageIndex(URL, embedder="starter-embed-vl", images=None) as index:
        index._state.models._embedder = None
        index._state.store.create(dimensions=4, record={"format": 1, "name": "m", "identity": {}, "dpi": None,
                                                       "max_pixels": 5, "token_vectors": None})  # fmt: skip
    server.headers.clear()
    assert main(["info", URL, "--api-key", KEY, "--header", "X-Team: search", "--timeout", "5"]) == 0
    assert {(sent["api-key"], sent["x-team"]) for sent in server.headers} == {(KEY, "search")}
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    assert main(["info", URL]) == 0
    assert server.headers[-1]["api-key"] == KEY
    assert main(["info", URL, "--header", "Authorization Bearer-abc"]) == 2
    assert main(["info", "https://user:hunter22@qdrant.invalid"]) == 1
    shown = "".join(capsys.readouterr())
    assert "Bearer-abc" not in shown
    assert "hunter22" not in shown
    assert KEY not in shown
    assert "--header takes NAME:VALUE" in shown


def test_a_store_of_ones_own_has_its_own_connection():
    from nemotron_rag.testing import FakePageStore

    with pytest.raises(NemotronRagError, match="api_key belong to a location; give them to the store"):
        PageIndex(store=FakePageStore(), embedder=FakeEmbedder(), api_key=KEY)


def test_urls_are_shown_without_what_may_be_secret():
    assert shown_url("https://a:b@host:1/p/q?c=d#e") == "https://host:1/p/q"
    assert shown_url("folder/with?odd@name") == "folder/with?odd@name"
    assert repr(Connection(api_key=KEY, headers={"a": KEY})) == "Connection(timeout=None, patience=None)"
