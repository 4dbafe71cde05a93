"""One contract for every store of pages: the fake, and Qdrant in memory, in a folder, and behind REST and gRPC."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nemotron_rag.protocols import PageStore
from nemotron_rag.stores.qdrant import QdrantStore, opening
from nemotron_rag.testing import FakePageStore
from support.contracts import PageStoreContract
from support.qdrant_grpc import GrpcServer
from support.qdrant_server import Server


class TestFake(PageStoreContract):
    @pytest.fixture
    def store(self) -> PageStore:
        return FakePageStore()


class TestQdrantInMemory(PageStoreContract):
    @pytest.fixture
    def store(self) -> PageStore:
        return QdrantStore()


class TestQdrantEdge(PageStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        opened = QdrantStore(tmp_path / "index")
        assert opened.engine == "edge"
        yield opened
        opened.close()


@pytest.mark.slow
class TestQdrantLocalMode(PageStoreContract):
    many = 260  # each is synchronised to the disk

    @pytest.fixture
    def store(self, tmp_path, monkeypatch):
        monkeypatch.setattr(opening, "EdgeClient", None)  # as where there is no wheel of it
        opened = QdrantStore(tmp_path / "index")
        assert opened.engine == "local"
        yield opened
        opened.close()


@pytest.mark.slow
class TestQdrantByRest(PageStoreContract):
    @pytest.fixture
    def store(self):
        return QdrantStore(client=Server().client())


@pytest.mark.slow
class TestQdrantByGrpc(PageStoreContract):
    @pytest.fixture
    def store(self, monkeypatch):
        with GrpcServer() as server:
            monkeypatch.setattr(opening, "answers_grpc", lambda url: True)
            monkeypatch.setattr(opening, "GRPC_PORT", server.port)
            opened = QdrantStore("http://127.0.0.1:6333")
            yield opened
            opened.close()


def test_fakes_need_neither_torch_nor_qdrant():
    code = (
        "import sys; import nemotron_rag.testing\n"
        "print([name for name in ('torch', 'transformers', 'qdrant_client', 'fsspec') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
