"""Adding pages to an index: files, images, pages; again, changed, equal, broken."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemotron_rag import load_embedder
from nemotron_rag.documents.pdf import read_pdf
from nemotron_rag.errors import ImageError, InputError, PdfError
from nemotron_rag.index import PageIndex
from nemotron_rag.index.ingest import BATCH
from nemotron_rag.testing import FakeEmbedder, FakePageStore, FakeReranker
from nemotron_rag.types import page_id, page_uuid
from support.pages import CountingEmbedder, add, contents, make_pdf, same, text_page
from support.qdrant_server import Server


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with two documents."""
    monkeypatch.chdir(tmp_path)
    make_pdf(tmp_path / "docs" / "fruit.pdf", "apples are red", "pears are green", "plums are blue")
    make_pdf(tmp_path / "docs" / "sub" / "whale.pdf", "whales are large")
    return tmp_path


@pytest.fixture
def index():
    with PageIndex(embedder=CountingEmbedder(), reranker=FakeReranker()) as opened:
        yield opened


def test_a_folder_is_added_and_found_with_images(folder):
    with PageIndex("store", embedder=FakeEmbedder()) as index:
        report = add(index, "docs")
        assert (report.added, report.unchanged, report.removed, report.failures) == (4, 0, 0, ())
        assert set(report.seconds) == {"render", "preprocess", "embed", "store", "optimize", "total"}
        assert all(seconds > 0 for stage, seconds in report.seconds.items() if stage != "preprocess")
        assert index.sources() == ["docs/fruit.pdf", "docs/sub/whale.pdf"]
        hit = index.search("pears green", k=1)[0]
        assert (hit.page.source, hit.page.number, hit.rank) == ("docs/fruit.pdf", 2, 1)
        assert "pears are green" in hit.page.text
        assert hit.page.metadata["page_count"] == 3
        assert hit.page.image.open().mode == "RGB"
        assert hit.score == hit.retrieval_score > 0.5
        digest = hashlib.sha256(Path("docs/fruit.pdf").read_bytes()).hexdigest()
        assert hit.page.id == page_id(digest, 2)
        assert len(list(Path("store/images/pages").rglob("*.png"))) == 4


def test_the_report_tells_where_a_models_time_goes(folder, reference):
    with PageIndex("store", embedder=load_embedder(reference / "embed_vl_open_1", device="cpu")) as index:
        seconds = add(index, "docs").seconds
        assert 0 < seconds["preprocess"] < seconds["embed"] < seconds["total"]


def test_adding_twice_changes_nothing_and_renders_nothing(folder, monkeypatch):
    embedder = CountingEmbedder()
    with PageIndex("store", embedder=embedder) as index:
        add(index, ["docs/fruit.pdf", "docs/sub/whale.pdf"])
        before = contents(index)
    rendered = []

    def spy(source, **options):
        if source != b"":
            rendered.append(source)
        return read_pdf(source, **options)

    monkeypatch.setattr("nemotron_rag.index.plan.read_pdf", spy)
    with PageIndex("store", embedder=embedder) as index:
        report = add(index, ["./docs/fruit.pdf", "docs/../docs/sub/whale.pdf"])
        assert (report.added, report.unchanged) == (0, 4)
        assert same(contents(index), before)
        assert rendered == []
        assert embedder.embedded == 4


def test_a_changed_file_replaces_its_pages_and_images(folder):
    with PageIndex("store", embedder=FakeEmbedder()) as index:
        add(index, "docs")
        make_pdf(folder / "docs" / "fruit.pdf", "cherries", "melons")
        report = add(index, "docs")
        assert (report.added, report.unchanged, report.removed) == (2, 1, 3)
        assert index.count() == 3
        assert index.count({"source": "docs/fruit.pdf"}) == 2
        assert len(list(Path("store/images/pages").rglob("*.png"))) == 3


def test_only_missing_pages_are_rendered(folder):
    embedder = CountingEmbedder()
    with PageIndex(embedder=embedder) as index:
        assert add(index, "docs/fruit.pdf", pages=[2]).added == 1
        report = add(index, "docs/fruit.pdf")
        assert (report.added, report.unchanged, embedder.embedded) == (2, 1, 3)


def test_a_version_of_which_nothing_can_be_stored_replaces_nothing(folder):
    with PageIndex(embedder=CountingEmbedder(refuses="poison")) as index:
        add(index, "docs/fruit.pdf")
        make_pdf(folder / "docs" / "fruit.pdf", "poison one", "poison two")
        report = add(index, "docs/fruit.pdf")
        assert len(report.failures) == 2
        assert (index.count(), report.removed) == (3, 0)


