"""The command line: ``python -m benchmarks all``, or one of its parts; ``--full`` for the 1.7 B geometry on a GPU."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import peers
from benchmarks.ablation import ablation
from benchmarks.loads import embed, mixed, rerank
from benchmarks.report import Section, plain, show
from benchmarks.setup import Setup
from benchmarks.sizes import FULL, SMALL, TOY, Size
from benchmarks.variable import AVAILABLE, variable
from nemotron_rag.runtime.device import resolve_device, resolve_dtype

LOADS: dict[str, Callable[[Setup], Iterator[Section]]] = {
    "embed": embed,
    "rerank": rerank,
    "mixed": mixed,
    "ablation": ablation,
}
if AVAILABLE:
    LOADS["variable"] = variable


def main(arguments: list[str] | None = None) -> None:
    """Run the requested benchmarks; the last line of output is JSON."""
    given = _parse(arguments)
    size: Size = given.size
    device = resolve_device(given.device or ("cuda" if size is FULL else "cpu"))
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            folder=Path(folder),
            device=device,
            dtype=resolve_dtype(given.dtype, device),
            size=size,
            rounds=given.rounds or (3 if device.type == "cpu" else 10),
            pages=given.pages or size.pages,
        )
        console = Console(width=140, soft_wrap=False)
        facts = _facts(setup, sys.argv[1:] if arguments is None else arguments)
        console.print("\n".join(f"{key}: {value}" for key, value in facts.items()), highlight=False)
        sections: list[Section] = []
        for name in LOADS if given.what == "all" else [given.what] if given.what in LOADS else []:
            for section in LOADS[name](setup):
                show([section], console)
                sections.append(section)
    print(json.dumps(facts | {"sections": plain(sections)}))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", choices=[*LOADS, "peak", "all"], help="peak: the matrix product alone")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--full", action="store_const", dest="size", const=FULL, help="1.7 B geometry; needs a GPU")
    sizes.add_argument("--toy", action="store_const", dest="size", const=TOY, help="only to see that everything runs")
    parser.set_defaults(size=SMALL)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; without it the CPU, with --full a GPU")
    parser.add_argument("--dtype", help="float32 or bfloat16; without it bfloat16 on a GPU")
    parser.add_argument("--rounds", type=int, help="timed runs of each contender: 3 on a CPU, 10 on a GPU")
    parser.add_argument("--pages", type=int, help="page images to embed: 12, with --full 128")
    given = parser.parse_args(arguments)
    if given.size is FULL and given.device is None and not torch.cuda.is_available():
        sys.exit("--full needs a GPU, and torch finds no CUDA device here; leave it out for a small model on the CPU")
    return given


def _facts(setup: Setup, arguments: list[str]) -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "hardware": setup.hardware,
        "software": ", ".join(f"{name} {version(name)}" for name in ("nemotron-rag", "torch", "transformers")),
        "model": f"{setup.size.name}, random weights, {setup.number_format}",
        "matrix product": f"{setup.peak / 1e12:.3g} TFLOP/s",
        "not comparable": peers.WHY_TEXT_ONLY if peers.installed() else "sentence-transformers is not installed",
    }


if __name__ == "__main__":
    main()
