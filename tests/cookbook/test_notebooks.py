"""The notebooks run from top to bottom, find the right pages, and are stored with what they show."""

from __future__ import annotations

import base64
import io
import re

import nbformat
import pymupdf
import pytest
from PIL import Image

from support.notebooks import COOKBOOK, NOTEBOOKS, run

pytestmark = pytest.mark.slow

INDEXED = [("census-disability-us001.pdf", page) for page in (1, 2, 3)]
INDEXED += [("nist-sp800-223-hpc.pdf", page) for page in (20, 21, 22, 23, 24, 32)]
BEST = [("census-disability-us001.pdf", 2), ("nist-sp800-223-hpc.pdf", 23)]  # the chart, and section 4.2
CHART = "What share of people aged 75 to 79 has a severe disability?"
MEGABYTE = 1_000_000


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    return "".join(output.text for output in outputs(notebook) if output.get("name") == "stdout")


def images(notebook):
    encoded = [output.data["image/jpeg"] for output in outputs(notebook) if output.output_type == "display_data"]
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in encoded]


def shown_pages(notebook):
    """The lists of pages that `show` prints above its images."""
    lists = re.split(r"^1\. ", printed(notebook), flags=re.MULTILINE)[1:]
    return [[(name, int(page)) for name, page in re.findall(r"(\S+\.pdf), page (\d+)", part)] for part in lists]


def given_pages(notebook):
    """What the stand-in for the chat model says of the pages that reached it with their images."""
    pattern = r"^  .*?([\w-]+\.pdf), page (\d+), and its image of 1102 x 1426 pixels$"
    answers = printed(notebook).split("I was given\n")[1:]
    return [[(name, int(page)) for name, page in re.findall(pattern, answer, re.MULTILINE)] for answer in answers]


def check(notebook):
    """What a reader is to see, whether it is stored or has just been computed."""
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data"}
    assert {output.name for output in outputs(notebook) if output.output_type == "stream"} == {"stdout"}
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    overview, *found = shown_pages(notebook)
    assert overview == INDEXED
    assert [pages[0] for pages in found] == BEST
    given = given_pages(notebook)
    assert [pages[0] for pages in given] == BEST
    assert [len(pages) for pages in given] == [2, 2]
    assert "It is important to sanitize the compute node so that data from previous jobs are not" in printed(notebook)
    assert len(images(notebook)) == 3


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    before = sorted(COOKBOOK.rglob("*"))
    check(run(path, XDG_CACHE_HOME=str(tmp_path)))
    assert sorted(COOKBOOK.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_both_frameworks_have_one():
    assert [path.stem for path in NOTEBOOKS] == ["langchain_pdf_pages", "llama_index_pdf_pages"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_what_it_shows(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check(notebook)
    assert "execution" not in {key for cell in notebook.cells for key in cell.metadata}, "times: see make notebooks"
    assert path.stat().st_size < 1.5 * MEGABYTE
    assert all(max(image.size) <= 1200 for image in images(notebook))
    stored = path.read_text(encoding="utf-8")
    assert re.findall(r"(?:/home|/root|/tmp|/Users|/work|/private|[A-Z]:\\\\)[/\\]\S+", stored) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_pdfs_a_notebook_opens_are_beside_it(path):
    named = re.findall(r"pdfs/[\w-]+\.pdf", path.read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (COOKBOOK / name).is_file()] == []


def test_the_first_query_is_answered_by_the_chart_alone():
    """37.5 percent: a bar of the chart on page 2, and in no sentence."""
    with pymupdf.open(COOKBOOK / "pdfs" / "census-disability-us001.pdf") as document:
        texts = [page.get_text() for page in document]
    lines = [(number, line) for number, text in enumerate(texts, 1) for line in text.splitlines() if "37.5" in line]
    assert lines == [(2, "37.5")]
    assert all(CHART in path.read_text(encoding="utf-8") for path in NOTEBOOKS)
