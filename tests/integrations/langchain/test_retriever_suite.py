"""LangChain's own suite for retrievers, unmodified, over an index folder, with real checkpoints and with fakes."""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever, NemotronPageVectorStore
from nemotron_rag import PageIndex, load_embedder
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.pages import add


class _Suite(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return NemotronPageRetriever

    @property
    def retriever_query_example(self):
        return "Where do tornadoes form?"


class TestFolder(_Suite):
    """By location alone: the embedder is the one that wrote the index."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path, report_pdf, reference):
        embedder = load_embedder(reference / "embed_vl_open_1", device="cpu")
        with PageIndex(tmp_path / "index", embedder=embedder) as index:
            add(index, report_pdf)
        self.params = {
            "index": tmp_path / "index",
            "reranker": reference / "rerank_vl_open_1",
            "device": "cpu",
        }

    @property
    def retriever_constructor_params(self):
        return self.params


class TestStore(_Suite):
    """Over a vector store, with a fake reranker."""

    @pytest.fixture(autouse=True)
    def _store(self):
        store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
        store.add_texts(["tornadoes form in storms", "red apples", "blue whales", "green pears"])
        self.params = {"index": store, "reranker": FakeReranker()}
        yield
        store.close()

    @property
    def retriever_constructor_params(self):
        return self.params
