"""The command line with the fakes below it: output, exit codes, one-line errors. Only loading is replaced."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pymupdf
import pytest
from PIL import Image
from qdrant_client import QdrantClient

from nemotron_rag import cli
from nemotron_rag.cli import _models
from nemotron_rag.errors import CheckpointError
from nemotron_rag.index import PageIndex
from nemotron_rag.models.catalog import CATALOG, find
from support.models import use_models

pytestmark = pytest.mark.slow

TEXTS = {
    "fruit.pdf": ["Red apples keep best in cold rooms.", "Pears ripen after the harvest."],
    "sea.pdf": ["Blue whales sing in the deep ocean.", "Herring swim in large shoals.", "Crabs walk sideways."],
}


@pytest.fixture(autouse=True)
def fake_models(monkeypatch):
    """Every name loads a fake."""

    use_models(monkeypatch)


def write_pdf(path, texts):
    document = pymupdf.open()
    for text in texts:
        document.new_page(width=300, height=400).insert_text((20, 60), text)
    document.save(path)
    return path


@pytest.fixture(scope="session")
def pdfs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pdfs")
    for name, texts in TEXTS.items():
        write_pdf(folder / name, texts)
    return folder


@pytest.fixture
def run(capfd):
    """Run a command line; gives the exit code, stdout and stderr."""

    def run(*arguments):
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def index(tmp_path, pdfs, run):
    location = tmp_path / "index"
    code, *_ = run("index", pdfs, "--to", location)
    assert code == 0
    return location


def fails(outcome, code, message):
    """The outcome is an error of one line that says `message`."""
    given, out, err = outcome
    assert (given, out) == (code, "")
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err


# index


def test_index_reports_counts_and_rate(tmp_path, pdfs, run):
    arguments = ("index", pdfs, "--to", tmp_path / "index")
    code, out, _ = run(*arguments)
    assert code == 0
    assert re.fullmatch(r"5 pages added in [\d.]+ s \([\d.]+ pages/s\), 0 unchanged, 0 removed\n", out)
    assert run(*arguments)[:2] == (0, "0 pages added, 5 unchanged, 0 removed\n")


def test_index_skips_what_it_cannot_read_and_says_so(tmp_path, pdfs, run):
    bad = tmp_path / "bad [red].pdf"
    bad.write_bytes(b"%PDF-1.4 nothing else")
    code, out, _ = run("index", pdfs, bad, "--to", tmp_path / "index")
    assert code == 0
    assert "5 pages added" in out
    assert "skipped 1:" in out
    assert "bad [red].pdf" in out


def test_index_renders_with_the_engine_that_was_asked_for(tmp_path, pdfs, run):
    pytest.importorskip("pypdfium2")
    location = tmp_path / "index"
    assert run("index", pdfs, "--to", location, "--pdf-engine", "pdfium")[0] == 0
    with PageIndex(location) as index:
        assert {hit.page.metadata.get("pdf_engine") for hit in index.search("x", k=9)} == {"pdfium"}


def test_index_of_nothing_readable_is_exit_code_1(tmp_path, run):
    bad = tmp_path / "bad.pdf"
    bad.write_bytes(b"")
    code, out, _ = run("index", bad, "--to", tmp_path / "index", "--json")
    assert code == 1
    (failure,) = json.loads(out)["failures"]
    assert failure["source"] == str(bad)
    assert set(failure) == {"source", "page_number", "reason"}


def test_index_stops_at_the_first_error_if_asked(tmp_path, run):
    bad = tmp_path / "bad.pdf"
    bad.write_bytes(b"")
    fails(run("index", bad, "--to", tmp_path / "i", "--on-error", "raise"), 1, "bad.pdf")


def test_index_json(tmp_path, pdfs, run):
    code, out, _ = run("index", pdfs, "--to", tmp_path / "i", "--json", "--pages", "2")
    assert code == 0
    report = json.loads(out)
    assert set(report) == {"added", "unchanged", "removed", "optimized", "failures", "seconds"}
    assert (report["added"], report["failures"]) == (2, [])
    assert report["seconds"]["total"] > 0


def test_index_says_when_the_model_cannot_be_fetched(tmp_path, pdfs, run, monkeypatch):
    def refuse(*_, **__):
        raise CheckpointError("cannot get it from the model hub (no route\nto host); give a local folder")

    use_models(monkeypatch, refuse)
    fails(run("index", pdfs, "--to", tmp_path / "i"), 1, r"cannot get it .*no route to host\); give a local folder")


def test_unknown_models_are_refused_with_the_known_ones(tmp_path, pdfs, run):
    outcome = run("index", pdfs, "--to", tmp_path / "i", "--embedder", "llama")
    fails(outcome, 1, "no model named 'llama'.*llama-nemotron-embed-vl-1b-v2")


def test_index_of_a_file_whose_name_begins_with_a_dash(tmp_path, run, monkeypatch):
    write_pdf(tmp_path / "-odd.pdf", ["words"])
    monkeypatch.chdir(tmp_path)
    assert run("index", "--to", "i", "--", "-odd.pdf")[0] == 0
    assert "-odd.pdf" in run("info", "i")[1]


# search


def test_search_shows_a_table(index, run):
    code, out, err = run("search", index, "Where do blue whales sing?", "-k", "3")
    assert (code, err) == (0, "")
    first = next(line for line in out.splitlines() if line.lstrip().startswith("1 "))
    assert "sea.pdf" in first
    assert "Blue whales sing" in first
    assert re.search(r"3 pages in [\d.]+ s", out)
    assert "\x1b" not in out


def test_search_by_an_image(index, run, tmp_path):
    image = tmp_path / "image.png"
    Image.new("RGB", (50, 50), "red").save(image)
    code, out, _ = run("search", index, "--image", image, "--json", "-k", "2", "--html", tmp_path / "hits.html")
    found = json.loads(out)
    assert (code, found["query"], len(found["hits"])) == (0, f"image {image}", 2)
    both = json.loads(run("search", index, "Where do blue whales sing?", "--image", image, "--json")[1])
    assert both["hits"][0]["source"].endswith("sea.pdf")
    assert both["hits"] != json.loads(run("search", index, "Where do blue whales sing?", "--json")[1])["hits"]
    assert run("search", index, "--image", image, "--rerank")[0] == 0
    fails(run("search", index), 2, "give a QUERY, an --image, or both")
    fails(run("search", index, "--image", tmp_path / "none.png"), 1, "none.png")


def test_search_json_has_the_documented_keys(index, run):
    code, out, err = run(
        "search", index, "Where do blue whales sing?", "--json", "-k", "1", "--rerank", "--candidates", "2"
    )
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert set(answer) == {"query", "seconds", "hits"}
    (hit,) = answer["hits"]
    assert set(hit) == {
        "rank",
        "score",
        "retrieval_score",
        "id",
        "source",
        "page_number",
        "text",
        "metadata",
        "image",
        "neighbours",
    }
    assert hit["source"].endswith("sea.pdf")
    assert (hit["rank"], hit["page_number"]) == (1, 1)
    assert hit["score"] != hit["retrieval_score"]


def test_search_with_both_scores(index, run):
    code, out, _ = run("search", index, "red apples", "--reranker", "llama-nemotron-rerank-vl-1b-v2", "-k", "2")
    assert code == 0
    assert "retrieval" in out
    assert "5.000" in out  # FakeReranker: all words found


@pytest.mark.parametrize(
    ("conditions", "pages"),
    [
        (["number=3"], [("sea.pdf", 3)]),
        (["number=2", "number=3"], [("fruit.pdf", 2), ("sea.pdf", 2), ("sea.pdf", 3)]),
        (["number=1", "text_source=ocr"], []),
        (["number>=3"], [("sea.pdf", 3)]),
        (["number!=1", "number<3"], [("fruit.pdf", 2), ("sea.pdf", 2)]),
        (["source~=sea.p", "number=[1,2]", "number=3"], [("sea.pdf", 3)]),
        (["source^=nowhere"], []),
        (
            ['{"or": [{"page_number": 3}, {"$and": [{"page_number": 2}, {"source": {"contains": "fruit"}}]}]}'],
            [("fruit.pdf", 2), ("sea.pdf", 3)],
        ),
    ],
)
def test_search_filters(index, run, conditions, pages):
    flags = [word for condition in conditions for word in ("--filter", condition)]
    code, out, _ = run("search", index, "anything", "--json", *flags)
    assert code == 0
    assert sorted((Path(hit["source"]).name, hit["page_number"]) for hit in json.loads(out)["hits"]) == pages


def test_search_chooses_and_shows_neighbours(index, run):
    options = ["--per-document", 1, "--neighbours", 1, "--diversity", 0.2, "--min-score", -1]
    code, out, _ = run("search", index, "red apples", "--json", *options)
    assert code == 0
    hits = json.loads(out)["hits"]
    assert sorted(Path(hit["source"]).name for hit in hits) == ["fruit.pdf", "sea.pdf"]
    fruit = next(hit for hit in hits if hit["source"].endswith("fruit.pdf"))
    (neighbour,) = fruit["neighbours"]
    assert (neighbour["source"], {neighbour["page_number"], fruit["page_number"]}) == (fruit["source"], {1, 2})
    code, out, _ = run("search", index, "red apples", "--filter", "source~=fruit", "-k", 1, "--neighbours", 1)
    assert f"{fruit['page_number']} ({neighbour['page_number']})" in out


def test_search_without_a_hit_is_an_answer(index, run):
    code, out, _ = run("search", index, "anything", "--filter", "number=99")
    assert code == 0
    assert out.startswith("0 pages in ")


def test_search_writes_the_report(index, run, tmp_path):
    target = tmp_path / "hits [red].html"
    code, out, _ = run("search", index, "red apples", "--html", target)
    assert code == 0
    assert str(target) in out
    assert target.read_text(encoding="utf-8").count("data:image/webp") == 5


def test_the_report_shows_where_late_interaction_matched(tmp_path, pdfs, run, monkeypatch):
    use_models(monkeypatch)
    location, target = tmp_path / "index", tmp_path / "hits.html"
    run("index", pdfs, "--to", location, "--embedder", "llama-nemotron-colembed-vl-3b-v2")
    code, _, err = run("search", location, "red apples", "-k", "2", "--html", target)
    assert (code, err) == (0, "")
    report = target.read_text(encoding="utf-8")
    assert report.count("data:image/webp") == 4  # two pages and their heatmaps
    assert report.count('page 1: where the words of the query match"') >= 1


def test_search_of_no_index_makes_none(tmp_path, run):
    fails(run("search", tmp_path / "none", "words"), 1, "no index 'pages' at .*none; make one with: nemotron-rag index")
    assert not (tmp_path / "none").exists()


# rerank


def test_rerank_ranks_images_and_pdf_pages(tmp_path, pdfs, run):
    image = tmp_path / "image.png"
    Image.new("RGB", (50, 50), "red").save(image)
    target = tmp_path / "hits.html"
    code, out, _ = run("rerank", "blue whales", image, pdfs / "sea.pdf", "--json", "--html", target)
    assert code == 0
    hits = json.loads(out)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert (Path(hits[0]["source"]).name, hits[0]["page_number"]) == ("sea.pdf", 1)
    assert {hit["retrieval_score"] for hit in hits} == {None}
    assert target.read_text(encoding="utf-8").count("data:image/webp") == 4


def test_rerank_renders_with_the_engine_asked_for(pdfs, run):
    for engine, noted in [("pdfium", "pdfium"), ("mupdf", None)]:
        code, out, _ = run("rerank", "blue whales", pdfs / "sea.pdf", "--json", "--pdf-engine", engine)
        assert code == 0
        assert {hit["metadata"].get("pdf_engine") for hit in json.loads(out)["hits"]} == {noted}


def test_rerank_keeps_the_best_of_more_pages_than_it_holds(tmp_path, run):
    texts = [f"word{number}" for number in range(40)] + ["the answer"]
    long = write_pdf(tmp_path / "long.pdf", texts)
    code, out, _ = run("rerank", "answer", long, "--json", "--top-n", "2", "--pages", "10-")
    assert code == 0
    assert [hit["page_number"] for hit in json.loads(out)["hits"]] == [41, 10]


def test_rerank_skips_what_it_cannot_read(tmp_path, pdfs, run):
    code, out, err = run("rerank", "pears", tmp_path / "none.png", pdfs / "fruit.pdf", tmp_path / "none.pdf")
    assert code == 0
    assert "fruit.pdf" in out
    assert [line.split()[0] for line in err.splitlines()] == ["skipped", "skipped"]
    code, out, err = run("rerank", "pears", tmp_path / "none.png")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "error: no page could be read from 1 file"


# models, info, delete


def test_models(run):
    code, out, _ = run("models")
    assert code == 0
    rows = json.loads(run("models", "--json")[1])
    assert [row["id"] for row in rows] == [spec.id for spec in CATALOG]
    sources = {"needs hub", "local folder only"}
    assert {row["status"] for row in rows} <= {
        "needs starters",
        *sources,
        *(f"verified, {source}" for source in sources),
    }
    assert all(spec.id in out for spec in CATALOG)


def test_models_say_what_a_page_takes(run):
    rows = {row["id"]: row for row in json.loads(run("models", "--json")[1])}
    keys = ("page_vectors", "page_bytes", "stored_page_bytes")
    taken = {name: tuple(row[key] for key in keys) for name, row in rows.items()}
    assert taken["llama-nemotron-embed-vl-1b-v2"] == (1, 8192, 8192)
    assert taken["llama-nemotron-rerank-vl-1b-v2"] == (None, None, None)
    # 9 tiles of 256 vectors; of 3072 numbers Qdrant takes 341, which are kept in float16
    assert taken["llama-nemotron-colembed-vl-3b-v2"] == (9 * 256, 9 * 256 * 3072 * 4, 341 * 3072 * 2)
    assert taken["nemotron-colembed-vl-8b-v2"] == (773, 773 * 4096 * 4, 255 * 4096 * 2)
    assert "27.0 MiB, stored 2.0 MiB" in " ".join(_models.model_row(find("llama-nemotron-colembed-vl-3b-v2")))


@pytest.mark.parametrize("spec", CATALOG, ids=lambda spec: spec.id)
def test_rows_of_many_vectors_say_how_many(spec):
    assert (spec.page_vectors > 1) == (spec.kind == "multivector_embedder")


def test_info(index, run):
    code, out, _ = run("info", index)
    assert code == 0
    assert "5 pages of 2 documents" in out
    assert "llama-nemotron-embed-vl-1b-v2" in out
    facts = json.loads(run("info", index, "--json")[1])
    assert set(facts) == {"pages", "sources", "record", "engine"}
    assert (facts["engine"], facts["record"]["engine"]) == ("Qdrant Edge", "edge")
    assert facts["pages"] == 5


def test_migrate(index, run, tmp_path, pdfs):
    fails(run("migrate", index), 1, "was written by Qdrant Edge already")
    QdrantClient(path=str(tmp_path / "old")).close()
    run("index", pdfs, "--to", tmp_path / "old")
    assert json.loads(run("info", tmp_path / "old", "--json")[1])["engine"] == "qdrant-client, local mode"
    assert run("migrate", tmp_path / "old")[1].endswith(" points of 'pages' moved to Qdrant Edge\n")
    assert json.loads(run("info", tmp_path / "old", "--json")[1])["engine"] == "Qdrant Edge"


def test_delete(index, pdfs, run):
    assert run("delete", index, pdfs / "sea.pdf")[:2] == (0, "3 pages removed\n")
    assert json.loads(run("info", index, "--json")[1])["sources"] == [str(pdfs / "fruit.pdf")]
    fails(run("delete", index, pdfs / "sea.pdf"), 1, "the index has no document .*sea.pdf")


def test_delete_of_a_copy_leaves_the_pages_of_the_other(tmp_path, pdfs, run):
    copy = tmp_path / "copy.pdf"
    copy.write_bytes((pdfs / "sea.pdf").read_bytes())
    run("index", pdfs / "sea.pdf", copy, "--to", tmp_path / "index")
    assert run("delete", tmp_path / "index", copy)[:2] == (0, "0 pages removed\n")
    assert json.loads(run("info", tmp_path / "index", "--json")[1])["sources"] == [str(pdfs / "sea.pdf")]


# arguments and errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "No such command 'serch'"),
        (["search", "i"], "give a QUERY, an --image, or both"),
        (["search", "i", "q", "-k", "0"], "Invalid value for '-k'"),
        (["search", "i", "q", "--top", "1"], "--top"),
        (["search", "i", "q", "--filter", "year"], "--filter takes KEY=VALUE; got 'year'"),
        (["search", "i", "q", "--filter", "=3"], "--filter takes KEY=VALUE; got '=3'"),
        (["search", "i", "q", "--filter", "{year: 3}"], "--filter got something in braces that is not JSON"),
        (["search", "i", "q", "--html", "missing/folder/hits.html"], "--html takes a file in a folder that exists"),
        (["index", "a.pdf"], "--to"),
        (["index", "a.pdf", "--to", "i", "--pages", "3-x"], "--pages: .*3-x"),
        (["index", "a.pdf", "--to", "i", "--ocr", "maybe"], "maybe"),
        (["index", "a.pdf", "--to", "i", "--pdf-engine", "poppler"], "poppler"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(run(*arguments), 2, message)
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_anywhere_on_the_line(tmp_path, run):
    code, _, err = run("search", tmp_path / "none", "words", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "error: no index 'pages' at" in err


def test_a_bug_is_one_line_too(monkeypatch, run):
    monkeypatch.setattr(cli._models, "models_table", lambda _: 1 / 0)
    fails(run("models"), 1, "unexpected ZeroDivisionError, --debug shows where: division by zero")


def test_interruption_is_one_line_and_130(monkeypatch, run):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli._models, "models_table", interrupt)
    assert run("models") == (130, "", "interrupted\n")


def shell(*arguments, **environment):
    environment = {**os.environ, "PYTHONWARNINGS": "default", **environment}
    command = [sys.executable, "-c", "from nemotron_rag.cli import main; raise SystemExit(main())", *arguments]
    return subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)


def test_names_that_no_terminal_should_see_are_escaped(tmp_path):
    name = os.fsencode(tmp_path) + b"/[bold]caf\xe9\x1b[31m.pdf"
    for encoding in ("utf-8", "ascii"):
        outcome = shell("search", name, "Käse", PYTHONIOENCODING=encoding, COLUMNS="40")
        assert outcome.returncode == 1
        assert outcome.stdout == b""
        assert outcome.stderr.count(b"\n") == 1
        assert b"[bold]caf\\udce9\\x1b[31m.pdf" in outcome.stderr


def test_tables_fit_a_narrow_terminal_and_ascii():
    outcome = shell("models", COLUMNS="40", PYTHONIOENCODING="ascii")
    assert outcome.returncode == 0
    assert max(map(len, outcome.stdout.decode("ascii").splitlines())) <= 40


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom nemotron_rag import cli\nassert cli.main(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'qdrant_client', 'pymupdf', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome.stderr
    for command in (
        "index",
        "search",
        "rerank",
        "models",
        "verify",
        "info",
        "check",
        "repair",
        "migrate",
        "delete",
        "demo",
        "--debug",
    ):
        assert command in outcome.stdout


def test_search_by_words_too(index, run):
    code, out, err = run("search", index, "red apples", "--mode", "hybrid", "--json")
    assert (code, err) == (0, "")
    hits = json.loads(out)["hits"]
    assert hits[0]["source"].endswith("fruit.pdf")
    assert hits[0]["score"] == pytest.approx(1.0)  # first by vector and by words: 1/2 from each
    assert run("search", index, "red apples", "--mode", "sparse")[0] == 2


def test_no_command_is_called_like_a_module_beside_it():
    """Python would take one for the other, by what was imported first."""
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    commands = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert len(commands) > 8
    assert not modules & commands
