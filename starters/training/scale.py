"""How much of everything a run takes: as much as the released weights took, unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.reading_stage import Schedule
from training.shapes import COLEMBED, EMBED, RERANK, Shape

__all__ = ["Scale"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes and steps of a run; the defaults are those of the released weights.

    Args:
        embed: shape of the embedder.
        rerank: shape of the reranker.
        colembed: shape of the late-interaction network, whose tower is the one that learns to read.
        tokenizer_pages: pages that the pieces are learned from, by language.
        counted_pages: pages that say how rare each piece is.
        table_steps: of the table, with batches of `table_batch` queries.
        table_batch: see `table_steps`.
        hits_steps: of the reranker's formula, with batches of `hits_batch` queries.
        hits_batch: see `hits_steps`.
        rendered_pages: pages that the tower learns from.
        reading: the tower's schedule, by type of device.
        crop: height and width of a crop that the tower learns from, pixels.
        watched: batches of held-out crops that the tower is watched by.
        read_pages: pages whose image tokens the heads learn from.
        memory_steps: of the embedder's memory.
        pool: held-out pages in a pool of the evaluation.
        timed_pages: pages that are timed, the first for warming up.
    """

    embed: Shape = EMBED
    rerank: Shape = RERANK
    colembed: Shape = COLEMBED
    tokenizer_pages: Mapping[str, int] = field(default_factory=lambda: {"en": 14_000, "fr": 7_000, "de": 7_000})
    counted_pages: int = 12_000
    table_steps: int = 500
    table_batch: int = 256
    hits_steps: int = 400
    hits_batch: int = 128
    rendered_pages: int = 1600
    reading: Mapping[str, Schedule] = field(
        default_factory=lambda: {"cpu": Schedule(9500), "cuda": Schedule(40_000, size=128)}
    )
    crop: tuple[int, int] = (128, 256)
    watched: int = 12
    read_pages: int = 600
    memory_steps: int = 80
    pool: int = 100
    timed_pages: int = 26
