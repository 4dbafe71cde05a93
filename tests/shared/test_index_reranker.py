"""`PageIndex.reranker`: which reranker a search takes."""

from __future__ import annotations

import pytest

from nemotron_rag.errors import InputError, UnknownModelError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker


def test_it_is_the_one_that_search_takes(reference):
    own, other = FakeReranker(), FakeReranker()
    options = {"reranker_options": {"device": "cpu"}}
    with PageIndex(embedder=FakeEmbedder(), reranker=own, **options) as index:
        assert index.reranker().get() is own
        assert index.reranker(False) is None
        assert index.reranker(other).get() is other
        named = index.reranker(reference / "rerank_vl_open_1")
        assert repr(named).endswith("not loaded)")
        assert index.reranker(reference / "rerank_vl_open_1") is named
    with PageIndex(embedder=FakeEmbedder()) as index:
        assert index.reranker() is None


def test_what_is_none_is_refused():
    with PageIndex(embedder=FakeEmbedder()) as index:
        with pytest.raises(UnknownModelError):
            index.reranker("no-such-model")
        with pytest.raises(InputError, match="reranker"):
            index.reranker(FakeEmbedder())
