"""Equal files of two owners stay apart, in loaders, readers, stores and retrievers of both frameworks."""

from __future__ import annotations

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever, NemotronPageVectorStore, PDFPageLoader
from llama_index.embeddings.nemotron_rag import NemotronEmbedding, NemotronPageEmbedder
from llama_index.readers.nemotron_rag import PDFPageReader
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever as LlamaRetriever
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
from support.pages import add, make_pdf

OWNERS = ("alice", "bob")


@pytest.fixture
def folder(tmp_path):
    for who in OWNERS:
        make_pdf(tmp_path / who / "policy.pdf", "travel policy")
    return tmp_path


@pytest.fixture
def index(folder):
    with PageIndex(client=QdrantClient(":memory:"), images=None, embedder=FakeEmbedder()) as opened:
        for who in OWNERS:
            add(opened, folder / who, metadata={"tenant": who})
        yield opened


def name_of(folder, who: str) -> str:
    return (folder / who / "policy.pdf").as_posix()


def test_langchains_loader_and_store(folder):
    store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
    documents = PDFPageLoader(folder).load()
    assert documents[0].metadata["page_id"] == documents[1].metadata["page_id"]
    assert [document.id for document in documents] == [document.id for document in PDFPageLoader(folder).load()]
    for _ in range(2):
        store.add_documents(documents)
    for who in OWNERS:
        (found,) = store.similarity_search("policy", filter={"source": name_of(folder, who)})
        assert found.metadata["source"] == name_of(folder, who)
    store.delete([documents[0].id])
    assert [found.id for found in store.similarity_search("policy")] == [documents[1].id]


def test_llama_indexs_reader_and_index(folder):
    pages = [page for who in OWNERS for page in PDFPageReader().load_data(folder / who / "policy.pdf")]
    transformations = [NemotronPageEmbedder(embed_model=NemotronEmbedding(FakeEmbedder()))]
    embedding = NemotronEmbedding(FakeEmbedder())
    index = VectorStoreIndex.from_documents(pages, transformations=transformations, embed_model=embedding)
    for who in OWNERS:
        filters = MetadataFilters(filters=[MetadataFilter(key="file_path", value=name_of(folder, who))])
        (found,) = index.as_retriever(filters=filters).retrieve("policy")
        assert found.node.metadata["file_path"] == name_of(folder, who)


@pytest.mark.parametrize("who", OWNERS)
def test_retrievers_over_an_index(folder, index, who):
    (document,) = NemotronPageRetriever(index=index, filter={"tenant": who}).invoke("policy")
    assert (document.metadata["source"], document.metadata["tenant"]) == (name_of(folder, who), who)
    (found,) = LlamaRetriever(index, filters={"tenant": who}).retrieve("policy")
    assert (found.node.metadata["file_path"], found.node.metadata["tenant"]) == (name_of(folder, who), who)
    wrong = {"tenant": who, "source": name_of(folder, "bob" if who == "alice" else "alice")}
    assert NemotronPageRetriever(index=index, filter=wrong).invoke("policy") == []
    assert LlamaRetriever(index, filters=wrong).retrieve("policy") == []


@pytest.mark.parametrize("who", OWNERS)
def test_langchains_store_over_an_index(folder, index, who):
    client = index._state.store._qdrant.client
    embeddings = NemotronEmbeddings(model=FakeEmbedder())
    store = NemotronPageVectorStore(embeddings, client=client, collection_name="pages", images=None)
    (found,) = store.similarity_search("policy", filter={"tenant": who})
    assert (found.metadata["source"], found.metadata["tenant"]) == (name_of(folder, who), who)
