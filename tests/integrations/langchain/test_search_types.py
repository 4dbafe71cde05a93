"""What LangChain's own retrievers have, and what they do not: search types, thresholds, warming up, heatmaps."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever, NemotronPageVectorStore, NemotronRerank
from nemotron_rag import Page, PageIndex, Passage
from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.reranker import MaxSimReranker
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.adapters import PAGES, QUERY, TEXTS


@pytest.fixture
def index():
    with PageIndex(embedder=FakeEmbedder(), reranker=FakeReranker()) as opened:
        opened.add(PAGES, progress=False)
        yield opened


@pytest.fixture(params=["own", "foreign"])
def store(request):
    kind = NemotronPageVectorStore if request.param == "own" else InMemoryVectorStore
    filled = kind(NemotronEmbeddings(model=FakeEmbedder()))
    filled.add_documents([Document(text, id=str(n)) for n, text in enumerate([*TEXTS, TEXTS[3]])])
    return filled


async def both(retriever, query: str, **options) -> list[Document]:
    found = retriever.invoke(query, **options)
    assert await retriever.ainvoke(query, **options) == found
    return found


async def test_thresholds(index, store):
    for options in ({"index": index}, {"index": index, "reranker": False}, {"index": store}):
        retriever = NemotronPageRetriever(**options, k=6)
        every = await both(retriever, QUERY)
        scores = [document.metadata["relevance_score"] for document in every]
        for found in (
            await both(retriever, QUERY, score_threshold=scores[2]),
            await both(
                NemotronPageRetriever(
                    **options, k=6, search_type="similarity_score_threshold", score_threshold=scores[2]
                ),
                QUERY,
            ),
        ):
            kept = [document.metadata["relevance_score"] for document in found]
            assert kept == [score for score in scores if score >= scores[2]]
    ranked = NemotronRerank(model=FakeReranker(), score_key="logit")
    found = await both(NemotronPageRetriever(index=index, reranker=ranked, k=6, score_threshold=4.0), QUERY)
    assert [document.metadata["logit"] for document in found] == [5.0]


async def test_documents_that_are_unlike_each_other(store):
    alike = await both(NemotronPageRetriever(index=store, k=2), QUERY)
    assert [document.page_content for document in alike] == [TEXTS[3]] * 2
    unlike = NemotronPageRetriever(index=store, k=2, search_type="mmr", search_kwargs={"lambda_mult": 0.2})
    first, second = await both(unlike, QUERY)
    assert first.page_content == TEXTS[3] != second.page_content
    assert "relevance_score" not in first.metadata
    first, second = await both(NemotronPageRetriever(index=store, k=2), QUERY, search_type="mmr", lambda_mult=0.2)
    assert first.page_content == TEXTS[3] != second.page_content
    with_reranker = NemotronPageRetriever(index=store, reranker=FakeReranker(), k=1, search_type="mmr")
    assert (await both(with_reranker, QUERY))[0].metadata["relevance_score"] == 5.0


async def test_pages_of_an_index_that_are_unlike_each_other():
    with PageIndex(embedder=FakeEmbedder()) as index:
        index.add([Page(text, id=f"p{n}") for n, text in enumerate([*TEXTS, TEXTS[3]])], progress=False)
        assert [page.page_content for page in await both(NemotronPageRetriever(index=index, k=2), QUERY)] == [
            TEXTS[3]
        ] * 2
        for options in ({}, {"reranker": FakeReranker()}):
            unlike = NemotronPageRetriever(
                index=index, k=2, search_type="mmr", search_kwargs={"lambda_mult": 0.2}, **options
            )
            first, second = await both(unlike, QUERY)
            assert first.page_content == TEXTS[3] != second.page_content


async def test_further_options_reach_the_search(index):
    store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
    store.add_texts(TEXTS)
    _, second = await both(NemotronPageRetriever(index=store, k=2), QUERY)
    assert (await both(NemotronPageRetriever(index=store, k=1, search_kwargs={"offset": 1}), QUERY)) == [second]
    assert (await both(NemotronPageRetriever(index=store, k=1), QUERY, offset=1)) == [second]
    found = await both(NemotronPageRetriever(index=index, k=1, search_kwargs={"score_transform": "sigmoid"}), QUERY)
    assert 0.99 < found[0].metadata["relevance_score"] < 1


def test_what_cannot_be(store):
    for wrong, options in (
        ("search_type", {"search_type": "nearest"}),
        ("needs score_threshold", {"search_type": "similarity_score_threshold"}),
        ("score_threshold", {"score_threshold": float("nan")}),
    ):
        with pytest.raises(ValueError, match=wrong):
            NemotronPageRetriever(index=store, **options)


async def test_everything_is_loaded_at_once(tmp_path, monkeypatch):
    with PageIndex(tmp_path / "index", embedder="starter-embed-vl") as index:
        index.add(PAGES[:1], progress=False)
    loaded = []
    from nemotron_rag.models import lazy

    real = lazy.load_model
    monkeypatch.setattr(
        lazy, "load_model", lambda name, *kinds, **more: loaded.append(name) or real(name, *kinds, **more)
    )
    retriever = NemotronPageRetriever(index=str(tmp_path / "index"), reranker="starter-rerank-vl")
    assert await retriever.aload() is retriever
    assert sorted(set(loaded)) == ["starter-embed-vl", "starter-rerank-vl"]
    count = len(loaded)
    retriever.invoke(QUERY)
    assert len(loaded) == count
    retriever.close()


async def test_heatmaps_of_found_documents(tmp_path):
    with PageIndex(tmp_path, embedder=FakeMultiVectorEmbedder()) as index:
        index.add(PAGES, progress=False)
        for form in ("data_uri", "path", "reference", "none"):
            retriever = NemotronPageRetriever(index=index, k=1, image_form=form)
            (found,) = retriever.invoke(QUERY)
            again = Document.model_validate_json(Document(id=found.id, page_content="").model_dump_json())
            for document in (found, again):
                heatmap = retriever.heatmap(document, QUERY)
                assert heatmap.words == ("red", "apples", "in", "winter")
                assert heatmap.image().size == PAGES[3].image.size
            assert (await retriever.aheatmap(found, QUERY)).words == heatmap.words
        with pytest.raises(InputError, match="document 'x' is no page of the index"):
            retriever.heatmap(Document("x", id="x"), QUERY)


def test_no_heatmap_without_token_vectors(index, store):
    with pytest.raises(InputError, match="ColEmbed"):
        NemotronPageRetriever(index=store).heatmap(Document("a", id="a"), QUERY)
    retriever = NemotronPageRetriever(index=index)
    with pytest.raises(InputError, match="cannot locate its vectors"):
        retriever.heatmap(retriever.invoke(QUERY)[0], QUERY)


async def test_a_late_interaction_model_ranks():
    model = FakeMultiVectorEmbedder()
    scores = model.score(model.embed_queries([QUERY]), model.embed_passages([Passage(text) for text in TEXTS]))[0]
    rerank = NemotronRerank(model=model, top_n=None)
    documents = [Document(text) for text in TEXTS]
    for ranked in (rerank.compress_documents(documents, QUERY), await rerank.acompress_documents(documents, QUERY)):
        assert [document.metadata["relevance_score"] for document in ranked] == sorted(map(float, scores), reverse=True)
        assert ranked[0].page_content == QUERY
    assert rerank.compress_documents([], QUERY) == []
    assert isinstance(rerank.load(), MaxSimReranker)
    assert [entry.index for entry in MaxSimReranker(model).rank(QUERY, [Passage("a"), Passage(QUERY)], top_n=1)] == [1]
    assert NemotronRerank(model="starter-colembed").model_name == "starter-colembed"
