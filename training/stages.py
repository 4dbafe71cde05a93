"""The stages in order, each from files to files under ``work/``; a stage whose file is there is not run again."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from nemotron_rag import configure_vision_cache, load_embedder, load_multivector_embedder, load_reranker
from training import colembed_start, embedder_start, rerank_start
from training.bag import importance_of
from training.batches import PageBatches, PairBatches, encode
from training.crops import Crops
from training.dictionaries import load_pairs
from training.evaluate import Models, measure
from training.fetch import fetch
from training.hits_stage import Hits, train_hits
from training.latency import print_latency
from training.memory_stage import Memory, choose_pieces, train_memory
from training.pages import build_pages, load_pages
from training.piece_codes import spellings
from training.places import CHECKPOINTS, WORK
from training.pools import folder_pool, held_out_pool, judged_pool
from training.reader import Reader
from training.reading_stage import Schedule, train_reader
from training.renders import build_renders, draw_held_out, load_renders
from training.shapes import COLEMBED, EMBED, RERANK, write_folder
from training.sightings import load_sightings, main_directions, see_pages
from training.table_stage import bag_rows, train_table
from training.tokens import SPECIAL_TOKENS, train_tokenizer
from training.weights import load_network, new_network, save_network

__all__ = ["STAGES", "evaluate", "export", "latency", "reading"]

_TOKENIZER_PAGES = {"en": 14_000, "fr": 7_000, "de": 7_000}
_SHARPER = 1.7  # importance is scaled so that a rare piece keeps nearly all of its vector
_PAGES = 1600
_SCHEDULES = {"cpu": Schedule(9500), "cuda": Schedule(40_000, size=128)}
_SEEN, _MEMORY_STEPS = 600, 80
_CROP, _TILE = (128, 256), (512, 512)
_FEATURES = 6 << 30  # bytes: pages are looked at once for all modes and models
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
    torch.save(asdict(train_hits(torch.load(WORK / "idf.pt") * 9.4, pages, pieces, steps=400)), target)


def renders() -> None:
    """Draw the pages that the tower learns to read from."""
    if len(list((WORK / "renders").glob("*.pixels"))) * 400 < _PAGES:
        build_renders(pages=_PAGES, workers=os.cpu_count() or 1)


def _reader() -> Reader:
    pieces = _tokenizer()
    write_folder(COLEMBED, pieces, WORK / COLEMBED.name)
    return Reader(new_network(WORK / COLEMBED.name), spellings(pieces))


def reading(*, steps: int | None = None) -> None:
    """Teach the tower and the projector to read; in so many steps, or in those that the shipped weights took."""
    pages, importance = load_renders(), torch.load(WORK / "idf.pt")
    counts = torch.ones(len(importance) + 1)
    for page in pages:
        counts[:-1] += torch.bincount(torch.from_numpy(page.pieces[:, 0]).long(), minlength=len(importance))
    counts[-1] = 0.4 * counts.sum()  # about as many tokens see nothing but paper
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    watched, rng = Crops(draw_held_out(), importance, shape=_CROP), np.random.default_rng(9)
    train_reader(
        _reader().to(device),
        Crops(pages, importance, shape=_CROP, thumbnails=0.04),
        Crops(pages, importance, shape=_TILE, thumbnails=0.08),
        _SCHEDULES[device.type] if steps is None else replace(_SCHEDULES[device.type], steps=steps),
        prior=(counts / counts.sum()).log(),
        worth=(importance * 2.5).clamp(0.1, 1.0),
        held_out=[watched.draw(16, rng) for _ in range(12)],
        path=WORK / "reader.pt",
        workers=0 if device.type == "cpu" else (os.cpu_count() or 1),
    )


def trained_reader() -> Reader:
    """What the reading stage left."""
    reader = _reader()
    reader.load_state_dict(torch.load(WORK / "reader.pt", map_location="cpu")["reader"])
    return reader.eval()


def sightings() -> None:
    """Look at whole pages once, for the heads to learn from."""
    if not (WORK / "sightings.pt").exists():
        see_pages(trained_reader(), random.Random(4).sample(load_renders(), _SEEN))


def _word_starts(pieces: Tokenizer) -> list[bool]:
    return [spelling.startswith(" ") for spelling in spellings(pieces)]


@torch.no_grad()
def _codes() -> torch.Tensor:
    return trained_reader().codes()


def memory() -> None:
    """Learn which image tokens stand for which pieces in the embedder."""
    target, importance = WORK / "memory.pt", torch.load(WORK / "idf.pt")
    if target.exists():
        return
    pages = load_sightings()
    learned = train_memory(
        pages,
        _codes(),
        bag_rows(torch.load(WORK / "table.pt")),
        (importance * _SHARPER).clamp(0.01, 0.97),
        choose_pieces(pages, importance, EMBED.intermediate - 2),
        starts=_word_starts(_tokenizer()),
        steps=_MEMORY_STEPS,
    )
    torch.save(asdict(learned), target)


def colembed() -> None:
    """Put the reader into the late-interaction network."""
    pieces, folder, reader = _tokenizer(), WORK / COLEMBED.name, trained_reader()
    write_folder(COLEMBED, pieces, folder)
    start, mark = _ids(pieces, (_START, _MARK))
    codes = _codes()
    turn = main_directions(load_sightings(), codes, COLEMBED.hidden)
    rows = colembed_start.fill_table(
        codes,
        torch.nn.functional.normalize(reader.blank.detach()[0], dim=0),
        turn,
        torch.load(WORK / "idf.pt") * _SHARPER,
        start_id=start,
        mark_id=mark,
        prompt=_ids(pieces, (_START, *_SILENT)),
    )
    network = new_network(folder)
    colembed_start.start_colembed(network, reader, rows, turn)
    save_network(network, folder)


def embedder() -> None:
    """Put table, reader and memory into the embedder."""
    pieces, folder = _tokenizer(), WORK / EMBED.name
    write_folder(EMBED, pieces, folder)
    directions, importance = torch.load(WORK / "table.pt"), torch.load(WORK / "idf.pt")
    (start,) = _ids(pieces, (_START,))
    rows = embedder_start.fill_table(directions, importance * _SHARPER, start_id=start, silent=_ids(pieces, _SILENT))
    network = new_network(folder)
    embedder_start.start_embedder(network, rows, trained_reader(), Memory(**torch.load(WORK / "memory.pt")))
    save_network(network, folder)


def reranker() -> None:
    """Put learned hits and the reader into the reranker."""
    pieces, folder = _tokenizer(), WORK / RERANK.name
    hits, codes = Hits(**torch.load(WORK / "hits.pt")), _codes()
    turn = main_directions(load_sightings(), codes, rerank_start.SIGHT.stop - rerank_start.SIGHT.start)
    write_folder(RERANK, pieces, folder)
    start, mark = _ids(pieces, (_START, _MARK))
    generator = torch.Generator().manual_seed(3)
    rows = rerank_start.fill_table(
        torch.randn(RERANK.vocabulary, RERANK.hidden - rerank_start.FREE.start, generator=generator),
        torch.randn(RERANK.vocabulary, rerank_start.CODE.stop - rerank_start.CODE.start, generator=generator),
        torch.nn.functional.normalize(codes @ turn.T, dim=1),
        hits.weights,
        start_id=start,
        mark_id=mark,
        quiet=_ids(pieces, ("Ġquestion", *SPECIAL_TOKENS[1:])),
    )
    network = new_network(folder)
    head = rerank_start.start_reranker(network, rows, hits, trained_reader(), turn)
    save_network(network, folder, score=head)


STAGES: dict[str, Callable[[], None]] = {
    "data": data,
    "tokenizer": tokenizer,
    "table": table,
    "hits": hits,
    "renders": renders,
    "reading": reading,
    "sightings": sightings,
    "memory": memory,
    "colembed": colembed,
    "embedder": embedder,
    "reranker": reranker,
}
"""In the order in which they run."""


def export() -> None:
    """Copy the finished checkpoints to where they are shipped from; their cards are left alone."""
    for shape in (EMBED, RERANK, COLEMBED):
        load_network(WORK / shape.name)  # a broken file must not get there
        shutil.copytree(WORK / shape.name, CHECKPOINTS / shape.name, dirs_exist_ok=True)


def evaluate(
    *,
    judged: Path | None,
    pdfs: Path | None,
    pools: int,
    asked: int,
    modes: list[str],
    names: list[str],
    depth: int,
) -> None:
    """Print the measurements of the shipped checkpoints.

    Args:
        judged: folder with ``good/*.pdf`` and ``queries.jsonl``, or None.
        pdfs: folder of any PDFs, a hundred of whose pages are a pool too, or None.
        pools: how many pools of 100 held-out pages.
        asked: pages of each pool that queries are made from.
        modes: ``text``, ``image``, ``image_text``.
        names: ``embedder``, ``reranker``, ``colembed``.
        depth: how many of the embedder's first pages are reranked.
    """
    configure_vision_cache(max_bytes=_FEATURES)
    measured = [held_out_pool(seed=seed, asked=asked) for seed in range(pools)]
    if pdfs is not None:
        measured.append(folder_pool(pdfs, asked=asked))
    if judged is not None:
        measured.append(judged_pool(judged))
    models = Models(
        embedder=load_embedder(EMBED.name) if "embedder" in names else None,
        reranker=load_reranker(RERANK.name) if "reranker" in names else None,
        colembed=load_multivector_embedder(COLEMBED.name) if "colembed" in names else None,
    )
    measure(measured, models, modes=modes, depth=depth)


def latency() -> None:
    """Time the shipped checkpoints on 25 held-out pages."""
    print_latency(held_out_pool(size=26, asked=0).passages("image"))
