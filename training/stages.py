"""The stages in order, each from files to files under ``work/``; a stage whose file is there is not run again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer

from nemotron_rag import load_embedder, load_reranker
from training import embedder_start, rerank_start
from training.batches import PageBatches, PairBatches, encode
from training.dictionaries import load_pairs
from training.evaluate import held_out_pool, judged_pool, measure
from training.fetch import fetch
from training.hits_stage import Hits, train_hits
from training.pages import build_pages, load_pages
from training.places import CHECKPOINTS, WORK
from training.shapes import EMBED, RERANK, write_folder
from training.table_stage import importance_of, train_table
from training.tokens import SPECIAL_TOKENS, train_tokenizer
from training.weights import load_network, new_network, save_network

__all__ = ["STAGES", "evaluate", "export", "shipped"]

_TOKENIZER_PAGES = {"en": 14_000, "fr": 7_000, "de": 7_000}
_SHARPER = 1.7  # importance is scaled so that a rare piece keeps nearly all of its vector
_START, _MARK = SPECIAL_TOKENS[0], "Ġpassage"
_SILENT = ("Ġquery", "Ġpassage", *SPECIAL_TOKENS[1:])


def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(WORK / "tok.json"))


def _ids(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> list[int]:
    return [tokenizer.token_to_id(token) for token in tokens]


def data() -> None:
    """Download the packages and read their pages."""
    root = fetch()
    if not (WORK / "pages.jsonl").exists():
        build_pages(root)


def tokenizer() -> None:
    """Learn the pieces and how rare they are."""
    if (WORK / "idf.pt").exists():
        return
    pages, rng = load_pages(held_out=False), random.Random(0)
    texts: list[str] = []
    for language, count in _TOKENIZER_PAGES.items():
        of_language = [page.text for page in pages if page.language == language]
        texts += rng.sample(of_language, min(count, len(of_language)))
    train_tokenizer(texts, size=EMBED.vocabulary).save(str(WORK / "tok.json"))
    counted = [page.text[:4000] for page in random.Random(5).sample(pages, 12_000)]
    torch.save(importance_of(encode(_tokenizer(), counted), pieces=EMBED.vocabulary), WORK / "idf.pt")


def table() -> None:
    """Train the directions of the pieces as a damped bag."""
    target = WORK / "table.pt"
    if target.exists():
        return
    pieces = _tokenizer()
    free = EMBED.hidden - embedder_start.CODE.stop
    directions = torch.randn(EMBED.vocabulary, free, generator=torch.Generator().manual_seed(1))
    pages = PageBatches(load_pages(held_out=False), pieces, size=256)
    meanings = PairBatches(load_pairs(WORK / "root"), pieces, size=256)
    sources = [(1.0, pages), (0.2, meanings)]
    sizes = (EMBED.hidden, EMBED.hidden // 2)
    result = train_table(directions, torch.load(WORK / "idf.pt"), sources, steps=500, rate=7e-4, sizes=sizes)
    torch.save(result, target)


def hits() -> None:
    """Train what the reranker starts from."""
    target = WORK / "hits.pt"
    if target.exists():
        return
    pieces = _tokenizer()
    pages = PageBatches(load_pages(held_out=False), pieces, size=128, window=(150, 6000))
    torch.save(asdict(train_hits(torch.load(WORK / "idf.pt") * 9.4, pages, pieces, steps=1500)), target)


def embedder() -> None:
    """Put the table into the embedder."""
    pieces, folder = _tokenizer(), WORK / EMBED.name
    write_folder(EMBED, pieces, folder)
    directions, importance = torch.load(WORK / "table.pt"), torch.load(WORK / "idf.pt")
    (start,) = _ids(pieces, (_START,))
    rows = embedder_start.fill_table(directions, importance * _SHARPER, start_id=start, silent=_ids(pieces, _SILENT))
    network = new_network(folder)
    embedder_start.start_embedder(network, rows)
    save_network(network, folder)


def reranker() -> None:
    """Put the learned hits into the reranker."""
    pieces, folder = _tokenizer(), WORK / RERANK.name
    learned = Hits(**torch.load(WORK / "hits.pt"))
    write_folder(RERANK, pieces, folder)
    start, mark = _ids(pieces, (_START, _MARK))
    generator = torch.Generator().manual_seed(3)
    rows = rerank_start.fill_table(
        torch.randn(RERANK.vocabulary, RERANK.hidden - rerank_start.FREE.start, generator=generator),
        torch.randn(RERANK.vocabulary, rerank_start.FREE.start - rerank_start.CODE.start, generator=generator),
        learned.weights,
        start_id=start,
        mark_id=mark,
        quiet=_ids(pieces, ("Ġquestion", *SPECIAL_TOKENS[1:])),
    )
    network = new_network(folder)
    head = rerank_start.start_reranker(network, rows, learned)
    save_network(network, folder, score=head)


STAGES: dict[str, Callable[[], None]] = {
    "data": data,
    "tokenizer": tokenizer,
    "table": table,
    "hits": hits,
    "embedder": embedder,
    "reranker": reranker,
}
"""In the order in which they run."""


def export() -> None:
    """Copy the finished checkpoints to where they are shipped from; their cards are left alone."""
    for shape in (EMBED, RERANK):
        load_network(WORK / shape.name)  # a broken file must not get there
        shutil.copytree(WORK / shape.name, CHECKPOINTS / shape.name, dirs_exist_ok=True)


def evaluate(
    *, folders: dict[str, Path], judged: Path | None, pools: int, asked: int, modes: list[str], depth: int
) -> None:
    """Print the table of measurements.

    Args:
        folders: checkpoint folders by shape name.
        judged: folder with ``good/*.pdf`` and ``queries.jsonl``, or None.
        pools: how many pools of 100 held-out pages.
        asked: pages of each pool that queries are made from.
        modes: ``text``, ``image``, ``image_text``.
        depth: how many of the embedder's first pages are reranked; 0 for none.
    """
    measured = [held_out_pool(seed=seed, asked=asked) for seed in range(pools)]
    if judged is not None:
        measured.append(judged_pool(judged))
    embed = load_embedder(folders[EMBED.name])
    rerank = load_reranker(folders[RERANK.name]) if depth else None
    measure(measured, embedder=embed, reranker=rerank, modes=modes, depth=depth)


def shipped() -> dict[str, Path]:
    """The folders in the source tree."""
    return {shape.name: CHECKPOINTS / shape.name for shape in (EMBED, RERANK)}
