"""One contract for every store of pages: the fake, and Qdrant in memory, in a folder, and behind REST and gRPC.

With NEMOTRON_RAG_TEST_QDRANT=http://localhost:6333, a real server too; see docs/server.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest

from nemotron_rag.protocols import PageStore
from nemotron_rag.stores.qdrant import Qdrant, QdrantStore, opening
from nemotron_rag.testing import FakePageStore
from support.contracts import PageStoreContract
from support.qdrant_grpc import GrpcServer
from support.qdrant_server import Server

SERVER = os.environ.get("NEMOTRON_RAG_TEST_QDRANT")


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


@pytest.mark.slow
@pytest.mark.enable_socket
@pytest.mark.skipif(SERVER is None, reason="NEMOTRON_RAG_TEST_QDRANT names no server")
class TestQdrantServer(PageStoreContract):
    @pytest.fixture
    def store(self):
        name = f"nemotron-rag-test-{uuid.uuid4().hex}"
        opened = QdrantStore(SERVER, collection=name)
        yield opened
        opened.close()
        qdrant = Qdrant(SERVER)
        qdrant.call("delete_collection", collection_name=name)
        qdrant.close()


def test_without_a_wheel_of_edge_folders_are_those_of_the_local_mode(tmp_path):
    code = (
        "import sys; sys.modules['qdrant_edge'] = None\n"
        "from nemotron_rag import cli\n"
        "from nemotron_rag.index import PageIndex\n"
        "from nemotron_rag.testing import FakeEmbedder\n"
        "from nemotron_rag.types import Page\n"
        "with PageIndex(sys.argv[1], embedder=FakeEmbedder()) as index:\n"
        "    index.add([Page(id='p1', text='apples')], progress=False)\n"
        "    print([hit.page.id for hit in index.search('apples')])\n"
        "cli.main(['info', sys.argv[1]])\n"
        "cli.main(['migrate', sys.argv[1]])"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert ran.stdout.startswith("['p1']\n1 page of ")
    assert "engine qdrant-client, local mode" in ran.stdout
    assert "Qdrant Edge is not installed; install it with: pip install qdrant-edge-py" in ran.stderr


def test_fakes_need_neither_torch_nor_qdrant():
    code = (
        "import sys; import nemotron_rag.testing\n"
        "print([name for name in ('torch', 'transformers', 'qdrant_client', 'fsspec') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
