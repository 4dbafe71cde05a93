"""LangChain's own suite for vector stores, unmodified, over several embeddings and places."""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from langchain_nemotron_rag import NemotronEmbeddings
from langchain_nemotron_rag.vectorstores import NemotronPageVectorStore
from nemotron_rag.testing import FakeEmbedder
from support.qdrant_server import Server


class TestInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        store = NemotronPageVectorStore(self.get_embeddings())
        yield store
        store.close()


class TestInFolder(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()), location=tmp_path / "store")
        yield store
        store.close()


class TestOnServer(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return NemotronPageVectorStore(self.get_embeddings(), client=Server().client(), images=None)


class TestRealCheckpoint(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, embeddings):
        store = NemotronPageVectorStore(embeddings)
        yield store
        store.close()


class TestStarterWeights(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        store = NemotronPageVectorStore(NemotronEmbeddings(model="starter-embed-vl", device="cpu"))
        yield store
        store.close()
