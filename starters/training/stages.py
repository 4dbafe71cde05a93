"""The stages in order, each from files to files in one folder; a stage whose file is there is not run again."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import normalize

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
from training.page_tokens import PageTokens, load_page_tokens, main_directions, read_pages
from training.pages import TextPage, build_pages, load_pages
from training.piece_codes import spellings
from training.places import CHECKPOINTS, WORK
from training.pools import folder_pool, held_out_pool, judged_pool
from training.reader import Reader
from training.reading_stage import train_reader
from training.renders import Render, build_renders, load_renders, render_some
from training.scale import Scale
from training.shapes import Shape, write_folder
from training.table_stage import bag_rows, train_table
from training.tokens import SPECIAL_TOKENS, train_tokenizer
from training.weights import load_network, new_network, save_network

__all__ = ["Training"]

_SHARPER = 1.7  # importance is scaled so that a rare piece keeps nearly all of its vector
_TILE = (512, 512)
_FEATURES = 6 << 30  # bytes: pages are read once for all modes and models
_START, _MARK = SPECIAL_TOKENS[0], "Ġpassage"
_SILENT = ("Ġquery", "Ġpassage", *SPECIAL_TOKENS[1:])


def _ids(tokenizer: Tokenizer, tokens: tuple[str, ...]) -> list[int]:
    numbers = tokenizer.get_vocab(with_added_tokens=True)
    return [numbers[token] for token in tokens]


@dataclass(frozen=True)
class Training:
    """One run: its files, and how much of everything it takes. Every stage is a method without arguments.

    Args:
        work: folder of all files; a run that was stopped goes on with what is there.
        checkpoints: folder where `export` puts the finished checkpoints, and `evaluate` finds them.
        scale: sizes and steps.
        workers: processes that render pages, and that cut crops for a GPU.

    Example:
        >>> Training(work=Path("work")).reading()  # doctest: +SKIP
    """

    work: Path = WORK
    checkpoints: Path = CHECKPOINTS
    scale: Scale = field(default_factory=Scale)
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def stages(self) -> dict[str, Callable[[], None]]:
        """In the order in which they run."""
        return {
            "data": self.data,
            "tokenizer": self.tokenizer,
            "table": self.table,
            "hits": self.hits,
            "renders": self.renders,
            "reading": self.reading,
            "page_tokens": self.page_tokens,
            "memory": self.memory,
            "colembed": self.colembed,
            "embedder": self.embedder,
            "reranker": self.reranker,
        }

    def data(self) -> None:
        """Download the packages and read their pages."""
        self.work.mkdir(parents=True, exist_ok=True)
        root = fetch(self.work)
        if not self._pages_file.exists():
            build_pages(root, self._pages_file)

    def tokenizer(self) -> None:
        """Learn the pieces and how rare they are."""
        if self._importance_file.exists():
            return
        pages, rng = self._pages(held_out=False), random.Random(0)
        texts: list[str] = []
        for language, count in self.scale.tokenizer_pages.items():
            of_language = [page.text for page in pages if page.language == language]
            texts += rng.sample(of_language, min(count, len(of_language)))
        size = self.scale.embed.vocabulary
        train_tokenizer(texts, size=size).save(str(self._tokenizer_file))
        some = random.Random(5).sample(pages, min(self.scale.counted_pages, len(pages)))
        counted = encode(self._tokenizer(), [page.text[:4000] for page in some])
        torch.save(importance_of(counted, pieces=size), self._importance_file)

    def table(self) -> None:
        """Train the directions of the pieces as a damped bag."""
        if self._table_file.exists():
            return
        pieces, shape, size = self._tokenizer(), self.scale.embed, self.scale.table_batch
        free = shape.hidden - embedder_start.CODE.stop
        directions = torch.randn(shape.vocabulary, free, generator=torch.Generator().manual_seed(1))
        pages = PageBatches(self._pages(held_out=False), pieces, size=size)
        meanings = PairBatches(load_pairs(self._root), pieces, size=size)
        result = train_table(
            directions,
            self._importance(),
            [(1.0, pages), (0.2, meanings)],
            steps=self.scale.table_steps,
            rate=7e-4,
            sizes=(shape.hidden, shape.hidden // 2),
        )
        torch.save(result, self._table_file)

    def hits(self) -> None:
        """Train what the reranker starts from."""
        if self._hits_file.exists():
            return
        pieces = self._tokenizer()
        pages = PageBatches(self._pages(held_out=False), pieces, size=self.scale.hits_batch, window=(150, 6000))
        learned = train_hits(self._importance() * 9.4, pages, pieces, steps=self.scale.hits_steps)
        torch.save(asdict(learned), self._hits_file)

    def renders(self) -> None:
        """Render the pages that the tower learns to read from."""
        if len(load_renders(self._renders_folder)) >= self.scale.rendered_pages:
            return
        build_renders(
            self._pages(held_out=False),
            self._root,
            self._tokenizer_file,
            self._renders_folder,
            pages=self.scale.rendered_pages,
            workers=self.workers,
        )

    def reading(self) -> None:
        """Teach the tower and the projector to read, on the GPU if torch sees one."""
        pages, importance, scale = self._rendered(), self._importance(), self.scale
        counts = torch.ones(len(importance) + 1)
        for page in pages:
            counts[:-1] += torch.bincount(torch.from_numpy(page.pieces[:, 0]).long(), minlength=len(importance))
        counts[-1] = 0.4 * counts.sum()  # about as many tokens see nothing but paper
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        held_out = render_some(self._pages(held_out=True), self._root, self._tokenizer_file)
        watched, rng = Crops(held_out, importance, shape=scale.crop), np.random.default_rng(9)
        train_reader(
            self._new_reader().to(device),
            Crops(pages, importance, shape=scale.crop, thumbnails=0.04),
            Crops(pages, importance, shape=_TILE, thumbnails=0.08),
            scale.reading[device.type],
            prior=(counts / counts.sum()).log(),
            worth=(importance * 2.5).clamp(0.1, 1.0),
            held_out=[watched.draw(16, rng) for _ in range(scale.watched)],
            path=self._reader_file,
            workers=0 if device.type == "cpu" else self.workers,
        )

    def page_tokens(self) -> None:
        """Read whole pages once, for the heads to learn from."""
        if not self._page_tokens_file.exists():
            pages = random.Random(4).sample(self._rendered(), self.scale.read_pages)
            read_pages(self._reader(), pages, self._page_tokens_file)

    def memory(self) -> None:
        """Learn which image tokens stand for which pieces in the embedder."""
        if self._memory_file.exists():
            return
        pages, importance = self._page_tokens(), self._importance()
        learned = train_memory(
            pages,
            self._codes(),
            bag_rows(torch.load(self._table_file)),
            (importance * _SHARPER).clamp(0.01, 0.97),
            choose_pieces(pages, importance, self.scale.embed.intermediate - 2),
            starts=[spelling.startswith(" ") for spelling in spellings(self._tokenizer())],
            steps=self.scale.memory_steps,
        )
        torch.save(asdict(learned), self._memory_file)

    def colembed(self) -> None:
        """Put the reader into the late-interaction network."""
        pieces, reader, codes = self._tokenizer(), self._reader(), self._codes()
        folder = self._write_folder(self.scale.colembed)
        start, mark = _ids(pieces, (_START, _MARK))
        turn = main_directions(self._page_tokens(), codes, self.scale.colembed.hidden)
        rows = colembed_start.fill_table(
            codes,
            normalize(reader.blank.detach()[0], dim=0),
            turn,
            self._importance() * _SHARPER,
            start_id=start,
            mark_id=mark,
            prompt=_ids(pieces, (_START, *_SILENT)),
        )
        network = new_network(folder)
        colembed_start.start_colembed(network, reader, rows, turn)
        save_network(network, folder)

    def embedder(self) -> None:
        """Put table, reader and memory into the embedder."""
        pieces, folder = self._tokenizer(), self._write_folder(self.scale.embed)
        (start,) = _ids(pieces, (_START,))
        rows = embedder_start.fill_table(
            torch.load(self._table_file),
            self._importance() * _SHARPER,
            start_id=start,
            silent=_ids(pieces, _SILENT),
        )
        network = new_network(folder)
        embedder_start.start_embedder(network, rows, self._reader(), Memory(**torch.load(self._memory_file)))
        save_network(network, folder)

    def reranker(self) -> None:
        """Put learned hits and the reader into the reranker."""
        pieces, shape, codes = self._tokenizer(), self.scale.rerank, self._codes()
        hits = Hits(**torch.load(self._hits_file))
        sight, code = rerank_start.SIGHT, rerank_start.CODE
        turn = main_directions(self._page_tokens(), codes, sight.stop - sight.start)
        folder = self._write_folder(shape)
        start, mark = _ids(pieces, (_START, _MARK))
        generator = torch.Generator().manual_seed(3)
        rows = rerank_start.fill_table(
            torch.randn(shape.vocabulary, shape.hidden - rerank_start.FREE.start, generator=generator),
            torch.randn(shape.vocabulary, code.stop - code.start, generator=generator),
            normalize(codes @ turn.T, dim=1),
            hits.weights,
            start_id=start,
            mark_id=mark,
            quiet=_ids(pieces, ("Ġquestion", *SPECIAL_TOKENS[1:])),
        )
        network = new_network(folder)
        head = rerank_start.start_reranker(network, rows, hits, self._reader(), turn)
        save_network(network, folder, score=head)

    def export(self) -> None:
        """Copy the finished checkpoints into the package; their cards are left alone."""
        for shape in (self.scale.embed, self.scale.rerank, self.scale.colembed):
            load_network(self.work / shape.name)  # a broken file must not get there
            shutil.copytree(self.work / shape.name, self.checkpoints / shape.name, dirs_exist_ok=True)

    def evaluate(
        self,
        *,
        judged: Path | None = None,
        pdfs: Path | None = None,
        pools: int = 1,
        queries: int | None = None,
        modes: Sequence[str] = ("text",),
        names: Sequence[str] = ("embedder", "reranker", "colembed"),
        depth: int = 25,
    ) -> None:
        """Print the measurements of the exported checkpoints.

        Args:
            judged: folder with ``good/*.pdf`` and ``queries.jsonl``, or None.
            pdfs: folder of any PDFs, a hundred of whose pages are a pool too, or None.
            pools: how many pools of held-out pages.
            queries: pages of each pool that queries are made from; None for all.
            modes: ``text``, ``image``, ``image_text``.
            names: ``embedder``, ``reranker``, ``colembed``.
            depth: how many of the embedder's first pages are reranked.
        """
        configure_vision_cache(max_bytes=_FEATURES)
        held_out = self._pages(held_out=True) if pools else []
        measured = [
            held_out_pool(held_out, self._root, size=self.scale.pool, seed=seed, queries=queries)
            for seed in range(pools)
        ]
        if pdfs is not None:
            measured.append(folder_pool(pdfs, queries=queries))
        if judged is not None:
            measured.append(judged_pool(judged))
        embedder, reranker, colembed = map(self._exported, (self.scale.embed, self.scale.rerank, self.scale.colembed))
        models = Models(
            embedder=load_embedder(embedder) if "embedder" in names else None,
            reranker=load_reranker(reranker) if "reranker" in names else None,
            colembed=load_multivector_embedder(colembed) if "colembed" in names else None,
        )
        measure(measured, models, modes=modes, depth=depth)

    def latency(self) -> None:
        """Time the exported checkpoints on held-out pages."""
        pool = held_out_pool(self._pages(held_out=True), self._root, size=self.scale.timed_pages, queries=0)
        embedder = load_embedder(self._exported(self.scale.embed))
        reranker = load_reranker(self._exported(self.scale.rerank))
        print_latency(pool.passages("image"), embedder, reranker)

    def _exported(self, shape: Shape) -> Path:
        return self.checkpoints / shape.name

    @property
    def _root(self) -> Path:
        return self.work / "root"

    @property
    def _pages_file(self) -> Path:
        return self.work / "pages.jsonl"

    @property
    def _tokenizer_file(self) -> Path:
        return self.work / "tok.json"

    @property
    def _importance_file(self) -> Path:
        return self.work / "idf.pt"

    @property
    def _table_file(self) -> Path:
        return self.work / "table.pt"

    @property
    def _hits_file(self) -> Path:
        return self.work / "hits.pt"

    @property
    def _renders_folder(self) -> Path:
        return self.work / "renders"

    @property
    def _reader_file(self) -> Path:
        return self.work / "reader.pt"

    @property
    def _page_tokens_file(self) -> Path:
        return self.work / "page_tokens.pt"

    @property
    def _memory_file(self) -> Path:
        return self.work / "memory.pt"

    def _pages(self, *, held_out: bool) -> list[TextPage]:
        return load_pages(self._pages_file, held_out=held_out)

    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self._tokenizer_file))

    def _importance(self) -> torch.Tensor:
        importance: torch.Tensor = torch.load(self._importance_file)
        return importance

    def _rendered(self) -> list[Render]:
        return load_renders(self._renders_folder)

    def _page_tokens(self) -> list[PageTokens]:
        return load_page_tokens(self._page_tokens_file)

    def _write_folder(self, shape: Shape) -> Path:
        """Everything of a checkpoint but its weights."""
        folder = self.work / shape.name
        write_folder(shape, self._tokenizer(), folder)
        return folder

    def _new_reader(self) -> Reader:
        return Reader(new_network(self._write_folder(self.scale.colembed)), spellings(self._tokenizer()))

    def _reader(self) -> Reader:
        """What the reading stage left."""
        reader = self._new_reader()
        reader.load_state_dict(torch.load(self._reader_file, map_location="cpu")["reader"])
        return reader.eval()

    @torch.no_grad()
    def _codes(self) -> torch.Tensor:
        codes: torch.Tensor = self._reader().codes()
        return codes
