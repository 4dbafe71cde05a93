"""Batching, attention, worker and device choice, apart from any model."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from nemotron_rag import Passage
from nemotron_rag.errors import ClosedError, InputError, ItemTooLargeError, NonFiniteError
from nemotron_rag.runtime import worker as worker_module
from nemotron_rag.runtime.device import resolve_device, resolve_dtype
from nemotron_rag.runtime.timing import Timer, timed
from nemotron_rag.runtime.windows import WINDOW, arun_windows, run_windows
from nemotron_rag.runtime.worker import Worker


@dataclass(frozen=True)
class Item:
    value: float
    tokens: int


class Model:
    """Computes each item's value; notes its batches and can be told to fail."""

    def __init__(self, budget=10, compute=None):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self._answer = compute or _values
        self.worker = Worker("test", self.compute, budget=budget)

    def compute(self, batch):
        self.gate.wait(10)
        self.batches.append([item.value for item in batch])
        return self._answer(batch)

    def run(self, costs):
        return [row.item() for row in run_windows(_items(costs), prepare=lambda item, _: item, worker=self.worker)]

    async def arun(self, costs):
        rows = await arun_windows(_items(costs), prepare=lambda item, _: item, worker=self.worker)
        return [row.item() for row in rows]


def _items(costs):
    return [Item(float(i), cost) for i, cost in enumerate(costs)]


def _values(batch):
    return torch.tensor([[item.value] for item in batch])


def test_batches_keep_to_the_budget_longest_first():
    costs = [3, 9, 1, 4, 20, 2]
    model = Model(budget=10)
    assert model.run(costs) == [float(i) for i in range(6)]
    by_cost = [[costs[int(value)] for value in batch] for batch in model.batches]
    assert [cost for batch in by_cost for cost in batch] == sorted(costs, reverse=True)
    assert all(sum(batch) <= 10 or len(batch) == 1 for batch in by_cost)


def test_a_short_call_overtakes_a_long_one():
    model = Model(budget=10)
    model.gate.clear()
    long = model.worker.submit([Item(-1, 10)] * 20)
    while len(model.worker._waiting._jobs[0].left) == 20:
        time.sleep(0.001)
    short = model.worker.submit([Item(7, 2)])
    model.gate.set()
    assert short.result(10)[0].item() == 7
    assert len(long.result(10)) == 20
    assert [7.0] in model.batches[:3]


async def test_order_is_restored_over_many_windows():
    costs = [(i * 7) % 11 + 1 for i in range(3 * WINDOW + 5)]
    assert Model().run(costs) == [float(i) for i in range(len(costs))]
    assert await Model().arun(costs) == [float(i) for i in range(len(costs))]


def test_inputs_are_prepared_two_windows_ahead_at_most():
    model = Model(budget=1000)
    prepared = []

    def prepare(item, _):
        assert len(prepared) < sum(map(len, model.batches)) + 2 * WINDOW
        prepared.append(item)
        return item

    run_windows(_items([1] * 6 * WINDOW), prepare=prepare, worker=model.worker)
    assert len(prepared) == 6 * WINDOW


def test_out_of_memory_halves_and_loses_nothing():
    def compute(batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("full")
        return _values(batch)

    model = Model(compute=compute)
    assert model.run([1] * 9) == [float(i) for i in range(9)]
    assert max(map(len, model.batches)) == 9
    model.batches.clear()
    assert model.run([1] * 9) == [float(i) for i in range(9)]
    assert max(map(len, model.batches)) < 3  # what did not fit is not tried again


@pytest.mark.parametrize(
    "message",
    [
        "MPS backend out of memory (MPS allocated: 5.44 GB)",
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
    ],
)
def test_out_of_memory_off_cuda_halves_too(message):
    def compute(batch):
        if len(batch) > 2:
            raise RuntimeError(message)
        return _values(batch)

    assert Model(compute=compute).run([1] * 5) == [float(i) for i in range(5)]


def test_one_item_too_large_says_its_size():
    def compute(batch):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(ItemTooLargeError, match="an input of 7 tokens alone"):
        Model(compute=compute).run([7])


def test_not_finite_names_the_input():
    def compute(batch):
        return torch.tensor([[float("nan") if item.value == 40 else 0.0] for item in batch])

    with pytest.raises(NonFiniteError, match="input 40 "):
        Model(compute=compute).run([1] * 50)


def test_calls_that_wait_together_are_merged():
    model = Model(budget=100)
    model.gate.clear()
    first = model.worker.submit([Item(0, 1)])
    while model.worker._waiting._jobs:
        time.sleep(0.001)  # the worker has taken the first call and stands at the gate
    others = [model.worker.submit([Item(i, 1), Item(-i, 1)]) for i in range(1, 9)]
    model.gate.set()
    assert [[row.item() for row in other.result(10)] for other in others] == [[i, -i] for i in range(1, 9)]
    assert first.result()[0].item() == 0
    assert [len(batch) for batch in model.batches] == [1, 16]


def test_an_exception_reaches_its_caller_only():
    def compute(batch):
        if any(item.value == 3 for item in batch):
            raise ZeroDivisionError
        return _values(batch)

    model = Model(budget=100, compute=compute)
    model.gate.clear()
    blocked = model.worker.submit([Item(0, 1)])
    calls = [model.worker.submit([Item(i, 1)]) for i in range(1, 6)]
    model.gate.set()
    assert blocked.result()[0].item() == 0
    for i, call in enumerate(calls, 1):
        if i == 3:
            with pytest.raises(ZeroDivisionError):
                call.result(10)
        else:
            assert call.result(10)[0].item() == i


async def test_a_cancelled_call_is_not_computed():
    model = Model(budget=1)
    model.gate.clear()
    running = asyncio.create_task(model.arun([1]))
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(model.arun([1, 1, 1]))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    model.gate.set()
    assert await running == [0.0]
    assert model.run([1]) == [0.0]
    assert len(model.batches) == 2


def test_many_threads_get_their_own_rows():
    model = Model(budget=7)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: model.run([1] * n), [1, 40, 3, 70, 5, 2] * 10))
    assert [len(answer) for answer in answers] == [1, 40, 3, 70, 5, 2] * 10
    assert all(answer == [float(i) for i in range(len(answer))] for answer in answers)


