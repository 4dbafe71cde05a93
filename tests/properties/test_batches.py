"""Batches of any sizes: every item computed once, in order, within memory and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_rag.errors import ItemTooLargeError
from nemotron_rag.models._base.images import grouped
from nemotron_rag.models._qwen.tokenizer import Image
from nemotron_rag.runtime import windows
from nemotron_rag.runtime.batching import compute_batch
from nemotron_rag.runtime.worker import Worker, _Job, _Waiting

sizes = st.integers(1, 30)


@dataclass(frozen=True)
class Item:
    """An input of so many tokens; its row is its name."""

    name: int
    tokens: int


class Device:
    """Computes rows, and runs out of memory above a number of tokens."""

    def __init__(self, memory: int = 10**9) -> None:
        self.memory = memory
        self.batches: list[list[Item]] = []

    def compute(self, items: Sequence[Item]) -> list[torch.Tensor]:
        if sum(item.tokens for item in items) > self.memory:
            raise torch.OutOfMemoryError("out of memory")
        self.batches.append(list(items))
        return [torch.tensor([float(item.name)]) for item in items]


def _items(tokens: Sequence[int]) -> list[Item]:
    return [Item(name, count) for name, count in enumerate(tokens)]


def _names(rows: Sequence[torch.Tensor]) -> list[int]:
    return [int(row) for row in rows]


@given(st.lists(sizes, min_size=1, max_size=20), st.integers(1, 100))
def test_a_batch_that_is_too_large_is_computed_in_parts(tokens, memory):
    device, refused, items = Device(memory), [], _items(tokens)
    if max(tokens) > memory:
        with pytest.raises(ItemTooLargeError, match="lower max_input_tiles or max_length"):
            list(compute_batch(items, device.compute, too_many=refused.append))
        return
    rows = list(compute_batch(items, device.compute, too_many=refused.append))
    assert _names(rows) == [item.name for item in items]
    assert [item for batch in device.batches for item in batch] == items
    assert all(memory < count <= sum(tokens) for count in refused)
    assert bool(refused) == (sum(tokens) > memory)


@given(st.lists(st.lists(sizes, min_size=1, max_size=8), min_size=1, max_size=5), st.integers(1, 60), st.integers(1, 4))
def test_waiting_jobs_are_cut_into_batches_within_the_budget(jobs, budget, devices):
    waiting: _Waiting[Item] = _Waiting(budget)
    for _ in range(devices):
        waiting.add_device()
    put = [_Job.of(_items(tokens), None) for tokens in jobs]
    for job in put:
        waiting.put(job)
    taken: list[tuple[int, int]] = []
    while waiting.tokens:
        batch = waiting.next_batch()
        assert len(batch) == 1 or sum(job.items[i].tokens for job, i in batch) <= budget
        taken += [(put.index(job), i) for job, i in batch]
    assert sorted(taken) == [(n, i) for n, tokens in enumerate(jobs) for i in range(len(tokens))]
    for n, tokens in enumerate(jobs):
        order = [tokens[i] for number, i in taken if number == n]
        assert order == sorted(tokens, reverse=True)


@given(
    st.lists(st.lists(sizes, min_size=1, max_size=8), min_size=1, max_size=5), st.integers(1, 60), st.integers(30, 90)
)
@settings(max_examples=20)
def test_a_worker_answers_every_call_in_order(jobs, budget, memory):
    device = Device(memory)
    worker: Worker[Item] = Worker("property", device.compute, budget=budget)
    answers = [worker.submit(_items(tokens)) for tokens in jobs]
    for tokens, answer in zip(jobs, answers, strict=True):
        assert _names(answer.result(timeout=20)) == list(range(len(tokens)))
    computed = [item for batch in device.batches for item in batch]
    assert len(computed) == sum(map(len, jobs))
    worker._waiting.close()


@given(st.integers(1, 3 * windows.WINDOW + 1))
@settings(max_examples=15)
def test_windows_give_one_row_for_each_input_in_order(count):
    device, prepared = Device(), []
    worker: Worker[Item] = Worker("property", device.compute, budget=100)

    def prepare(value: int, index: int) -> Item:
        prepared.append((value, index))
        return Item(value, 1 + value % 7)

    inputs = [7 * i % 101 for i in range(count)]
    assert _names(windows.run_windows(inputs, prepare=prepare, worker=worker)) == inputs
    assert prepared == [(value, index) for index, value in enumerate(inputs)]
    assert all(len(batch) <= 2 * windows.WINDOW for batch in device.batches)
    assert all(sum(item.tokens for item in batch) <= 100 for batch in device.batches)
    worker._waiting.close()


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12), st.integers(1, 60))
def test_images_are_grouped_by_what_the_tower_takes_at_once(grids, room):
    images = [Image(grid, key=bytes([i])) for i, grid in enumerate(grids)]
    groups = list(grouped(images, room))
    assert [image for group in groups for image in group] == images
    sizes = [sum(image.tokens for image in group) for group in groups]
    assert all(size <= room or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert all(size + group[0].tokens > room for size, group in zip(sizes, groups[1:], strict=False))
