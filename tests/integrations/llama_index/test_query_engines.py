"""Inside LlamaIndex's query engines: the reranked images and their texts reach the LLM."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import ImageNode, TextNode

from llama_index.embeddings.nemotron_rag import NemotronEmbedding, NemotronPageEmbedder
from llama_index.postprocessor.nemotron_rag_rerank import KeepPageText, NemotronRerank
from nemotron_rag.testing import FakeEmbedder
from support.llama_index import RedReranker, SeeingLLM, b64, listening, png_file, uri

QUERY = "revenue"


@pytest.fixture
def pages(tmp_path):
    return [
        ImageNode(text="first: the revenue", image_path=str(png_file(tmp_path, 10)), metadata={"page": 1}),
        ImageNode(text="second: the revenue", image=b64(250), metadata={"page": 2}),
        ImageNode(text="third: the revenue", image=uri(120), metadata={"page": 3}),
        ImageNode(text="fourth: nothing", image=b64(255), metadata={"page": 4}),
        TextNode(text="fifth: nothing", metadata={"page": 5}),
    ]


@pytest.fixture
def embedding():
    return NemotronEmbedding(FakeEmbedder(dimensions=16))


@pytest.fixture
def retriever(pages, embedding):
    index = VectorStoreIndex(NemotronPageEmbedder(embed_model=embedding)(pages), embed_model=embedding)
    return index.as_retriever(similarity_top_k=5)


@pytest.fixture
def llm():
    return SeeingLLM()


def engine(retriever, llm, **settings):
    reranker = NemotronRerank(RedReranker(), top_n=3, keep_retrieval_score=True)
    return RetrieverQueryEngine.from_args(
        retriever=retriever, llm=llm, node_postprocessors=[reranker], multimodal=True, **settings
    )


def check(response, llm):
    """The three pages about revenue, reddest first, with images and texts."""
    assert [item.node.metadata["page"] for item in response.source_nodes] == [2, 3, 1]
    assert len(llm.blocks(ImageBlock)) == 3
    assert all(block.resolve_image().read()[:4] == b"\x89PNG" for block in llm.blocks(ImageBlock))
    for word in ("first", "second", "third"):
        assert word in llm.text()
    assert "nothing" not in llm.text()
    assert "retrieval_score" not in llm.text()


def test_sync(retriever, llm):
    response = engine(retriever, llm).query(QUERY)
    assert str(response) == "It rose."
    check(response, llm)


async def test_async(retriever, llm):
    response = await engine(retriever, llm).aquery(QUERY)
    assert str(response) == "It rose."
    check(response, llm)


def test_streaming(retriever, llm):
    response = engine(retriever, llm, streaming=True).query(QUERY)
    assert "".join(response.response_gen) == "It rose."
    check(response, llm)


async def test_async_streaming(retriever, llm):
    response = await engine(retriever, llm, streaming=True).aquery(QUERY)
    assert "".join([token async for token in response.async_response_gen()]) == "It rose."
    check(response, llm)


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
def test_response_modes(mode, retriever, llm):
    check(engine(retriever, llm, response_mode=mode).query(QUERY), llm)


def test_as_query_engine(pages, embedding, llm):
    index = VectorStoreIndex(NemotronPageEmbedder(embed_model=embedding)(pages), embed_model=embedding)
    reranker = NemotronRerank(RedReranker(), top_n=3)
    made = index.as_query_engine(llm=llm, similarity_top_k=5, node_postprocessors=[reranker], multimodal=True)
    check(made.query(QUERY), llm)


def test_without_a_reranker_a_converter_keeps_the_text(retriever, llm):
    made = RetrieverQueryEngine.from_args(
        retriever=retriever, llm=llm, node_postprocessors=[KeepPageText()], multimodal=True
    )
    made.query(QUERY)
    assert len(llm.blocks(ImageBlock)) == 4
    assert all(word in llm.text() for word in ("first", "second", "third", "fourth", "fifth"))


def test_without_images_for_the_llm(retriever, llm):
    reranker = NemotronRerank(RedReranker(), top_n=3)
    made = RetrieverQueryEngine.from_args(retriever=retriever, llm=llm, node_postprocessors=[reranker])
    made.query(QUERY)
    assert "second" in llm.text()


def test_a_page_whose_image_has_gone_is_answered_from_its_text(pages, embedding, llm):
    pages[0].embedding = [0.1] * 16
    pages[0].image_path = "/gone/page.png"
    index = VectorStoreIndex(pages[:1], embed_model=embedding)
    reranker = NemotronRerank(RedReranker(), on_image_error="text")
    index.as_query_engine(llm=llm, node_postprocessors=[reranker], multimodal=True).query(QUERY)
    assert "first" in llm.text()
    assert llm.blocks(ImageBlock) == []


@pytest.mark.parametrize("use_async", [False, True])
def test_citations(use_async, pages, embedding, llm):
    index = VectorStoreIndex(NemotronPageEmbedder(embed_model=embedding)(pages), embed_model=embedding)
    made = CitationQueryEngine.from_args(
        index,
        llm=llm,
        similarity_top_k=5,
        node_postprocessors=[NemotronRerank(RedReranker(), top_n=3)],
        multimodal=True,
    )
    response = asyncio.run(made.aquery(QUERY)) if use_async else made.query(QUERY)
    sources = [item.node.metadata["page"] for item in response.source_nodes]
    assert sources == [2, 2, 3, 3, 1, 1]  # LlamaIndex cites a page's text and its image apart
    assert len(llm.blocks(ImageBlock)) == 3
    assert "Source 6:" in llm.text()
    assert all(word in llm.text() for word in ("first", "second", "third"))


@pytest.mark.parametrize("use_async", [False, True])
def test_fusion(use_async, retriever, llm):
    fused = QueryFusionRetriever(
        [retriever, retriever], llm=llm, num_queries=1, similarity_top_k=5, mode="reciprocal_rerank", use_async=False
    )
    made = engine(fused, llm)
    response = asyncio.run(made.aquery(QUERY)) if use_async else made.query(QUERY)
    check(response, llm)


def test_the_rerank_is_part_of_the_trace(retriever, llm):
    with listening() as listener:
        engine(retriever, llm).query(QUERY)
    names = listener.names()
    order = [names.index(name) for name in ("RetrievalEndEvent", "ReRankStartEvent", "ReRankEndEvent")]
    assert order == sorted(order)
    assert get_dispatcher().event_handlers.count(listener) == 0
