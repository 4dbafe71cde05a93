"""Stages: what would be stored as Parquet files, and loading it makes the index that adding would have made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemotron_rag import Page, PageIndex
from nemotron_rag.batch.parquet import ParquetStage
from nemotron_rag.cli import main
from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.index import loading
from nemotron_rag.index.loading import load_stage
from nemotron_rag.models import lazy
from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder
from support.pages import add, make_pdf
from support.qdrant_http import HttpServer

pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")


@pytest.fixture
def docs(tmp_path) -> Path:
    for name, pages in (("a.pdf", 5), ("b.pdf", 3)):
        make_pdf(tmp_path / "docs" / name, *(f"page {number} of {name}" for number in range(pages)))
    (tmp_path / "docs/same-as-b.pdf").write_bytes((tmp_path / "docs/b.pdf").read_bytes())
    (tmp_path / "docs/broken.pdf").write_bytes(b"%PDF-1.7 broken")
    return tmp_path / "docs"


@pytest.fixture
def stage(tmp_path) -> str:
    return f"parquet://{tmp_path / 'stage'}"


def alone():
    image = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
    return [Page("alone", image, id="p1", number=1, metadata={"k": 1}), Page("also alone", id="p2", source="feed")]


def contents(index):
    state = index._state
    pages = {page.page.id: page for page in state.store.pages(texts=True)}
    vectors = {page_id: np.round(rows, 5).tolist() for page_id, rows in state.store.vectors(list(pages)).items()}
    images = {page_id: state.images.of(page) for page_id, page in pages.items()}
    words = {page_id: repr(state.images.words(page)) for page_id, page in pages.items()}
    return pages, vectors, {page_id: image and image.read_bytes() for page_id, image in images.items()}, words


def comparable(report):
    return report.added, report.unchanged, report.removed, sorted(map(str, report.failures)), report.left_out


def direct(docs, embedder, **options):
    with PageIndex(embedder=embedder, **options) as index:
        report = add(index, [docs, *alone()], metadata={"year": 2024})
        return comparable(report), contents(index)


def write(stage, docs, embedder, **options):
    with PageIndex(stage, embedder=embedder, **options) as staged:
        return comparable(add(staged, [docs, *alone()], metadata={"year": 2024}))


@pytest.mark.parametrize("make", [FakeEmbedder, FakeMultiVectorEmbedder])
def test_loading_a_stage_makes_the_index_that_adding_makes(docs, stage, tmp_path, make):
    expected, whole = direct(docs, make())
    assert write(stage, docs, make()) == expected
    report = load_stage(stage, tmp_path / "index", progress=False)
    assert (report.staged, report.added, report.unchanged, report.stored) == (10, 10, 0, 10)
    assert (report.sample.asked, report.sample.found, report.is_complete) == (10, 10, True)
    with PageIndex(tmp_path / "index", embedder=make(), create=False) as index:
        assert contents(index) == whole
        assert add(index, [docs, *alone()], metadata={"year": 2024}).added == 0
    again = load_stage(stage, tmp_path / "index", progress=False)
    assert (again.added, again.unchanged, again.is_complete) == (0, 10, True)


def test_a_stage_is_resumed_and_follows_changes(docs, stage, tmp_path):
    with PageIndex(stage, embedder=FakeEmbedder()) as staged:
        add(staged, docs / "a.pdf")
    with PageIndex(stage, embedder=FakeEmbedder()) as staged:
        assert add(staged, docs).added == 3
        assert staged.sources() == [str(docs / name) for name in ("a.pdf", "b.pdf", "same-as-b.pdf")]
        (docs / "b.pdf").unlink()
        make_pdf(docs / "a.pdf", "other words")
        report = staged.sync(docs, progress=False)
        assert (report.added, report.removed) == (1, 5)
        add(staged, [Page("one", id="p1"), Page("two", id="p2")])
        add(staged, [Page("another", id="p1")])
    with PageIndex(stage, embedder=FakeEmbedder()) as staged:
        assert staged.count() == 6
        assert staged.sources() == [str(docs / name) for name in ("a.pdf", "same-as-b.pdf")]
    with PageIndex(embedder=FakeEmbedder()) as index:
        add(index, docs)
        add(index, [Page("another", id="p1"), Page("two", id="p2")])
        whole = contents(index)
    report = load_stage(stage, tmp_path / "index", progress=False, threads=1)
    assert report.is_complete
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index:
        assert contents(index) == whole
        hit = index.search("another", k=1)[0]
        assert (hit.page.id, hit.page.text) == ("p1", "another")


def test_two_processes_that_stage_the_same_lose_nothing(docs, stage):
    (docs / "copies").mkdir()
    (docs / "copies/a.pdf").write_bytes((docs / "a.pdf").read_bytes())
    with PageIndex(stage, embedder=FakeEmbedder()) as one, PageIndex(stage, embedder=FakeEmbedder()) as other:
        assert one.count() == other.count() == 0  # both have read what is there
        add(one, docs / "a.pdf")
        add(other, docs / "copies")
    with PageIndex(stage, embedder=FakeEmbedder()) as staged:
        assert staged.count() == 5
        assert staged.sources() == [str(docs / "a.pdf"), str(docs / "copies/a.pdf")]


def test_images_that_are_in_their_place_are_only_noted(docs, stage, tmp_path):
    images = tmp_path / "images"
    _, whole = direct(docs, FakeEmbedder())
    write(stage, docs, FakeEmbedder(), images=images)
    written = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    report = load_stage(stage, tmp_path / "index", images=images, progress=False)
    assert report.is_complete
    assert {path: path.stat().st_mtime_ns for path in images.rglob("*.png")} == written
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), images=images) as index:
        assert contents(index)[:3] == whole[:3]
    elsewhere = load_stage(stage, tmp_path / "other", progress=False)
    assert (elsewhere.added, elsewhere.is_complete) == (1, False)  # the page without an image
    assert "give images= where it was written" in elsewhere.failures[0].reason


def test_another_format_tenant_and_no_images(docs, stage, tmp_path):
    write(stage, docs, FakeEmbedder())
    report = load_stage(stage, tmp_path / "small", images=PageImages(tmp_path / "i", image_format="webp"))
    assert report.is_complete
    assert len(list((tmp_path / "i").rglob("*.webp"))) == 9
    assert load_stage(stage, tmp_path / "bare", images=None, progress=False).is_complete
    for customer in ("acme", "beta"):
        assert load_stage(stage, tmp_path / "shared", tenant=("customer", customer), progress=False).is_complete
    with PageIndex(tmp_path / "shared", embedder=FakeEmbedder(), tenant=("customer", "acme")) as index:
        assert index.count({"customer": "acme"}) == 10
        assert index.search("page 1 of a.pdf", k=1)[0].page.image.open().size
        assert add(index, [docs, *alone()], metadata={"year": 2024}).added == 0


@pytest.mark.enable_socket
def test_a_server_gets_its_indexes_at_the_end(docs, stage, tmp_path):
    _, whole = direct(docs, FakeEmbedder())
    write(stage, docs, FakeEmbedder())
    with HttpServer() as server:
        busy = iter(range(2))
        server.fault = lambda number: "busy" if number > 15 and next(busy, None) is not None else None
        report = load_stage(stage, server.url, images=tmp_path / "images", progress=False)
        assert next(busy, None) is None
        assert report.is_complete
        asked = [
            (path.rpartition("/pages")[2], body.get("optimizers_config", {}).get("indexing_threshold"))
            for verb, path, body in server.server.requests
            if verb in ("PUT", "PATCH")
        ]
        thresholds = [at for at, (path, value) in enumerate(asked) if value is not None]
        assert [asked[at][1] for at in thresholds] == [0, 20_000]
        upserts = [at for at, (path, _) in enumerate(asked) if path.startswith("/points")]
        indexes = [at for at, (path, _) in enumerate(asked) if path.startswith("/index")]
        assert thresholds[0] < upserts[0] < upserts[-1] < max(indexes) < thresholds[1]
        assert len(indexes) >= 5
        with PageIndex(server.url, embedder=FakeEmbedder(), images=tmp_path / "images") as index:
            assert contents(index) == whole
        again = load_stage(stage, server.url, images=tmp_path / "images", progress=False)
        assert (again.added, again.unchanged) == (0, 10)


@pytest.mark.enable_socket
def test_a_load_that_was_interrupted_goes_on(docs, stage, tmp_path):
    write(stage, docs, FakeEmbedder())
    with HttpServer() as server:
        upserts = iter(range(100))
        server.fault = lambda number: "garbage" if number > 12 and next(upserts) > 2 else None
        options = {"images": tmp_path / "images", "progress": False, "patience": 0}
        with pytest.raises(StoreError):
            load_stage(stage, server.url, **options)
        server.fault = lambda number: None
        report = load_stage(stage, server.url, **options)
        assert report.is_complete
        assert report.added + report.unchanged == 10
        assert server.server.local.retrieve("pages", [next(iter(_records(server)))])[0].payload.keys() == {
            "nemotron_rag_index",
            "layout",
        }


def _records(server):
    points, _ = server.server.local.scroll("pages", limit=100)
    return [point.id for point in points if "nemotron_rag_index" in point.payload]


def test_what_is_missing_or_damaged_is_said(docs, stage, tmp_path, capsys):
    write(stage, docs, FakeEmbedder())
    with PageIndex(stage, embedder=FakeEmbedder()) as staged, pytest.raises(StoreError, match="cannot be searched"):
        staged.search("words")
    with pytest.raises(InputError, match="tenant are of an index"):
        PageIndex(stage, embedder=FakeEmbedder(), tenant=("customer", "acme"))
    with pytest.raises(IndexMismatchError, match="dimensions"):
        PageIndex(stage, embedder=FakeEmbedder(dimensions=8))
    with PageIndex(tmp_path / "other", embedder=FakeEmbedder(dimensions=8)) as index:
        add(index, alone())
    with pytest.raises(IndexMismatchError, match="dimensions"):
        load_stage(stage, tmp_path / "other", progress=False)
    with pytest.raises(StoreError, match="holds nothing"):
        load_stage(f"parquet://{tmp_path / 'nothing'}", tmp_path / "x", progress=False)
    with pytest.raises(InputError, match="parquet://"):
        load_stage(str(tmp_path / "nothing"), tmp_path / "x", progress=False)
    (tmp_path / "stage" / sorted(path.name for path in (tmp_path / "stage").glob("pages-*"))[0]).write_bytes(b"PAR1")
    assert main(["load", stage, "--to", str(tmp_path / "x")]) == 1
    assert "could not read" in capsys.readouterr().err


def test_a_page_that_is_not_found_by_its_vector_is_told(docs, stage, tmp_path, monkeypatch, capsys):
    write(stage, docs, FakeEmbedder())
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index:
        add(index, [Page("noise", id=f"x{number}") for number in range(12)])
    other = FakeEmbedder().embed_passages([Page("noise nearby", id="q")])[0]
    real = loading._Load._sampled
    monkeypatch.setattr(loading._Load, "_sampled", lambda self, *arguments: real(self, *arguments) | {"p2": other})
    assert main(["load", stage, "--to", str(tmp_path / "index")]) == 1
    shown = capsys.readouterr().out
    assert "9 of a sample of 10 pages found by their own vectors; not p2" in shown
    assert "10 pages of 10 added" in shown
    assert "the index has 22 pages" in shown


def test_the_command_line_stages_and_loads(docs, stage, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lazy, "load_model", lambda name, *kinds, **options: FakeEmbedder(name=name, dimensions=512))
    assert main(["index", str(docs), "--stage", stage, "--embedder", "starter-embed-vl"]) == 0
    assert "8 pages added" in capsys.readouterr().out
    assert main(["index", str(docs), "--stage", stage, "--embedder", "starter-embed-vl"]) == 0
    assert "0 pages added" in capsys.readouterr().out
    assert main(["info", stage]) == 0
    assert main(["load", stage, "--to", str(tmp_path / "index"), "--json"]) == 0
    capsys.readouterr()
    assert main(["search", str(tmp_path / "index"), "page 2 of a.pdf", "-k", "1", "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["hits"]
    assert hit["source"].endswith("a.pdf")
    for wrong in (["--to", "x", "--stage", stage], [], ["--stage", str(tmp_path)]):
        assert main(["index", str(docs), *wrong]) == 2


def test_a_write_that_is_cut_short_leaves_nothing(stage, monkeypatch):
    store = ParquetStage(stage)
    store.create(dimensions=2, record={"model": "m"})
    (Path(store.root) / ".0123456789abcdef0123456789abcdef.tmp").write_bytes(b"PAR1 half")
    assert store.count() == 0
