"""Accuracy of 8-bit floats: every linear layer multiplies numbers rounded to float8 (e4m3).

    python -m benchmarks.float8 MODEL FOLDER

embeds the pages of the PDFs below FOLDER in float32, in bfloat16, and in bfloat16 with the rows of inputs and weights
rounded as for a GPU's FP8 units (each row scaled to their largest number), and prints the cosine similarity of the
embeddings. The rounding is simulated, so that it runs on any device.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console

from benchmarks.report import print_table
from nemotron_rag import Page, configure_vision_cache, load_embedder
from nemotron_rag.documents.pdf import count_pages, find_pdfs, read_pdf
from nemotron_rag.protocols import FloatArray

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.float8", description=__doc__)
    parser.add_argument("model", help="catalog id or local folder of an embedder")
    parser.add_argument("folder", type=Path, help="PDFs, also in folders below")
    parser.add_argument("--pages", type=int, default=20, help="how many, from the first PDF on")
    given = parser.parse_args(arguments)
    configure_vision_cache(max_bytes=0)  # features cached by the bfloat16 run would be used by the float8 run
    pages = _read(given.folder, given.pages)
    exact = _embed(given.model, "float32", pages, nullcontext())
    rows = []
    for name, context in (("bfloat16", nullcontext()), ("bfloat16, linear layers in float8", _in_float8())):
        cosines = (_embed(given.model, "bfloat16", pages, context) * exact).sum(axis=1)
        rows.append([name, f"{cosines.min():.5f}", f"{cosines.mean():.5f}"])
    title = f"{given.model}, {len(pages)} pages: cosine with the float32 embedding"
    print_table(Console(width=120), title, ("", "smallest", "mean"), rows)


def rounded(rows: torch.Tensor) -> torch.Tensor:
    """Each row scaled to the largest float8, rounded to one, and scaled back: same shape and dtype."""
    scale = rows.float().abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    return ((rows.float() / scale).to(FORMAT).float() * scale).to(rows.dtype)


def _in_float8() -> AbstractContextManager[object]:
    def forward(layer: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(rounded(values), rounded(layer.weight), layer.bias)

    return patch.object(torch.nn.Linear, "forward", forward)


def _embed(model: str, dtype: str, pages: Sequence[Page], context: AbstractContextManager[object]) -> FloatArray:
    with closing(load_embedder(model, dtype=dtype)) as embedder, context:
        return embedder.embed_passages(pages)


def _read(folder: Path, count: int) -> list[Page]:
    pages: list[Page] = []
    for path in find_pdfs(folder):
        numbers = range(1, min(count_pages(path), count - len(pages)) + 1)
        pages += read_pdf(path, pages=list(numbers)) if numbers else []
    return pages


if __name__ == "__main__":
    main()
