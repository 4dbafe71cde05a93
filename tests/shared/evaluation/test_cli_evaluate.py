"""The commands `evaluate` and `make-queries`, with the fakes below them."""

import json

import pytest

from nemotron_rag import cli
from support.models import use_models
from support.pages import make_pdf

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def files(monkeypatch, tmp_path):
    use_models(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_pdf(
        tmp_path / "pdfs" / "fruit.pdf", "red apples grow on old trees in the cold north of the land", "ripe pears"
    )
    (tmp_path / "q.csv").write_text(
        "question,file,page,language\nred apples,fruit.pdf,1,english\nripe,fruit.pdf,2,dutch\n"
    )
    return tmp_path


def test_evaluate_writes_all_three_files_and_goes_on(files, capfd):
    arguments = ["evaluate", "q.csv", "--pages", "pdfs", "--embedder", "starter-embed-vl", "--mode", "dense"]
    assert cli.main([*arguments, "--to", "out", "-k", "1"]) == 0
    out, _ = capfd.readouterr()
    assert "2 queries of q.csv" in out
    assert "starter-embed-vl, dense" in out
    assert sorted(path.name for path in (files / "out").iterdir()) == [
        "answers", "evaluation.html", "evaluation.json", "evaluation.md", "indexes",
    ]  # fmt: skip
    assert cli.main([*arguments, "--to", "out", "-k", "1", "--language", "dutch", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["systems"][0]["queries"]) == 1


def test_made_queries_are_evaluated(files, capfd):
    assert cli.main(["make-queries", "pdfs", "--to", "made.csv", "--count", "1", "--kind", "keywords"]) == 0
    assert "favour search by words" in capfd.readouterr().err
    assert cli.main(["index", "pdfs", "--to", "idx", "--embedder", "starter-embed-vl"]) == 0
    assert cli.main(["evaluate", "made.csv", "--index", "idx", "--to", "out"]) == 0
    assert "idx" in capfd.readouterr().out


def test_another_engine_is_another_index(files, capfd):
    """The pages of each are rendered anew, and the engine is noted in the results."""
    made = ["make-queries", "pdfs", "--to", "made.csv", "--count", "1", "--kind", "keywords", "--pdf-engine", "pdfium"]
    assert cli.main(made) == 0
    arguments = ["evaluate", "q.csv", "--pages", "pdfs", "--embedder", "starter-embed-vl", "--to", "out", "--json"]
    settings = []
    for more in ([], ["--pdf-engine", "pdfium"]):
        capfd.readouterr()
        assert cli.main([*arguments, *more]) == 0
        settings.append(json.loads(capfd.readouterr().out)["systems"][0]["settings"].get("pdf_engine"))
    assert settings == [None, "pdfium"]
    assert len([*(files / "out" / "indexes").glob("*.json")]) == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["evaluate", "gone.csv"], "there is no data set at 'gone.csv'"),
    (["evaluate", "q.csv", "--embedder", "starter-embed-vl"], "give pages="),
    (["evaluate", "q.csv", "--pages", "pdfs", "--embedder", "starter-embed-vl", "--mode", "x"], "mode must be one of"),
    (["evaluate", "q.csv", "--index", "gone"], "there is no index"),
    (["make-queries", "gone", "--to", "x.csv"], "there are no pages at 'gone'"),
])  # fmt: skip
def test_errors_are_one_line(arguments, message, capfd):
    assert cli.main(arguments) == 1
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
