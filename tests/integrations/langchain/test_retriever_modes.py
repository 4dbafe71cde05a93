"""NemotronPageRetriever over late interaction, and by words too."""

from __future__ import annotations

import asyncio
import copy
import pickle

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever
from nemotron_rag import Page, PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.pages import add, text_page

TEXTS = ["red apples", "green apples and pears", "blue whales", "invoice ZX81"]


@pytest.fixture(params=[FakeEmbedder, FakeMultiVectorEmbedder])
def embedder(request):
    return request.param()


@pytest.fixture
def folder(tmp_path, embedder):
    with PageIndex(tmp_path / "index", embedder=embedder) as index:
        add(index, [text_page(n, text) for n, text in enumerate(TEXTS, 1)])
    return tmp_path / "index"


def numbers(documents) -> list[int]:
    return [document.metadata["page_number"] for document in documents]


def test_every_index_is_searched_in_the_mode_that_is_set(folder, embedder):
    retriever = NemotronPageRetriever(index=folder, embedder=embedder, k=2)
    own, *_ = retriever.invoke("blue whales")
    assert own.metadata["page_number"] == 3
    assert own.metadata["relevance_score"] == pytest.approx(
        2 if embedder.kind == "multivector_embedder" else 1, abs=1e-2
    )
    for mode in ("dense", "hybrid"):
        retriever.mode = mode
        found = retriever.invoke("blue whales")
        assert found[0].metadata["page_number"] == 3
        assert numbers(asyncio.run(retriever.ainvoke("blue whales"))) == numbers(found)
    assert found[0].metadata["retrieval_score"] == pytest.approx(1)  # first in both orders: 1 / 2 twice
    retriever.close()


def test_words_are_found_through_an_open_index_and_reranked(tmp_path, embedder, monkeypatch):
    with PageIndex(tmp_path, embedder=embedder) as index:
        add(index, [text_page(n, text) for n, text in enumerate(TEXTS, 1)])
        wrong = embedder.embed_queries(["red apples"])
        monkeypatch.setattr(embedder, "embed_queries", lambda queries: wrong)
        assert numbers(NemotronPageRetriever(index=index, k=1).invoke("zx81")) == [1]
        retriever = NemotronPageRetriever(index=index, mode="hybrid", reranker=FakeReranker(), k=1)
        assert numbers(retriever.invoke("zx81")) == [4]


def test_the_mode_travels_with_copies_and_pickles(folder):
    retriever = NemotronPageRetriever(index=folder, mode="hybrid")
    assert copy.deepcopy(retriever).mode == pickle.loads(pickle.dumps(retriever)).mode == "hybrid"


def test_modes_that_cannot_be_are_refused(folder, embedder):
    with pytest.raises(InputError, match="mode: for an index of pages"):
        NemotronPageRetriever(index=InMemoryVectorStore(NemotronEmbeddings(model=FakeEmbedder())), mode="hybrid")
    with pytest.raises(ValidationError, match="dense"):
        NemotronPageRetriever(index=folder, mode="sparse")
    if embedder.kind == "embedder":
        with pytest.raises(InputError, match="needs token vectors"):
            NemotronPageRetriever(index=folder, embedder=embedder, mode="multi").invoke("red")


@pytest.mark.parametrize("reranker", [False, FakeReranker()])
def test_what_is_chosen_can_be_said_in_a_call(reranker):
    pages = [Page(f"red apples {n}", id=f"{s}{n}", source=f"{s}.pdf", number=n) for s in "ab" for n in (1, 2, 3)]
    with PageIndex(embedder=FakeEmbedder(), images=None) as index:
        index.add(pages, progress=False)
        retriever = NemotronPageRetriever(index=index, reranker=reranker, k=2)
        found = retriever.invoke("red apples", per_document=1, neighbours=1)
        hits = [document for document in found if "neighbour_of" not in document.metadata]
        assert sorted(document.metadata["source"] for document in hits) == ["a.pdf", "b.pdf"]
        assert len(found) > 2
        assert all("relevance_score" in document.metadata for document in hits)