def test_files_of_equal_content_share_pages_until_the_last_one_goes(folder):
    Path("copy.pdf").write_bytes(Path("docs/fruit.pdf").read_bytes())
    embedder = CountingEmbedder()
    with PageIndex(embedder=embedder) as index:
        report = add(index, ["docs/fruit.pdf", "copy.pdf"])
        assert (report.added, report.unchanged, embedder.embedded) == (3, 3, 3)
        assert index.count() == index.count({"source": "copy.pdf"}) == 3
        assert index.search("apples", k=1, filter={"source": "copy.pdf"})[0].page.source == "copy.pdf"
        assert index.delete("docs/fruit.pdf") == 0
        assert index.sources() == ["copy.pdf"]
        assert index.search("apples", k=1)[0].page.image is not None
        make_pdf(folder / "copy.pdf", "something else")
        assert add(index, "copy.pdf").removed == 3


def test_equal_files_of_two_owners_each_have_metadata_of_their_own(folder):
    for who in ("alice", "bob"):
        make_pdf(folder / who / "policy.pdf", "travel policy", "expenses")
    embedder = CountingEmbedder()
    with PageIndex("store", embedder=embedder) as index:
        for who in ("alice", "bob"):
            add(index, f"{who}/policy.pdf", metadata={"tenant": who, f"only_{who}": True})
        assert (embedder.embedded, index.count()) == (2, 2)
        assert len(list(Path("store/images/pages").rglob("*.png"))) == 2
        for who, other in (("alice", "bob"), ("bob", "alice")):
            assert index.count({"tenant": who}) == index.count({"tenant": who, f"only_{other}": None}) == 2
            assert index.count({"tenant": who, f"only_{other}": True}) == 0
            assert index.count({"tenant": who, "source": f"{other}/policy.pdf"}) == 0
            page = index.search("policy", k=1, filter={"tenant": who})[0].page
            assert (page.source, page.metadata["tenant"]) == (f"{who}/policy.pdf", who)
            assert page.metadata["page_count"] == 2  # what the content says holds for both
            assert f"only_{other}" not in page.metadata
        add(index, "bob/policy.pdf", metadata={"year": 2020})
        assert (index.count({"tenant": "bob", "year": 2020}), index.count({"tenant": "alice", "year": 2020})) == (2, 0)
        before = index.search("policy", k=1, filter={"tenant": "alice"})
        assert index.delete("bob/policy.pdf") == 0
        assert index.search("policy", k=1, filter={"tenant": "alice"}) == before
        assert index.search("policy", k=1)[0].page.metadata == before[0].page.metadata
        assert (index.count({"tenant": "bob"}), index.sources()) == (0, ["alice/policy.pdf"])


def test_deleting_by_a_filter_takes_only_what_it_matches(folder):
    for who in ("alice", "bob"):
        make_pdf(folder / who / "policy.pdf", "travel policy")
    make_pdf(folder / "bob" / "plan.pdf", "plans")
    with PageIndex("store", embedder=FakeEmbedder()) as index:
        for who in ("alice", "bob"):
            add(index, who, metadata={"tenant": who})
        assert index.delete(filter={"tenant": "bob"}) == 1
        assert (index.sources(), index.count({"tenant": "alice"})) == (["alice/policy.pdf"], 1)
        assert len(list(Path("store/images/pages").rglob("*.png"))) == 1
        assert index.delete(everything=True) == 1
        assert (index.count(), list(Path("store/images/pages").rglob("*.png"))) == (0, [])


def test_replacing_one_of_two_equal_files_keeps_the_pages_of_the_other(folder):
    Path("copy.pdf").write_bytes(Path("docs/fruit.pdf").read_bytes())
    with PageIndex(embedder=FakeEmbedder()) as index:
        add(index, ["docs/fruit.pdf", "copy.pdf"])
        make_pdf(folder / "docs" / "fruit.pdf", "cherries")
        report = add(index, "docs/fruit.pdf")
        assert (report.added, report.removed) == (1, 0)
        assert index.count({"source": "copy.pdf"}) == 3
        assert index.count({"source": "docs/fruit.pdf"}) == 1


def test_two_equal_files_that_change_together_leave_nothing_behind(folder):
    Path("copy.pdf").write_bytes(Path("docs/fruit.pdf").read_bytes())
    with PageIndex("store", embedder=FakeEmbedder()) as index:
        add(index, ["docs/fruit.pdf", "copy.pdf"])
        make_pdf(folder / "docs" / "fruit.pdf", "cherries")
        make_pdf(folder / "copy.pdf", "melons")
        report = add(index, ["docs/fruit.pdf", "copy.pdf"])
        assert (report.added, report.removed, index.count()) == (2, 3, 2)
        assert len(list(Path("store/images/pages").rglob("*.png"))) == 2


