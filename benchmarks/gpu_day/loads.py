"""Parts: the benchmarks at full geometry, within the time that there is; in a dry run at toy size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from rich.console import Console

from benchmarks import ablation as _ablation
from benchmarks import loads, workloads
from benchmarks.gpu_day.part import Context
from benchmarks.measure import matmul_peak
from benchmarks.report import Section, cells, print_table, show
from benchmarks.setup import Setup
from benchmarks.sizes import FULL, TOY

__all__ = ["ablation", "embed", "make_setup", "mixed", "peak", "rerank"]

_ROUNDS, _PAGES = 10, 64
_SETUP = 0.35  # of a part's time for writing and loading weights, warming up, and the last round
_TOWER_TOKENS, _LLAMA_TOKENS = 32 * 1024, 18 * 1798  # of a full batch


def make_setup(context: Context, *, sections: int = 1) -> Setup:
    """The full geometry on a GPU, the toy in a dry run; pages are drawn, the same wherever it runs.

    Args:
        context: of the part.
        sections: loads that share the time there is.
    """
    workloads.PDFS = None
    device = torch.device(context.device)
    folder = context.work / "checkpoints"
    folder.mkdir(exist_ok=True)
    return Setup(
        folder=folder,
        device=device,
        dtype=torch.float32 if context.dry_run else torch.bfloat16,
        size=TOY if context.dry_run else FULL,
        rounds=1 if context.dry_run else _ROUNDS,
        pages=TOY.pages if context.dry_run else _PAGES,
        peers=False,
        seconds=context.left * (1 - _SETUP) / sections,
    )


def peak(context: Context) -> None:
    """Matrix products: the best that the card does, and what it does in the shapes of the layers; and copies."""
    setup = make_setup(context)
    device, size = setup.device, setup.size
    largest = size.matrix[device.type]
    hidden, wide = size.llama["hidden_size"], size.llama["intermediate_size"]
    tower, tower_wide = size.tower["hidden_size"], size.tower["intermediate_size"]
    tokens, patches = (64, 64) if context.dry_run else (_LLAMA_TOKENS, _TOWER_TOKENS)
    products = [
        ("large and square", setup.dtype, (largest, largest, largest)),
        ("Llama: queries and outputs", setup.dtype, (tokens, hidden, hidden)),
        ("Llama: into its MLP", setup.dtype, (tokens, hidden, wide)),
        ("Llama: out of its MLP", setup.dtype, (tokens, wide, hidden)),
        ("tower: queries, keys, values, outputs", setup.dtype, (patches, tower, tower)),
        ("tower: into its MLP", setup.dtype, (patches, tower, tower_wide)),
        ("tower: out of its MLP", setup.dtype, (patches, tower_wide, tower)),
        ("large and square", torch.float32, (largest, largest, largest)),
    ]
    rows: list[list[str]] = []
    best = setup.peak
    context.note(peak=best)
    for name, dtype, (m, k, n) in products:
        speed = matmul_peak(device, dtype, rows=m, inner=k, columns=n)
        rows.append([name, f"{m} x {k} x {n}", str(dtype), f"{speed / 1e12:.3g}", f"{speed / best:.0%}"])
        context.table("Matrix products", ["", "shape", "format", "TFLOP/s", "of the best"], rows)
    print_table(Console(width=120), "Matrix products", ["", "shape", "format", "TFLOP/s", "of the best"], rows)


def embed(context: Context) -> None:
    """Page images, and single queries."""
    _note(context, loads.embed, sections=2)


def rerank(context: Context) -> None:
    """A first and a second query over the same pages."""
    _note(context, loads.rerank)


def mixed(context: Context) -> None:
    """Inputs of very different lengths together."""
    _note(context, loads.mixed, sections=2)


def ablation(context: Context) -> None:
    """Each technique beside its absence; in a dry run also those of a GPU, uncompiled."""
    _note(context, _ablation.ablation, sections=8)
    if context.dry_run:
        torch.compile = lambda function, **_: function  # type: ignore[assignment]
        _note(context, _of_a_gpu)


def _of_a_gpu(setup: Setup) -> Iterator[Section]:
    for part in (_ablation.kernels, _ablation.pages, _ablation.graphs, _ablation.compiler):
        yield part(setup)


def _note(context: Context, load: Callable[[Setup], Iterator[Section]], *, sections: int = 1) -> None:
    """Keep every table as soon as it is there."""
    setup = make_setup(context, sections=sections)
    console = Console(width=140, soft_wrap=False)
    for section in load(setup):
        show([section], console)
        context.table(section.title, *cells(section))
        context.note(**{section.title: asdict(section)})
