"""An index shows where on a page a query matches, however it stores its vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nemotron_rag import Page, load_multivector_embedder
from nemotron_rag.errors import ClosedError, InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.late_interaction.heatmap import compute_heatmap
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.pages import add

CASE = Path(__file__).parents[1] / "data" / "reference" / "colembed_llama_open_1"
QUERY = "Where do tornadoes form?"
IMAGE = Image.new("RGB", (128, 192), "white")
ImageDraw.Draw(IMAGE).rectangle((70, 20, 120, 60), fill=(200, 30, 10))
PAGE = Page("A page.", IMAGE, id="0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10")


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
        numbers = index.heatmap(found.page, QUERY)
        assert same(numbers.image(), wanted.image())
        assert same(numbers.image("form"), wanted.image("form"))
        assert numbers.words == ("Where", "do", "tornadoes", "form")
        np.testing.assert_allclose(numbers.similarities, wanted.similarities, atol=1e-5)


async def test_async_equals_sync(index, hit):
    found = await index.aheatmap(hit.page, QUERY)
    assert same(found.image(), index.heatmap(hit.page, QUERY).image())


def test_every_way_of_searching_can_show_it(index):
    reranked = index.search(QUERY, rerank=FakeReranker())
    hybrid, dense = index.search(QUERY, mode="hybrid"), index.search(QUERY, mode="dense")
    for (found,) in (reranked, hybrid, dense, index.search_image(IMAGE)):
        assert index.heatmap(found.page, QUERY).image().size == IMAGE.size


def test_one_vector_a_page_shows_nothing():
    with PageIndex(embedder=FakeEmbedder()) as index:
        add(index, [PAGE])
        (found,) = index.search(QUERY)
        assert not index.is_multivector
        with pytest.raises(InputError, match="fake-embedder cannot locate its vectors on a page"):
            index.heatmap(found.page, QUERY)


def test_a_page_without_its_image_shows_nothing():
    with PageIndex(embedder=FakeMultiVectorEmbedder(), images=None) as index:
        add(index, [PAGE])
        (found,) = index.search(QUERY)
        with pytest.raises(InputError, match="a heatmap needs a page with an image"):
            index.heatmap(found.page, QUERY)


def test_a_closed_index_is_named(index, hit):
    index.close()
    with pytest.raises(ClosedError, match="was closed; open it again"):
        index.heatmap(hit.page, QUERY)
