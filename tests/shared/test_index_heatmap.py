"""Hits of late interaction show where they matched, as long as their index is there, however it stores its vectors."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from index_helpers import add
from nemotron_rag import Page, load_multivector_embedder
from nemotron_rag.errors import ClosedError, InputError
from nemotron_rag.heatmap import compute_heatmap
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from nemotron_rag.token_vectors import TokenVectors

CASE = Path(__file__).parents[1] / "data" / "reference" / "colembed_llama_open_1"
QUERY = "Where do tornadoes form?"
PICTURE = Image.new("RGB", (128, 192), "white")
ImageDraw.Draw(PICTURE).rectangle((70, 20, 120, 60), fill=(200, 30, 10))
PAGE = Page("A page.", PICTURE, id="0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10")


@pytest.fixture
def index():
    with PageIndex(embedder=FakeMultiVectorEmbedder()) as opened:
        add(opened, [PAGE])
        yield opened


@pytest.fixture
def hit(index):
    (found,) = index.search(QUERY)
    return found


def same(one, other) -> bool:
    return one.size == other.size and (np.asarray(one) == np.asarray(other)).all()


def test_pooled_vectors_do_no_harm():
    """Stored are 3 of 30 vectors; the heatmap is that of all."""
    model = load_multivector_embedder(CASE, device="cpu")
    with PageIndex(embedder=model, token_vectors=TokenVectors(max_rows=3)) as index:
        add(index, [PAGE])
        (found,) = index.search(QUERY)
        wanted = compute_heatmap(model, PAGE, QUERY)
        assert wanted.heat().max() == 1
        assert same(found.heatmap(QUERY), wanted.image())
        assert same(found.heatmap(QUERY, word="form"), wanted.image("form"))
        numbers = index.heatmap(found.page, QUERY)
        assert numbers.words == ("Where", "do", "tornadoes", "form")
        np.testing.assert_allclose(numbers.similarities, wanted.similarities, atol=1e-5)


async def test_async_equals_sync(index, hit):
    found = await index.aheatmap(hit.page, QUERY)
    assert same(found.image(), hit.heatmap(QUERY))


def test_every_way_of_searching_can_show_it(index):
    reranked = index.search(QUERY, rerank=FakeReranker())
    hybrid, dense = index.search(QUERY, mode="hybrid"), index.search(QUERY, mode="dense")
    for (found,) in (reranked, hybrid, dense, index.search_image(PICTURE)):
        assert found.heatmap(QUERY).size == PICTURE.size


def test_one_vector_a_page_shows_nothing():
    with PageIndex(embedder=FakeEmbedder()) as index:
        add(index, [PAGE])
        (found,) = index.search(QUERY)
        with pytest.raises(InputError, match="only a model with a vector for each token can show where it matched"):
            found.heatmap(QUERY)
        with pytest.raises(InputError, match="fake-embedder does not say where its vectors stand"):
            index.heatmap(found.page, QUERY)


def test_a_page_without_its_picture_shows_nothing():
    with PageIndex(embedder=FakeMultiVectorEmbedder(), images=None) as index:
        add(index, [PAGE])
        (found,) = index.search(QUERY)
        with pytest.raises(InputError, match="a heatmap needs a page with a picture"):
            found.heatmap(QUERY)


def test_a_closed_index_is_named(index, hit):
    index.close()
    with pytest.raises(ClosedError, match="was closed; open it again"):
        hit.heatmap(QUERY)


def test_hits_keep_no_index_alive():
    index = PageIndex(embedder=FakeMultiVectorEmbedder())
    add(index, [PAGE])
    (found,) = index.search(QUERY)
    index.close()
    del index
    gc.collect()
    with pytest.raises(ClosedError, match="the index that found this hit is gone; keep it open"):
        found.heatmap(QUERY)


def test_copies_can_and_pickles_cannot(hit):
    for other in (copy.copy(hit), copy.deepcopy(hit)):
        assert other.locate is hit.locate
    restored = pickle.loads(pickle.dumps(hit))
    assert (restored.page.id, restored.score) == (hit.page.id, hit.score)
    with pytest.raises(ClosedError, match="the index that found this hit is gone"):
        restored.heatmap(QUERY)
