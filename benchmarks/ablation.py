"""Ablation: our package with and without each technique, by patching its internals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from benchmarks.loads import OURS, embed_one_by_one, pages_in_short, run
from benchmarks.measure import Contender
from benchmarks.report import Section
from benchmarks.setup import Setup
from benchmarks.workloads import QUERIES, mixed_passages, mixed_texts, page_images
from nemotron_rag import load_embedder
from nemotron_rag.models._llama import layers, tower
from nemotron_rag.models._llama import model as _vl_model
from nemotron_rag.models._llama.layers import BidirectionalLlama
from nemotron_rag.protocols import Embedder
from nemotron_rag.runtime import attention, windows
from nemotron_rag.runtime.features import vision_features
from nemotron_rag.runtime.graphs import Replay

__all__ = ["ablation", "compiler", "graphs", "kernels", "pages"]

Work: TypeAlias = Callable[[], NDArray[Any]]

_FIXED = 8  # inputs a batch, where their tokens are not counted


def ablation(setup: Setup) -> Iterator[Section]:
    """Each technique beside its absence; kernels and compiler on a GPU only."""
    parts = [_batches, _merging, _features, _preparing]
    if setup.device.type == "cuda":
        parts = [kernels, pages, graphs, *parts, compiler]
    for part in parts:
        yield part(setup)


@contextmanager
def no_packing() -> Iterator[None]:
    """Pad the sequences of a batch to the longest, and mask the padding."""
    with patch.object(BidirectionalLlama, "forward", _padded_forward):
        yield


@contextmanager
def no_feature_cache() -> Iterator[None]:
    """Run every image through the tower for each query."""
    with patch.object(vision_features, "max_bytes", 0):
        vision_features.clear()
        yield


def no_read_ahead() -> AbstractContextManager[object]:
    """Prepare all inputs of a call before the first is computed."""
    return patch.multiple(windows, WINDOW=1 << 30, _FIRST=1 << 30)


def no_varlen_kernel() -> AbstractContextManager[object]:
    """Run attention over one sequence after the other, as on a CPU."""
    return patch.object(attention, "has_kernel", return_value=False)


def no_even_batches() -> AbstractContextManager[object]:
    """Run sequences of one length like those of different lengths."""
    return patch.object(attention, "_is_even", return_value=False)


def no_fused_gelu() -> AbstractContextManager[object]:
    """Compute the tower's activation after the product, not with it."""
    return patch.object(tower, "_LINEAR_GELU", None)


def large_first_window() -> AbstractContextManager[object]:
    """Let the device wait until a whole window is prepared."""
    return patch.object(windows, "_FIRST", windows.WINDOW)


def no_graphs() -> AbstractContextManager[object]:
    """Launch the kernels of a query one by one."""
    return patch.object(Replay, "fits", return_value=False)


def resized_by_pillow() -> AbstractContextManager[object]:
    """Resize images on the CPU."""
    return patch.object(_vl_model, "resizes_on_device", return_value=False)


@contextmanager
def one_cutting_thread() -> Iterator[None]:
    """Resize images one after the other."""
    with ThreadPoolExecutor(1) as pool, patch.object(windows, "_threads", pool):
        yield


def _batches(setup: Setup) -> Section:
    embedder = setup.embedder("embed_text")
    texts = mixed_texts(*setup.size.texts, words=setup.size.long_text)

    def fixed() -> NDArray[Any]:
        return np.concatenate([embedder.embed_passages(texts[i : i + _FIXED]) for i in range(0, len(texts), _FIXED)])

    work = lambda: embedder.embed_passages(texts)  # noqa: E731
    contenders = [
        Contender(OURS, work),
        Contender("padded batches", _under(no_packing, work)),
        Contender(f"{_FIXED} at a time, no token budget", fixed),
        Contender("both", _under(no_packing, fixed)),
    ]
    title = f"packing, and batches by token budget: {len(texts)} texts, few of them long"
    return run(setup, title, contenders, items=len(texts), unit="texts")


