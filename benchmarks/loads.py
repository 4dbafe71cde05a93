"""The workloads of ``embed``, ``rerank`` and ``mixed``: our package and its peers on the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.measure import Contender, measure
from benchmarks.padded import PaddedLoop
from benchmarks.report import Section, compare
from benchmarks.setup import Setup
from benchmarks.work import sequence_operations, tile_operations
from benchmarks.workloads import QUERIES, mixed_passages, mixed_texts, page_images
from nemotron_rag import Passage
from nemotron_rag.protocols import Embedder, FloatArray
from nemotron_rag.runtime.features import vision_features

__all__ = ["OURS", "embed", "embed_one_by_one", "mixed", "pages_in_short", "rerank", "run"]

OURS = "nemotron-rag"


def embed(setup: Setup) -> Iterator[Section]:
    """Page images never seen before, and one query at a time."""
    ours, padded = setup.embedder("embed_vl"), setup.padded("embed_vl")
    pages = page_images(setup.pages)
    work = sum(_operations(setup.checkpoint("embed_vl"), padded, pages))
    contenders = [
        Contender(OURS, lambda: ours.embed_passages(pages), before=vision_features.clear, operations=work),
        Contender("padded loop", lambda: padded.embed_passages(pages), operations=work),
    ]
    yield run(setup, f"embed {pages_in_short(padded, pages)}", contenders, items=len(pages), unit="pages")
    yield _queries(setup, padded)


def rerank(setup: Setup) -> Iterator[Section]:
    """One query over 25 pages that nobody has seen, and another query over the same pages."""
    ours, padded = setup.reranker(), setup.padded("rerank_vl")
    pages = page_images(setup.size.reranked)
    vision, llama = _operations(setup.checkpoint("rerank_vl"), padded, pages)
    contenders = [
        Contender(
            f"{OURS}, first query",
            lambda: ours.score(QUERIES[0], pages),
            before=vision_features.clear,
            operations=vision + llama,
        ),
        Contender(
            f"{OURS}, second query",  # over the pages that the first one left in the cache
            lambda: ours.score(QUERIES[0], pages),
            before=lambda: ours.score(QUERIES[1], pages),
            operations=llama,
        ),
        Contender("padded loop, any query", lambda: padded.score(QUERIES[0], pages), operations=vision + llama),
    ]
    title = f"rerank {pages_in_short(padded, pages)}"
    yield run(setup, title, contenders, items=len(pages), unit="pairs")


def mixed(setup: Setup) -> Iterator[Section]:
    """Inputs of very different lengths together."""
    yield _mixed_texts(setup)
    yield _mixed_pages(setup)


def run(setup: Setup, title: str, contenders: Sequence[Contender], *, items: int, unit: str) -> Section:
    """Time contenders on one load."""
    timings = measure(contenders, rounds=setup.rounds, device=setup.device, seconds=setup.seconds)
    return compare(title, timings, items=items, unit=unit, peak=setup.peak)


def pages_in_short(padded: PaddedLoop, pages: Sequence[Passage]) -> str:
    """Describe pages by number, tiles and tokens."""
    tiles, tokens = (
        " or ".join(map(str, sorted(set(map(count, pages)))))
        for count in (padded.processor.count_tiles, padded.processor.count_tokens)
    )
    return f"{len(pages)} page images of {tiles} tiles, {tokens} tokens"


def embed_one_by_one(embedder: Embedder | PaddedLoop, queries: Sequence[str]) -> FloatArray:
    """Embed queries one after the other, as a user types them."""
    return np.concatenate([embedder.embed_queries([query]) for query in queries])


def _mixed_texts(setup: Setup) -> Section:
    texts = mixed_texts(*setup.size.texts, words=setup.size.long_text)
    ours, padded = setup.embedder("embed_text"), setup.padded("embed_text")
    folder = setup.checkpoint("embed_text")
    work = sum(_operations(folder, padded, texts))
    contenders = [
        Contender(OURS, lambda: ours.embed_passages(texts), operations=work),
        Contender("padded loop", lambda: padded.embed_passages(texts), operations=work),
    ]
    if setup.peers and peers.installed():
        batch = setup.padded_batch(images=False)
        peer = peers.SentenceTransformersLoop(folder, device=setup.device, dtype=setup.dtype, batch=batch)
        contenders.append(Contender("sentence-transformers", lambda: peer.embed_passages(texts), operations=work))
    lengths = [padded.processor.count_tokens(text) for text in texts]
    title = f"embed {len(texts)} texts of {min(lengths)} to {max(lengths)} tokens, shuffled"
    return run(setup, title, contenders, items=len(texts), unit="texts")


def _mixed_pages(setup: Setup) -> Section:
    passages = mixed_passages(*setup.size.passages)
    ours, padded = setup.embedder("embed_vl"), setup.padded("embed_vl")
    work = sum(_operations(setup.checkpoint("embed_vl"), padded, passages))
    contenders = [
        Contender(OURS, lambda: ours.embed_passages(passages), before=vision_features.clear, operations=work),
        Contender("padded loop", lambda: padded.embed_passages(passages), operations=work),
    ]
    modalities = [passage.modality for passage in passages]
    counts = ", ".join(f"{modalities.count(each)} of {each}" for each in dict.fromkeys(modalities))
    title = f"embed {len(passages)} passages, shuffled: {counts}"
    return run(setup, title, contenders, items=len(passages), unit="passages")


def _queries(setup: Setup, padded: PaddedLoop) -> Section:
    ours = setup.embedder("embed_vl")
    queries = [QUERIES[i % len(QUERIES)] for i in range(setup.size.queries)]
    contenders = [
        Contender(OURS, lambda: embed_one_by_one(ours, queries)),
        Contender("padded loop", lambda: embed_one_by_one(padded, queries)),
    ]
    return run(
        setup, f"embed {len(queries)} queries, one after the other", contenders, items=len(queries), unit="calls"
    )


def _operations(folder: Path, padded: PaddedLoop, passages: Sequence[Passage]) -> tuple[int, int]:
    """Count the operations of the tower and of the Llama."""
    tiles = sum(map(padded.processor.count_tiles, passages))
    vision = tiles * tile_operations(folder) if tiles else 0
    return vision, sum(sequence_operations(folder, padded.processor.count_tokens(passage)) for passage in passages)
