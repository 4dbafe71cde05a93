"""LangChain's components over a server that wants a key: what it is sent, and that nothing shows the key."""

from __future__ import annotations

import pickle

import httpx
import pytest
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from PIL import Image

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever, NemotronPageVectorStore
from nemotron_rag import Page, PageIndex
from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.testing import FakeEmbedder
from support.qdrant_server import Server, StrictServer

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


def test_a_retriever_is_as_patient_as_it_is_told(server):
    for options, works in (({}, True), ({"patience": 5}, True), ({"patience": 0}, False)):
        retriever = NemotronPageRetriever(index=URL, embedder=FakeEmbedder(), images=None, **options)
        server.answers = [httpx.Response(503)]
        if works:
            assert retriever.invoke("apples")
        else:
            with pytest.raises(StoreError, match="HTTP 503"):
                retriever.invoke("apples")
        retriever.close()
    with pytest.raises(InputError, match="patience must be"):
        NemotronPageRetriever(index=URL, embedder=FakeEmbedder(), images=None, patience=-1).invoke("apples")


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
    with pytest.raises(InputError, match="api_key belongs to an index by location") as misplaced:
        NemotronPageRetriever(index=PageIndex(embedder=FakeEmbedder()), api_key=KEY)
    for caught in (misspelt, typed, in_url, misplaced):
        assert KEY not in str(caught.value) + repr(caught.value)


def test_a_vector_store_of_one_tenant_never_touches_anothers(server, tmp_path):
    def opened(name: str) -> NemotronPageVectorStore:
        embeddings = NemotronEmbeddings(model=FakeEmbedder())
        return NemotronPageVectorStore(embeddings, location=URL, tenant=("customer", name), images=tmp_path / "images")

    acme, beta = opened("acme"), opened("beta")
    for store, shade in ((acme, 10), (beta, 200)):
        image = Image.new("RGB", (4, 3), (shade, shade, shade))
        store.add_documents([Document("red apples", metadata={"image": image, "year": shade})], ids=["a"])
    for store, shade, name in ((acme, 10, "acme"), (beta, 200, "beta")):
        for found in (store.similarity_search("apples", k=9), store.get_by_ids(["a", "b"])):
            assert [(page.id, page.metadata["year"], page.metadata["customer"]) for page in found] == [
                ("a", shade, name)
            ]
            assert load_image(found[0].metadata["image"]).getpixel((0, 0)) == (shade, shade, shade)
    assert acme.similarity_search("apples", filter={"customer": "beta"}) == []
    assert acme.max_marginal_relevance_search("apples", k=9)[0].metadata["year"] == 10
    assert len(acme.max_marginal_relevance_search("apples", k=9)) == 1
    acme.delete()
    assert acme.get_by_ids(["a"]) == []
    assert load_image(beta.get_by_ids(["a"])[0].metadata["image"]).getpixel((0, 0)) == (200, 200, 200)
    acme.delete(["a"])
    assert len(beta.similarity_search("apples")) == 1
    with pytest.raises(InputError, match="metadata say customer='beta'"):
        acme.add_documents([Document("x", metadata={"customer": "beta"})])


def test_a_new_collection_of_documents_is_made_with_its_settings(server):
    options = {"shards": 2, "quantization": "int8", "metadata_indexes": {"year": "integer"}}
    store = NemotronPageVectorStore(
        NemotronEmbeddings(model=FakeEmbedder()), location=URL, collection_options=options, images=None
    )
    store.add_documents([Document("red apples")])
    (created,) = server.asked("PUT", "/collections/documents")
    assert created["shard_number"] == 2
    assert created["vectors"]["quantization_config"]["scalar"]["type"] == "int8"
    made = [body["field_name"] for verb, path, body in server.requests if "documents/index" in path]
    assert made == ["metadata.year"]


def test_a_store_works_in_strict_mode(monkeypatch, tmp_path):
    strict = StrictServer()
    strict.answer_at_urls(monkeypatch)
    options = {"strict": True, "metadata_indexes": {"year": "integer"}}
    store = NemotronPageVectorStore(
        NemotronEmbeddings(model=FakeEmbedder()),
        location=URL,
        images=tmp_path / "images",
        tenant=("customer", "acme"),
        collection_options=options,
    )
    image = Image.new("RGB", (4, 3))
    store.add_documents([Document("red apples", metadata={"image": image, "year": 2024})], ids=["a"])
    assert [found.id for found in store.similarity_search("apples", filter={"year": 2024})] == ["a"]
    assert store.similarity_search("apples", filter={"year": {"$gt": 2030}}) == []
    store.delete(filter={"year": 2024})
    store.delete(["a"])
    assert strict.refused == []
    with pytest.raises(StoreError, match="strict mode: give the key an index"):
        store.similarity_search("apples", filter={"author": "Ada"})


def test_a_retriever_of_one_tenant_finds_its_pages_alone(server):
    for name in ("acme", "beta"):
        with PageIndex(
            URL, collection="shared", tenant=("customer", name), embedder=FakeEmbedder(), images=None
        ) as index:
            index.add([Page(id="p1", text=f"apples of {name}")], progress=False)
    retriever = NemotronPageRetriever(
        index=URL, collection="shared", tenant=("customer", "acme"), embedder=FakeEmbedder(), images=None
    )
    again = pickle.loads(pickle.dumps(retriever.model_copy(update={"embedder": None})))
    again.embedder = FakeEmbedder()
    for each in (retriever, again):
        assert [found.page_content for found in each.invoke("apples")] == ["apples of acme"]
        assert each.invoke("apples", filter={"customer": "beta"}) == []
        each.close()
    with pytest.raises(IndexMismatchError, match="divided by 'customer'"):
        NemotronPageRetriever(index=URL, collection="shared", embedder=FakeEmbedder(), images=None).invoke("apples")
    with pytest.raises(InputError, match="tenant must be"):
        NemotronPageRetriever(index=URL, tenant="acme", images=None)
