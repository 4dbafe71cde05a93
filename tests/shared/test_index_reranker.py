"""`PageIndex.reranker`: which reranker a search takes."""

from __future__ import annotations

import numpy as np
import pytest

from nemotron_rag.errors import InputError, UnknownModelError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from nemotron_rag.types import Page


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


async def test_the_order_of_the_search_may_have_its_say():
    texts = {"p1": "red apples apples", "p2": "red apples", "p3": "red pears", "p4": "green pears"}
    with PageIndex(embedder=FakeEmbedder(), reranker=_Backwards()) as index:
        index.add([Page(id=name, text=text) for name, text in texts.items()], progress=False)

        def ids(hits):
            return [hit.page.id for hit in hits]

        found = ids(index.search("red apples", k=4, rerank=False))
        assert ids(index.search("red apples", k=4)) == found[::-1]
        fused = index.search("red apples", k=4, fuse=True)
        assert ids(fused) == [found[0], found[3], found[1], found[2]]  # 1 and 4 stand first in one order each
        assert fused[0].score == fused[1].score == pytest.approx(1 / 61 + 1 / 64)
        assert [hit.rank for hit in fused] == [1, 2, 3, 4]
        assert await index.asearch("red apples", k=4, fuse=True) == fused
        with pytest.raises(InputError, match="fuse= is for reranking, and there is no reranker"):
            index.search("red apples", rerank=False, fuse=True)


class _Backwards(FakeReranker):
    """Takes the last one for the best."""

    def score(self, query, passages):
        return np.arange(len(passages), dtype=np.float32)