def test_callers_wait_while_too_much_is_prepared(monkeypatch):
    monkeypatch.setattr(worker_module, "_MAX_WAITING", 10)
    model = Model()
    model.gate.clear()
    model.worker.submit([Item(0, 8)])
    while model.worker._waiting._jobs:
        time.sleep(0.001)
    model.worker.submit([Item(1, 8)])
    late = threading.Thread(target=lambda: model.worker.submit([Item(2, 8)]).result(10))
    late.start()
    time.sleep(0.05)
    assert len(model.worker._waiting._jobs) == 1
    model.gate.set()
    late.join(10)
    assert model.batches == [[0], [1], [2]]


@pytest.mark.slow
def test_the_thread_ends_with_its_model():
    model = Model()
    model.run([1])
    threads = [thread for thread in threading.enumerate() if thread.name == "nemotron-rag test"]
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_device_and_dtype():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_dtype(None, torch.device("cpu")) == torch.float32
    assert resolve_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("bf16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(InputError, match="device 'tpu9'"):
        resolve_device("tpu9")


def test_images_are_prepared_side_by_side_and_texts_are_not():
    """Two images wait for each other: prepared one after the other, they would do so in vain."""
    meeting = threading.Barrier(2, timeout=10)
    caller = threading.get_ident()

    def prepare(passage, index):
        if passage.image is None:
            assert threading.get_ident() == caller
        else:
            meeting.wait()
        return Item(float(index), 1)

    model = Model()
    for passages in ([Passage(image="a"), Passage(image="b")], [Passage("a"), Passage("b")]):
        rows = run_windows(passages, prepare=prepare, worker=model.worker)
        assert [row.item() for row in rows] == [0.0, 1.0]


def test_of_several_bad_images_the_first_is_named():
    def prepare(passage, index):
        time.sleep(0.01 * (5 - index))
        if index >= 2:
            raise InputError(f"passage {index}")
        return Item(0.0, 1)

    with pytest.raises(InputError, match="passage 2"):
        run_windows([Passage(image="x")] * 5, prepare=prepare, worker=Model().worker)


async def test_preparing_is_timed_for_who_watches():
    timers = {"preprocess": Timer()}
    model = Model()
    with timed(timers):
        model.run([1] * 3)
        once = timers["preprocess"].seconds
        await model.arun([1] * 3)
    assert 0 < once < timers["preprocess"].seconds
    twice = timers["preprocess"].seconds
    model.run([1] * 3)
    assert timers["preprocess"].seconds == twice


@pytest.mark.slow
def test_two_devices_share_one_call():
    first, second = Model(budget=16), Model(budget=16)
    first.worker.add(second.compute)
    first.gate.clear()  # the first one is slow, but has its share
    second.gate.clear()
    job = first.worker.submit(_items([1] * 16))
    while first.worker._waiting._jobs:
        time.sleep(0.001)
    first.gate.set()
    second.gate.set()
    assert [row.item() for row in job.result(10)] == [float(i) for i in range(16)]
    assert sorted(map(len, first.batches + second.batches)) == [2, 2, 4, 8]
    assert first.batches
    assert second.batches


def test_many_threads_and_devices_get_their_own_rows():
    models = [Model(budget=7) for _ in range(3)]
    for other in models[1:]:
        models[0].worker.add(other.compute)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: models[0].run([1] * n), [1, 40, 3, 70, 5, 2] * 10))
    assert [len(answer) for answer in answers] == [1, 40, 3, 70, 5, 2] * 10
    assert all(answer == [float(i) for i in range(len(answer))] for answer in answers)


def test_a_device_that_is_gone_answers_all_calls():
    def gone(batch):
        raise ClosedError("gone")

    model = Model(budget=2, compute=gone)
    model.gate.clear()
    calls = [model.worker.submit(_items([1, 1, 1])) for _ in range(3)]
    model.gate.set()
    for call in [*calls, model.worker.submit(_items([1]))]:
        with pytest.raises(ClosedError, match="gone"):
            call.result(10)
    assert len(model.batches) == 1
