"""Words of all languages: what someone looks for finds the sentence it stands in, in hybrid search and before."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_rag import Page, PageIndex
from nemotron_rag.documents.words import ANALYSES, passage_bag, query_words
from nemotron_rag.errors import StoreError
from nemotron_rag.stores.qdrant import QdrantStore
from nemotron_rag.stores.qdrant.bm25 import analysis_of, passage_terms, query_terms
from nemotron_rag.testing import FakeEmbedder, FakePageStore
from nemotron_rag.types import page_uuid
from support.languages import SENTENCES

ALL = [sentence for several in SENTENCES.values() for sentence, _ in several]
TERMS = [dict(zip(found.indices, found.values, strict=True)) for found in map(passage_terms, ALL)]


def best(query: str) -> str:
    """The sentence that BM25 puts first, with the idf that Qdrant takes."""
    wanted = query_terms(query).indices
    holding = {term: sum(term in terms for terms in TERMS) for term in wanted}
    rarity = {term: math.log((len(ALL) - n + 0.5) / (n + 0.5) + 1) for term, n in holding.items()}
    scores = [sum(rarity[term] * terms.get(term, 0) for term in wanted) for terms in TERMS]
    return ALL[scores.index(max(scores))] if max(scores) else ""


@pytest.mark.parametrize("language", SENTENCES)
def test_a_word_of_a_sentence_finds_it(language):
    for sentence, words in SENTENCES[language]:
        assert {word: best(word) for word in words} == dict.fromkeys(words, sentence)
        assert best(sentence) == sentence


@pytest.mark.parametrize(
    ("written", "also"), [("അവൻ", "അവന്\u200d"), ("അവൾ", "അവള്\u200d"), ("हिन्दी", "हिंदी"), ("ﾃﾞｰﾀ", "データ")]
)
def test_a_word_that_can_be_written_in_two_ways_is_one_word(written, also):
    assert query_words(written) == query_words(also) != []
    assert set(query_words(also)) <= passage_bag(written).counts.keys()


def test_a_word_of_no_sentence_finds_none():
    for word in ("zebra", "斑馬", "얼룩말", "ม้าลาย".replace("า", "ฆ"), "зебра", "זברה"):
        assert best(word) == ""


TEXTS = {
    "river": "信濃川は日本で最も長い川である。全長は三百六十七キロメートルに及ぶ。",
    "fuji": "富士山は標高三千七百七十六メートルの活火山である。",
    "rice": "米の生産量は前年に比べて減少している。",
    "rail": "新幹線の運行本数は今年度から増える予定である。",
    "tax": "消費税率の引き上げは延期された。",
}
QUERIES = {"消費税率": "tax", "新幹線の運行本数": "rail", "米の生産量": "rice", "米": "rice"}


@pytest.mark.parametrize("store", [None, FakePageStore])
def test_hybrid_search_finds_words_without_spaces(store):
    with PageIndex(store=store() if store else None, embedder=FakeEmbedder(), images=None) as index:
        pages = [Page(id=name, text=text, number=n) for n, (name, text) in enumerate(TEXTS.items(), 1)]
        index.add(pages, progress=False)
        for query, expected in QUERIES.items():
            assert index.search(query, mode="hybrid")[0].page.id == expected


def test_an_older_index_keeps_its_own_words(tmp_path):
    """Words that an older version wrote are looked for as it wrote them, also on pages that are added now."""
    with PageIndex(tmp_path / "new", embedder=FakeEmbedder(), images=None) as index:
        index.add([Page(id="p1", text="日本語", number=1)], progress=False)
        record = index._state.store.read_record()
        assert record["words"] == 2
    older = {key: value for key, value in record.items() if key != "words"} | {"format": 1}
    place = tmp_path / "older"
    store = QdrantStore(place)
    store.create(dimensions=64, record=older)
    store.close()
    with PageIndex(place, embedder=FakeEmbedder(), images=None) as index:
        index.add([Page(id="p1", text="日本語 हिन्दी", number=1)], progress=False)
        assert index._state.store.read_record() == older
        (point,) = index._state.store._collection.call("retrieve", ids=[page_uuid("p1")], with_vectors=["bm25"])
        assert set(point.vector["bm25"].indices) == set(query_terms("日本語 हिन्दी", 1).indices)
        asked = index._state.store.query
        assert asked(np.ones(64, np.float32), k=1, words="日本語") != asked(np.ones(64, np.float32), k=1, words="日本")


def test_words_of_a_later_version_are_refused():
    assert [analysis_of(record) for record in ({}, {"words": 1}, {"words": 2})] == [1, 1, 2]
    with pytest.raises(StoreError, match="update nemotron-rag"):
        analysis_of({"words": 3})


@pytest.mark.parametrize("analysis", ANALYSES)
@given(text=st.text(max_size=40), more=st.text(max_size=20))
def test_every_text_finds_itself(analysis, text, more):
    counts, length = passage_bag(f"{text} {more}", analysis)
    assert set(query_words(text, analysis)) <= counts.keys()
    assert length >= 0
    assert all(counts.values())
    assert len(query_words(text, analysis)) == len(set(query_words(text, analysis)))


@given(text=st.text(st.characters(codec="ascii"), max_size=60))
def test_ascii_takes_a_short_way_to_the_same_words(text):
    assert passage_bag(text) == (passage_bag(f"{text} é").counts - passage_bag("é").counts, passage_bag(text).length)
    assert query_words(text) == [word for word in query_words(f"{text} 米") if word != "米"]
