"""Part: which kernels the time goes to, and for how much of it the device waits for the next one."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch._C._profiler import _ExperimentalConfig
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_day.loads import make_setup
from benchmarks.gpu_day.part import Context, Failed
from benchmarks.report import print_table
from benchmarks.workloads import QUERIES, page_images
from nemotron_rag.runtime.features import vision_features

__all__ = ["Span", "gaps", "run", "union"]

_TOP, _LONGEST, _NAME = 20, 10, 80  # kernels, gaps, characters of a kernel's name
_MEASURED_PAGES = 32  # a longer run fills a trace that no viewer opens
# The first that matches: names of kernels in CUDA's libraries, in torch and in what its compiler writes.
_GROUPS = (
    ("copies", r"memcpy|memset|copy_device|aten::copy_|aten::_to_copy"),
    ("attention", r"flash|fmha|attention"),
    ("matrix products", r"gemm|gemv|cutlass|nvjet|xmma|cublas|aten::(linear|addmm|mm|bmm|matmul)|mkldnn"),
    ("convolutions and resizing", r"conv|upsample|interpolate"),
    ("sums, norms, softmax", r"reduce|norm|softmax|cumsum|scan"),
    ("element by element", r"elementwise|vectorized|triton_poi|gelu|silu|aten::(mul|add|sub|div|rsqrt|pow|cat|index)"),
)


@dataclass(frozen=True, slots=True)
class Span:
    """Something that ran.

    Args:
        name: of the kernel.
        start: nanoseconds.
        end: likewise.
    """

    name: str
    start: int
    end: int


def run(context: Context) -> None:
    """Profile embedding, and reranking with and without cached vision features; keep the traces."""
    setup = make_setup(context)
    count = 2 if context.dry_run else _MEASURED_PAGES
    embedder, pages = setup.embedder("embed_vl"), page_images(count)
    _profile(context, "embed", lambda: embedder.embed_passages(pages), before=vision_features.clear)
    reranker, pages = setup.reranker(), page_images(setup.size.reranked)
    score = lambda: reranker.score(QUERIES[0], pages)  # noqa: E731
    _profile(context, "rerank, second query", score, before=lambda: reranker.score(QUERIES[1], pages))
    _profile(context, "rerank, first query", score, before=vision_features.clear, trace=False)


def _profile(
    context: Context,
    name: str,
    work: Callable[[], object],
    *,
    before: Callable[[], object],
    trace: bool = True,
) -> None:
    for _ in range(2):  # libraries choose their kernels in the first run
        before()
        work()
    before()
    on_device = context.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with profile(activities=activities, experimental_config=_all_threads()) as profiled:
        begun = time.perf_counter()
        work()
        if on_device:
            torch.cuda.synchronize()
        wall = time.perf_counter() - begun
    spans = _spans(profiled, on_device=on_device)
    if not spans:
        raise Failed(f"{name}: the profiler saw nothing run on the device")
    _note(context, name, spans, wall)
    if trace:
        file = context.out / f"{name.replace(', ', '_').replace(' ', '_')}_trace.json.gz"
        profiled.export_chrome_trace(str(file))
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, for ui.perfetto.dev")


def _all_threads() -> _ExperimentalConfig:
    """The models compute in a thread of their own; a torch that cannot look there still sees the kernels."""
    try:
        return _ExperimentalConfig(profile_all_threads=True)
    except TypeError:
        return _ExperimentalConfig()


def _spans(profiled: profile, *, on_device: bool) -> list[Span]:
    """Kernels of the device, or the operations of a CPU."""
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = profiled.profiler.kineto_results.events()
    kind = DeviceType.CUDA if on_device else DeviceType.CPU
    found = [
        Span(event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.device_type() == kind and event.duration_ns() and _is_work(event)
    ]
    return sorted(found, key=lambda span: span.start)


def _is_work(event: Any) -> bool:
    """Whether something was computed or copied; ranges that were only named cover what is in them."""
    kind = event.activity_type() if hasattr(event, "activity_type") else ""  # which older releases do not tell
    return "annotation" not in kind and (event.device_type() == DeviceType.CUDA or event.name().startswith("aten::"))


def union(spans: Sequence[Span]) -> int:
    """Nanoseconds in which at least one of them ran; they are sorted by their start."""
    if not spans:
        return 0
    return max(span.end for span in spans) - spans[0].start - sum(length for length, _, _ in gaps(spans))


def gaps(spans: Sequence[Span]) -> list[tuple[int, str, str]]:
    """Nanoseconds in which none of them ran, what ran before, and what after."""
    found, last = [], spans[0]
    for span in spans[1:]:
        if span.start > last.end:
            found.append((span.start - last.end, last.name, span.name))
        if span.end > last.end:
            last = span
    return found


def _note(context: Context, name: str, spans: Sequence[Span], wall: float) -> None:
    busy, between = union(spans) / 1e9, gaps(spans)
    waiting = sum(length for length, _, _ in between) / 1e9
    share = max(0.0, 1 - busy / wall)
    context.note(
        **{name: {"seconds": wall, "busy": busy, "gaps between kernels": waiting, "share without kernel": share}}
    )
    summary = [
        ["whole run, under the profiler", f"{wall * 1e3:.1f} ms", "100%"],
        ["at least one kernel ran", f"{busy * 1e3:.1f} ms", f"{busy / wall:.1%}"],
        ["none ran", f"{max(0.0, wall - busy) * 1e3:.1f} ms", f"{share:.1%}"],
        ["of that, between two kernels", f"{waiting * 1e3:.1f} ms", f"{waiting / wall:.1%}"],
    ]
    longest = sorted(between, reverse=True)[:_LONGEST]
    rows = [[f"{length / 1e6:.2f} ms", _short(before), _short(after)] for length, before, after in longest]
    _show(context, f"{name}: does the device wait?", ["", "time", "share"], summary)
    _show(context, f"{name}: groups of kernels", ["group", "time", "share", "calls"], _totals(spans, _group))
    _show(context, f"{name}: top kernels", ["kernel", "time", "share", "calls"], _totals(spans, _short)[:_TOP])
    _show(context, f"{name}: longest gaps", ["gap", "after", "before"], rows)


def _show(context: Context, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    context.table(title, columns, rows)
    print_table(Console(width=180), title, columns, rows)


def _totals(spans: Sequence[Span], key: Callable[[str], str]) -> list[list[str]]:
    """Summed by what `key` makes of a name, largest first; operations within others of a CPU count twice."""
    times: dict[str, int] = defaultdict(int)
    calls: dict[str, int] = defaultdict(int)
    for span in spans:
        times[key(span.name)] += span.end - span.start
        calls[key(span.name)] += 1
    whole = sum(times.values())
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return [[name, f"{took / 1e6:.2f} ms", f"{took / whole:.1%}", str(calls[name])] for name, took in ordered]


def _group(name: str) -> str:
    return next((group for group, pattern in _GROUPS if re.search(pattern, name, re.IGNORECASE)), "others")


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."
