"""Processes on other devices: the same results as one, and no loss when one of them dies."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest
import torch

from nemotron_rag import Page, Passage, load_embedder, load_reranker
from nemotron_rag.errors import ClosedError, InputError, NemotronRagError
from nemotron_rag.runtime import budget
from nemotron_rag.runtime.batching import compute_batch
from nemotron_rag.runtime.processes.replica import Replica
from support.contracts import make_image, mixed_passages
from support.devices import ON_A_GPU
from support.replica import Item, make_doubling, make_nothing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def doubling():
    replica = Replica(make_doubling, device="cuda:7")
    replica.wait()
    yield replica
    replica.close()


@pytest.fixture
def pair(reference, monkeypatch):
    monkeypatch.setattr(budget, "_ENOUGH", {"cpu": 200})  # many batches
    return load_embedder(reference / "embed_vl_open_1", device="cpu, cpu")


def _note_batches(replica, monkeypatch) -> list[int]:
    """How many inputs each batch has that goes to a process."""
    sizes = []
    send = replica._send

    def noted(batch):
        sizes.append(len(batch))
        send(batch)

    monkeypatch.setattr(replica, "_send", noted)
    return sizes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_rows_come_back(doubling, dtype):
    values = torch.arange(12).view(3, 4).T.to(dtype)
    rows = doubling.compute([Item(values), Item(values[:1])])
    assert torch.equal(rows[0], values.float() * 2)
    assert torch.equal(rows[1], values[:1].float() * 2)


def test_an_error_there_is_an_error_here(doubling):
    with pytest.raises(RuntimeError, match="OwnError: this input is bad"):
        doubling.compute([Item(torch.ones(1), order="fail")])
    told = []
    items = [Item(torch.full((1,), float(i))) for i in range(5)]
    rows = list(compute_batch(items, doubling.compute, too_many=told.append))
    assert [row.item() for row in rows] == [0, 2, 4, 6, 8]
    assert told == [5, 3]


def test_a_process_that_ends_says_so():
    replica = Replica(make_doubling, device="cuda:7")
    replica.wait()
    for _ in range(2):
        with pytest.raises(ClosedError, match=r"on cuda:7 has ended \(status 3\); close the model and load it again"):
            replica.compute([Item(torch.ones(1), order="exit")])


def test_a_process_that_cannot_load_says_why():
    replica = Replica(make_nothing, device="cuda:7")
    with pytest.raises(ValueError, match="no weights here"):
        replica.wait()
    replica.close()
    assert replica._process.returncode == 0


def test_a_process_that_cannot_start_says_what_was_wanted(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(NemotronRagError, match=r"could not start a worker process \('/nowhere/python'\) for cuda:7"):
        Replica(make_doubling, device="cuda:7")
    monkeypatch.setattr("sys.executable", "/bin/false")
    replica = Replica(make_doubling, device="cuda:7")
    with pytest.raises(NemotronRagError, match=r"could not start a worker process \('/bin/false'\) for cuda:7"):
        replica.wait()


def test_two_devices_give_what_one_gives(pair, reference, monkeypatch):
    [replica] = pair._model._replicas
    sent = _note_batches(replica, monkeypatch)
    passages = [*mixed_passages() * 3, *[Passage(image=make_image(i)) for i in range(20)]]
    together = pair.embed_passages(passages)
    alone = load_embedder(reference / "embed_vl_open_1", device="cpu")
    np.testing.assert_allclose(together, alone.embed_passages(passages), atol=1e-5)
    assert pair.identity == alone.identity
    assert 0 < sum(sent) < len(passages)  # both had their share
    process = replica._process
    monkeypatch.undo()
    pair.close()
    del replica  # nobody holds the model any more
    gc.collect()
    process.wait(20)
    assert process.poll() is not None


def test_a_device_that_is_not_there(reference):
    with pytest.raises(InputError, match="device 'cuda:97' cannot be used here"):
        load_embedder(reference / "embed_vl_open_1", device="cpu,cuda:97")
    with pytest.raises(InputError, match="device must be 'cpu', .* got 'cpu,tpu9'"):
        load_embedder(reference / "embed_vl_open_1", device="cpu,tpu9")


def test_nothing_indexed_is_lost_when_a_process_dies(pair, reference, tmp_path):
    from nemotron_rag import PageIndex  # the others need neither Qdrant nor a reader of PDFs
    from support.pages import add

    pages = [Page(id=f"page-{i}", number=1, text=f"text {i} " * 30) for i in range(100)]

    def dying():
        yield from pages[:50]
        while not index.count():
            time.sleep(0.01)
        pair._model._replicas[0]._process.kill()
        yield from pages[50:]

    with PageIndex(tmp_path, embedder=pair) as index:
        with pytest.raises(ClosedError, match="has ended"):
            add(index, dying())
        there = index.count()
        assert 0 < there < 100
        with pytest.raises(ClosedError, match="has ended"):
            add(index, pages)
        assert index.count() == there
    pair.close()
    with PageIndex(tmp_path, embedder=load_embedder(reference / "embed_vl_open_1", device="cpu")) as index:
        report = add(index, pages)
        assert (report.added, report.unchanged, report.failures) == (100 - there, there, ())


_TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize(
    ("one", "two", "tolerance"),
    [
        pytest.param("cpu", "cpu,cpu", 1e-5, id="cpu"),
        pytest.param("cuda:0", "cuda:0,cuda:1", 2e-2, marks=[*ON_A_GPU, _TWO_GPUS], id="cuda"),
        pytest.param("cuda:0", "cuda:0,cuda:0", 2e-2, marks=ON_A_GPU, id="cuda-twice"),
    ],
)
def test_a_reranker_too(reference, one, two, tolerance):
    passages = mixed_passages() * 5
    together, alone = (load_reranker(reference / "rerank_vl_open_1", device=device) for device in (two, one))
    np.testing.assert_allclose(together.score("a query", passages), alone.score("a query", passages), atol=tolerance)
    assert len(together._model._replicas) == 1
    together.close()
