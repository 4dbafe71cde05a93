"""LlamaIndex's components over a server that wants a key: what it is sent, and that nothing shows the key."""

from __future__ import annotations

import pytest
from llama_index.core.schema import TextNode
from llama_index.vector_stores.qdrant import QdrantVectorStore

from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, NodeCollection
from nemotron_rag import Page, PageIndex
from nemotron_rag.errors import IndexMismatchError, InputError
from nemotron_rag.testing import FakeEmbedder
from support.qdrant_server import Server

URL, KEY = "https://qdrant.invalid:6333", "t0p-s3cret-key"
OPTIONS = {"api_key": KEY, "headers": {"X-Team": "search"}, "timeout": 3}


@pytest.fixture
def server(monkeypatch) -> Server:
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    standing_in = Server()
    standing_in.answer_at_urls(monkeypatch)
    return standing_in


def sent(server: Server) -> set[tuple[str | None, str | None]]:
    return {(headers.get("api-key"), headers.get("x-team")) for headers in server.headers}


async def test_a_retriever_over_an_index_sends_them_and_shows_neither(server):
    with PageIndex(URL, embedder=FakeEmbedder(), images=None) as index:
        index.add([Page(id="p1", text="red apples")], progress=False)
    server.headers.clear()
    retriever = NemotronPageRetriever(URL, embedder=FakeEmbedder(), images=None, **OPTIONS)
    assert [found.text for found in retriever.retrieve("apples")] == ["red apples"]
    assert [found.text for found in await retriever.aretrieve("apples")] == ["red apples"]
    assert sent(server) == {(KEY, "search")}
    assert KEY not in repr(retriever) + repr(vars(retriever))
    retriever.close()


async def test_a_collection_of_nodes_too(server):
    embedding = NemotronEmbedding(FakeEmbedder())
    QdrantVectorStore("docs", client=server.local, index_doc_id=False).add(embedding([TextNode(text="blue whales")]))
    collection = NodeCollection(URL, collection="docs", embedder=embedding, **OPTIONS)
    retriever = NemotronPageRetriever(collection)
    assert [found.text for found in retriever.retrieve("whales")] == ["blue whales"]
    assert sent(server) == {(KEY, "search")}
    assert KEY not in repr(collection) + str(collection) + repr(retriever)
    collection.close()


def test_credentials_in_a_url_are_refused_and_not_shown(server):
    url = f"https://user:{KEY}@qdrant.invalid"
    for make in (
        NemotronPageRetriever,
        lambda location: NodeCollection(location, collection="c", embedder=FakeEmbedder()),
    ):
        with pytest.raises(InputError) as caught:
            make(url)
        assert KEY not in str(caught.value)


def test_a_retriever_of_one_tenant_finds_its_pages_alone(server):
    for name in ("acme", "beta"):
        with PageIndex(URL, tenant=("customer", name), embedder=FakeEmbedder(), images=None) as index:
            index.add([Page(id="p1", text=f"apples of {name}")], progress=False)
    options = {"embedder": FakeEmbedder(), "images": None}
    retriever = NemotronPageRetriever(URL, tenant=("customer", "acme"), **options)
    assert [found.text for found in retriever.retrieve("apples")] == ["apples of acme"]
    retriever.close()
    other = NemotronPageRetriever(URL, tenant=("customer", "acme"), filters={"customer": "beta"}, **options)
    assert other.retrieve("apples") == []
    other.close()
    with pytest.raises(IndexMismatchError, match="divided by 'customer'"):
        NemotronPageRetriever(URL, **options).retrieve("apples")
    with pytest.raises(InputError, match="tenant must be"):
        NemotronPageRetriever(URL, tenant="acme", **options)


def test_nodes_of_one_tenant_are_found_alone(server):
    embedding = NemotronEmbedding(FakeEmbedder())
    nodes = [TextNode(text=f"apples of {name}", metadata={"customer": name}) for name in ("acme", "beta")]
    QdrantVectorStore("docs", client=server.local, index_doc_id=False).add(embedding(nodes))
    collection = NodeCollection(URL, collection="docs", embedder=embedding, tenant=("customer", "acme"))
    assert [found.text for found in NemotronPageRetriever(collection).retrieve("apples")] == ["apples of acme"]
    collection.close()
