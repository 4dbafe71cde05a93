"""CachedEmbedder is an embedder, and computes no vector a second time."""

from __future__ import annotations

import io

import numpy as np
import pytest

from nemotron_rag.errors import ImageError
from nemotron_rag.models.cached import CachedEmbedder
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import Passage
from support.contracts import EmbedderContract, make_image


class Memory(dict):
    put = dict.__setitem__

    async def aget(self, key):
        return self.get(key)

    async def aput(self, key, vector):
        self[key] = vector


class Counting(FakeEmbedder):
    """Queries and passages get different vectors; counts what it computes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.computed = []

    def embed_queries(self, queries):
        self.computed += queries
        return -super().embed_queries(queries)

    def embed_passages(self, passages):
        self.computed += [passage.text for passage in passages]
        return super().embed_passages(passages)


class TestContract(EmbedderContract):
    @pytest.fixture
    def embedder(self):
        return CachedEmbedder(FakeEmbedder(), Memory())


@pytest.fixture
def model():
    return Counting(dimensions=8)


def test_what_it_says_of_itself_is_what_the_embedder_says(model):
    embedder = CachedEmbedder(model, Memory())
    assert (embedder.name, embedder.identity, embedder.dimensions) == (model.name, model.identity, 8)


async def test_queries_may_have_images(model):
    vectors = Memory()
    embedder = CachedEmbedder(model, vectors)
    queries = ["a", Passage("a"), Passage("a", make_image(1)), Passage(image=make_image(2))]
    found = embedder.embed_queries(queries)
    assert len(vectors) == 3
    np.testing.assert_allclose(await embedder.aembed_queries(queries), found)
    assert len(model.computed) == 4
    np.testing.assert_allclose(found, model.embed_queries(queries))
    with pytest.raises(ImageError, match="query 1"):
        embedder.embed_queries(["a", Passage(image=b"none")])


async def test_only_what_is_missing_is_computed_and_put_in_its_place(model):
    vectors = Memory()
    embedder = CachedEmbedder(model, vectors)
    passages = [Passage(text) for text in "abc"]
    expected = FakeEmbedder(dimensions=8).embed_passages(passages)
    embedder.embed_passages(passages[1:2])
    model.computed.clear()
    np.testing.assert_array_equal(embedder.embed_passages(passages), expected)
    assert model.computed == ["a", "c"]
    model.computed.clear()
    np.testing.assert_array_equal(await embedder.aembed_passages(passages), expected)
    assert model.computed == []
    np.testing.assert_array_equal(
        await embedder.aembed_queries(["a"]), -FakeEmbedder(dimensions=8).embed_queries(["a"])
    )
    np.testing.assert_array_equal(embedder.embed_queries(["a"]), -FakeEmbedder(dimensions=8).embed_queries(["a"]))
    assert model.computed == ["a"]
    assert len(vectors) == 4
    assert all(len(key) == 64 and type(vector) is list for key, vector in vectors.items())


def test_models_share_a_cache_and_no_vector(model):
    vectors = Memory()
    CachedEmbedder(model, vectors).embed_queries(["a"])
    other = CachedEmbedder(Counting(dimensions=16), vectors)
    assert other.embed_queries(["a"]).shape == (1, 16)
    assert len(vectors) == 2


def test_an_image_is_known_by_its_pixels(model, tmp_path):
    embedder = CachedEmbedder(model, Memory())
    path, file = tmp_path / "a.png", io.BytesIO()
    make_image(1).save(path)
    make_image(1).save(file, "PNG")
    embedder.embed_passages([Passage("x", path)])
    model.computed.clear()
    embedder.embed_passages([Passage("x", image) for image in (file, file.getvalue(), make_image(1))])
    assert model.computed == []
    embedder.embed_passages([Passage("x", make_image(2)), Passage("y", make_image(1))])
    assert model.computed == ["x", "y"]


async def test_an_image_that_cannot_be_read_is_named_by_its_place(model, tmp_path):
    embedder = CachedEmbedder(model, Memory())
    passages = [Passage("a"), Passage(image=tmp_path / "gone.png")]
    with pytest.raises(ImageError, match=r"passage 1: .*gone\.png"):
        embedder.embed_passages(passages)
    with pytest.raises(ImageError, match=r"passage 1: .*gone\.png"):
        await embedder.aembed_passages(passages)
    assert model.computed == []
