"""gRPC with a server: found where it is, left where it is not, its failures in our words."""

from __future__ import annotations

import logging

import grpc
import numpy as np
import pytest

from nemotron_rag.errors import StoreError
from nemotron_rag.late_interaction.projection import projected_dimensions
from nemotron_rag.stores.qdrant import Qdrant, QdrantStore, opening
from nemotron_rag.stores.qdrant.opening import answers_grpc
from nemotron_rag.types import Page, StoredPage
from support.qdrant_grpc import GrpcServer

pytestmark = pytest.mark.slow

URL = "http://127.0.0.1:6333"


@pytest.fixture
def server(monkeypatch):
    with GrpcServer() as running:
        monkeypatch.setattr(opening, "answers_grpc", lambda url: answers_grpc(url, port=running.port))
        monkeypatch.setattr(opening, "GRPC_PORT", running.port)
        yield running


def pages(count: int, text: str = "red apples") -> list[StoredPage]:
    return [
        StoredPage.of(Page(id=f"p{n}", source="a.pdf", number=n, text=text), content_hash="c") for n in range(count)
    ]


def test_pages_are_written_and_found_by_grpc(server):
    store = QdrantStore(URL)
    store.create(dimensions=8, record={"model": "m"}, token_storage="float16")
    assert store.read_record() == {"model": "m"}
    rows = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    store.put(pages(3), list(rows))
    assert [(found.page.number, round(score, 4)) for found, score in store.query(rows[1], k=1)] == [(1, 5.0)]
    assert len(store.query(rows[1], k=3, words="apples")) == 3
    assert {method for method, _ in server.called} == {
        *("CollectionExists", "Create", "CreateFieldIndex", "Get", "Count", "Upsert", "Query")
    }
    store.close()


def test_a_number_takes_four_bytes_and_requests_are_cut_by_bytes(server):
    store = QdrantStore(URL)
    store.create(dimensions=1024, record={}, token_storage="float16")
    rows = np.full((1000, 1024), 1 / 32, dtype=np.float16)
    store.put(pages(5), [rows] * 5)
    sizes = [size for method, size in server.called if method == "Upsert"][2:]  # behind the record and the basis
    assert len(sizes) == 2
    assert max(sizes) < 16 * 2**20
    assert sum(sizes) < 5 * 1000 * (1024 + projected_dimensions(1024)) * 4.1
    store.close()


def test_failures_are_one_line_and_tried_again_only_if_that_may_help(server, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr("nemotron_rag.stores.patience._wait", lambda seconds: pauses.append(seconds) or True)
    store = QdrantStore(URL)
    store.create(dimensions=4, record={})
    server.failures = [grpc.StatusCode.UNAVAILABLE]
    store.put(pages(1), np.eye(1, 4, dtype=np.float32))
    assert len(pauses) == 1
    server.failures = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(StoreError, match="gRPC INVALID_ARGUMENT no, not now"):
        store.put(pages(1), np.eye(1, 4, dtype=np.float32))
    assert len(pauses) == 1
    for use in (store.exists, store.read_record, store.count, lambda: list(store.pages()), lambda: store.get(["p1"])):
        server.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL]
        use()
    assert len(pauses) == 1 + 3 * 5
    store.close()


def test_a_closed_port_leaves_rest(caplog):
    qdrant = Qdrant("http://127.0.0.1:1", prefer_grpc=True)
    with caplog.at_level(logging.INFO, logger="nemotron_rag"):
        assert qdrant.bytes_per_number == 20
    assert "does not answer gRPC at port 6334; REST is used" in caplog.text
    qdrant.close()


def test_a_port_that_speaks_something_else_is_no_grpc(server):
    assert answers_grpc("http://127.0.0.1", port=server.port)
    assert not answers_grpc("https://127.0.0.1", port=server.port)
    assert not answers_grpc("http://[::1]:6333", port=1)
