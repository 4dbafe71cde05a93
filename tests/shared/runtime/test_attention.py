"""Packed attention against the plain padded one, which computes padding and masks it away."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from nemotron_rag import load_embedder, load_reranker
from nemotron_rag.runtime import attention
from nemotron_rag.runtime.attention import pack, packed_attention
from nemotron_rag.runtime.features import vision_features
from support.contracts import mixed_passages
from support.devices import either_device

LENGTHS = [5, 1, 9, 9]


def _heads(*, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shape = (sum(LENGTHS), 16)
    made = [torch.randn(1, heads, *shape, generator=generator) for heads in (4, 2, 2)]
    return [tensor.to(device, dtype) for tensor in made]


def _padded(query, key, value, *, causal):
    """All sequences in one batch of the longest one's length: (1, tokens, heads, head_dim)."""
    longest = max(LENGTHS)
    q, k, v = (
        torch.stack([pad(part, (0, 0, 0, longest - part.shape[1])) for part in tensor[0].split(LENGTHS, dim=1)])
        for tensor in (query, key, value)
    )
    seen = torch.arange(longest, device=q.device) < torch.tensor(LENGTHS, device=q.device)[:, None, None, None]
    if causal:
        seen = seen & torch.ones(longest, longest, dtype=torch.bool, device=q.device).tril()
    output = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=0.3, enable_gqa=True)
    rows = [row[:, :n].transpose(0, 1) for row, n in zip(output, LENGTHS, strict=True)]
    return torch.cat(rows).unsqueeze(0)


def _packed(query, key, value, *, causal):
    packing = pack(LENGTHS, query.device)
    output, weights = packed_attention(
        torch.nn.Identity(), query, key, value, None, scaling=0.3, packing=packing, causal=causal
    )
    assert weights is None
    return output


def test_positions_start_anew_in_each_sequence():
    packing = pack(LENGTHS, torch.device("cpu"))
    assert packing.positions.tolist() == [place for n in LENGTHS for place in range(n)]
    assert packing.ends.tolist() == [0, 5, 6, 15, 24]
    assert packing.ends.dtype == torch.int32


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_is_asked_for_the_same(monkeypatch, causal):
    """Where there is no GPU: a stand-in with the arguments of torch's own, computed sequence by sequence."""

    def kernel(*args, **options):
        inspect.signature(real).bind(*args, **options)
        query, key, value, ends, key_ends, longest, key_longest = args
        assert ends is key_ends
        assert longest == key_longest == max(LENGTHS)
        assert options.get("enable_gqa", False) == ("enable_gqa" in inspect.signature(real).parameters)
        rows = []
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))  # (heads, n, head_dim)
            causal = options["window_size"] == (-1, 0)
            rows.append(
                scaled_dot_product_attention(q, k, v, scale=options["scale"], is_causal=causal, enable_gqa=True)
            )
        return torch.cat(rows, dim=1).transpose(0, 1)

    real = pytest.importorskip("torch.nn.attention.varlen").varlen_attn
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "has_kernel", lambda *_, **__: True)
    heads = _heads()
    torch.testing.assert_close(_packed(*heads, causal=causal), _padded(*heads, causal=causal))


def test_a_cpu_has_no_kernel():
    assert not attention.has_kernel(torch.device("cpu"), torch.bfloat16, head_dim=64)


@either_device
@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_there_is_equals_padded(causal, device):
    """On a GPU from Ampere on, with a torch that has it, variable-length FlashAttention; else sequence by sequence."""
    heads = _heads(dtype=torch.bfloat16, device=device)
    there = attention.has_kernel(heads[0].device, torch.bfloat16, head_dim=16)
    able = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    assert there == (able and attention._HAS_KERNEL)
    padded = _padded(*(tensor.float() for tensor in heads), causal=causal)
    torch.testing.assert_close(_packed(*heads, causal=causal).float(), padded, atol=2e-2, rtol=2e-2)


@either_device
@pytest.mark.parametrize("causal", [False, True])
def test_sequence_by_sequence_equals_padded_in_float32(causal, device):
    heads = _heads(device=device)
    assert not attention.has_kernel(heads[0].device, torch.float32, head_dim=16)
    torch.testing.assert_close(_packed(*heads, causal=causal), _padded(*heads, causal=causal))


@either_device
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-4), ("bfloat16", 2e-2)])
def test_every_device_and_format_is_near_the_cpus_float32(reference, device, dtype, tolerance):
    passages = mixed_passages()
    for load, folder, call in [
        (load_embedder, "embed_vl_open_1", lambda model: model.embed_passages(passages)),
        (load_reranker, "rerank_vl_open_1", lambda model: model.score("a query", passages)),
    ]:
        exact = call(load(reference / folder, device="cpu", dtype="float32"))
        vision_features.clear()
        assert abs(call(load(reference / folder, device=device, dtype=dtype)) - exact).max() < tolerance
