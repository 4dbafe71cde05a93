"""LangChain's components over a server that wants a key: what it is sent, and that nothing shows the key."""

from __future__ import annotations

import pickle

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever, NemotronPageVectorStore
from nemotron_rag import Page, PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder
from support.qdrant_server import Server

URL, KEY = "https://qdrant.invalid:6333", "t0p-s3cret-key"


@pytest.fixture
def server(monkeypatch) -> Server:
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    standing_in = Server()
    standing_in.answer_at_urls(monkeypatch)
    with PageIndex(URL, embedder=FakeEmbedder(), images=None) as index:
        index.add([Page(id="p1", text="red apples")], progress=False)
    standing_in.headers.clear()
    return standing_in


def sent(server: Server) -> set[tuple[str | None, str | None]]:
    return {(headers.get("api-key"), headers.get("x-team")) for headers in server.headers}


def test_the_vector_store_sends_key_and_headers_and_shows_neither(server):
    store = NemotronPageVectorStore(
        NemotronEmbeddings(model=FakeEmbedder()), location=URL, api_key=KEY, headers={"X-Team": "search"}, images=None
    )
    store.add_documents([Document("red apples")], ids=["a"])
    assert [found.id for found in store.similarity_search("apples", k=1)] == ["a"]
    assert sent(server) == {(KEY, "search")}
    assert KEY not in repr(store) + repr(store.as_retriever())
    with pytest.raises(InputError, match="headers= may hold credentials"):
        pickle.dumps(store)


async def test_the_retriever_sends_them_and_shows_neither(server):
    collector = RunCollectorCallbackHandler()
    retriever = NemotronPageRetriever(
        index=URL, embedder=FakeEmbedder(), images=None, api_key=KEY, headers={"X-Team": "search"}, timeout=3
    )
    config = {"callbacks": [collector]}
    assert [found.page_content for found in retriever.invoke("apples", config=config)] == ["red apples"]
    assert [found.page_content for found in await retriever.ainvoke("apples", config=config)] == ["red apples"]
    assert sent(server) == {(KEY, "search")}
    traced = repr([run.model_dump() for run in collector.traced_runs])
    shown = [repr(retriever), str(retriever), retriever.model_dump_json(exclude={"embedder"}), dumps(retriever), traced]
    assert all(KEY not in text and '"search"' not in text for text in shown)
    retriever.close()


def test_a_pickled_retriever_takes_the_key_of_its_environment(server, monkeypatch):
    retriever = NemotronPageRetriever(index=URL, images=None, api_key=KEY, timeout=3)
    pickled = pickle.dumps(retriever)
    assert KEY.encode() not in pickled
    monkeypatch.setenv("QDRANT_API_KEY", "of-this-process")
    again = pickle.loads(pickled)
    again.embedder = FakeEmbedder()
    assert [found.page_content for found in again.invoke("apples")] == ["red apples"]
    assert sent(server) == {("of-this-process", None)}
    again.close()
    with pytest.raises(InputError, match="headers= may hold credentials"):
        pickle.dumps(NemotronPageRetriever(index=URL, images=None, headers={"a": KEY}))


def test_misspelt_and_misplaced_settings_are_refused_without_showing_them(server):
    with pytest.raises(ValueError, match="apikey") as misspelt:
        NemotronPageRetriever(index=URL, images=None, apikey=KEY)
    with pytest.raises(InputError, match="api_key must be a str, got bytes") as typed:
        NemotronPageRetriever(index=URL, images=None, api_key=KEY.encode())
    with pytest.raises(InputError, match="no user and no password") as in_url:
        NemotronPageRetriever(index=f"https://user:{KEY}@qdrant.invalid", images=None)
    with pytest.raises(InputError, match="api_key belong to an index by location") as misplaced:
        NemotronPageRetriever(index=PageIndex(embedder=FakeEmbedder()), api_key=KEY)
    for caught in (misspelt, typed, in_url, misplaced):
        assert KEY not in str(caught.value) + repr(caught.value)
