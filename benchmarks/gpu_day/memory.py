"""Part: how much memory weights and runs take, and whether more pages take more."""

from __future__ import annotations

import torch

from benchmarks.gpu_day.loads import make_setup
from benchmarks.gpu_day.part import Context
from benchmarks.measure import peak_bytes, reset_peak
from benchmarks.workloads import QUERIES, page_images
from nemotron_rag.runtime.features import vision_features

__all__ = ["run"]

_COLUMNS = ["", "held before", "most while running", "beside what was held", "reserved by torch"]


def run(context: Context) -> None:
    """Load a model, and embed or rerank more and more pages."""
    setup = make_setup(context)
    device, rows = setup.device, []
    counts = (2, 4) if context.dry_run else (16, 64, 192)

    def note(name: str, held: int | None) -> None:
        most = peak_bytes(device)
        beside = None if held is None or most is None else max(0, most - held)
        reserved = torch.cuda.memory_reserved(device) if device.type == "cuda" else None
        rows.append([name, *map(_megabytes, (held, most, beside, reserved))])
        print(*rows[-1], sep=" | ")
        context.table("Memory", _COLUMNS, rows)

    held = reset_peak(device)
    embedder = setup.embedder("embed_vl")
    note("embedder: load", held)
    for count in counts:
        pages = page_images(count)
        vision_features.clear()
        held = reset_peak(device)
        embedder.embed_passages(pages)
        note(f"embedder: {count} pages", held)
    held = reset_peak(device)
    reranker = setup.reranker()
    note("reranker: load", held)
    for count in counts[:2]:
        held = reset_peak(device)
        reranker.score(QUERIES[0], page_images(count))
        note(f"reranker: {count} pages", held)


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:,.0f} MB"