def test_bad_files_among_good_ones_are_reported(folder):
    Path("bad.pdf").write_bytes(b"%PDF-1.7 and then nothing of use")
    Path("bad.png").write_bytes(b"no image")
    Path("empty").mkdir()
    with PageIndex(embedder=FakeEmbedder()) as index:
        report = add(index, ["bad.pdf", "docs/fruit.pdf", "missing.pdf", "bad.png", "empty", 3])
        assert report.added == 3
        assert [failure.source for failure in report.failures] == [
            "bad.pdf",
            "missing.pdf",
            "bad.png",
            "empty",
            "<int>",
        ]
        assert all("\n" not in str(failure) for failure in report.failures)
        with pytest.raises(PdfError):
            add(index, ["bad.pdf", "docs/sub/whale.pdf"], on_error="raise")
        assert index.count() == 3


def test_one_page_that_cannot_be_embedded_does_not_lose_the_others():
    with PageIndex(embedder=CountingEmbedder(refuses="poison")) as index:
        pages = [text_page(n, "poison" if n == 3 else f"page {n}", source="s") for n in range(1, 6)]
        report = add(index, pages)
        assert report.added == 4
        (failure,) = report.failures
        assert (failure.source, failure.number) == ("s", 3)
        assert "cannot embed" in failure.reason
        with pytest.raises(InputError, match="cannot embed"):
            add(index, [text_page(9, "poison")], on_error="raise")


def test_a_model_that_fails_for_every_page_stops_the_run():
    class Broken(FakeEmbedder):
        def embed_passages(self, passages):
            raise RuntimeError("device lost")

    with PageIndex(embedder=Broken()) as index, pytest.raises(RuntimeError, match="device lost"):
        add(index, [text_page(n, "x") for n in range(3)])


@pytest.mark.parametrize("wrong", [lambda rows: rows[:-1], lambda rows: rows * np.nan])
def test_vectors_that_are_missing_or_not_finite_are_never_stored(wrong):
    class Wrong(FakeEmbedder):
        def embed_passages(self, passages):
            return wrong(super().embed_passages(passages))

    with PageIndex(embedder=Wrong()) as index:
        report = add(index, [text_page(n, "x") for n in range(3)])
        assert (report.added, len(report.failures), index.count()) == (0, 3, 0)


def test_image_files_and_single_pages_are_added(tmp_path, monkeypatch, index):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 6), "red").save("red.png")
    assert add(index, "red.png").added == 1
    assert add(index, text_page(1, "one", source="web")).added == 1
    assert index.sources() == ["red.png", "web"]
    (hit,) = index.search_image("red.png", k=1)
    assert (hit.page.source, hit.page.image.open().getpixel((0, 0))) == ("red.png", (255, 0, 0))
    assert hit.score == pytest.approx(1, abs=1e-5)


def test_a_page_is_replaced_only_if_its_content_changed(index):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    page = text_page(1, "one", source="s", image=red)
    add(index, page)
    report = add(index, text_page(1, "one", source="s", image=red.copy()))
    assert (report.added, report.unchanged) == (0, 1)
    report = add(index, text_page(1, "one", source="t", image=blue))
    assert (report.added, index.count(), index.sources()) == (1, 1, ["t"])
    assert index.search("one", k=1)[0].page.image.open().getpixel((0, 0)) == (0, 0, 255)
    add(index, text_page(1, "one", source="t"))
    assert index.search("one", k=1)[0].page.image is None
    with pytest.raises(ImageError):
        index._state.images.reference(index._state.images.key(page_uuid("p1"))).open()


def test_text_and_names_that_are_no_unicode_reach_a_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (2, 2)).save("odd-\udcff.png")
    with PageIndex(client=Server().client(), images=None, embedder=FakeEmbedder()) as index:
        report = add(index, ["odd-\udcff.png", text_page(1, "half \ud83d", metadata={"x": 1})])
        assert (report.added, report.failures) == (2, ())
        assert index.sources() == [r"odd-\xff.png"]
        assert index.search("half", k=1)[0].page.text == "half ?"
        (failure,) = add(index, text_page(2, "x", source="s", metadata={"x": "\ud83d"})).failures
        assert "metadata" in failure.reason


def test_one_id_for_two_contents_is_reported(index):
    report = add(index, [text_page(1, "one", source="s"), text_page(1, "one"), text_page(1, "two", source="t")])
    assert (report.added, report.unchanged) == (1, 1)
    assert [failure.source for failure in report.failures] == ["t"]
    assert "given twice" in report.failures[0].reason


def test_large_images_make_smaller_batches(monkeypatch):
    sizes: list[int] = []

    class Sizes(FakeEmbedder):
        def embed_passages(self, passages):
            sizes.append(len(passages))
            return super().embed_passages(passages)

    monkeypatch.setattr("nemotron_rag.index.ingest.BATCH_PIXELS", 300)
    with PageIndex(embedder=Sizes(), images=None) as index:
        add(index, [text_page(n, "x", image=Image.new("L", (10, 10))) for n in range(7)])
    assert sorted(sizes) == [1, 3, 3]


