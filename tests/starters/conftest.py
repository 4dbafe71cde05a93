"""A library of small documents in the layout of unpacked packages, and a whole training on it, in seconds."""

from __future__ import annotations

import gzip
import random
from dataclasses import replace
from pathlib import Path

import pymupdf
import pytest

from training.dictionaries import LETTERS
from training.reading_stage import Schedule
from training.scale import Scale
from training.shapes import COLEMBED, EMBED, RERANK
from training.sources import HELD_OUT, TRAIN
from training.stages import Training

TOWER = {"vocabulary": 600, "vision_hidden": 48, "vision_layers": 1, "vision_heads": 2, "vision_intermediate": 64}
TOY = Scale(
    embed=replace(EMBED, hidden=256, intermediate=66, **TOWER),
    rerank=replace(RERANK, **TOWER),
    colembed=replace(COLEMBED, hidden=96, **TOWER),
    tokenizer_pages={"en": 30, "fr": 10, "de": 10},
    counted_pages=40,
    table_steps=6,
    table_batch=16,
    hits_steps=4,
    hits_batch=16,
    rendered_pages=12,
    reading={device: Schedule(8, size=8, pieces_from=1, pieces_ramp=2, whole=0.25) for device in ("cpu", "cuda")},
    crop=(64, 128),
    watched=1,
    read_pages=6,
    memory_steps=3,
    pool=4,
    timed_pages=2,
)
SYLLABLES = ("ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu", "dar", "fen", "gol", "hin", "pul")


def _words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(count)]


def _pdf(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pymupdf.open() as document:
        for text in texts:
            page = document.new_page(width=595, height=842)
            page.insert_textbox((72, 72, 523, 770), text, fontsize=12)
        content = document.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _dictionary(folder: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    """The two files of a dictd dictionary."""
    folder.mkdir(parents=True)
    content, rows = b"", []
    for word, meaning in pairs:
        body = f"{word}\n{meaning}".encode()
        rows.append(f"{word}\t{_number(len(content))}\t{_number(len(body))}")
        content += body
    (folder / f"{name}.dict.dz").write_bytes(gzip.compress(content))
    (folder / f"{name}.index").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _number(value: int) -> str:
    digits = ""
    while value or not digits:
        value, digit = divmod(value, 64)
        digits = LETTERS[digit] + digits
    return digits


def fill_library(root: Path) -> None:
    """Every package is there, so that nothing is downloaded; some hold documents."""
    for package in (*TRAIN, *HELD_OUT):
        (root / package).mkdir(parents=True)
    rng = random.Random(0)
    common = _words(rng, 30)

    def text() -> str:
        words = rng.choices(common, k=60) + _words(rng, 40)
        rng.shuffle(words)
        return " ".join(words)

    for package, name in [
        ("git-doc", "git.pdf"),
        ("vim-doc", "vim.pdf.gz"),
        ("octave-doc", "octave.pdf"),
        ("maxima-doc", "maxima.pdf"),
        ("linuxcnc-doc-fr", "manuel.pdf"),
        ("linuxcnc-doc-de", "handbuch.pdf"),
        ("debian-policy", "policy.pdf"),
        ("maint-guide", "guide.pdf"),
    ]:
        _pdf(root / package / "usr/share/doc" / name, [text() for _ in range(5)])
    _pdf(root / "gap-doc" / "few-words.pdf", ["too few words"])
    (root / "gap-doc" / "broken.pdf").write_bytes(b"not a PDF")
    sections = "".join(f"<h2>{' '.join(_words(rng, 2))}</h2><p>{text()}</p>" for _ in range(6))
    (root / "sqlite3-doc" / "index.html").write_text(f"<html><body>{sections}</body></html>", encoding="utf-8")
    (root / "debian-faq" / "held-out.html").write_text(f"<html><body>{sections}</body></html>", encoding="utf-8")
    names = ["deu-eng", "eng-deu", "fra-eng", "eng-fra"]
    folders = {f"freedict-{name}": f"dict-freedict-{name}" for name in names} | {"foldoc": "dict-foldoc"}
    for name, package in folders.items():
        pairs = [(word, " ".join(_words(rng, 3))) for word in _words(rng, 10)]
        _dictionary(root / package / "usr/share/dictd", name, pairs)
    wordnet = root / "wordnet-base/usr/share/wordnet"
    wordnet.mkdir(parents=True)
    (wordnet / "data.noun").write_text(
        "  a licence\n00001740 03 n 02 entity 0 thing 0 000 | what is there to be seen\n", encoding="utf-8"
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Training:
    """All stages have run, and the checkpoints are exported."""
    folder = tmp_path_factory.mktemp("training")
    fill_library(folder / "work" / "root")
    run = Training(work=folder / "work", checkpoints=folder / "checkpoints", scale=TOY, workers=1)
    for stage in run.stages.values():
        stage()
    run.export()
    return run
