"""`PageIndex.check` and `repair`: damaged rows and files, images that are missing, broken or exchanged, leftovers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from qdrant_client import QdrantClient, models

from nemotron_rag import cli
from nemotron_rag.errors import StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.stores.qdrant.edge.client import EdgeClient
from nemotron_rag.stores.qdrant.layout import BASIS_ID
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakePageStore
from nemotron_rag.types import Page, page_uuid


def pages(count=4):
    colours = ["red", "green", "blue", "white", "black", "yellow"]
    return [
        Page(id=f"p{n}", source="a.pdf", number=n, text=f"word{n}", image=Image.new("RGB", (30, 40), colours[n]))
        for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index:
        index.add(pages(), progress=False)
        assert index.check().faults == ()
    return tmp_path / "index"


def image_of(folder, n):
    (found,) = (folder / "images").rglob(f"{page_uuid(f'p{n}')}.png")
    return found


def damage(folder):
    """One image missing, one broken, one exchanged; an image that no page has, and an unfinished one."""
    image_of(folder, 0).unlink()
    image_of(folder, 1).write_bytes(b"\x89PNG no more")
    shutil.copy(image_of(folder, 3), image_of(folder, 2))
    left = folder / "images/pages/ab" / f"ab{page_uuid('gone')[2:]}.png"
    left.parent.mkdir(exist_ok=True)
    shutil.copy(image_of(folder, 3), left)
    (left.parent / f".{'0' * 32}.tmp").write_text("unfinished")
    return {"ab/" + path.name for path in left.parent.iterdir() if path.name.startswith((".", left.name))}


def test_images_that_are_missing_broken_or_exchanged_cost_their_pages_which_add_reads_again(folder):
    leftovers = damage(folder)
    before = sorted((folder / "images").rglob("*"))
    with PageIndex(folder, embedder=FakeEmbedder()) as index:
        report = index.check()
        reasons = {fault.number: fault.reason for fault in report.faults}
        assert reasons.keys() == {0, 1, 2}
        assert "cannot be read" in reasons[0]
        assert "is not the one that was stored" in reasons[2]
        assert {fault.source for fault in report.faults} == {"a.pdf"}
        assert (report.pages, set(report.leftovers), report.repaired) == (4, leftovers, False)
    assert sorted((folder / "images").rglob("*")) == before
    with PageIndex(folder, embedder=FakeEmbedder()) as index:
        mended = index.repair()
        assert (mended.faults, set(mended.leftovers), mended.repaired) == (report.faults, leftovers, True)
        assert index.count() == 1
        assert index.check().faults == index.check().leftovers == ()
        assert index.add(pages(), progress=False).added == 3
        assert index.check() == type(report)(pages=4)


def test_add_reads_pages_again_whose_images_have_gone(folder):
    shutil.rmtree(folder / "images")
    with PageIndex(folder, embedder=FakeEmbedder()) as index:
        assert index.add(pages(), progress=False).added == 4
        assert index.search("word2", k=1)[0].page.image.open().getpixel((0, 0)) == (0, 0, 255)
        assert index.add(pages(), progress=False).added == 0
        assert index.check().faults == ()


@pytest.mark.parametrize("embedder", [FakeEmbedder, FakeMultiVectorEmbedder])
def test_rows_that_are_not_whole_are_removed(tmp_path, embedder):
    with PageIndex(tmp_path, embedder=embedder(), images=None) as index:
        index.add(pages(), progress=False)
    client = EdgeClient(tmp_path)
    ids = [page_uuid(f"p{n}") for n in range(4)]
    client.overwrite_payload("pages", {}, points=[ids[0]])
    client.overwrite_payload("pages", client.retrieve("pages", [ids[3]])[0].payload, points=[ids[1]])
    client.upsert(
        "pages", [models.PointStruct(id=ids[2], vector={}, payload=client.retrieve("pages", [ids[2]])[0].payload)]
    )
    client.close()
    with PageIndex(tmp_path, embedder=embedder(), images=None) as index:
        found = sorted(fault.reason for fault in index.check().faults)
        assert [reason.split(" ", 2)[2] for reason in sorted(found, key=lambda each: each.split(" ", 2)[2])] == [
            "has lost a vector",
            "has lost its payload, or has that of another page",
            "has lost its payload, or has that of another page",
        ]
        index.repair()
        assert (index.count(), index.check().faults) == (1, ())
        assert index.add(pages(), progress=False).added == 3
        assert index.count() == 4


@pytest.mark.parametrize("part", ["segment.json", "payload_index/config.json", "wal", "edge_config.json"])
def test_damaged_files_of_the_engine_cost_no_more_than_what_is_in_them(folder, part, capsys, monkeypatch):
    shard = folder / "edge/pages/shard"
    whole = {"wal": [*(shard / "wal").iterdir()], "edge_config.json": [shard / "edge_config.json"]}
    broken = whole.get(part) or [*shard.glob(f"segments/*/{part}")]
    for file in broken:
        file.write_bytes(b"\xff" * 4096)
    if part == "segment.json":
        shutil.rmtree(shard / "wal")  # from which the pages would come back
    with pytest.raises(StoreError):
        PageIndex(folder, embedder=FakeEmbedder())
    assert cli.main(["check", str(folder)]) == 1
    capsys.readouterr()
    assert cli.main(["repair", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["put_aside"]) == (1 if part in whole else len(broken))
    assert all((folder / "edge/pages/damaged" / name).exists() for name in report["put_aside"])
    with PageIndex(folder, embedder=FakeEmbedder()) as index:
        kept = 0 if part == "segment.json" else 4
        assert index.count() == kept
        assert index.add(pages(), progress=False).added == 4 - kept
        assert index.search("word2", k=1)[0].page.number == 2
        assert index.search("word2", k=9, filter={"page_number": 2})[0].page.number == 2
        assert index.check() == type(index.check())(pages=4)
    assert cli.main(["check", str(folder)]) == 0


def test_the_command_line_says_what_is_wrong_and_what_to_do(folder, capsys):
    damage(folder)
    assert cli.main(["check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("4 pages read, 3 faults\n  a.pdf, page ")
    assert "2 image files without a page found\n`nemotron-rag repair` removes these pages" in out
    assert cli.main(["repair", str(folder)]) == 0
    assert capsys.readouterr().out.endswith("removed\nindex the same files again: what was removed is read anew\n")
    assert cli.main(["check", str(folder), "--json"]) == 0
    expected = {"pages": 1, "faults": [], "leftovers": [], "put_aside": [], "repaired": False}
    assert json.loads(capsys.readouterr().out) == expected


def test_images_of_other_tenants_and_of_folders_that_may_be_shared_are_no_leftovers(tmp_path):
    for name in ("a", "b"):
        with PageIndex(tmp_path / "one", embedder=FakeEmbedder(), tenant=("who", name)) as index:
            index.add(pages(), progress=False)
            assert index.repair() == type(index.check())(pages=4, repaired=True)
    for name in ("x", "y"):
        with PageIndex(tmp_path / name, embedder=FakeEmbedder(), images=tmp_path / "shared") as index:
            index.add(pages(2 if name == "x" else 4), progress=False)
            assert index.repair().leftovers == ()


def test_other_stores(tmp_path):
    for options in (
        {"store": FakePageStore(), "images": tmp_path / "fake"},
        {"client": QdrantClient(":memory:"), "images": tmp_path / "memory"},
    ):
        with PageIndex(embedder=FakeEmbedder(), **options) as index:
            assert index.check().pages == 0
            index.add(pages(), progress=False)
            assert index.check() == type(index.check())(pages=4)
            next(path for path in options["images"].rglob("*.png")).unlink()
            assert len(index.repair().faults) == 1
            assert index.count() == 3


def test_what_cannot_be_opened_for_another_reason_is_left_alone(folder):
    shutil.rmtree(folder / "edge/pages/shard")
    store = QdrantStore(folder)
    with pytest.raises(StoreError, match="could not salvage"):
        store.salvage()
    store.close()
    assert not (folder / "edge/pages/damaged").exists()


@pytest.mark.parametrize("place", ["folder", "memory"])
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "damaged"])
def test_a_projection_basis_is_computed_from_the_pages(tmp_path, place, lost):
    location = tmp_path / "index" if place == "folder" else None
    texts = [f"red apple{n} green pear{n} blue plum{n} grey fig{n}" for n in range(40)]
    given = [Page(id=f"p{n}", number=n, text=text) for n, text in enumerate(texts)]
    with PageIndex(location, embedder=FakeMultiVectorEmbedder(dimensions=16), images=None) as index:
        index.add(given, progress=False)
        store = index._state.store
        before = [[hit.page.id for hit in index.search(text, k=1)] for text in texts[:5]]
        basis = store._basis.read()
        store._collection.delete_points([BASIS_ID])
        if not lost:
            store._collection.insert(models.PointStruct(id=BASIS_ID, vector={}, payload={"shape": [1]}))
        store._basis._known = None
        with pytest.raises(StoreError, match="projection basis"):
            index.search("red")
        assert [fault.reason for fault in index.check().faults] == [
            f"point {BASIS_ID} of the projection basis is {'not there' if lost else 'damaged'}"
        ]
        index.repair()
        assert index.check().faults == ()
        assert np.allclose(store._basis.read(), basis, atol=0.01)
        assert [[hit.page.id for hit in index.search(text, k=1)] for text in texts[:5]] == before


def test_a_projection_basis_that_the_pages_do_not_tell_is_said():
    with PageIndex(embedder=FakeMultiVectorEmbedder(dimensions=64), images=None) as index:
        index.add([Page(id="p1", text="two words")], progress=False)
        index._state.store._collection.delete_points([BASIS_ID])
        with pytest.raises(StoreError, match="do not tell its projection basis; index them anew"):
            index.repair()
