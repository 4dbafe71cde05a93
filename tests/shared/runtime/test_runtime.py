"""Batching, attention, worker and device choice, apart from any model."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from nemotron_rag.errors import ClosedError, InputError, ItemTooLargeError, NonFiniteError
from nemotron_rag.runtime.attention import packed_attention
from nemotron_rag.runtime.batching import WINDOW, plan_batches, run_batches
from nemotron_rag.runtime.device import resolve_device, resolve_dtype
from nemotron_rag.runtime.worker import Worker


@dataclass(frozen=True)
class Item:
    value: float
    tokens: int


@pytest.fixture
def worker():
    made = Worker("test")
    yield made
    made.close()


def _run(costs, worker, compute, budget=10):
    items = [Item(float(i), cost) for i, cost in enumerate(costs)]
    rows = run_batches(items, prepare=lambda item, _: item, compute=compute, worker=worker, budget=budget)
    return [row.item() for row in rows]


def _values(batch):
    return torch.tensor([item.value for item in batch])


def test_plan_is_longest_first_within_the_budget():
    costs = [3, 9, 1, 4, 20, 2]
    plan = plan_batches(costs, 10)
    assert sorted(i for batch in plan for i in batch) == list(range(6))
    assert [costs[i] for batch in plan for i in batch] == sorted(costs, reverse=True)
    assert all(sum(costs[i] for i in batch) <= 10 or len(batch) == 1 for batch in plan)
    assert plan_batches([], 10) == []


def test_order_is_restored_over_many_windows(worker):
    costs = [(i * 7) % 11 + 1 for i in range(3 * WINDOW + 5)]
    assert _run(costs, worker, _values) == [float(i) for i in range(len(costs))]


def test_inputs_are_prepared_lazily(worker):
    prepared = []
    rows = run_batches(
        range(5 * WINDOW),
        prepare=lambda i, _: prepared.append(i) or Item(i, 1),
        compute=_values,
        worker=worker,
        budget=100,
    )
    next(rows)
    assert len(prepared) <= 2 * WINDOW


def test_out_of_memory_halves_and_loses_nothing(worker):
    seen = []

    def compute(batch):
        seen.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("full")
        return _values(batch)

    assert _run([1] * 9, worker, compute) == [float(i) for i in range(9)]
    assert max(seen) == 9


def test_one_item_too_large_says_its_size(worker):
    def compute(batch):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(ItemTooLargeError, match="an input of 7 tokens alone"):
        _run([7], worker, compute)


def test_not_finite_names_the_input(worker):
    def compute(batch):
        return torch.tensor([float("nan") if item.value == 40 else 0.0 for item in batch])

    with pytest.raises(NonFiniteError, match="input 40 "):
        _run([1] * 50, worker, compute)


def test_packed_attention_equals_each_sequence_alone():
    torch.manual_seed(0)
    lengths = [5, 1, 9]
    query, key, value = (torch.randn(1, heads, 15, 8) for heads in (4, 2, 2))
    packed, weights = packed_attention(torch.nn.Identity(), query, key, value, None, scaling=0.3, lengths=lengths)
    assert weights is None
    start = 0
    for n in lengths:
        part = slice(start, start + n)
        wide_key, wide_value = (t[:, :, part].repeat_interleave(2, dim=1) for t in (key, value))
        alone = scaled_dot_product_attention(query[:, :, part], wide_key, wide_value, scale=0.3).transpose(1, 2)
        torch.testing.assert_close(packed[:, part], alone)
        start += n


def test_worker_runs_in_order_on_one_thread_and_refuses_after_close(worker):
    threads = [worker.submit(threading.current_thread) for _ in range(5)]
    assert len({future.result().name for future in threads}) == 1
    worker.close()
    with pytest.raises(ClosedError, match="test was closed"):
        worker.submit(lambda: None)


def test_an_exception_reaches_its_caller_only(worker):
    bad = worker.submit(lambda: 1 / 0)
    good = worker.submit(lambda: 1)
    assert good.result() == 1
    with pytest.raises(ZeroDivisionError):
        bad.result()


def test_device_and_dtype():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_dtype(None, torch.device("cpu")) == torch.float32
    assert resolve_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("bf16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(InputError, match="device 'tpu9'"):
        resolve_device("tpu9")


@pytest.mark.gpu
def test_cuda_equals_cpu(reference):
    from contracts import mixed_passages
    from nemotron_rag import load_embedder

    cpu = load_embedder(reference / "embed_vl_open_1", device="cpu").embed_passages(mixed_passages())
    cuda = load_embedder(reference / "embed_vl_open_1", device="cuda", dtype="float32").embed_passages(mixed_passages())
    assert abs(cpu - cuda).max() < 1e-4
