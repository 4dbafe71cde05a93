"""NemotronPageRetriever over late interaction, and by words too."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.schema import QueryBundle
from qdrant_client import QdrantClient

from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, NodeCollection
from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.llama_index import make_image, png_file
from support.pages import add, text_page

TEXTS = ["red apples", "green apples and pears", "blue whales", "invoice ZX81"]


@pytest.fixture(params=[FakeEmbedder, FakeMultiVectorEmbedder])
def embedder(request):
    return request.param()


@pytest.fixture
def index(tmp_path, embedder):
    pages = [text_page(n, text, image=make_image(60 * n)) for n, text in enumerate(TEXTS, 1)]
    with PageIndex(tmp_path / "index", embedder=embedder) as opened:
        add(opened, pages)
        yield opened


def found_texts(found) -> list[str]:
    return [item.text for item in found]


def test_every_index_is_searched_in_the_mode_that_is_set(tmp_path, index, embedder):
    index.close()
    for mode in (None, "dense", "hybrid"):
        with NemotronPageRetriever(tmp_path / "index", embedder=embedder, mode=mode, similarity_top_k=2) as retriever:
            found = retriever.retrieve("blue whales")
            assert found[0].text == "blue whales"
            assert found_texts(asyncio.run(retriever.aretrieve("blue whales"))) == found_texts(found)
    assert found[0].score == pytest.approx(1)  # first in both orders: 1 / 2 twice


def test_scores_of_many_vectors_are_maxsim(index, embedder):
    score = NemotronPageRetriever(index).retrieve("blue whales")[0].score
    assert score == pytest.approx(2, abs=1e-2) if embedder.kind == "multivector_embedder" else score < 1


def test_words_are_found_and_reranked(index, embedder, monkeypatch):
    wrong = embedder.embed_queries(["red apples"])
    monkeypatch.setattr(embedder, "embed_queries", lambda queries: wrong)
    assert found_texts(NemotronPageRetriever(index, similarity_top_k=1).retrieve("zx81")) == ["red apples"]
    retriever = NemotronPageRetriever(index, mode="hybrid", reranker=FakeReranker(), top_n=1)
    assert found_texts(retriever.retrieve("zx81")) == ["invoice ZX81"]


def test_words_and_an_image_are_joined(tmp_path, index):
    query = QueryBundle("red apples", image_path=str(png_file(tmp_path, 180)))
    found = NemotronPageRetriever(index, mode="hybrid", similarity_top_k=2).retrieve(query)
    assert set(found_texts(found)) == {"red apples", "blue whales"}


def test_modes_that_cannot_be_are_refused(index, embedder):
    nodes = NodeCollection(client=QdrantClient(":memory:"), collection="docs", embedder=FakeEmbedder())
    with pytest.raises(InputError, match="mode belongs to an index of nemotron_rag"):
        NemotronPageRetriever(nodes, mode="hybrid")
    with pytest.raises(InputError, match="mode must be one of dense, multi, hybrid; got 'sparse'"):
        NemotronPageRetriever(index, mode="sparse").retrieve("red")
    if embedder.kind == "embedder":
        with pytest.raises(InputError, match="mode 'multi' needs token vectors"):
            NemotronPageRetriever(index, mode="multi").retrieve("red")
