"""How much goes through a network at once: the formula against memory that was measured, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nemotron_rag import Passage, load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.models._base.packed import token_bytes
from nemotron_rag.models._llama.layers import BidirectionalLlama, llama_config
from nemotron_rag.models._llama.model import VLModel
from nemotron_rag.models._llama.tower import tower_patch_bytes
from nemotron_rag.models._mistral.model import MistralModel
from nemotron_rag.models._qwen.model import QwenModel
from nemotron_rag.runtime import budget
from nemotron_rag.runtime.attention import pack
from nemotron_rag.runtime.budget import tokens_at_once
from support.contracts import make_image, mixed_passages
from support.devices import ON_A_GPU

TOKENS = 256
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def _peak(compute) -> int:
    """Most bytes of tensors alive at once while it runs."""
    with torch.inference_mode():
        compute()  # what stays from a first call is not counted
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            compute()
    changes = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]).max())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("mlp", "heads", "kv_heads"), [(1024, 4, 1), (128, 4, 2), (256, 8, 8)])
def test_llama_needs_what_the_formula_says(dtype, mlp, heads, kv_heads):
    fields = {"vocab_size": 8, "hidden_size": 256, "num_hidden_layers": 2, "head_dim": 64, "intermediate_size": mlp}
    config = llama_config(fields | {"num_attention_heads": heads, "num_key_value_heads": kv_heads})
    model = BidirectionalLlama(config).eval().to(dtype)
    embeddings = torch.zeros(TOKENS, 256, dtype=dtype)
    needed = _peak(lambda: model(embeddings, pack([TOKENS // 2] * 2, embeddings.device))) / TOKENS
    assert needed <= token_bytes(config, dtype) <= 2.5 * needed


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tower_needs_what_the_formula_says(dtype):
    model: VLModel = load_embedder("starter-embed-vl", device="cpu", dtype=dtype)._model
    config = model.config
    tower = model._stack.vision_model
    pixels = torch.zeros(1, 3, config.tile_size, config.tile_size, dtype=getattr(torch, dtype))
    needed = _peak(lambda: tower(pixels)) / (config.tile_size // config.patch_size) ** 2
    assert needed <= tower_patch_bytes(config.vision, pixels.dtype) <= 2.5 * needed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("load", "case"), [(load_multivector_embedder, "colembed_qwen3vl_open_1"), (load_reranker, "jina_m0_open_1")]
)
def test_qwen_needs_what_the_formulas_say(reference, load, case, dtype):
    model: QwenModel = load(reference / case, device="cpu", dtype=dtype)._model
    config, stack = model.config, model._stack
    values = 3 * config.pixels.temporal_patch_size * config.pixels.patch_size**2
    patches = torch.zeros(TOKENS, values, dtype=getattr(torch, dtype))
    needed = _peak(lambda: stack.visual(patches, [(16, TOKENS // 16)])) / TOKENS
    assert needed <= config.patch_bytes(patches.dtype) <= 2.5 * needed
    positions = torch.arange(TOKENS).expand(3, -1)
    ids = torch.zeros(TOKENS, dtype=torch.long)
    needed = _peak(lambda: stack(ids, positions, [TOKENS // 2] * 2)) / TOKENS
    assert needed <= token_bytes(config.text, patches.dtype) <= 2.5 * needed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nemotron35_needs_what_the_formulas_say(reference, dtype):
    model: MistralModel = load_embedder(reference / "nemotron35_embed_open_1", device="cpu", dtype=dtype)._model
    config, stack = model.config, model._stack
    patches = torch.zeros(TOKENS, 3 * config.vision.patch_size**2, dtype=getattr(torch, dtype))
    needed = _peak(lambda: stack.vision_tower(patches, [(16, TOKENS // 16)])) / TOKENS
    assert needed <= config.vision.patch_bytes(patches.dtype) <= 2.5 * needed
    ids = torch.zeros(TOKENS, dtype=torch.long)
    needed = _peak(lambda: stack(ids, pack([TOKENS // 2] * 2, ids.device))) / TOKENS
    assert needed <= token_bytes(config.text, patches.dtype) <= 2.5 * needed


def test_free_memory_decides_on_cuda(monkeypatch):
    gigabyte = 1 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * gigabyte, 8 * gigabyte))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * gigabyte)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: gigabyte)
    assert tokens_at_once(CUDA, token_bytes=1 << 18) == 2 * gigabyte >> 18
    assert tokens_at_once(CUDA, token_bytes=1 << 10) == budget._ENOUGH["cuda"]
    assert tokens_at_once(CUDA, token_bytes=1 << 40) == 1
    assert tokens_at_once(CPU, token_bytes=1 << 40) == budget._ENOUGH["cpu"]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_results_do_not_depend_on_the_batch(reference, monkeypatch, dtype, tolerance):
    """README states these tolerances; bfloat16 has 8 bits, whose rounding follows the order of the products."""
    passages = [*mixed_passages(), *[Passage("more of it " * n, make_image(n)) for n in range(1, 6)]]
    found = []
    for tokens in (1, 300, 100_000):
        monkeypatch.setattr(budget, "_ENOUGH", {"cpu": tokens})
        embedder = load_embedder(reference / "embed_vl_open_1", device="cpu", dtype=dtype)
        assert embedder._model._worker._waiting._budget == tokens
        found.append(embedder.embed_passages(passages))
        del embedder
    for rows in found[1:]:
        np.testing.assert_allclose(rows, found[0], atol=tolerance)


@pytest.mark.parametrize(
    ("device", "dtype", "hidden"),
    [("cpu", torch.float32, 256), pytest.param("cuda", torch.bfloat16, 2048, marks=ON_A_GPU)],
)
def test_the_budget_fits_and_is_used(device, dtype, hidden):
    """A batch of the whole budget takes at most what was meant for it, and not much less."""
    heads = hidden // 64
    fields = {"vocab_size": 8, "hidden_size": hidden, "num_hidden_layers": 2, "intermediate_size": 4 * hidden}
    llama = llama_config(fields | {"num_attention_heads": heads, "num_key_value_heads": heads // 4, "head_dim": 64})
    model = BidirectionalLlama(llama).eval().to(device, dtype)
    per_token = token_bytes(llama, dtype)
    tokens = tokens_at_once(torch.device(device), token_bytes=per_token)
    embeddings = torch.zeros(tokens, hidden, dtype=dtype, device=device)
    packing = pack([tokens // 8] * 8, embeddings.device)
    used = (_peak_on_device if device == "cuda" else _peak)(lambda: model(embeddings[: sum(packing.lengths)], packing))
    assert tokens * per_token / 4 < used < tokens * per_token


def _peak_on_device(compute) -> int:
    """The same as `_peak`, on a GPU."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        compute()
    return torch.cuda.max_memory_allocated() - before
