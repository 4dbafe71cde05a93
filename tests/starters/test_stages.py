"""Every stage of training runs, at a toy size, and what it leaves is what the next one needs."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from nemotron_rag import Passage, load_embedder, load_multivector_embedder, load_reranker
from training.page_tokens import load_page_tokens
from training.pages import load_pages
from training.piece_codes import spellings
from training.renders import build_renders, load_renders
from training.stages import Training

pytestmark = pytest.mark.slow


def test_data(trained):
    pages = load_pages(trained.work / "pages.jsonl", held_out=False)
    held_out = load_pages(trained.work / "pages.jsonl", held_out=True)
    assert {page.package for page in held_out} == {"debian-policy", "maint-guide"}  # of those packages PDFs alone
    assert len(held_out) == 2 * 5
    assert len(pages) == 6 * 5 + 6
    assert {page.language for page in pages} == {"en", "fr", "de"}
    assert {page.title == "" for page in pages if page.package == "sqlite3-doc"} == {False}
    assert "gap-doc" not in {page.package for page in pages}


def test_tokenizer(trained):
    pieces = Tokenizer.from_file(str(trained.work / "tok.json"))
    assert pieces.get_vocab_size() == trained.scale.embed.vocabulary
    assert [pieces.token_to_id(word) is None for word in ("Ġquery", "Ġquestion", "Ġpassage")] == [False] * 3
    importance = torch.load(trained.work / "idf.pt")
    assert importance.shape == (trained.scale.embed.vocabulary,)
    assert importance.min() >= 0
    assert importance.max() == 1
    assert importance[pieces.encode("ba").ids[-1]] < 1


def test_table(trained):
    table = torch.load(trained.work / "table.pt")
    assert table.shape == (600, 256 - 36)
    assert torch.allclose(table.norm(dim=1), torch.ones(600), atol=1e-5)
    start = torch.randn(600, 220, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(table, torch.nn.functional.normalize(start, dim=1), atol=1e-3)


def test_hits(trained):
    hits = torch.load(trained.work / "hits.pt")
    assert hits["weights"].shape == (600,)
    assert torch.isfinite(hits["weights"]).all()
    assert all(hits[name] != start for name, start in (("repeats", 0.0), ("length", 2.0), ("scale", 15.0)))


def test_renders(trained):
    renders = load_renders(trained.work / "renders")
    spelled = spellings(Tokenizer.from_file(str(trained.work / "tok.json")))
    assert len(renders) == trained.scale.rendered_pages
    for render in renders:
        height, width = render.pixels.shape
        assert (height % 512, width % 512) == (0, 0)
        assert (render.pieces[:, [3, 4]] <= (width, height)).all()
        assert (render.pieces[:, 1:] >= 0).all()
    inked = [render.pixels[top:bottom, left:right].min() for _, left, top, right, bottom in renders[0].pieces[:50]]
    assert max(inked) < 128
    read = "".join(spelled[piece] for piece in renders[0].pieces[:, 0])
    texts = [page.text for page in load_pages(trained.work / "pages.jsonl", held_out=False)]
    assert "".join(read.split()) in ["".join(text.split()) for text in texts]


def test_renders_are_the_same_from_a_pool(trained, tmp_path, monkeypatch):
    """One thread stands in for the processes, each of which would import torch first."""
    monkeypatch.setattr("training.renders.ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(1))
    texts = load_pages(trained.work / "pages.jsonl", held_out=False)
    build_renders(texts, trained.work / "root", trained.work / "tok.json", tmp_path / "renders", pages=12, workers=2)
    for one, other in zip(load_renders(tmp_path / "renders"), load_renders(trained.work / "renders"), strict=True):
        assert (one.pixels == other.pixels).all()
        assert (one.pieces == other.pieces).all()


def test_reading_goes_on_where_it_stopped(trained, tmp_path, capsys):
    stored = torch.load(trained.work / "reader.pt")
    assert stored["step"] == 8
    for name in ("tok.json", "idf.pt", "pages.jsonl", "root", "renders"):
        (tmp_path / name).symlink_to(trained.work / name)
    (tmp_path / "reader.pt").write_bytes((trained.work / "reader.pt").read_bytes())
    trained_for = replace(trained.scale.reading["cpu"], steps=9)
    longer = replace(trained.scale, reading=dict.fromkeys(("cpu", "cuda"), trained_for))
    Training(work=tmp_path, scale=longer, workers=1).reading()
    after = torch.load(tmp_path / "reader.pt")
    assert after["step"] == 9
    assert not torch.equal(after["reader"]["ink.weight"], stored["reader"]["ink.weight"])
    assert capsys.readouterr().out.count("held out:") == 1


def test_page_tokens(trained):
    pages = load_page_tokens(trained.work / "page_tokens.pt")
    assert len(pages) == trained.scale.read_pages
    for page in pages:
        assert page.inked.shape[1] == page.blank.shape[1] == trained.scale.colembed.hidden
        assert 0 < len(page.blank) <= min(64, page.blanks)
        assert len(page.inked) + page.blanks in {256 * tiles for tiles in range(1, 7)}
        assert page.pieces


def test_memory(trained):
    memory = torch.load(trained.work / "memory.pt")
    assert memory["keys"].shape == (64, trained.scale.colembed.hidden)
    assert memory["values"].shape == (64, trained.scale.embed.hidden)
    assert (memory["thresholds"] != memory["thresholds"][0]).any()


def test_a_stage_whose_file_is_there_is_not_run_again(trained, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it ran again")

    for name in ("build_pages", "train_tokenizer", "train_table", "train_hits", "build_renders", "train_memory"):
        monkeypatch.setattr(f"training.stages.{name}", refuse)
    monkeypatch.setattr("training.stages.read_pages", refuse)
    for name in ("data", "tokenizer", "table", "hits", "renders", "page_tokens", "memory"):
        trained.stages[name]()


# Even of a tower that has learned nothing, the text path is set by construction: it finds words.


@pytest.fixture(scope="module")
def texts(trained) -> list[str]:
    return [page.text for page in load_pages(trained.work / "pages.jsonl", held_out=True)]


@pytest.fixture(scope="module")
def queries(texts) -> list[str]:
    rng = random.Random(3)
    return [" ".join(rng.sample(text.split(), 12)) for text in texts]


def test_the_embedder_finds_pages_by_their_words(trained, texts, queries):
    embedder = load_embedder(trained.checkpoints / "starter-embed-vl", device="cpu")
    scores = embedder.embed_queries(queries) @ embedder.embed_passages([Passage(text) for text in texts]).T
    assert scores.shape == (10, 10)
    assert np.mean(scores.argmax(axis=1) == np.arange(10)) >= 0.9


def test_the_reranker_finds_pages_by_their_words(trained, texts, queries):
    reranker = load_reranker(trained.checkpoints / "starter-rerank-vl", device="cpu")
    passages = [Passage(text) for text in texts]
    best = [int(reranker.score(query, passages).argmax()) for query in queries]
    assert np.mean(np.array(best) == np.arange(10)) >= 0.9


def test_late_interaction_finds_pages_by_their_words(trained, texts, queries):
    model = load_multivector_embedder(trained.checkpoints / "starter-colembed", device="cpu")
    pages = model.embed_passages([Passage(text) for text in texts])
    scores = model.score(model.embed_queries(queries), pages)
    assert np.mean(scores.argmax(axis=1) == np.arange(10)) >= 0.9


def test_evaluation_prints_every_system(trained, capsys):
    trained.evaluate(queries=1, modes=["text", "image"], depth=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    systems = ["embedder", "embedder + reranker", "embedder, first half", "colembed"]
    expected = {f"{mode}: {system}" for mode in ("text", "image") for system in systems} | {"BM25 on the text"}
    rows = [re.fullmatch(r"(.+?) +(\w+) +n=1 +R@1 ([\d.]+)  R@5 ([\d.]+)  NDCG@10 ([\d.]+)", line) for line in lines]
    assert None not in rows
    assert {(row[1], row[2]) for row in rows} == {
        (system, kind) for system in expected for kind in ("sentence", "keywords4", "keywords2")
    }
    (bm25,) = [row for row in rows if row[1].startswith("BM25") and row[2] == "sentence"]
    assert bm25.groups()[2:] == ("1.000", "1.000", "1.000")


def test_evaluation_of_a_folder_of_judged_pages(trained, tmp_path, capsys):
    (tmp_path / "good").mkdir()
    source = trained.work / "root/maint-guide/usr/share/doc/guide.pdf"
    (tmp_path / "good" / "guide.pdf").write_bytes(source.read_bytes())
    text = load_pages(trained.work / "pages.jsonl", held_out=True)[-1].text
    query = " ".join(text.split()[10:20])
    row = f'{{"query": "{query}", "file": "guide.pdf", "pages": [5]}}\n'
    (tmp_path / "queries.jsonl").write_text(row, encoding="utf-8")
    trained.evaluate(judged=tmp_path, pdfs=tmp_path / "good", pools=0, queries=1, names=["embedder"])
    found = re.findall(r"^text: embedder +judged +n=1 +R@1 (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert found == ["1.000"]


def test_latency_prints_three_times(trained, capsys):
    trained.latency()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "a query embedded",
        "a page embedded",
        "1 pages reranked, their vision features cached",
    ]
