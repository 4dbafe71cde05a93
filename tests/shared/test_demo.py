"""The demo's queries are about what its documents say, and a run leaves others' files alone. Models are fakes."""

import shutil

import pymupdf
import pytest

from nemotron_rag import cli
from nemotron_rag.cli.demonstration import QUERIES, find_pdfs, run_demo
from nemotron_rag.errors import InputError
from support.models import use_models

pytestmark = pytest.mark.slow

ANSWERS = (
    "Resetting GPUs to remove residual data between jobs",
    "Diskless nodes typically boot up, obtain an IP address via DHCP",
    "Hispanic or Latino . . . . . . . 18.4",
    "Disability Prevalence and the Need for Assistance by Age: 2010",
    "Folgende Formel wurde hierbei verwendet",
)


@pytest.fixture
def fake_models(monkeypatch):
    use_models(monkeypatch)


@pytest.fixture
def pdfs(tmp_path):
    """The smallest of the demo's documents, of 3 pages and with two of the queries."""
    folder = tmp_path / "pdfs"
    folder.mkdir()
    shutil.copy(find_pdfs() / "census-disability-us001.pdf", folder)
    return folder


@pytest.mark.parametrize(("query", "answer"), list(zip(QUERIES, ANSWERS, strict=True)))
def test_the_answer_is_on_the_pages_named_and_on_no_other(query, answer):
    with pymupdf.open(find_pdfs() / query.file) as document:
        pages = tuple(page.number + 1 for page in document if answer in " ".join(page.get_text().split()))
    assert pages == query.pages


def test_queries_are_of_every_kind_and_about_every_document():
    assert {query.kind for query in QUERIES} == {"text", "table", "figure"}
    assert {query.file for query in QUERIES} == {path.name for path in find_pdfs().iterdir()}


@pytest.mark.usefixtures("fake_models")
def test_finds_pages_and_writes_the_report(pdfs, tmp_path):
    result = run_demo(pdfs, out=tmp_path / "out", progress=False)
    assert (result.added.added, result.added.failures) == (3, ())
    assert [answer.query.file for answer in result.answers] == ["census-disability-us001.pdf"] * 2
    chart = result.answers[1]
    assert chart.rank == 1  # the fakes count shared words, and the chart's title shares most
    assert "page 2 (figure): found at rank 1" in chart.note
    html = result.report.read_text(encoding="utf-8")
    assert html.count("data:image/webp") == 6 + 6  # pages, and their heatmaps
    assert html.count("where the words of the query match") >= 6
    assert html.count("rank before reranking") == 6
    assert "They are not NVIDIA&#39;s models" in html


@pytest.mark.usefixtures("fake_models")
def test_says_what_it_does_next(pdfs, tmp_path):
    steps = []
    run_demo(pdfs, out=tmp_path / "out", progress=False, step=steps.append)
    assert [step.split()[0] for step in steps] == ["Loading", "Indexing", "Searching", "Writing"]


@pytest.mark.usefixtures("fake_models")
def test_command_says_what_to_type_next(pdfs, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["demo", "--pdfs", str(pdfs), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "They are not NVIDIA's models" in printed
    assert "3 pages added" in printed
    assert f"nemotron-rag search {out / 'index'}" in printed
    assert cli.main(["info", str(out / "index")]) == 0


@pytest.mark.usefixtures("fake_models")
def test_replaces_its_own_files_and_nobody_elses(pdfs, tmp_path):
    run_demo(pdfs, out=tmp_path / "out", progress=False)
    assert run_demo(pdfs, out=tmp_path / "out", progress=False).added.added == 3
    mine = tmp_path / "mine"
    (mine / "index").mkdir(parents=True)
    (mine / "index" / "precious").write_text("x")
    with pytest.raises(InputError, match="has files that are not the demo's; give an empty or new folder"):
        run_demo(pdfs, out=mine, progress=False)
    assert (mine / "index" / "precious").exists()


def test_needs_its_documents(tmp_path):
    with pytest.raises(InputError, match=r"has none of the demo's PDFs \(census-disability-us001.pdf"):
        run_demo(tmp_path, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
