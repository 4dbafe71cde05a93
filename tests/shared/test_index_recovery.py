"""An interrupted `add`, made again, ends with the index of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from qdrant_client import QdrantClient

from nemotron_rag.errors import StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.testing import FakeEmbedder
from support import killed
from support.pages import add, contents, endless, make_pdf, same

pytestmark = pytest.mark.slow

PAGES = 12
KILLS = 6


def first_version(index: PageIndex) -> None:
    for name, colour in {"a": "red", "b": "green", "copy": "red"}.items():
        Image.new("RGB", (4, 4), colour).save(f"{name}.png")
    add(index, ["a.png", "b.png", "copy.png"])


def second_version(index: PageIndex) -> None:
    for name, colour in {"a": "blue", "b": "white"}.items():
        Image.new("RGB", (4, 4), colour).save(f"{name}.png")
    add(index, ["a.png", "b.png", "copy.png"], metadata={"year": 2020})


def images_in(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.png")}


@pytest.mark.parametrize("after", [False, True], ids=["refused", "done-but-unacknowledged"])
@pytest.mark.parametrize("method", ["upsert", "delete", "set_payload", "create_collection"])
def test_a_run_broken_at_any_write_is_completed_by_the_next(tmp_path, monkeypatch, method, after):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nemotron_rag.index.ingest.BATCH", 1)
    client = QdrantClient(":memory:")
    with PageIndex(client=client, images="undisturbed", embedder=FakeEmbedder()) as index:
        first_version(index)
        second_version(index)
        wanted, wanted_images = contents(index), images_in(Path("undisturbed"))
    client.close()
    for fail_at in range(5):
        client, images = QdrantClient(":memory:"), PageImages(f"images-{fail_at}")
        breaks = _break(monkeypatch, client, method, fail_at, after=after)
        for step in (first_version, second_version):
            for _ in range(2):
                try:
                    with PageIndex(client=client, images=images, embedder=FakeEmbedder()) as index:
                        step(index)
                        break
                except StoreError:
                    continue
        with PageIndex(client=client, images=images, embedder=FakeEmbedder()) as index:
            assert same(contents(index), wanted)
        assert images_in(Path(images.root)) == wanted_images
        if fail_at == 0:
            assert breaks == [0]
        client.close()


def _break(monkeypatch, client, method: str, fail_at: int, *, after: bool) -> list[int]:
    original, calls, broken = getattr(client, method), iter(range(1000)), []

    def breaking(*args, **options):
        turn = next(calls)
        if turn != fail_at:
            return original(*args, **options)
        broken.append(turn)
        if after:
            original(*args, **options)
        raise RuntimeError("power cut")

    monkeypatch.setattr(client, method, breaking)
    return broken


def test_an_image_that_cannot_be_written_keeps_its_page_out(tmp_path, monkeypatch):
    class Full(PageImages):
        def write(self, page_id, image):
            raise StoreError("no space left")

    monkeypatch.chdir(tmp_path)
    client = QdrantClient(":memory:")
    with PageIndex(client=client, images=Full("images"), embedder=FakeEmbedder()) as index:
        with pytest.raises(StoreError, match="no space left"):
            first_version(index)
        assert index.count() == 0
    client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_killed_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    killed.fill("first", 1)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "support.killed", str(KILLS)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
    wanted, images = _contents("whole"), images_in(Path("whole/images"))
    unfinished = 0
    for folder in (f"killed-{n}" for n in range(KILLS)):
        with PageIndex(folder, embedder=FakeEmbedder(dimensions=8)) as index:
            stored = {f"{page.page.id} {page.content_hash}" for page in index._state.store.pages()}
            assert set(Path(f"{folder}.stored").read_text().splitlines()) <= stored
            unfinished += not same(contents(index), wanted)
        killed.fill(folder, 2)
        assert same(_contents(folder), wanted)
        assert images_in(Path(folder, "images")) == images
    assert unfinished > 1


def _contents(folder: str) -> dict[str, tuple]:
    with PageIndex(folder) as index:
        return contents(index)


SCRIPT = """
import sys, time
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.index import ingest as _ingest

class Slow(FakeEmbedder):
    def embed_passages(self, passages):
        time.sleep(0.05)
        return super().embed_passages(passages)

_ingest.BATCH = 1
with PageIndex("killed", embedder=Slow()) as index:
    index.add("docs", progress=False)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_a_killed_process_leaves_an_index_that_the_next_run_completes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        make_pdf(tmp_path / "docs" / f"{name}.pdf", *[f"{name} page {n}" for n in range(PAGES // 2)])
    with PageIndex("undisturbed", embedder=FakeEmbedder()) as index:
        add(index, "docs")
        wanted = contents(index)
    seen = 0
    for kept in (2, 7):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=tmp_path, env={**os.environ})
        while len(images_in(Path("killed/images"))) < kept and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        with PageIndex("killed", embedder=FakeEmbedder()) as index:
            assert seen <= index.count() < PAGES
            seen = index.count()
    with PageIndex("killed", embedder=FakeEmbedder()) as index:
        report = add(index, "docs")
        assert (report.added, report.unchanged) == (PAGES - seen, seen)
        assert same(contents(index), wanted)
    assert images_in(Path("killed")) == images_in(Path("undisturbed"))


@pytest.mark.skipif(os.name != "posix", reason="needs signals and /proc")
def test_ctrl_c_ends_at_once_while_a_page_is_being_rendered(tmp_path):
    """Not after the time that a page may take; nothing is left running."""
    (tmp_path / "endless.pdf").write_bytes(endless(3))
    code = (
        "from nemotron_rag import PageIndex\nfrom nemotron_rag.testing import FakeEmbedder\n"
        "index = PageIndex(embedder=FakeEmbedder())\nprint('begin', flush=True)\n"
        "index.add('endless.pdf', progress=False)"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert program.stdout.readline() == b"begin\n"
        renderer = _busy_child(program.pid)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=25)
    finally:
        program.kill()
    assert b"KeyboardInterrupt" in said
    assert not Path(f"/proc/{renderer}").exists()


def _busy_child(pid: int) -> int:
    """A child that has computed for two seconds: it renders."""
    ticks = os.sysconf("SC_CLK_TCK")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in _children(pid):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            if int(fields[11]) > 2 * ticks:
                return int(child)
        time.sleep(0.1)
    raise AssertionError("no renderer works")


def _children(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
