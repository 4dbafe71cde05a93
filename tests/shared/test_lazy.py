"""A model that is named now and loaded at first use."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time

import pytest

from nemotron_rag import lazy
from nemotron_rag.errors import ClosedError, InputError, UnknownModelError
from nemotron_rag.lazy import LazyModel, lazy_embedder, lazy_reranker
from nemotron_rag.testing import FakeEmbedder, FakeReranker


class Loads:
    """A slow loader that counts."""

    def __init__(self):
        self.options = []

    def __call__(self, name, **options):
        time.sleep(0.05)
        self.options.append(options)
        return FakeReranker()


@pytest.fixture
def loads(monkeypatch):
    loader = Loads()
    monkeypatch.setattr(lazy, "load_reranker", loader)
    return loader


def test_loads_once_at_first_use(loads, tmp_path):
    model = lazy_reranker(tmp_path, device="cpu", dtype=None)
    assert (model.name, loads.options) == (str(tmp_path), [])
    threads = [threading.Thread(target=model.get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.get() is model.get()
    assert loads.options == [{"device": "cpu"}]


async def test_loading_does_not_block_the_loop(loads, tmp_path):
    model = lazy_reranker(tmp_path)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    first, second = await asyncio.gather(model.aget(), model.aget())
    ticking.cancel()
    assert first is second
    assert ticks >= 3
    assert len(loads.options) == 1


def test_a_given_model_is_used_as_it_is():
    given = FakeReranker()
    model = lazy_reranker(given)
    assert model.get() is given
    assert model.identity == {"model": "fake-reranker"}
    model.close()
    assert given.score("a", []).shape == (0,)


def test_what_was_loaded_here_is_closed_and_can_be_loaded_again(loads, tmp_path):
    model = lazy_reranker(tmp_path)
    first = model.get()
    model.close()
    model.close()
    with pytest.raises(ClosedError):
        first.score("a", [])
    assert model.get() is not first


def test_refuses():
    with pytest.raises(UnknownModelError, match="no model named 'x'"):
        lazy_reranker("x")
    with pytest.raises(InputError, match="of kind embedder, wanted reranker"):
        lazy_reranker("llama-nemotron-embed-vl-1b-v2")
    for wrong in (3, None, FakeReranker()):
        with pytest.raises(InputError, match=f"loaded embedder, got {type(wrong).__name__}"):
            lazy_embedder(wrong)
    with pytest.raises(InputError, match="device, dtype came with a loaded model"):
        lazy_embedder(FakeEmbedder(), device="cpu", dtype="float32", revision=None)


def test_copies_share_and_pickles_carry_names_only(reference):
    model = lazy_reranker(reference / "rerank_vl_open_1", device="cpu")
    model.get()
    assert copy.copy(model) is model
    assert copy.deepcopy(model) is model
    stored = pickle.dumps(model)
    assert len(stored) < 1000
    restored = pickle.loads(stored)
    assert isinstance(restored, LazyModel)
    assert restored.get().identity == model.get().identity


def test_the_identity_of_a_given_model_is_held_to(reference):
    folder = reference / "embed_vl_open_1"
    given = lazy_embedder(folder, dimensions=16).get()
    same = pickle.loads(pickle.dumps(lazy_embedder(given)))
    with pytest.raises(InputError, match="wanted .*'dimensions': 16"):
        same.get()
    with pytest.raises(InputError, match="wanted"):
        lazy_embedder(given, identity={"model": "other"})
    plain = lazy_embedder(folder).get()
    assert pickle.loads(pickle.dumps(lazy_embedder(plain))).get().dimensions == plain.dimensions
