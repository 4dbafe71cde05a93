"""A model that is named now and loaded at first use."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import pickle
import subprocess
import sys
import threading
import time

import pytest

from nemotron_rag.errors import CheckpointError, ClosedError, InputError, UnknownModelError
from nemotron_rag.models import lazy
from nemotron_rag.models.families import FAMILIES
from nemotron_rag.models.lazy import LazyModel, lazy_embedder, lazy_reranker
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker


class Loads:
    """A slow loader that counts."""

    def __init__(self):
        self.options = []

    def __call__(self, name, *kinds, **options):
        time.sleep(0.05)
        self.options.append(options)
        return FakeReranker()


@pytest.fixture
def loads(monkeypatch):
    loader = Loads()
    monkeypatch.setattr(lazy, "load_model", loader)
    return loader


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama_nemotron_vl_rerank"}')
    return tmp_path


def test_loads_once_at_first_use(loads, folder):
    model = lazy_reranker(folder, device="cpu", dtype=None)
    assert (model.name, loads.options) == (str(folder), [])
    threads = [threading.Thread(target=model.get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.get() is model.get()
    assert loads.options == [{"device": "cpu"}]


async def test_loading_does_not_block_the_loop(loads, folder):
    model = lazy_reranker(folder)
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


def test_what_was_loaded_here_is_closed_and_can_be_loaded_again(loads, folder):
    model = lazy_reranker(folder)
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
    for wrong, got in ((3, "int"), (None, "NoneType"), (FakeReranker(), "a reranker, FakeReranker")):
        with pytest.raises(InputError, match=f"loaded embedder, got {got}"):
            lazy_embedder(wrong)
    with pytest.raises(InputError, match="loaded embedder, got a multivector_embedder, FakeMultiVectorEmbedder"):
        lazy_embedder(FakeMultiVectorEmbedder())
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device must be 'cpu'"),
        ({"dtype": "float8"}, "dtype must be one of float32"),
        ({"max_input_tiles": 0}, "max_input_tiles must be a positive integer, got 0"),
        ({"max_input_tiles": True}, "max_input_tiles must be a positive integer, got True"),
        ({"max_length": {"page": 3}}, "max_length has no key 'page'"),
        ({"dimensions": 64}, "has no use for dimensions"),
        ({"colour": "red"}, "'colour' is not an option"),
        ({"revision": "main"}, "not on the model hub"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(loads, folder, options, message):
    with pytest.raises(InputError, match=message):
        lazy_reranker(folder, **options)
    assert loads.options == []


def test_a_folder_of_another_kind_or_of_none_is_refused(folder, tmp_path_factory):
    with pytest.raises(InputError, match="of kind reranker, wanted embedder; load it with load_reranker"):
        lazy_embedder(folder)
    with pytest.raises(CheckpointError, match="holds no config.json"):
        lazy_embedder(tmp_path_factory.mktemp("empty"))


def test_the_options_of_a_family_are_those_of_its_loader():
    for family in FAMILIES:
        module = importlib.import_module(f"nemotron_rag.models.{family.module}")
        known = inspect.signature(module.load).parameters.keys()
        assert family.options == known - {"folder", "name", "revision", "device", "dtype"}, family.module


def test_options_are_checked_without_torch():
    code = (
        "import sys\nfrom nemotron_rag.models.lazy import lazy_embedder\n"
        "lazy_embedder('llama-nemotron-embed-vl-1b-v2', device='cuda:1', max_input_tiles=2)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
