"""`PageIndex.add` with an engine of the caller's: a loop, Spark's frames, and the recipes of the cookbook."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nemotron_rag import Page, PageIndex
from nemotron_rag.batch.frames import PAGE_COLUMNS, map_in_pandas
from nemotron_rag.batch.job import run_here
from nemotron_rag.batch.rows import to_table
from nemotron_rag.errors import InputError
from nemotron_rag.index.loading import load_stage
from nemotron_rag.index.reembedding import reembed
from nemotron_rag.testing import FakeEmbedder
from support.pages import add, make_pdf

COOKBOOK = Path(__file__).parents[3] / "cookbook"
pandas = pytest.importorskip("pandas", reason="comes with the extra `ray`")


@pytest.fixture
def docs(tmp_path) -> Path:
    for name, pages in (("a.pdf", 11), ("b.pdf", 3)):
        make_pdf(tmp_path / "docs" / name, *(f"page {number} of {name}" for number in range(pages)))
    (tmp_path / "docs/same-as-b.pdf").write_bytes((tmp_path / "docs/b.pdf").read_bytes())
    (tmp_path / "docs/broken.pdf").write_bytes(b"%PDF-1.7 broken")
    return tmp_path / "docs"


def contents(index):
    state = index._state
    pages = {page.page.id: page for page in state.store.pages(texts=True)}
    vectors = {page_id: np.round(rows, 5).tolist() for page_id, rows in state.store.vectors(list(pages)).items()}
    images = {page_id: state.images.of(page) for page_id, page in pages.items()}
    return pages, vectors, {page_id: image and image.read_bytes() for page_id, image in images.items()}


def comparable(report):
    return report.added, report.unchanged, report.removed, sorted(map(str, report.failures)), report.left_out


def in_frames(job):
    """What Spark does, without Spark: every stage gets frames of its own rows, and is pickled before."""
    render, settle = pickle.loads(pickle.dumps((job.render, job.settle())))
    spans = [pandas.DataFrame(job.spans[at : at + 2]) for at in range(0, len(job.spans), 2)]
    pages = list(map_in_pandas(render, size=1)(spans))
    pages += [pandas.DataFrame(to_table(list(job.pages)).to_pylist())] if job.pages else []
    for frame in map_in_pandas(settle, size=5)(pages):
        assert list(frame.columns) == [column.split()[0] for column in PAGE_COLUMNS.split(", ")]
        yield frame.to_dict("records")


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, COOKBOOK / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # workers find its classes by name
    spec.loader.exec_module(module)
    return module


def on_daft():
    pytest.importorskip("daft")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(COOKBOOK), *sys.path])  # its processes import the recipe
    return recipe("scale_daft").on_daft


def on_spark():
    pytest.importorskip("pyspark")
    return recipe("scale_spark").on_spark


ENGINES = [
    lambda: run_here,
    lambda: in_frames,
    pytest.param(on_daft, marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]),
    pytest.param(on_spark, marks=[pytest.mark.slow, pytest.mark.enable_socket, pytest.mark.filterwarnings("ignore")]),
]


@pytest.mark.parametrize("engine", ENGINES, ids=["loop", "frames", "daft", "spark"])
def test_the_index_is_that_of_add_alone(docs, tmp_path, engine, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    run, sources = engine(), [docs, Page("alone", id="p1", number=1)]
    with PageIndex(embedder=FakeEmbedder()) as index:
        expected, whole = comparable(add(index, sources, metadata={"year": 2024})), None
        whole = contents(index)
    with PageIndex(f"parquet://{tmp_path / 'stage'}", embedder=FakeEmbedder()) as staged:
        report = add(staged, sources, metadata={"year": 2024}, engine=run)
        assert comparable(report) == expected
    assert load_stage(f"parquet://{tmp_path / 'stage'}", tmp_path / "loaded", progress=False).is_complete
    with PageIndex(tmp_path / "loaded", embedder=FakeEmbedder()) as index:
        assert contents(index) == whole
        again = add(index, sources, metadata={"year": 2024}, engine=run)  # into a folder, where this process writes
        assert (again.added, again.removed) == (0, 0)
        (docs / "b.pdf").unlink()
        make_pdf(docs / "a.pdf", "other words")
        changed = index.sync(docs, progress=False, engine=run)
        assert (changed.added, changed.removed) == (1, 11)
        with PageIndex(tmp_path / "other", embedder=FakeEmbedder(dimensions=24)) as new:
            assert reembed(index, new, progress=False, engine=partial(_without_images, run)).added == index.count()
            assert contents(new)[2] == contents(index)[2]


def _without_images(run, job):
    """Re-embedding has spans of ids, which recipes for documents do not have columns for."""
    return run_here(job) if run is not in_frames else run(job)


def test_an_engine_that_loses_rows_is_noticed(docs, tmp_path):
    def losing(job):
        for number, rows in enumerate(run_here(job)):
            yield rows if number else rows[1:]

    with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index:
        with pytest.raises(InputError, match=r"returned \d+ of 14 pages"):
            add(index, [docs / "a.pdf", docs / "b.pdf"], engine=losing)
        assert add(index, [docs / "a.pdf", docs / "b.pdf"], engine=run_here).added == 1


class Poisoned(FakeEmbedder):
    def embed_passages(self, passages):
        if any("page 7 " in passage.text for passage in passages):
            raise InputError("cannot stand seven")
        return super().embed_passages(passages)


def test_a_page_that_fails_is_named_or_raised(docs, tmp_path):
    with PageIndex(tmp_path / "index", embedder=Poisoned()) as index:
        report = add(index, docs / "a.pdf", engine=run_here)
        assert (report.added, [failure.number for failure in report.failures]) == (10, [8])
        with pytest.raises(InputError, match="cannot stand seven"):
            add(index, docs / "a.pdf", engine=run_here, on_error="raise")


def test_what_is_no_engine_is_refused(docs):
    with PageIndex(embedder=FakeEmbedder()) as index, pytest.raises(InputError, match="engine must be 'ray' or a"):
        add(index, docs, engine="spark")
