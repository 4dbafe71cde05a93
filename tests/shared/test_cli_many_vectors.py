"""The command line over a late-interaction model: what is stored, the modes, one-line errors."""

import json

import pymupdf
import pytest
from qdrant_client import QdrantClient

from nemotron_rag import cli
from support.models import use_models

pytestmark = pytest.mark.slow

MODEL = "nemotron-colembed-vl-4b-v2"
TEXTS = ["Red apples keep best in cold rooms.", "Pears ripen after the harvest.", "Blue whales sing in the ocean."]


@pytest.fixture(autouse=True)
def fake_models(monkeypatch):
    use_models(monkeypatch)


@pytest.fixture
def run(capfd):
    def run(*arguments):
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def pdf(tmp_path):
    document = pymupdf.open()
    for text in TEXTS:
        document.new_page(width=300, height=400).insert_text((20, 60), text)
    document.save(tmp_path / "a.pdf")
    return tmp_path / "a.pdf"


def test_index_and_search_in_every_mode(pdf, run, tmp_path):
    assert run("index", pdf, "--to", tmp_path / "i", "--embedder", MODEL)[0] == 0
    for more in ((), ("--mode", "multi", "--prefetch", 20), ("--mode", "dense"), ("--mode", "hybrid")):
        code, out, err = run("search", tmp_path / "i", "whales in the ocean", "--json", *more)
        assert code == 0, err
        assert json.loads(out)["hits"][0]["page_number"] == 3


def test_how_vectors_are_stored_is_shown_and_kept(pdf, run, tmp_path):
    made = ("index", pdf, "--to", tmp_path / "i", "--embedder", MODEL)
    assert run(*made, "--max-rows", 4, "--token-storage", "float32")[0] == 0
    assert json.loads(run("info", tmp_path / "i", "--json")[1])["record"]["token_vectors"] == {
        "pooling": "hierarchical",
        "max_rows": 4,
        "storage": "float32",
    }
    assert "token max_rows 4" in run("info", tmp_path / "i")[1]
    code, _, err = run(*made, "--token-pooling", "none")
    assert (code, err.count("\n")) == (1, 1)
    assert "written with pooling='hierarchical', but pooling='none' was given" in err


def test_settings_that_cannot_be_are_one_line(pdf, run, tmp_path):
    QdrantClient(path=str(tmp_path / "i")).close()
    code, _, err = run("index", pdf, "--to", tmp_path / "i", "--embedder", MODEL, "--token-storage", "int8")
    assert (code, err.count("\n")) == (1, 1)
    assert "Qdrant in memory or in its local mode stores float16 or float32, not int8" in err
    code, _, err = run("index", pdf, "--to", tmp_path / "j", "--embedder", "starter-embed-vl", "--max-rows", 5)
    assert (code, err.count("\n")) == (1, 1)
    assert "token_vectors= is for late-interaction models" in err