def test_pages_read_by_hand_are_those_of_their_file(folder, index):
    add(index, "docs/fruit.pdf")
    report = add(index, read_pdf("docs/fruit.pdf"))
    assert (report.added, report.unchanged, index.count()) == (0, 3, 3)


def test_metadata_is_laid_over_pages_already_there(folder, index):
    add(index, "docs/fruit.pdf", metadata={"year": 2020, "team": "a"})
    assert add(index, "docs/fruit.pdf", metadata={"year": 2021}).unchanged == 3
    assert index.count({"year": 2021, "team": "a"}) == 3
    with pytest.raises(InputError, match="JSON"):
        add(index, "docs/fruit.pdf", metadata={"when": object()})


def test_pages_of_a_generator_are_consumed_as_they_are_stored():
    stored = threading.Event()
    taken: list[int] = []

    class Waiting(FakeEmbedder):
        def embed_passages(self, passages):
            stored.wait(5)
            return super().embed_passages(passages)

    def pages():
        for n in range(20 * BATCH):
            taken.append(n)
            yield text_page(n, f"page {n}")

    with PageIndex(embedder=Waiting()) as index:
        run = threading.Thread(target=add, args=(index, pages()))
        run.start()
        time.sleep(0.5)
        ahead = len(taken)
        stored.set()
        run.join()
        assert BATCH < ahead <= 5 * BATCH + 2
        assert index.count() == 20 * BATCH


def test_pages_that_come_one_by_one_are_looked_for_together():
    asked: list[list[str]] = []

    class Store(FakePageStore):
        def get(self, ids):
            asked.append(list(ids))
            return super().get(ids)

    pages = [text_page(n, f"page {n}") for n in range(40)]
    with PageIndex(store=Store(), images=None, embedder=FakeEmbedder()) as index:
        add(index, pages)
        asked.clear()
        report = add(index, iter([*pages, text_page(40, "new"), text_page(40, "new"), text_page(0, "changed")]))
    assert (report.added, report.unchanged) == (2, 41)
    assert len(asked) <= 10  # 43 pages, twice each
    assert {page_id for ids in asked for page_id in ids} == {page.id for page in pages} | {text_page(40, "").id}


def test_an_error_of_the_callers_generator_comes_out_and_the_index_stays_usable(index):
    def pages():
        yield text_page(1, "one")
        raise LookupError("the caller's own")

    with pytest.raises(LookupError):
        add(index, pages())
    assert add(index, text_page(1, "one")).added + index.count() >= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"sources": b"%PDF"},
        {"sources": 3},
        {"pages": "3-1"},
        {"ocr": "sometimes"},
        {"on_error": "ignore"},
        {"metadata": {"x": float("nan")}},
    ],
)
def test_arguments_that_cannot_be_used_raise_at_once(index, folder, wrong):
    with pytest.raises(InputError):
        add(index, **{"sources": "docs"} | wrong)


def test_progress_shows_the_total(folder, capsys):
    with PageIndex(embedder=FakeEmbedder()) as index:
        index.add("docs")
        assert "4/4" in capsys.readouterr().err
        add(index, "docs")
        assert capsys.readouterr().err == ""


def test_a_failure_names_its_document_once_and_an_empty_pdf_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.pdf").write_bytes(b"%PDF-1.4\nnothing more")
    # A catalog whose page tree is empty: valid, and without pages.
    Path("none.pdf").write_bytes(
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
        b"trailer<</Root 1 0 R>>\n"
    )
    with PageIndex(embedder=FakeEmbedder()) as index:
        report = index.add(["broken.pdf", "none.pdf"], progress=False)
    assert {failure.source for failure in report.failures} == {"broken.pdf", "none.pdf"}
    assert all(failure.source not in failure.reason for failure in report.failures)
    assert "none.pdf: has no pages" in {str(failure) for failure in report.failures}


def test_images_of_every_suffix_are_read_and_broken_ones_named_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a.png", "b.pgm", "c.j2k", "d.TIFF"]
    for name in names:
        Image.new("L", (8, 8), 99).save(name, {"b.pgm": "PPM", "c.j2k": "JPEG2000", "d.TIFF": "TIFF"}.get(name, "PNG"))
    Path("broken.png").write_bytes(b"no image")
    with PageIndex(embedder=FakeEmbedder()) as index:
        report = index.add([*names, "broken.png"], progress=False)
        assert index.sources() == sorted(names)
    (failure,) = report.failures
    assert str(failure).startswith("broken.png: expected an image (")
