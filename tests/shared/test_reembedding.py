"""An index embedded anew by another model, from what it stores."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image
from qdrant_client import QdrantClient

from nemotron_rag import Page, PageIndex
from nemotron_rag.cli import main
from nemotron_rag.errors import InputError
from nemotron_rag.index.reembedding import check_copy, point_alias, reembed
from nemotron_rag.models import lazy
from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder
from support.pages import CountingEmbedder, add, make_pdf


@pytest.fixture
def docs(tmp_path):
    for name, pages in (("a.pdf", 5), ("b.pdf", 3)):
        make_pdf(tmp_path / "docs" / name, *(f"page {number} of {name}" for number in range(pages)))
    shutil.copy(tmp_path / "docs/b.pdf", tmp_path / "docs/same-as-b.pdf")
    return tmp_path / "docs"


@pytest.fixture
def old(docs, tmp_path):
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), dpi=50, pdf_engine="mupdf") as index:
        image = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
        add(index, [docs, Page("alone", image, id="p1", metadata={"k": 1})], metadata={"year": 2024})
        shutil.rmtree(docs)  # nobody needs them any more
        yield index


def contents(index):
    state = index._state
    pages = {page.page.id: page for page in state.store.pages(texts=True)}
    images = {page_id: state.images.of(page).read_bytes() for page_id, page in pages.items()}
    words = {page_id: repr(state.images.words(page)) for page_id, page in pages.items()}
    return pages, images, words


def vectors(index):
    ids = [page.page.id for page in index._state.store.pages()]
    return {page_id: rows.round(5).tolist() for page_id, rows in index._state.store.vectors(ids).items()}


@pytest.mark.parametrize("make", [lambda: FakeEmbedder(dimensions=24), FakeMultiVectorEmbedder])
def test_it_is_the_same_index_with_the_vectors_of_the_new_model(old, tmp_path, make):
    before = contents(old), vectors(old)
    with PageIndex(tmp_path / "index", collection="new", embedder=make()) as new:
        report = reembed(old, new, progress=False)
        assert (report.added, report.failures) == (9, ())
        assert contents(new) == before[0]
        assert (contents(old), vectors(old)) == before
        expected = make().embed_passages([page.page for page in new._state.store.pages(texts=True)])
        assert new.search("page 2 of a.pdf", k=1)[0].page.source.endswith("a.pdf")
        assert len(expected) == new.count() == 9
        assert check_copy(old, new)[0] == 0
        settings = [(index._state.record.dpi, index._state.record.pdf_engine) for index in (old, new)]
        assert settings[0] == settings[1] == (50, "mupdf")
        again = reembed(old, new, progress=False)
        assert (again.added, again.unchanged) == (0, 12)  # three pages are in two documents
        assert new.count({"source": str(tmp_path / "docs/same-as-b.pdf"), "year": 2024}) == 3


def test_parts_are_disjoint_and_together_everything(old, tmp_path):
    with PageIndex(tmp_path / "index", collection="new", embedder=CountingEmbedder(dimensions=24)) as new:
        added = [reembed(old, new, part=(number, 3), progress=False).added for number in (1, 2, 3)]
        assert sum(added) == 9 == new._state.embedder().embedded
        assert 0 < max(added) < 9
        assert check_copy(old, new) == (0, check_copy(old, new)[1])
        assert check_copy(old, new)[1].found == 9


def test_images_in_one_place_are_not_written_again(tmp_path):
    images = tmp_path / "images"
    with (
        PageIndex(tmp_path / "one", embedder=FakeEmbedder(), images=images) as old,
        PageIndex(tmp_path / "two", embedder=FakeEmbedder(dimensions=24), images=images) as new,
        PageIndex(
            tmp_path / "three", embedder=FakeEmbedder(), images=PageImages(tmp_path / "w", image_format="webp")
        ) as w,
    ):
        add(old, [Page(f"n{n}", Image.new("RGB", (9, 9), (n, 0, 0)), id=f"p{n}") for n in range(3)])
        written = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
        reembed(old, new, progress=False)
        assert {path: path.stat().st_mtime_ns for path in images.rglob("*.png")} == written
        assert contents(new) == contents(old)
        reembed(old, w, progress=False)
        assert len(list((tmp_path / "w").rglob("*.webp"))) == 3
    assert len(written) == 3


def test_a_page_whose_image_is_lost_costs_itself(old, tmp_path):
    lost = next(iter((tmp_path / "index/images").rglob("*.png")))
    lost.unlink()

    class Looking(FakeEmbedder):
        def embed_passages(self, passages):
            for passage in passages:
                passage.image.open()
            return super().embed_passages(passages)

    with PageIndex(tmp_path / "new", embedder=Looking(dimensions=24)) as new:
        report = reembed(old, new, progress=False)
        assert (report.added, len(report.failures)) == (8, 1)
        assert check_copy(old, new)[0] == 1


def test_an_alias_changes_over_at_once():
    client = QdrantClient(":memory:")
    with (
        PageIndex(client=client, collection="v1", embedder=FakeEmbedder(), images=None) as old,
        PageIndex(client=client, collection="v2", embedder=FakeEmbedder(dimensions=24), images=None) as new,
    ):
        add(old, [Page("apples", id="p1"), Page("pears", id="p2")])
        point_alias(old, "live")
        with PageIndex(client=client, collection="live", embedder=FakeEmbedder(), images=None, create=False) as live:
            assert live.search("pears", k=1)[0].page.id == "p2"
        reembed(old, new, progress=False)
        point_alias(new, "live")
        with PageIndex(client=client, collection="live", embedder=FakeEmbedder(dimensions=24), images=None) as live:
            assert live.search("pears", k=1)[0].page.id == "p2"
            assert live.count() == 2
    client.close()


def test_what_cannot_be_done_is_said(old, tmp_path):
    with pytest.raises(InputError, match="into itself"):
        reembed(old, old, progress=False)
    with PageIndex(tmp_path / "empty", embedder=FakeEmbedder()) as empty:
        with pytest.raises(InputError, match="has no pages"):
            reembed(empty, old, progress=False)
        with pytest.raises(InputError, match="part must be"):
            reembed(old, empty, part=(4, 3), progress=False)
        with pytest.raises(InputError, match="engine must be"):
            reembed(old, empty, engine="spark", progress=False)
        reembed(old, empty, progress=False)
        with pytest.raises(InputError, match="no aliases"):
            point_alias(empty, "live")


def test_the_command_line(docs, tmp_path, capsys, monkeypatch):
    def load(name, *kinds, **options):
        make = FakeMultiVectorEmbedder if "colembed" in name else FakeEmbedder
        return make(name=name)

    monkeypatch.setattr(lazy, "load_model", load)
    index = str(tmp_path / "index")
    assert main(["index", str(docs), "--to", index, "--embedder", "starter-embed-vl"]) == 0
    shutil.rmtree(docs)
    command = ["reembed", index, "--into", "late", "--embedder", "starter-colembed"]
    assert main([*command, "--part", "1/2", "--json"]) == 0
    part = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert 0 < part["added"] < 8
    assert main(command) == 0
    assert "has every page of the old one" in capsys.readouterr().out
    assert main(["search", index, "page 2 of a.pdf", "-k", "1", "--collection", "late"]) == 0
    assert main([*command, "--part", "5/2"]) == 2
