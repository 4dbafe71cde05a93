"""The command line: ``python -m training all`` rebuilds the starter weights, single stages and measurements too."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import torch

from training.places import WORK
from training.stages import STAGES, evaluate, export, latency, reading

_MODELS = ["embedder", "reranker", "colembed"]


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Makes the starter weights.")
    parser.add_argument("what", choices=[*STAGES, "all", "export", "evaluate", "latency"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, help="of reading: few for a trial; without it as many as were shipped")
    parser.add_argument("--judged", type=Path, help="folder with good/*.pdf and queries.jsonl, for evaluate")
    parser.add_argument("--pdfs", type=Path, help="folder of PDFs to draw 100 pages from, for evaluate")
    parser.add_argument("--pools", type=int, default=1, help="pools of 100 held-out pages, for evaluate")
    parser.add_argument("--asked", type=int, default=100, help="pages of a pool that are asked for, for evaluate")
    parser.add_argument("--modes", nargs="+", default=["text"], choices=["text", "image", "image_text"])
    parser.add_argument("--depth", type=int, default=25, help="pages reranked a query, for evaluate")
    parser.add_argument("--models", nargs="+", default=_MODELS, choices=_MODELS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    stages = STAGES | {"reading": partial(reading, steps=given.steps)}
    for name, stage in stages.items():
        if given.what in (name, "all"):
            stage()
    if given.what in ("export", "all"):
        export()
    if given.what in ("evaluate", "all"):
        evaluate(
            judged=given.judged,
            pdfs=given.pdfs,
            pools=given.pools,
            asked=given.asked,
            modes=given.modes,
            names=given.models,
            depth=given.depth,
        )
    if given.what == "latency":
        latency()


if __name__ == "__main__":
    main()
