"""`PageIndex.sync` and ``--prune``: what has vanished from a folder leaves the index, and nothing else does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from nemotron_rag.cli import main
from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakePageStore
from nemotron_rag.types import AddReport
from support.pages import CountingEmbedder, add, make_pdf, text_page


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("docs/a.pdf", "docs/sub/b.pdf", "docs-old/c.pdf", "other/d.pdf"):
        make_pdf(tmp_path / name, f"text of {name}", "second page")
    return tmp_path


@pytest.fixture(params=["qdrant", "fake"])
def index(request, folder):
    store = {"store": FakePageStore()} if request.param == "fake" else {"location": "index"}
    with PageIndex(embedder=CountingEmbedder(), **store) as opened:
        add(opened, ["docs", "docs-old", "other"])
        yield opened


def sync(index: PageIndex, sources, **options) -> AddReport:
    return index.sync(sources, progress=False, **options)


def test_what_has_vanished_leaves_and_what_is_new_comes(index):
    Path("docs/a.pdf").unlink()
    make_pdf(Path("docs/sub/new.pdf"), "new")
    report = sync(index, "docs")
    assert (report.added, report.unchanged, report.removed, report.failures) == (1, 2, 2, ())
    assert index.sources() == ["docs-old/c.pdf", "docs/sub/b.pdf", "docs/sub/new.pdf", "other/d.pdf"]
    assert sync(index, ["docs", "other"]).removed == 0
    shutil.rmtree("docs/sub")
    Path("other/d.pdf").unlink()
    report = sync(index, ["./docs/", Path("other")])
    assert report.removed == 5
    assert index.sources() == ["docs-old/c.pdf"]
    assert len(report.failures) == 2  # empty folders are told, as by `add`


def test_a_renamed_file_keeps_its_pages(index):
    embedded = index._state.embedder().embedded
    Path("docs/a.pdf").rename("docs/z.pdf")
    report = sync(index, "docs")
    assert (report.added, report.removed, index._state.embedder().embedded) == (0, 0, embedded)
    assert "docs/a.pdf" not in index.sources()
    page = index.search("text of docs a", k=1, filter={"source": "docs/z.pdf"})[0].page
    assert page.image.open().size


def test_an_equal_file_elsewhere_keeps_the_pages(index):
    shutil.copy("docs/a.pdf", "other/copy.pdf")
    add(index, "other")
    Path("docs/a.pdf").unlink()
    assert sync(index, "docs").removed == 0
    assert index.count({"source": "other/copy.pdf"}) == 2
    assert index.count({"source": "docs/a.pdf"}) == 0


def test_a_folder_that_is_not_there_costs_nothing(index):
    Path("docs").rename("moved")
    with pytest.raises(InputError, match="there is no folder docs, but .* holds documents of it, which stay"):
        sync(index, ["other", "docs"])
    assert index.count() == 8
    assert sync(index, "never-there").failures
    Path("other/d.pdf").unlink()
    assert sync(index, "other/d.pdf").removed == 2  # a single file may be gone
    Path("moved").rename("docs")
    Path("docs/a.pdf").write_bytes(b"%PDF-1.7 broken now")
    assert sync(index, "docs").removed == 0
    assert index.count({"source": "docs/a.pdf"}) == 2


def test_only_files_can_vanish(index, monkeypatch):
    add(index, [text_page(1, "alone", source="docs/feed"), text_page(2, "alone too", source="web")])
    make_pdf(Path("top.pdf"), "at the top")
    odd = os.fsdecode(b"docs/caf\xe9.png")
    from PIL import Image

    Image.new("L", (3, 3)).save(odd)
    absolute = make_pdf(Path("away/e.pdf").absolute(), "absolute")
    add(index, ["top.pdf", odd, absolute])
    absolute.unlink()
    Path("top.pdf").unlink()
    assert sync(index, ".").removed == 1
    assert {"docs/feed", "web", "docs/caf\\xe9.png", absolute.as_posix()} < set(index.sources())
    assert sync(index, absolute.parent).removed == 1
    Path(odd).unlink()
    assert sync(index, "docs").removed == 1
    for what in ([text_page(3, "x")], [3], text_page(3, "x")):
        with pytest.raises(InputError, match="sync wants files and folders, got"):
            sync(index, what)


def test_a_file_that_may_not_be_looked_for_stays(index, monkeypatch):
    look = os.lstat

    def denied(path, **options):
        if str(path).endswith("a.pdf"):
            raise PermissionError(13, "denied")
        return look(path, **options)

    monkeypatch.setattr("nemotron_rag.index.vanished.os.lstat", denied)
    assert sync(index, "docs").removed == 0


async def test_event_loops_and_new_indexes(folder):
    with PageIndex(embedder=FakeEmbedder()) as index:
        report = await index.async_("docs", progress=False, metadata={"year": 1})
        assert (report.added, index.count({"year": 1})) == (4, 4)


def test_the_command_line_prunes(folder, capsys):
    command = ["index", "docs", "--to", "cli-index", "--embedder", "starter-embed-vl", "--json"]
    assert main(command) == 0
    Path("docs/a.pdf").unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 0
    assert main([*command, "--prune"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 2
