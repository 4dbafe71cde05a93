"""Ourselves without each technique, on a load that the technique is made for. It reaches into the package's inside."""

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
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.loads import OURS, ask_one_by_one, pages_in_short, run
from benchmarks.measure import Contender
from benchmarks.report import Section
from benchmarks.setup import Setup
from benchmarks.workloads import QUERIES, mixed_passages, mixed_texts, page_pictures
from nemotron_rag import load_embedder
from nemotron_rag.models import _vl_model
from nemotron_rag.models._llama import BidirectionalLlama
from nemotron_rag.protocols import Embedder
from nemotron_rag.runtime import attention, windows
from nemotron_rag.runtime.features import vision_features

__all__ = ["ablation", "graphs", "kernels"]

Work: TypeAlias = Callable[[], NDArray[Any]]

_CALLERS = 16
_FIXED = 8  # inputs a batch, where their tokens are not counted


def ablation(setup: Setup) -> list[Section]:
    """Each technique beside its absence; kernels and compiler on a GPU only."""
    found = [_batches(setup), _merging(setup), _features(setup), _preparing(setup)]
    return [*found, kernels(setup), graphs(setup)] if setup.device.type == "cuda" else found


@contextmanager
def no_packing() -> Iterator[None]:
    """Sequences of a batch are padded to the longest, and the padding is masked."""
    name = attention.PACKED_ATTENTION
    packed = AttentionInterface()[name]  # type: ignore[no-untyped-call]
    AttentionInterface.register(name, sdpa_attention_forward)
    try:
        with patch.object(BidirectionalLlama, "forward", _padded_forward):
            yield
    finally:
        AttentionInterface.register(name, packed)


@contextmanager
def no_kept_features() -> Iterator[None]:
    """Every picture goes through the tower each time it is asked about."""
    with patch.object(vision_features, "max_bytes", 0):
        vision_features.clear()
        yield


def no_read_ahead() -> AbstractContextManager[object]:
    """All inputs of a call are prepared before the first is computed."""
    return patch.object(windows, "WINDOW", 1 << 30)


def no_varlen_kernel() -> AbstractContextManager[object]:
    """Attention runs over one sequence after the other, as it does on a CPU."""
    return patch.object(attention, "has_kernel", return_value=False)


def resized_by_pillow() -> AbstractContextManager[object]:
    """Pictures are resized before they travel to the device, as they are for a CPU."""
    return patch.object(_vl_model, "resizes_there", return_value=False)


@contextmanager
def one_cutting_thread() -> Iterator[None]:
    """Pictures are resized one after the other."""
    with ThreadPoolExecutor(1) as pool, patch.object(windows, "_threads", pool):
        yield


def _batches(setup: Setup) -> Section:
    embedder = setup.embedder("embed_text")
    texts = mixed_texts(512, 16) if setup.full else mixed_texts(64, 2)

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
    embedder = setup.embedder("embed_text")
    calls = [f"{QUERIES[i % len(QUERIES)]} {i}" for i in range(16 * _CALLERS)]
    one_at_a_time = threading.Lock()

    def alone(query: str) -> NDArray[Any]:
        with one_at_a_time:
            return embedder.embed_queries([query])

    def threads(call: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        with ThreadPoolExecutor(_CALLERS) as pool:
            return np.concatenate(list(pool.map(call, calls)))

    title = f"merging: {len(calls)} questions from {_CALLERS} threads"
    return _pair(
        setup, title, lambda: threads(lambda q: embedder.embed_queries([q])), lambda: threads(alone), len(calls)
    )


def _features(setup: Setup) -> Section:
    reranker, padded = setup.reranker(), setup.padded("rerank_vl")
    pages = page_pictures(min(setup.pages, 25))
    work = lambda: reranker.score(QUERIES[0], pages)  # noqa: E731
    title = f"kept vision features: another question over {pages_in_short(padded, pages)}"
    kept = lambda: reranker.score(QUERIES[1], pages)  # noqa: E731
    return _pair(setup, title, work, _under(no_kept_features, work), len(pages), before=kept)


def _preparing(setup: Setup) -> Section:
    embedder, padded = setup.embedder("embed_vl"), setup.padded("embed_vl")
    pages = page_pictures(3 * windows.WINDOW)
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
    """What a GPU alone does: variable-length attention, resizing; and what torch.compile would bring to the tower."""
    passages = mixed_passages(32, 32, 192) if setup.full else mixed_passages(4, 4, 24)
    ours, compiled = setup.embedder("embed_vl"), _compiled(setup)
    work = lambda: ours.embed_passages(passages)  # noqa: E731
    contenders = [
        Contender(name, run_work, before=vision_features.clear)
        for name, run_work in (
            (OURS, work),
            ("attention sequence by sequence", _under(no_varlen_kernel, work)),
            ("pictures resized on the CPU", _under(resized_by_pillow, work)),
            ("with compile=True", lambda: compiled.embed_passages(passages)),
        )
    ]
    return run(setup, f"kernels: {len(passages)} passages of all kinds", contenders, items=len(passages), unit="inputs")


def graphs(setup: Setup) -> Section:
    """What replaying questions from CUDA graphs would bring."""
    contenders = [
        Contender(name, partial(ask_one_by_one, model, QUERIES))
        for name, model in ((OURS, setup.embedder("embed_vl")), ("with compile=True", _compiled(setup)))
    ]
    title = f"graphs: {len(QUERIES)} questions, one after the other"
    return run(setup, title, contenders, items=len(QUERIES), unit="calls")


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
    longest = hidden.shape[1]
    places = torch.arange(longest, device=hidden.device).unsqueeze(0)  # (1, longest)
    real = places < torch.tensor(packing.lengths, device=hidden.device).unsqueeze(1)  # (sequences, longest)
    mask = None if real.all() else real[:, None, None, :].expand(-1, 1, longest, -1)
    rotary = self.rotary_emb(hidden, places)
    for layer in self.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, is_causal=False)
    return self.norm(hidden)[real]  # type: ignore[no-any-return]  # (tokens, hidden)
