"""Queries replayed from graphs: the same as without, and nothing in them that a graph cannot hold."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nemotron_rag import Passage, load_embedder, load_multivector_embedder
from nemotron_rag.models._llama import model as _vl_model
from nemotron_rag.models._llama import text_model as _text_model
from nemotron_rag.models._llama.config import read_vl_config
from nemotron_rag.models._llama.network import LlamaNemotronVL
from nemotron_rag.runtime import attention, graphs
from nemotron_rag.runtime.attention import Packing
from nemotron_rag.runtime.graphs import Replay
from support.contracts import make_image
from support.devices import ON_A_GPU

CPU = torch.device("cpu")
QUERIES = ["why", "Which share of people had a disability?", "how " * 30, "so " * 100]


class _OnTheDeviceAlone(TorchDispatchMode):
    """Fails where an operation reads a value back (meta tensors have none) or takes a tensor from elsewhere."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, out)):
            assert not isinstance(value, torch.Tensor) or value.is_meta, func
        return out


def _kernel(query, key, value, ends, _, longest, __, *, scale, **___):
    """Stands in for torch's; reads the lengths from the tensor alone."""
    rows = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert end - start <= longest
        q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
        rows.append(scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True))
    return torch.cat(rows, dim=1).transpose(0, 1)


@pytest.fixture
def _with_kernel(monkeypatch):
    monkeypatch.setattr(attention, "has_kernel", lambda *_, **__: True)
    monkeypatch.setattr(attention, "varlen_attn", _kernel)


@pytest.fixture
def recorded(monkeypatch, _with_kernel):
    """Replays by running again: the list says how many graphs there are."""
    found = []
    monkeypatch.setattr(graphs, "_record", lambda run: found.append(run) or run)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return found


def test_a_graph_holds_all_that_the_llama_does(reference, monkeypatch):
    """Run without values: what waits for the device, or sends something there, fails."""
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(attention, "has_kernel", lambda *_, **__: True)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which no meta device knows
    with torch.device("meta"):
        stack = LlamaNemotronVL(read_vl_config(reference / "embed_vl_open_1"))
        ids, ends = torch.zeros(32, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)
    stack.language_model.rotary_emb.to("meta")
    with torch.inference_mode(), _OnTheDeviceAlone():
        hidden = stack(ids, Packing((32, 0), ends))
    assert hidden.shape == (32, stack.config.llm.hidden_size)


@pytest.mark.usefixtures("_with_kernel")
def test_that_test_would_fail(reference):
    """A stand-in that reads the lengths back is none that a graph could hold."""
    with torch.device("meta"):
        stack = LlamaNemotronVL(read_vl_config(reference / "embed_vl_open_1"))
        ids, ends = torch.zeros(32, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)
    stack.language_model.rotary_emb.to("meta")
    with torch.inference_mode(), _OnTheDeviceAlone(), pytest.raises(RuntimeError):
        stack(ids, Packing((32, 0), ends))


def test_what_follows_the_sequence_does_not_count(recorded):
    seen = []

    def forward(ids, packing):
        seen.append((ids.tolist(), packing.ends.tolist(), packing.positions.tolist()))
        return ids.unsqueeze(1).float()

    replay = Replay(forward, device=CPU)
    assert replay([7, 8, 9]).tolist() == [[7], [8], [9]]
    assert replay([5]).tolist() == [[5]]
    assert replay(list(range(32))).shape == (32, 1)
    assert len(recorded) == 2  # of 32 tokens and of 64
    ids, ends, positions = seen[1]
    assert (ids[0], ends, positions[:3]) == (5, [0, 1, 32], [0, 0, 1])
    assert replay.fits(127)
    assert not replay.fits(128)


@pytest.mark.parametrize(
    ("load", "case"), [(load_embedder, "embed_vl_open_1"), (load_multivector_embedder, "colembed_llama_open_1")]
)
def test_replayed_queries_are_the_same(load, case, reference, monkeypatch, recorded):
    embedder = load(reference / case, device="cpu")
    passages = [Passage("a text"), Passage("another"), Passage(image=make_image(0))]
    expected = [embedder.embed_queries([query])[0] for query in QUERIES]
    expected_passages = [embedder.embed_passages([passage])[0] for passage in passages]
    model = embedder._model
    monkeypatch.setattr(model, "_replay", Replay(model._stack, device=CPU))
    for found in ([embedder.embed_queries([query])[0] for query in QUERIES], embedder.embed_queries(QUERIES)):
        for row, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(row, other, atol=1e-5)
    graphs_of_queries = len(recorded)
    assert graphs_of_queries > 1
    for passage, row in zip(passages, expected_passages, strict=True):
        np.testing.assert_allclose(embedder.embed_passages([passage])[0], row, atol=1e-5)
    assert len(recorded) == graphs_of_queries


def test_a_graph_is_recorded_off_the_main_stream(monkeypatch):
    """The calls that torch's documentation asks for, in order; other threads may allocate while it records."""
    calls = []

    class Stream:
        def wait_stream(self, other):
            calls.append("wait")

    class Graph:
        def replay(self):
            calls.append("replay")

    def recording(graph, *, capture_error_mode):
        calls.append(f"record, {capture_error_mode}")
        return nullcontext()

    cuda = SimpleNamespace(Stream=Stream, CUDAGraph=Graph, graph=recording, current_stream=Stream)
    cuda.stream = lambda stream: nullcontext()
    monkeypatch.setattr(graphs.torch, "cuda", cuda)
    replay = graphs._record(lambda: calls.append("run"))
    warm_up = ["wait", "run", "run", "run", "wait"]
    assert calls == [*warm_up, "record, thread_local", "run"]
    replay()
    assert calls[-1] == "replay"


@pytest.mark.parametrize("case", ["embed_vl_open_1", "embed_text_open_1"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_A_GPU)])
def test_replayed_queries_are_the_same_on_the_device(reference, case, device, request, monkeypatch):
    """Recorded, then replayed; on a CPU with stand-ins for kernel and graphs."""
    if device == "cpu":
        request.getfixturevalue("recorded")
        for module in (_vl_model, _text_model):
            monkeypatch.setattr(module, "has_kernel", attention.has_kernel)
    embedder = load_embedder(reference / case, device=device, dtype="bfloat16")
    replay = embedder._model._replay
    assert bool(replay) == attention.has_kernel(torch.device(device), torch.bfloat16, head_dim=16)
    for _ in range(2):
        for query in QUERIES:
            replayed = embedder.embed_queries([query])
            with monkeypatch.context() as without:
                without.setattr(embedder._model, "_replay", None)
                np.testing.assert_allclose(replayed, embedder.embed_queries([query]), atol=2e-2)
    assert not replay or len(replay._recorded) > 1


def test_nothing_is_recorded_without_the_kernel(reference):
    """A graph needs attention that reads the lengths on the device."""
    assert load_embedder(reference / "embed_vl_open_1", device="cpu")._model._replay is None
    assert load_embedder(reference / "embed_text_open_1", device="cpu")._model._replay is None


@pytest.mark.parametrize("case", ["embed_vl_open_1", "embed_text_open_1"])
def test_graphs_do_not_keep_a_closed_model_alive(reference, case, monkeypatch, recorded):
    for module in (_vl_model, _text_model):
        monkeypatch.setattr(module, "has_kernel", attention.has_kernel)
    embedder = load_embedder(reference / case, device="cpu", dtype="bfloat16")
    embedder.embed_queries(["why"])
    assert recorded
    recorded.clear()
    model = weakref.ref(embedder._model)
    embedder.close()
    assert model() is None
