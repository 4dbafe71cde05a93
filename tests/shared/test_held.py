"""One budget for the pixels of images that are decoded at once, in whatever thread, and at every entrance."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nemotron_rag import Page, Passage
from nemotron_rag.documents import held, images
from nemotron_rag.documents.held import admit, holding_images, in_parts
from nemotron_rag.index import PageIndex, ingest
from nemotron_rag.models._base import packed
from nemotron_rag.models.cached import CachedEmbedder
from nemotron_rag.runtime import windows
from nemotron_rag.stores.page_images import PageImages, show_images
from nemotron_rag.testing import FakeEmbedder
from support.pages import add

SIDE = 64
PIXELS = SIDE * SIDE


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def peak(monkeypatch):
    """The most pixels that were held at once, with room for two of our images."""
    budget = held._Budget(2 * PIXELS)
    most = [0]
    take = budget.take

    def watched(pixels: int) -> None:
        take(pixels)
        most[0] = max(most[0], budget._held)
        time.sleep(0.002)  # let others come

    monkeypatch.setattr(budget, "take", watched)
    monkeypatch.setattr(held, "_budget", budget)
    yield most
    assert budget._held == 0


def test_who_asks_waits_for_room_and_one_is_always_let_in():
    budget = held._Budget(10)
    order = []
    budget.take(100)  # more than there is, but nothing else is held

    def other() -> None:
        budget.take(5)
        order.append("second")
        budget.give_back(5)

    thread = threading.Thread(target=other)
    thread.start()
    time.sleep(0.05)
    order.append("first")
    budget.take(3)  # who holds some never waits
    budget.give_back(103)
    thread.join(5)
    assert order == ["first", "second"]


def test_blocks_count_what_is_decoded_in_them(peak):
    with holding_images():
        for _ in range(3):
            with admit(PIXELS), holding_images():
                pass
        assert held._budget.held_here() == 3 * PIXELS
    assert held._budget.held_here() == 0
    with pytest.raises(ZeroDivisionError), holding_images(), admit(PIXELS):
        _ = 1 / 0
    assert held._budget.held_here() == 0


def test_many_threads_decode_within_the_budget(peak):
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda shade: images.load_image(png(shade)).size, range(24)))
    assert sizes == [(SIDE, SIDE)] * 24
    assert peak[0] <= 2 * PIXELS


def test_a_model_prepares_its_images_within_the_budget(peak):
    def prepare(passage: Passage, index: int) -> SimpleNamespace:
        image = images.load_image(passage.image)
        time.sleep(0.005)  # resizing
        return SimpleNamespace(width=image.width, tokens=1)

    passages = [Passage(image=png(shade)) for shade in range(20)]
    prepared = windows._prepare(passages, range(20), packed._within_budget(prepare))
    assert [each.width for each in prepared] == [SIDE] * 20
    assert peak[0] <= 2 * PIXELS


def test_results_are_shown_within_the_budget(peak, tmp_path):
    stored = PageImages(tmp_path)
    ids = [f"0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f{n:02d}" for n in range(16)]
    references = [stored.write(each, png(n)) for n, each in enumerate(ids)]
    peak[0] = 0
    shown = show_images(references, "data_uri", image_format="jpeg")
    assert all(image is not None for image in shown)
    assert 0 < peak[0] <= 3 * PIXELS  # one is converted while it is held


def test_a_forked_child_has_all_the_room():
    budget = held._Budget(10)
    budget.take(10)
    budget._after_fork()
    budget.take(10)
    assert budget._held == 10


def test_parts_end_where_the_budget_does(monkeypatch):
    monkeypatch.setattr(held, "HELD_PIXELS", 10)
    assert list(in_parts([3, 3, 3, 3, 20, 1, 1], lambda item: item)) == [[3, 3, 3, 3], [20], [1, 1]]
    assert list(in_parts([1, 1, 1], lambda item: item, at_most=2)) == [[1, 1], [1]]
    assert list(in_parts([], lambda item: item)) == []


def test_a_cached_embedder_decodes_in_parts(monkeypatch):
    monkeypatch.setattr(held, "HELD_PIXELS", 3 * PIXELS)
    seen = []

    class Watched(FakeEmbedder):
        def embed_passages(self, passages):
            seen.append(len(passages))
            return super().embed_passages(passages)

    class Cache(dict):
        put = dict.__setitem__

    cached, passages = CachedEmbedder(Watched(), Cache()), [Passage(image=png(n)) for n in range(7)]
    rows = cached.embed_passages(passages)
    assert seen == [3, 3, 1]
    assert np.allclose(rows, FakeEmbedder().embed_passages(passages))
    assert cached.embed_passages([]).shape == (0, 64)


class Slow(FakeEmbedder):
    """Notes how many pixels are on their way while it embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.rooms: list[ingest._Room] = []

    def embed_passages(self, passages):
        time.sleep(0.01)
        self.most = max([self.most, *(room._held for room in self.rooms)])
        return super().embed_passages(passages)


@pytest.mark.parametrize("room", [1, 2, 5, 100])
def test_pages_on_their_way_have_one_budget(monkeypatch, room):
    monkeypatch.setattr(ingest, "_HELD_PIXELS", room * PIXELS)
    embedder, made = Slow(), ingest._Room
    monkeypatch.setattr(ingest, "_Room", lambda pixels: embedder.rooms.append(made(pixels)) or embedder.rooms[-1])
    index = PageIndex(embedder=embedder)
    pages = [Page(id=f"p{n}", number=n + 1, image=png(n), text=str(n)) for n in range(40)]
    report = add(index, [*pages, Page(id="text", text="no image"), Page(id="bad", image=b"broken")])
    assert (report.added, len(report.failures)) == (41, 1)
    assert embedder.most <= max(1, room) * PIXELS
    assert embedder.rooms[0]._held == 0
    index.close()


def test_an_error_lets_a_reader_go_that_waits_for_room(monkeypatch):
    monkeypatch.setattr(ingest, "_HELD_PIXELS", PIXELS)

    class Broken(FakeEmbedder):
        def embed_passages(self, passages):
            raise RuntimeError("no")

    index = PageIndex(embedder=Broken())
    with pytest.raises(RuntimeError, match="no"):
        add(index, [Page(id=f"p{n}", image=png(n)) for n in range(20)], on_error="raise")
    index.close()
