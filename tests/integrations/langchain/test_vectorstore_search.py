"""What NemotronPageVectorStore returns of what it found: by words too, per source, diverse, with neighbours."""

from __future__ import annotations

import logging
import math

import pytest
from langchain_core.documents import Document
from qdrant_client import QdrantClient, models

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever, NemotronPageVectorStore
from nemotron_rag import Page, PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder, FakeReranker

TEXTS = {
    "a.pdf": ["red apples in winter", "red apples in autumn", "red apples in spring", "red apples"],
    "b.pdf": ["red pears", "apples and red cherries", "green pears"],
    "c.pdf": ["stars", "消費税率の引き上げは延期された。"],
}
PLACES = [(source, number, text) for source, texts in TEXTS.items() for number, text in enumerate(texts, 1)]


def embeddings():
    return NemotronEmbeddings(model=FakeEmbedder())


@pytest.fixture(params=["own", "from 1", "index", "folder"])
def store(request, tmp_path):
    """Documents of its own, with pages from 0 or from 1; pages of an index; a folder."""
    if request.param == "index":
        client = QdrantClient(":memory:")
        with PageIndex(client=client, embedder=FakeEmbedder(), images=None) as index:
            index.add([Page(t, id=f"{s[0]}{n}", source=s, number=n) for s, n, t in PLACES], progress=False)
            made = NemotronPageVectorStore(embeddings(), client=client, collection_name="pages", images=None)
            yield made
            made.close()
        client.close()
        return
    location = tmp_path / "store" if request.param == "folder" else None
    made = NemotronPageVectorStore(embeddings(), location=location)
    number = (lambda n: {"page_number": n}) if request.param == "from 1" else (lambda n: {"page": n - 1})
    documents = [Document(t, id=f"{s[0]}{n}", metadata={"source": s, **number(n)}) for s, n, t in PLACES]
    made.add_documents(documents)
    yield made
    made.close()


def ids(documents):
    return [document.id for document in documents]


def sources(documents):
    return [document.metadata["source"] for document in documents]


def test_words_are_found_in_hybrid_mode(store):
    assert ids(store.similarity_search("消費税率", k=1, mode="hybrid")) == ["c2"]
    assert ids(store.similarity_search("stars 消費税率", k=2, mode="hybrid", filter={"source": "b.pdf"})) != []
    assert set(sources(store.similarity_search("消費税率", k=9, mode="hybrid", filter={"source": "b.pdf"}))) == {
        "b.pdf"
    }
    assert ids(store.similarity_search("red pears", k=1, mode="dense")) == ["b1"]


def test_a_limit_for_each_source_still_fills_k(store):
    plain = store.similarity_search("red apples", k=3)
    assert sources(plain).count("a.pdf") > 1
    found = store.similarity_search("red apples", k=3, per_document=1)
    assert sorted(sources(found)) == ["a.pdf", "b.pdf", "c.pdf"]
    assert found[0].id == plain[0].id
    both = store.similarity_search("red apples", k=3, per_document=1, mode="hybrid")
    assert sorted(sources(both)) == ["a.pdf", "b.pdf", "c.pdf"]


def test_diversity_and_the_smallest_score(store):
    scored = store.similarity_search_with_score("red apples", k=9)
    least = scored[2][1] - 1e-6
    assert len(store.similarity_search("red apples", k=9, min_score=least)) == 3
    assert ids(store.similarity_search("red apples", k=4, diversity=0.9)) != ids([found for found, _ in scored[:4]])
    assert store.similarity_search("red apples", k=4, diversity=0.9)[0].id == scored[0][0].id


def test_neighbours_stand_behind_their_document(store):
    found = store.similarity_search("red apples in autumn", k=1, neighbours=1)
    assert ids(found) == ["a2", "a1", "a3"]
    assert [document.metadata.get("neighbour_of") for document in found] == [None, "a2", "a2"]
    scored = store.similarity_search_with_score("red apples in autumn", k=1, neighbours=1)
    assert [math.isnan(score) for _, score in scored] == [False, True, True]
    every = ids(store.similarity_search("red apples", k=4, neighbours=3))
    assert len(every) == len(set(every))
    key = "page_number" if "page_number" in found[0].metadata else "page"
    near = store.similarity_search(
        "red apples in autumn", k=1, neighbours=2, filter={key: {"lt": found[0].metadata[key] + 1}}
    )
    assert ids(near) == ["a2", "a1"]


def test_as_a_retriever(store):
    retriever = store.as_retriever(search_kwargs={"k": 2, "per_document": 1, "mode": "hybrid", "neighbours": 1})
    found = retriever.invoke("red pears")
    assert found[0].id == "b1"
    assert "b2" in ids(found)


def test_a_page_retriever_over_the_store_asks_for_the_same(store):
    options = {"per_document": 1, "mode": "hybrid", "neighbours": 1}
    retriever = NemotronPageRetriever(index=store, k=2, **options)
    found = retriever.invoke("red pears")
    assert ids(found) == ids(store.similarity_search("red pears", k=2, **options))
    assert ["relevance_score" in document.metadata for document in found] == [
        "neighbour_of" not in document.metadata for document in found
    ]
    ranked = NemotronPageRetriever(index=store, k=2, per_document=1, reranker=FakeReranker()).invoke("red pears")
    assert len(set(sources(ranked))) == 2
    diverse = NemotronPageRetriever(index=store, k=2, per_document=1, search_type="mmr").invoke("red pears")
    assert len(set(sources(diverse))) == 2
    with pytest.raises(InputError, match="go with no reranker"):
        NemotronPageRetriever(index=store, neighbours=1, reranker=FakeReranker()).invoke("red pears")


async def test_async_as_sync(store):
    options = {"k": 3, "per_document": 1, "neighbours": 1, "diversity": 0.4}
    expected = store.similarity_search("red apples", **options)
    assert ids(await store.asimilarity_search("red apples", **options)) == ids(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sparse"}, "mode must be dense or hybrid, got 'sparse'"),
        ({"mode": "hybrid", "min_score": 0.5}, "a smallest score is one of vectors"),
        ({"min_score": 0.5, "score_threshold": 0.5}, "min_score and score_threshold are the same here"),
        ({"per_document": 0}, "per_document must be a positive integer, got 0"),
        ({"diversity": -1}, "diversity must be from 0"),
        ({"neighbours": 1, "filter": models.Filter()}, "neighbours need a filter as a dict"),
    ],
)
def test_wrong_options_raise(store, options, message):
    with pytest.raises(InputError, match=message):
        store.similarity_search("red apples", **options)
    with pytest.raises(InputError, match="needs a query in words"):
        store.similarity_search_by_vector([1.0] * 64, mode="hybrid")


def test_a_collection_without_words_says_so():
    client = QdrantClient(":memory:")
    client.create_collection("documents", models.VectorParams(size=64, distance=models.Distance.COSINE))
    store = NemotronPageVectorStore(embeddings(), client=client, images=None)
    store.add_texts(["red apples"])
    assert store.similarity_search("apples", k=1)
    with pytest.raises(InputError, match="has no words to search"):
        store.similarity_search("apples", mode="hybrid")


def test_a_key_that_no_document_has_is_named(store, caplog):
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        assert store.similarity_search("apples", filter={"sauce": "a.pdf"}) == []
        assert store.similarity_search("apples", k=1, filter={"yaer": {"ne": 2020}})
    assert "has the metadata key 'sauce'" in caplog.text
    assert "has the metadata key 'yaer'" in caplog.text
    assert "source" in caplog.text
    caplog.clear()
    assert store.similarity_search("apples", filter={"source": "z.pdf"}) == []
    assert not caplog.records