def _merging(setup: Setup) -> Section:
    embedder, callers = setup.embedder("embed_text"), setup.size.callers
    calls = [f"{QUERIES[i % len(QUERIES)]} {i}" for i in range(16 * callers)]
    one_at_a_time = threading.Lock()

    def alone(query: str) -> NDArray[Any]:
        with one_at_a_time:
            return embedder.embed_queries([query])

    def threads(call: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        with ThreadPoolExecutor(callers) as pool:
            return np.concatenate(list(pool.map(call, calls)))

    title = f"merging: {len(calls)} queries from {callers} threads"
    return _pair(
        setup, title, lambda: threads(lambda q: embedder.embed_queries([q])), lambda: threads(alone), len(calls)
    )


def _features(setup: Setup) -> Section:
    reranker, padded = setup.reranker(), setup.padded("rerank_vl")
    pages = page_images(min(setup.pages, setup.size.reranked))
    work = lambda: reranker.score(QUERIES[0], pages)  # noqa: E731
    title = f"cached vision features: another query over {pages_in_short(padded, pages)}"
    fill_cache = lambda: reranker.score(QUERIES[1], pages)  # noqa: E731
    return _pair(setup, title, work, _under(no_feature_cache, work), len(pages), before=fill_cache)


def _preparing(setup: Setup) -> Section:
    embedder, padded = setup.embedder("embed_vl"), setup.padded("embed_vl")
    pages = page_images(setup.size.prepared)
    work = lambda: embedder.embed_passages(pages)  # noqa: E731
    contenders = [
        Contender(name, run_work, before=vision_features.clear)
        for name, run_work in (
            (OURS, work),
            ("one thread cuts tiles", _under(one_cutting_thread, work)),
            ("all tiles are cut first", _under(no_read_ahead, work)),
        )
    ]
    return run(setup, f"preparing: {pages_in_short(padded, pages)}", contenders, items=len(pages), unit="pages")


def kernels(setup: Setup) -> Section:
    """What a GPU alone does: variable-length attention, and resizing."""
    passages = mixed_passages(*setup.size.passages)
    ours = setup.embedder("embed_vl")
    work = lambda: ours.embed_passages(passages)  # noqa: E731
    contenders = [
        Contender(name, run_work, before=vision_features.clear)
        for name, run_work in (
            (OURS, work),
            ("attention sequence by sequence", _under(no_varlen_kernel, work)),
            ("images resized on the CPU", _under(resized_by_pillow, work)),
        )
    ]
    return run(setup, f"kernels: {len(passages)} passages of all kinds", contenders, items=len(passages), unit="inputs")


def compiler(setup: Setup) -> Section:
    """What torch.compile would bring to the tower. Compiling it takes a minute."""
    pages = page_images(min(setup.pages, setup.size.prepared))
    contenders = [
        Contender(name, partial(model.embed_passages, pages), before=vision_features.clear)
        for name, model in ((OURS, setup.embedder("embed_vl")), ("with compile=True", _compiled(setup)))
    ]
    return run(setup, f"compiler: {len(pages)} page images", contenders, items=len(pages), unit="pages")


def graphs(setup: Setup) -> Section:
    """Measure single queries replayed from CUDA graphs."""
    embedder = setup.embedder("embed_vl")
    work = partial(embed_one_by_one, embedder, QUERIES)
    title = f"graphs: {len(QUERIES)} queries, one after the other"
    return _pair(setup, title, work, _under(no_graphs, work), len(QUERIES))


def pages(setup: Setup) -> Section:
    """Measure what makes pages of one size faster."""
    passages = page_images(setup.pages)
    embedder = setup.embedder("embed_vl")
    work = lambda: embedder.embed_passages(passages)  # noqa: E731
    contenders = [
        Contender(name, run_work, before=vision_features.clear)
        for name, run_work in (
            (OURS, work),
            ("equal lengths not together", _under(no_even_batches, work)),
            ("GELU by itself", _under(no_fused_gelu, work)),
            ("a large first window", _under(large_first_window, work)),
        )
    ]
    return run(setup, f"pages: {len(passages)} page images", contenders, items=len(passages), unit="pages")


def _compiled(setup: Setup) -> Embedder:
    folder, device = setup.checkpoint("embed_vl"), str(setup.device)
    return load_embedder(folder, device=device, dtype=setup.number_format, compile=True)


def _pair(
    setup: Setup, title: str, on: Work, off: Work, items: int, *, before: Callable[[], object] = lambda: None
) -> Section:
    contenders = [Contender(OURS, on, before=before), Contender("without", off, before=before)]
    return run(setup, title, contenders, items=items, unit="items")


def _under(switch: Callable[[], AbstractContextManager[object]], work: Work) -> Work:
    def switched() -> NDArray[Any]:
        with switch():
            return work()

    return switched


def _padded_forward(self: BidirectionalLlama, embeddings: torch.Tensor, packing: attention.Packing) -> torch.Tensor:
    hidden = pad_sequence(list(embeddings.split(packing.lengths)), batch_first=True)  # (sequences, longest, hidden)
    count, longest = hidden.shape[:2]
    places = torch.arange(longest, device=hidden.device).unsqueeze(0)  # (1, longest)
    real = places < torch.tensor(packing.lengths, device=hidden.device).unsqueeze(1)  # (sequences, longest)
    mask = None if real.all() else real[:, None, None, :].expand(-1, 1, longest, -1)

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _: attention.Packing,
        *,
        scaling: float,
        causal: bool,
    ) -> torch.Tensor:
        if causal:
            raise NotImplementedError("the padded forward is for models that attend in both directions")
        q, k, v = (tensor.unflatten(0, (count, longest)).transpose(1, 2) for tensor in (query, key, value))
        output = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True)
        return output.transpose(1, 2).flatten(0, 1)  # (sequences * longest, heads, head_dim)

    even = attention.pack([longest] * count, hidden.device)
    with patch.object(layers, "attend", attend):
        return _forward(self, hidden.flatten(0, 1), even)[real.flatten()]  # (tokens, hidden)


_forward = BidirectionalLlama.forward
