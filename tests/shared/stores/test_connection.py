"""Qdrant for adapters: places, sharing, event loops, errors; and filters on payloads of other layouts."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from nemotron_rag.errors import ClosedError, InputError, StoreError
from nemotron_rag.stores.qdrant import Qdrant, QdrantStore, compile_filter, connection
from nemotron_rag.stores.qdrant.connection import Call
from support.qdrant_server import Server

ASK = {"method": "collection_exists", "collection_name": "pages"}


def test_places(tmp_path):
    assert (Qdrant().in_memory, Qdrant().folder, Qdrant().name) == (True, None, "memory")
    assert Qdrant(":memory:").in_memory
    assert Qdrant(tmp_path).folder == tmp_path
    server = Qdrant("http://localhost:6333")
    assert (server.in_memory, server.folder, server.name) == (False, None, "http://localhost:6333")
    given = Qdrant(client=QdrantClient(path=str(tmp_path / "given")))
    assert (given.in_memory, given.folder) == (False, tmp_path / "given")
    given.client.close()
    with pytest.raises(InputError, match="not both"):
        Qdrant(tmp_path, client=given.client)


def test_construction_opens_nothing(tmp_path):
    Qdrant(tmp_path / "new").close()
    assert not (tmp_path / "new").exists()


def test_a_relative_folder_stays_where_it_was_when_the_working_folder_changes(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    qdrant = Qdrant("q")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (qdrant.name, qdrant.folder) == ("q", tmp_path / "q")
    assert qdrant.call(**ASK) is False
    params = models.VectorParams(size=2, distance=models.Distance.COSINE)
    qdrant.call("create_collection", collection_name="pages", vectors_config=params)
    assert (tmp_path / "q" / "edge" / "pages" / "collection.json").exists()
    assert not list((tmp_path / "elsewhere").iterdir())
    again = pickle.loads(pickle.dumps(qdrant))
    assert again.client is qdrant.client
    again.close()
    qdrant.close()


def test_a_folder_has_one_client_until_the_last_lets_go(tmp_path):
    one, other = Qdrant(tmp_path / "q"), Qdrant(tmp_path / "x" / ".." / "q")
    assert one.client is other.client
    store = QdrantStore(tmp_path / "q")
    store.create(dimensions=2, record={})
    assert one.call(**ASK) is other.call(**ASK) is True
    store.close()
    one.close()
    one.close()
    assert other.call(**ASK) is True
    with pytest.raises(ClosedError, match="closed; open it again"):
        one.call(**ASK)
    del other
    gc.collect()
    QdrantClient(path=str(tmp_path / "q")).close()  # nobody holds the folder any more


def test_threads_open_one_client(tmp_path):
    qdrant, found = Qdrant(tmp_path), []
    threads = [threading.Thread(target=lambda: found.append(qdrant.client)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(client) for client in found}) == 1
    qdrant.close()


def test_copies_and_pickles(tmp_path):
    qdrant = Qdrant(tmp_path)
    assert copy.copy(qdrant) is copy.deepcopy(qdrant) is qdrant
    again = pickle.loads(pickle.dumps(qdrant))
    assert again.client is qdrant.client
    again.close()
    qdrant.close()
    with pytest.raises(InputError, match="in memory cannot be pickled"):
        pickle.dumps(Qdrant())
    with pytest.raises(InputError, match="in memory cannot be pickled"):
        pickle.dumps(Qdrant(client=QdrantClient(":memory:")))


def test_a_given_client_stays_open():
    client = QdrantClient(":memory:")
    qdrant = Qdrant(client=client)
    assert qdrant.client is client
    asyncio.run(qdrant.aclose())
    assert client.collection_exists("pages") is False
    client.close()


def test_embedded_calls_of_an_event_loop_run_in_a_thread():
    qdrant, seen = Qdrant(), []
    exists = qdrant.client.collection_exists
    qdrant.client.collection_exists = lambda **options: seen.append(threading.current_thread()) or exists(**options)
    assert asyncio.run(qdrant.acall(**ASK)) is False
    assert seen != [threading.main_thread()]


def test_a_given_async_client_is_used():
    server, other = Server(), Server()
    options = other.client().init_options
    qdrant = Qdrant(client=server.client(), async_client=AsyncQdrantClient(**options))
    asyncio.run(qdrant.acall(**ASK))
    assert len(other.requests) == 1
    assert server.requests == []


def test_one_of_many_that_open_and_close_a_folder_never_finds_it_locked(tmp_path):
    Qdrant(tmp_path).client.close()
    failures: list[Exception] = []

    def work() -> None:
        for _ in range(15):
            qdrant = Qdrant(tmp_path)
            try:
                qdrant.call(**ASK)
            except StoreError as error:
                failures.append(error)
            qdrant.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    QdrantClient(path=str(tmp_path)).close()  # nobody holds the folder any more


def test_a_client_that_is_let_go_while_another_object_takes_it_is_opened_again(tmp_path, monkeypatch):
    one, other = Qdrant(tmp_path), Qdrant(tmp_path)
    client = one.client

    class Collecting(dict):
        def get(self, place):  # garbage collection may close the last user at any moment
            found = super().get(place)
            one.close()
            return found

    monkeypatch.setattr(connection, "_folders", Collecting(connection._folders))
    assert other.client is not client
    assert other.call(**ASK) is False
    other.close()


def test_a_call_that_fails_because_it_is_being_closed_says_so():
    qdrant = Qdrant()

    def close(client):
        qdrant.close()
        return client.collection_exists("pages")

    with pytest.raises(ClosedError, match="the Qdrant at memory was closed; open it again"):
        qdrant.use("look", close)


def test_steps_are_made_one_after_another_in_both_forms():
    def steps(name):
        if not (yield Call("collection_exists", {"collection_name": name})):
            yield Call("create_collection", {"collection_name": name, "vectors_config": {}})
        try:
            yield Call("get_collection", {"collection_name": "none"})
        except StoreError as error:
            return str(error), (yield Call("collection_exists", {"collection_name": name}))

    qdrant = Qdrant()
    for message, exists in (qdrant.run(steps("a")), asyncio.run(qdrant.arun(steps("b")))):
        assert message.startswith("could not describe a collection in memory: ")
        assert exists is True
    with pytest.raises(StoreError, match="describe"):
        qdrant.run(call for call in [Call("get_collection", {"collection_name": "none"})])


def test_errors_are_one_line():
    server = Server()
    qdrant = Qdrant(client=server.client(), patience=0)
    server.answers = [ConnectionError("gone")]
    with pytest.raises(StoreError, match=r"could not look for a collection in http://qdrant.invalid: .*check that"):
        qdrant.call(**ASK)


def test_filters_on_payloads_of_other_layouts():
    compiled = compile_filter({"source": "a", "about.year": 1, "x.y z": 2}, fields=(), metadata="about")
    assert [condition.key for condition in compiled.must] == ["about.source", "about.year", 'about.x."y z"']
    both = compile_filter({"kind": "a", "id": "b"}, fields=("kind",))
    assert both == models.Filter(
        must=[
            models.FieldCondition(key="kind", match=models.MatchValue(value="a")),
            models.FieldCondition(key="metadata.id", match=models.MatchValue(value="b")),
        ]
    )
