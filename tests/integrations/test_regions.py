"""Both retrievers say where on their pages a query is answered, under one name, if they are asked to."""

from __future__ import annotations

import json

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core.schema import MetadataMode

from langchain_nemotron_rag import NemotronPageRetriever as LangChainRetriever
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever as LlamaIndexRetriever
from nemotron_rag import PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.report import region_json
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.pages import add, make_pdf

QUERY = "Where are red apples?"


@pytest.fixture
def index(tmp_path):
    pdf = make_pdf(tmp_path / "fruit.pdf", "red apples", "blue plums")
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), reranker=FakeReranker()) as opened:
        add(opened, pdf)
        yield opened


@pytest.fixture
def wanted(index):
    return [[*map(region_json, index.regions(hit.page, QUERY, k=2))] for hit in index.search(QUERY, k=2)]


async def test_langchain(index, wanted):
    assert [len(regions) for regions in wanted] == [1, 0]
    retriever = LangChainRetriever(index=index, k=2, regions=2)
    found = retriever.invoke(QUERY)
    assert [page.metadata["regions"] for page in found] == wanted
    json.dumps(found[0].metadata)
    assert [page.metadata["regions"] for page in await retriever.ainvoke(QUERY)] == wanted
    assert "regions" not in LangChainRetriever(index=index, k=2).invoke(QUERY)[0].metadata


async def test_llama_index(index, wanted):
    retriever = LlamaIndexRetriever(index, similarity_top_k=2, regions=2)
    found = retriever.retrieve(QUERY)
    assert [item.node.metadata["regions"] for item in found] == wanted
    assert "regions" not in found[0].node.get_content(MetadataMode.LLM)
    assert "regions" not in found[0].node.get_content(MetadataMode.EMBED)
    assert [item.node.metadata["regions"] for item in await retriever.aretrieve(QUERY)] == wanted
    assert "regions" not in LlamaIndexRetriever(index, similarity_top_k=2).retrieve(QUERY)[0].node.metadata


def test_what_has_no_regions_is_refused(index):
    class Embeddings:
        def embed_query(self, text):
            return [1.0]

        def embed_documents(self, texts):
            return [[1.0] for _ in texts]

    store = InMemoryVectorStore(Embeddings())
    store.add_texts(["red apples"])
    with pytest.raises(InputError, match="regions"):
        LangChainRetriever(index=store, reranker=False, regions=1).invoke(QUERY)
    with pytest.raises(InputError, match="regions"):
        LlamaIndexRetriever(index, regions=-1)
