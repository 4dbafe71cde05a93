"""`PageIndex.add(engine="ray")`: the same index as without, whatever dies meanwhile."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from PIL import Image

from nemotron_rag import PageIndex
from nemotron_rag.batch.workers import Workers
from nemotron_rag.errors import InputError
from nemotron_rag.index.loading import load_stage
from nemotron_rag.index.reembedding import check_copy, reembed
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import Page
from support.qdrant_http import HttpServer

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.enable_socket,
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::ResourceWarning"),
]
RENDER = {"dpi": 40}
STORE = 100 * 2**20  # bytes of the object store


@pytest.fixture(scope="module")
def _cluster(request):
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=STORE,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    yield
    ray.shutdown()


def write_pdf(path, pages, text="words"):
    with pymupdf.open() as document:
        for number in range(1, pages + 1):
            page = document.new_page(width=300, height=300)
            page.insert_text((20, 80), f"{text} number {number} of {path.stem}")
            page.draw_rect((20, 100, 20 + 10 * (number % 20), 200), fill=(0.2, 0.4, 0.6))
        document.save(path)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    write_pdf(folder / "a.pdf", 11)
    write_pdf(folder / "b.pdf", 5)
    (folder / "same-as-b.pdf").write_bytes((folder / "b.pdf").read_bytes())
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    return folder


@pytest.fixture
def server():
    server = HttpServer()
    server.start()
    yield server
    server.stop()


def contents(index):
    state = index._state
    pages = {page.page.id: page for page in state.store.pages(texts=True)}
    vectors = {page_id: np.round(rows, 5).tolist() for page_id, rows in state.store.vectors(list(pages)).items()}
    images = {page_id: state.images.of(page) for page_id, page in pages.items()}
    return pages, vectors, {page_id: image and image.open().tobytes() for page_id, image in images.items()}


def serial(folder, *, extra=(), embedder=None):
    with PageIndex(embedder=embedder or FakeEmbedder(), **RENDER) as index:
        report = index.add([folder, *extra], metadata={"year": 2024}, progress=False)
        return report, contents(index)


def comparable(report):
    return report.added, report.unchanged, report.removed, sorted(map(str, report.failures)), report.left_out


def pages_given_alone():
    return [Page("alone", id="p1", number=1), Page("also alone", id="p2", number=2)]


@pytest.mark.usefixtures("_cluster")
def test_on_a_server_it_is_the_serial_index(folder, server, tmp_path):
    expected, whole = serial(folder, extra=pages_given_alone())
    options = {"embedder": FakeEmbedder(), "images": tmp_path / "images", **RENDER}
    workers = Workers(write=1, span=4, batch=4)
    with PageIndex(server.url, **options) as index:
        sources = [folder, *pages_given_alone()]
        report = index.add(sources, metadata={"year": 2024}, progress=False, engine="ray", workers=workers)
        pages, vectors, images = contents(index)
        again = index.add(sources, metadata={"year": 2024}, progress=False, engine="ray", workers=workers)
    assert comparable(report) == comparable(expected)
    assert (pages, vectors, images) == whole
    assert (again.added, again.unchanged) == (0, expected.added + expected.unchanged)


class Poisoned(FakeEmbedder):
    def embed_passages(self, passages):
        if any("number 7 " in passage.text for passage in passages):
            raise InputError("cannot stand seven")
        return super().embed_passages(passages)


@pytest.mark.usefixtures("_cluster")
def test_in_a_folder_this_process_writes_and_a_poisoned_page_costs_itself(folder, tmp_path):
    expected, whole = serial(folder, embedder=Poisoned())
    with PageIndex(tmp_path / "index", embedder=Poisoned(), **RENDER) as index:
        report = index.add(folder, metadata={"year": 2024}, progress=False, engine="ray")
        assert contents(index) == whole
    assert comparable(report) == comparable(expected)
    assert sorted((Path(f.source).name, f.number) for f in report.failures) == [("a.pdf", 7), ("broken.pdf", None)]
    assert report.added == 15


class DiesOnce(FakeEmbedder):
    """Ends its process in the middle of a batch, the first time."""

    def __init__(self, flag):
        super().__init__()
        self.flag = flag

    def embed_passages(self, passages):
        if any("number 7 " in passage.text for passage in passages) and not Path(self.flag).exists():
            Path(self.flag).touch()
            os._exit(1)
        return super().embed_passages(passages)


@pytest.mark.usefixtures("_cluster")
def test_a_worker_that_dies_and_a_server_that_is_busy_lose_nothing(folder, server, tmp_path):
    busy = iter(range(2))
    server.fault = lambda number: "busy" if number > 20 and next(busy, None) is not None else None
    shutil.make_archive(str(tmp_path / "documents"), "zip", folder)
    url = f"zip://::{tmp_path / 'documents.zip'}"
    expected, whole = serial(url)
    options = {"images": tmp_path / "images", **RENDER}
    with PageIndex(server.url, embedder=DiesOnce(str(tmp_path / "died")), **options) as index:
        report = index.add(
            url, metadata={"year": 2024}, progress=False, engine="ray", workers=Workers(write=1, span=4, batch=4)
        )
        assert contents(index) == whole
    assert (tmp_path / "died").exists()
    assert next(busy, None) is None
    assert comparable(report) == comparable(expected)


@pytest.mark.usefixtures("_cluster")
def test_a_stage_is_written_by_workers_and_pages_are_embedded_anew(folder, tmp_path):
    expected, whole = serial(folder, extra=pages_given_alone())
    stage = f"parquet://{tmp_path / 'stage'}"
    with PageIndex(stage, embedder=FakeEmbedder(), **RENDER) as staged:
        sources = [folder, *pages_given_alone()]
        workers = Workers(write=1, span=4, batch=4)
        report = staged.add(sources, metadata={"year": 2024}, progress=False, engine="ray", workers=workers)
    assert comparable(report) == comparable(expected)
    assert load_stage(stage, tmp_path / "index", progress=False).is_complete
    shutil.rmtree(folder)
    with (
        PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as old,
        PageIndex(tmp_path / "index", collection="new", embedder=FakeEmbedder(dimensions=24)) as new,
    ):
        assert contents(old) == whole
        report = reembed(old, new, progress=False, engine="ray")
        assert (report.added, report.failures) == (old.count(), ())
        pages, vectors, images = contents(new)
        assert (pages, images) == (whole[0], whole[2])
        assert {len(row) for row in vectors.values()} == {24}
        assert check_copy(old, new)[0] == 0


@pytest.mark.usefixtures("_cluster")
def test_five_hundred_pages_stream_through_a_small_object_store(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    Image.fromarray(colours).save(noise := io.BytesIO(), "PNG")  # which does not compress
    assert 500 * len(noise.getvalue()) > STORE  # all pages at once would not fit
    with pymupdf.open() as document:
        image = 0
        for number in range(500):
            page = document.new_page(width=300, height=300)
            image = page.insert_image(page.rect, stream=noise.getvalue(), xref=image)
            page.insert_text((20, 80), f"number {number}")
        document.save(tmp_path / "long.pdf")
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), dpi=72) as index:
        report = index.add(tmp_path / "long.pdf", progress=False, engine="ray")
        assert report.added == index.count() == 500
    address = ray.get_runtime_context().gcs_address  # there may be other clusters on this machine
    summary = ray._private.internal_api.memory_summary(address, stats_only=True)
    assert "Spilled" not in summary, summary


def test_an_impossible_plan_is_refused_before_anything_starts(folder, tmp_path):
    began = time.monotonic()
    with (
        PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index,
        pytest.raises(InputError, match=r"needs \d+ CPUs"),
    ):
        index.add(folder, progress=False, engine="ray", workers=Workers(embed=500))
    assert time.monotonic() - began < 2
    with (
        PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index,
        pytest.raises(InputError, match="engine must be 'ray'"),
    ):
        index.add(folder, progress=False, engine="spark")


_SCRIPT = """
import sys, time
from nemotron_rag import PageIndex
from nemotron_rag.batch.workers import Workers
from nemotron_rag.testing import FakeEmbedder

