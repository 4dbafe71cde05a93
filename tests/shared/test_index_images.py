"""Images of found pages are opened when something looks at them, and not at all where features are cached."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nemotron_rag import Passage, configure_vision_cache, load_multivector_embedder, load_reranker
from nemotron_rag.index import PageIndex
from nemotron_rag.runtime.features import vision_features
from nemotron_rag.stores.page_images import PageImages, StoredImage
from nemotron_rag.testing import FakeEmbedder
from support.pages import add, text_page

RERANKERS = ["rerank_vl_open_1", "monoqwen2vl_open_1"]
PAGES = [text_page(n, f"page {n}", image=Image.new("RGB", (90, 120 + n), (20 * n, 200, 100))) for n in range(1, 5)]


@pytest.fixture(autouse=True)
def _empty_cache():
    vision_features.clear()
    yield
    configure_vision_cache()


@pytest.fixture
def opened(monkeypatch):
    """The images that were read from where they are stored."""
    reads = []
    read = StoredImage.read_bytes

    def counting(image):
        reads.append(image.key)
        return read(image)

    monkeypatch.setattr(StoredImage, "read_bytes", counting)
    return reads


@pytest.fixture(params=RERANKERS)
def reranker(request, reference):
    model = load_reranker(reference / request.param, device="cpu")
    yield model
    model.close()


@pytest.fixture
def index(tmp_path):
    with PageIndex(tmp_path, embedder=FakeEmbedder()) as opened_index:
        add(opened_index, PAGES)
        yield opened_index


def test_a_search_opens_no_image(index, opened):
    hits = index.search("page")
    assert len(hits) == 4
    assert opened == []
    assert {hit.page.image.size for hit in hits} == {page.image.size for page in PAGES}
    assert hits[0].page.image.open().size == hits[0].page.image.size
    assert len(opened) == 1


def test_a_second_rerank_of_the_same_pages_opens_no_image(index, opened, reranker):
    first = index.search("page", rerank=reranker)
    assert len(opened) == 4
    again = index.search("another query", rerank=reranker)
    assert len(opened) == 4
    alone = reranker.score("another query", [replace(hit.page, image=hit.page.image.open()) for hit in again])
    np.testing.assert_allclose([hit.score for hit in again], alone, atol=1e-5)
    assert {hit.page.id for hit in first} == {hit.page.id for hit in again}


def test_features_of_the_embedder_serve_where_towers_are_equal(reference, opened, tmp_path):
    """Pages that were just embedded are found by their stored hash."""
    model = load_multivector_embedder(reference / "colembed_llama_open_1", device="cpu", max_input_tiles=2)
    with PageIndex(tmp_path, embedder=model) as index:
        add(index, PAGES)
        pages = [hit.page for hit in index.search("page")]
        model.embed_passages(pages)
        assert opened == []


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_the_stored_hash_is_that_of_what_is_read_back(tmp_path, opened, reranker, image_format):
    images = PageImages(tmp_path / "images", image_format=image_format)
    noise = Image.effect_noise((90, 120), 60).convert("RGB")
    stored = images.write("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", noise)
    reranker.score("q", [Passage(image=stored.open())])
    opened.clear()
    reranker.score("q", [Passage(image=stored)])
    assert opened == []


def test_a_wrong_hash_spoils_nobody_elses_features(tmp_path, reranker):
    """Features are only stored under a hash that was computed, whatever a reference says."""
    images = PageImages(tmp_path)
    red = images.write("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", Image.new("RGB", (90, 120), "red"))
    blue = images.write("1b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10", Image.new("RGB", (90, 120), "blue"))
    expected = reranker.score("q", [Passage(image=red.open())])
    vision_features.clear()
    reranker.score("q", [Passage(image=replace(blue, pixel_hash=red.pixel_hash))])
    np.testing.assert_allclose(reranker.score("q", [Passage(image=red)]), expected, atol=1e-6)


def test_pages_of_an_index_without_sizes_and_hashes_are_read_as_before(index, opened, reranker):
    """Such indexes were written before sizes and hashes were noted."""
    plain = [
        replace(hit.page, image=replace(hit.page.image, size=None, pixel_hash=None)) for hit in index.search("page")
    ]
    expected = reranker.score("q", [replace(page, image=page.image.open()) for page in plain])
    opened.clear()
    np.testing.assert_allclose(reranker.score("q", plain), expected, atol=1e-6)
    assert len(opened) == 4


@pytest.mark.slow
def test_a_search_over_many_pages_costs_little_more_than_query_and_store(tmp_path):
    """At most three times what embedding the query and asking the store take, as the best of five runs."""
    pages = [text_page(n, f"page {n}", image=Image.new("RGB", (600, 800), (n % 256, 90, 90))) for n in range(737)]
    with PageIndex(tmp_path, embedder=FakeEmbedder(dimensions=2048)) as index:
        add(index, pages)
        state = index._state
        parts, whole = [], []
        for _ in range(5):
            start = time.perf_counter()
            (row,) = state.embedder().embed_queries(["page 7"])
            state.store.query(row, k=25)
            between = time.perf_counter()
            assert len(index.search("page 7", k=25)) == 25
            parts.append(between - start)
            whole.append(time.perf_counter() - between)
    assert min(whole) <= 3 * min(parts)
