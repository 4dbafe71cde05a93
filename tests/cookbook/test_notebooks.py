"""The notebooks run from top to bottom, show what they promise, and are stored with it."""

from __future__ import annotations

import base64
import io
import re

import nbformat
import pymupdf
import pytest
from PIL import Image

from support.notebooks import COOKBOOK, NOTEBOOKS, copy_cookbook, run

pytestmark = pytest.mark.slow

LARGEST = 150_000  # bytes of a notebook
CHART = "What share of people aged 75 to 79 has a severe disability?"
SANITIZED = "It is important to sanitize the compute node so that data from previous jobs are not"
SAYS = {
    "text_or_pages": [
        "characters of the scan: 0",
        r"Simon Marmion, peintre[^\n]* \| scan \| not found \| 1",
        "1. gazette-1903-page-274.pdf, page 1",
        "image of 1102 x 1426 pixels",
    ],
    "langchain_pdf_pages": [
        "1 page added, 3 unchanged, 0 removed",
        SANITIZED,
        r"\[\('pdfs/nist-sp800-223-hpc.pdf', 23\)\]",
        "filtered .*'census p",
    ],
    "llama_index_pdf_pages": [
        "3 pages embedded\n",
        "6 pages embedded, 9 in the store\n0 pages embedded, 9 in the store\n0 pages embedded, 8 in the store",
        SANITIZED,
        "Diskless nodes",
        r"search_pages\(\{'input': 'What share",
    ],
    "langgraph_agent": [
        "InputError images are taken in messages of the user only",
        r"\['human', 'ai', 'tool', 'human'\]",
        SANITIZED,
        r"images fetched: \d kB of messages, [12] images seen by the model",
    ],
    "late_interaction_heatmaps": [r"1\. MaxSim (\d+\.\d\d) .*page 2.*-> \1", "gazette.* characters of text: 0"],
    "evaluate_your_pdfs": ["gallery, dense", "Why is a compute node sanitized", "evaluation.html"],
    "one_server_many_workers": [
        r"\['starter-embed-vl', 'starter-rerank-vl'\]",
        "largest difference: below 1e-5",
        "1. nist-sp800-223-hpc.pdf, page 23",
        "nemotron_rag_items_total",
    ],
    "scale_with_ray": ["4 pages added, failures: ", "0 pages added, 4 unchanged", "broken.pdf: ", "page 2"],
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def said(notebook):
    """All that is printed, and what is shown in words."""
    streams = (
        output.text if output.output_type == "stream" else output.data["text/plain"] for output in outputs(notebook)
    )
    return "\n".join(streams)


def images(notebook):
    """Each image that is shown, with its alternative text."""
    shown = "".join(output.data.get("text/html", "") for output in outputs(notebook) if "data" in output)
    return re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]*)"', shown), shown.count("<img")


def check(notebook, name):
    """What a reader is to see, whether it is stored or has just been computed."""
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs(notebook) if output.output_type == "stream"} <= {"stdout"}
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    for expected in SAYS[name]:
        assert re.search(expected, said(notebook), re.DOTALL), expected
    found, count = images(notebook)
    assert len(found) == count > 0
    assert all(len(alternative) > 5 for _, alternative in found)


@pytest.fixture(scope="module")
def cookbook(tmp_path_factory):
    """One copy for all of them: they share an index."""
    return copy_cookbook(tmp_path_factory.mktemp("notebooks"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, cookbook, tmp_path):
    check(run(path, cookbook, XDG_CACHE_HOME=str(tmp_path)), path.stem)
    assert list(tmp_path.iterdir()) == []
    assert [each.name for each in cookbook.iterdir() if not (COOKBOOK / each.name).exists()] in ([], ["indexes"])


def test_the_gallery_is_whole():
    assert [path.stem for path in NOTEBOOKS] == sorted(SAYS)
    listed = (COOKBOOK / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"]({path.name})" not in listed] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_what_it_shows(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check(notebook, path.stem)
    assert "execution" not in {key for cell in notebook.cells for key in cell.metadata}, "times: see make notebooks"
    assert path.stat().st_size < LARGEST
    assert all(max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 1200 for data, _ in images(notebook)[0])
    stored = path.read_text(encoding="utf-8")
    assert re.findall(r"(?:/home|/root|/tmp|/Users|/work|/private|[A-Z]:\\\\)[/\\]\S+", stored) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_images_in_the_words_of_a_notebook_are_described(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
        assert len(alternative.split()) > 5
        assert (COOKBOOK / target).is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_opens_and_links_is_there(path):
    stored = path.read_text(encoding="utf-8")
    assert [name for name in re.findall(r"pdfs/[\w-]+\.pdf", stored) if not (COOKBOOK / name).is_file()] == []
    links = re.findall(r"\]\(((?:\.\./)?[\w/-]+\.\w+)", stored)
    assert links
    assert [link for link in links if not (COOKBOOK / link).exists()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_real_models_are_one_line_away(path):
    stored = path.read_text(encoding="utf-8")
    assert re.search(r'"# [A-Z, ]+ = .*nemotron', stored)


def test_the_chart_alone_answers_its_query():
    """37.5 percent: a bar of the chart on page 2, and in no sentence."""
    with pymupdf.open(COOKBOOK / "pdfs" / "census-disability-us001.pdf") as document:
        texts = [page.get_text() for page in document]
    lines = [(number, line) for number, text in enumerate(texts, 1) for line in text.splitlines() if "37.5" in line]
    assert lines == [(2, "37.5")]
    named = ("text_or_pages", "langchain_pdf_pages", "llama_index_pdf_pages")
    assert all(CHART in (COOKBOOK / f"{name}.ipynb").read_text(encoding="utf-8") for name in named)


def test_the_scan_has_no_text():
    with pymupdf.open(COOKBOOK / "scans" / "gazette-1903-page-274.pdf") as document:
        assert [page.get_text() for page in document] == [""]