class Slow(FakeEmbedder):
    def embed_passages(self, passages):
        time.sleep(0.3)
        return super().embed_passages(passages)

with PageIndex(sys.argv[1], embedder=Slow(), images=sys.argv[3], dpi=40) as index:
    workers = Workers(write=1, span=2, batch=2)
    index.add(sys.argv[2], metadata={"year": 2024}, progress=False, engine="ray", workers=workers)
"""


def test_a_run_that_was_killed_is_finished_by_the_next(folder, server, tmp_path):
    _, whole = serial(folder)
    command = [sys.executable, "-c", _SCRIPT, server.url, str(folder), str(tmp_path / "images")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    with PageIndex(server.url, embedder=FakeEmbedder(), images=tmp_path / "images", **RENDER) as index:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not (index.sources() if index._state.exists() else []):
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        before = index.count()
        assert before > 0
        report = index.add(folder, metadata={"year": 2024}, progress=False)
        assert contents(index) == whole
    assert report.added == 16 - before


def test_nothing_of_ours_is_imported_without_the_extra(monkeypatch, folder, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "nemotron_rag.batch.ray", raising=False)
    with (
        PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index,
        pytest.raises(ImportError, match=r"nemotron-rag\[ray\]"),
    ):
        index.add(folder, progress=False, engine="ray")
