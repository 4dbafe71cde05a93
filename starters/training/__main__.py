"""The command line: ``python -m training all`` rebuilds the starter weights; single stages and measurements too."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from training.scale import Scale
from training.stages import Training

_MODELS = ["embedder", "reranker", "colembed"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the arguments name.

    Args:
        arguments: of the command line; None for those of the process.
    """
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    run = Training(scale=_scale(given.steps))
    for name, stage in run.stages.items():
        if given.what in (name, "all"):
            stage()
    if given.what in ("export", "all"):
        run.export()
    if given.what in ("evaluate", "all"):
        run.evaluate(
            judged=given.judged,
            pdfs=given.pdfs,
            pools=given.pools,
            queries=given.queries,
            modes=given.modes,
            names=given.models,
            depth=given.depth,
        )
    if given.what == "latency":
        run.latency()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Makes the starter weights.")
    parser.add_argument("what", choices=[*Training().stages, "all", "export", "evaluate", "latency"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, help="of reading: few for a trial; without it as many as were released")
    parser.add_argument("--judged", type=Path, help="folder with good/*.pdf and queries.jsonl, for evaluate")
    parser.add_argument("--pdfs", type=Path, help="folder of PDFs of which 100 pages are measured, for evaluate")
    parser.add_argument("--pools", type=int, default=1, help="pools of 100 held-out pages, for evaluate")
    parser.add_argument("--queries", type=int, help="pages of a pool that queries are made from, for evaluate")
    parser.add_argument("--modes", nargs="+", default=["text"], choices=["text", "image", "image_text"])
    parser.add_argument("--depth", type=int, default=25, help="pages reranked a query, for evaluate")
    parser.add_argument("--models", nargs="+", default=_MODELS, choices=_MODELS)
    return parser


def _scale(steps: int | None) -> Scale:
    scale = Scale()
    if steps is None:
        return scale
    reading = {device: replace(schedule, steps=steps) for device, schedule in scale.reading.items()}
    return replace(scale, reading=reading)


if __name__ == "__main__":
    main()
