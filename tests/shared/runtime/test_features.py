"""Vision features are kept, bounded, and never change a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from contracts import picture
from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag.models._vl_stack import LlamaNemotronVL
from nemotron_rag.runtime.features import FeatureCache, tiles_key, vision_features, weights_key


@pytest.fixture(autouse=True)
def _empty_cache():
    vision_features.clear()
    yield
    vision_features.clear()


def test_least_recently_used_goes_first_and_bytes_are_bounded():
    cache = FeatureCache(max_bytes=3 * 40)
    for name in (b"a", b"b", b"c"):
        cache.put(name, torch.zeros(10))
    assert cache.get(b"a") is not None
    cache.put(b"d", torch.zeros(10))
    assert cache.get(b"b") is None
    assert [cache.get(name) is not None for name in (b"a", b"c", b"d")] == [True, True, True]
    cache.put(b"e", torch.zeros(1000))  # larger than all there is
    assert cache.get(b"e") is None
    assert (cache.hits, cache.misses) == (4, 2)


def test_a_slice_does_not_keep_its_batch_alive():
    cache = FeatureCache(max_bytes=10_000)
    cache.put(b"a", torch.zeros(1000, 2)[:1])
    assert cache.get(b"a").untyped_storage().nbytes() == 8


def test_keys_tell_pictures_and_weights_apart():
    tiles = np.zeros((1, 4, 4, 3), np.uint8)
    other = tiles.copy()
    other[0, 1, 2, 0] = 1
    assert tiles_key(tiles) == tiles_key(tiles.copy()) != tiles_key(other)
    layer = nn.Linear(3, 3)
    before = weights_key(layer)
    assert weights_key(layer) == before
    with torch.no_grad():
        layer.bias += 1
    assert weights_key(layer) != before


def test_a_second_question_pays_no_vision(reference, monkeypatch):
    reranker = load_reranker(reference / "rerank_vl_open_1", device="cpu")
    passages = [Passage(image=picture(i)) for i in range(3)] + [Passage("text", picture(0)), Passage("text")]
    first = reranker.score("one", passages)
    assert (vision_features.hits, vision_features.misses) == (0, 3)  # equal pictures of a batch are encoded once
    monkeypatch.setattr(LlamaNemotronVL, "encode_tiles", lambda *_: pytest.fail("the tower was run again"))
    again = reranker.score("one", passages)
    np.testing.assert_allclose(again, first, atol=1e-6)
    assert abs(reranker.score("another", passages) - first).max() > 1e-6


def test_other_tiling_or_tower_is_another_key(reference):
    passage = [Passage(image=picture(size=(300, 400)))]
    load_embedder(reference / "embed_vl_open_1", device="cpu").embed_passages(passage)
    load_embedder(reference / "embed_vl_open_1", device="cpu", max_input_tiles=2).embed_passages(passage)
    load_reranker(reference / "rerank_vl_open_1", device="cpu").score("q", passage)
    assert (vision_features.hits, vision_features.misses) == (0, 3)
