"""Words as sparse vectors: folding, damping, and Qdrant's own idf on top."""

from __future__ import annotations

import numpy as np
import pytest

from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.stores.qdrant.bm25 import passage_terms, query_terms
from nemotron_rag.types import Page, StoredPage


def _weights(vector):
    return dict(zip(vector.indices, vector.values, strict=True))


def test_case_and_accents_are_folded_and_scripts_kept():
    assert query_terms("KLÄRANLAGE Straße") == query_terms("klaranlage STRASSE")
    assert query_terms("größe, größe!") == query_terms("Größe")
    assert len(query_terms("日本語 テキスト", 1).indices) == 2
    assert len(query_terms("日本語 テキスト").indices) == 2 + 3
    assert query_terms("?! ...").indices == []
    assert query_terms("\ud800a").indices  # a lone surrogate is no reason to fail


def test_weights_follow_the_formula():
    text = "pump valve valve " + "filler " * 253  # 256 words: the usual length, so that b does not count
    (pump,), (valve,) = query_terms("pump").indices, query_terms("valve").indices
    found = _weights(passage_terms(text))
    assert found[pump] == pytest.approx(2.2 / (1 + 1.2))
    assert found[valve] == pytest.approx(2 * 2.2 / (2 + 1.2))
    longer = _weights(passage_terms(text + "filler " * 256))
    assert longer[pump] == pytest.approx(2.2 / (1 + 1.2 * (0.25 + 0.75 * 2)))


@pytest.fixture
def store():
    made = QdrantStore()
    made.create(dimensions=2, record={})
    texts = ["the pump manual", "the valve manual", "the pump and the valve", "the the the"]
    pages = [
        Page(id=f"p{i}", number=i, source="a.pdf" if i < 2 else "b.pdf", text=text) for i, text in enumerate(texts)
    ]
    vectors = np.array([[1, 0], [0.9, 0.1], [0.1, 0.9], [0, 1]], np.float32)
    made.put([StoredPage.of(page, content_hash="") for page in pages], vectors)
    yield made
    made.close()


def _numbers(store, vector, **options):
    return [stored.page.number for stored, _ in store.query(np.array(vector, np.float32), k=4, **options)]


def test_words_and_vector_are_joined_by_rank(store):
    assert _numbers(store, [1, 0]) == [0, 1, 2, 3]
    assert _numbers(store, [1, 0], words="pump and valve")[:2] == [0, 2]  # first by each
    assert _numbers(store, [0, 1], words="the valve")[0] == 2
    assert _numbers(store, [1, 0], words="...") == [0, 1, 2, 3]


def test_rare_words_count_more(store):
    # "the" stands three times in page 3, but in every page; "and" only in page 2, which is third by the vector.
    assert _numbers(store, [1, 0], words="the and")[0] == 2


def test_filters_hold_for_both(store):
    assert set(_numbers(store, [1, 0], words="pump", filter={"source": "b.pdf"})) == {2, 3}
