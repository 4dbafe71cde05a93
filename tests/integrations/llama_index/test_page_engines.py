"""NemotronPageRetriever at work: many at a time, in traces, with real models, inside query engines."""

from __future__ import annotations

import asyncio
import time

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.callbacks import CBEventType
from llama_index.core.instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import ImageNode, NodeWithScore

from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank
from llama_index.readers.nemotron_rag import PDFPageReader
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.event_loop import stays_free
from support.llama_index import PAGE_TEXTS, SeeingLLM, ask, debug_manager, listening, png_file, same, texts
from support.pages import add

# ---- async, threads, events -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["index", "folder", "collection"])
@pytest.mark.parametrize("reranking", [False, True])
async def test_async_answers_as_sync_and_concurrent_as_serial(kind, reranking, request):
    source = request.getfixturevalue(kind)
    options = {"embedder": FakeEmbedder()} if kind == "folder" else {}
    with NemotronPageRetriever(source, reranker=FakeReranker() if reranking else None, **options) as retriever:
        queries = [f"{text} {n}" for n, text in enumerate(PAGE_TEXTS * 4)]
        together = await asyncio.gather(*[retriever.aretrieve(query) for query in queries])
        in_threads = await asyncio.gather(*[asyncio.to_thread(retriever.retrieve, query) for query in queries])
        for query, one, other in zip(queries, together, in_threads, strict=True):
            serial = retriever.retrieve(query)
            same(one, serial)
            same(other, serial)


class SlowEmbedder(FakeEmbedder):
    def embed_queries(self, queries):
        time.sleep(0.2)
        return super().embed_queries(queries)

    async def aembed_queries(self, queries):
        return await asyncio.to_thread(self.embed_queries, queries)


class SlowReranker(FakeReranker):
    def score(self, query, passages):
        time.sleep(0.2)
        return super().score(query, passages)

    async def ascore(self, query, passages):
        return await asyncio.to_thread(self.score, query, passages)


async def test_the_event_loop_keeps_ticking(folder, tmp_path):
    query = ask(query_str="red apples", image_path=str(png_file(tmp_path)))
    with NemotronPageRetriever(folder, embedder=SlowEmbedder(), reranker=SlowReranker()) as retriever:
        assert len(await retriever.aretrieve(query)) == 4
        assert await stays_free(lambda: retriever.aretrieve(query), within=0.1)


async def test_events_come_in_pairs_and_hold_no_image(index, collection):
    for source in (index, collection):
        manager, handler = debug_manager()
        retriever = NemotronPageRetriever(source, reranker=FakeReranker(), callback_manager=manager)
        with listening() as listener:
            retriever.retrieve("red apples")
            await retriever.aretrieve("red apples")
        wanted = ("RetrievalStartEvent", "ReRankStartEvent", "ReRankEndEvent", "RetrievalEndEvent")
        assert [event.class_name() for event in listener.named(*wanted)] == list(wanted) * 2
        assert max(len(event.model_dump_json()) for event in listener.named(*wanted)) < 20_000
        for kind in (CBEventType.RETRIEVE, CBEventType.RERANKING):
            assert len(handler.get_event_pairs(kind)) == 2


def test_the_async_way_has_a_span_of_its_own():
    assert getattr(NemotronPageRetriever._aretrieve, DISPATCHER_SPAN_DECORATED_ATTR, False)
    assert getattr(NemotronPageRetriever._retrieve, DISPATCHER_SPAN_DECORATED_ATTR, False)


# ---- real models ------------------------------------------------------------------------------------------------


async def test_real_checkpoints_end_to_end(tmp_path, pdf, reference):
    folder = tmp_path / "real"
    with PageIndex(folder, embedder=reference / "embed_vl_open_1", max_input_tiles=1, device="cpu") as index:
        add(index, pdf, pages=[1, 4], ocr="never")
        expected = [hit.page.id for hit in index.search("red apples")]
    with NemotronPageRetriever(folder, device="cpu") as retriever:  # the embedder is in the record
        assert [item.node_id for item in retriever.retrieve("red apples")] == expected
        page = retriever.retrieve("red apples")[0].node
        assert len(await retriever.aretrieve(ask(query_str="x", image_path=page.image_path))) == 2
    ranker = NemotronRerank(reference / "rerank_vl_open_1", device="cpu", max_input_tiles=1)
    with NemotronPageRetriever(folder, device="cpu", reranker=ranker, top_n=1) as retriever:
        found = retriever.retrieve("red apples")
    assert len(found) == 1
    assert await ranker.apostprocess_nodes([NodeWithScore(node=found[0].node)], query_str="red apples") == found
    ranker.close()


# ---- query engines ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["index", "collection"])
def two(request):
    """A retriever of the two pages about apples."""
    source = request.getfixturevalue(request.param)
    return NemotronPageRetriever(source, reranker=FakeReranker(), top_n=2)


def check(response, llm):
    assert texts(response.source_nodes) == ["red apples", "green apples and pears"]
    assert len(llm.blocks(ImageBlock)) == 2
    assert all(block.resolve_image().read()[:4] == b"\x89PNG" for block in llm.blocks(ImageBlock))
    assert "red apples" in llm.text()
    assert "green apples and pears" in llm.text()
    assert "file_name: nature.pdf" in llm.text()
    assert "whales" not in llm.text()
    assert "/" not in llm.text()  # no path


@pytest.mark.parametrize("streaming", [False, True])
async def test_query_engine(two, streaming):
    llm = SeeingLLM()
    engine = RetrieverQueryEngine.from_args(two, llm=llm, multimodal=True, streaming=streaming)
    response = engine.query("red apples")
    assert ("".join(response.response_gen) if streaming else str(response)) == "It rose."
    check(response, llm)


@pytest.mark.parametrize("streaming", [False, True])
async def test_query_engine_async(two, streaming):
    llm = SeeingLLM()
    engine = RetrieverQueryEngine.from_args(two, llm=llm, multimodal=True, streaming=streaming)
    response = await engine.aquery("red apples")
    answer = "".join([token async for token in response.async_response_gen()]) if streaming else str(response)
    assert answer == "It rose."
    check(response, llm)


async def test_query_engine_with_an_image_in_the_query(index, tmp_path):
    llm = SeeingLLM()
    page = index.search("blue whales", k=1)[0].page
    page.image.open().save(tmp_path / "query.png")
    retriever = NemotronPageRetriever(index, similarity_top_k=1)
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, multimodal=True)
    query = ask(image_path=str(tmp_path / "query.png"))
    for response in (engine.query(query), await engine.aquery(query)):
        assert texts(response.source_nodes) == ["blue whales"]
    assert len(llm.blocks(ImageBlock)) == 2


@pytest.mark.parametrize("use_async", [False, True])
def test_citations(two, use_async, index):
    llm = SeeingLLM()
    engine = CitationQueryEngine(retriever=two, llm=llm, multimodal=True)
    response = asyncio.run(engine.aquery("red apples")) if use_async else engine.query("red apples")
    assert len(response.source_nodes) == 4  # LlamaIndex cites a page's text and its image apart
    assert len(llm.blocks(ImageBlock)) == 2
    assert "Source 4:" in llm.text()
    assert "green apples and pears" in llm.text()


@pytest.mark.parametrize("use_async", [False, True])
def test_fusion(index, use_async):
    llm = SeeingLLM()
    retrievers = [NemotronPageRetriever(index, similarity_top_k=k, reranker=FakeReranker()) for k in (2, 4)]
    fused = QueryFusionRetriever(
        retrievers, llm=llm, num_queries=1, similarity_top_k=2, mode="reciprocal_rerank", use_async=False
    )
    engine = RetrieverQueryEngine.from_args(fused, llm=llm, multimodal=True)
    check(asyncio.run(engine.aquery("red apples")) if use_async else engine.query("red apples"), llm)


@pytest.mark.parametrize("mode", ["reciprocal_rerank", "simple", "relative_score"])
def test_a_fusion_knows_the_pages_of_an_index_in_another_place(pdf, index, tmp_path, monkeypatch, mode):
    monkeypatch.chdir(pdf.parent)
    reader = PDFPageReader(image_folder=tmp_path / "images", ocr="never", dpi=72, workers=0)
    embedding = NemotronEmbedding(FakeEmbedder())
    pages = VectorStoreIndex.from_documents(
        reader.load_data(pdf.name), transformations=[embedding], embed_model=embedding
    )
    retrievers = [NemotronPageRetriever(place, similarity_top_k=4) for place in (index, pages)]
    options = {"llm": SeeingLLM(), "num_queries": 1, "similarity_top_k": 8, "use_async": False}
    fusion = QueryFusionRetriever(retrievers, mode=mode, **options)
    found = fusion.retrieve("red apples")
    assert sorted(texts(found)) == sorted(PAGE_TEXTS)
    assert found[0].node.text == "red apples"
    if mode == "reciprocal_rerank":
        assert found[0].score == pytest.approx(2 / 60)


def test_found_pages_are_told_apart(pdf, index, tmp_path):
    found = [item.node for item in NemotronPageRetriever(index).retrieve("red apples")]
    assert len({node.hash for node in found}) == len(found) == 4
    other = found[0].model_copy(update={"metadata": {**found[0].metadata, "page_number": 9}})
    chunk = found[0].model_copy(update={"text": "red"})
    assert len({found[0].hash, other.hash, chunk.hash}) == 3
    assert found[0].model_copy(update={"image": "x", "image_path": None}).hash == found[0].hash
    unplaced = found[0].model_copy(update={"metadata": {}})
    assert unplaced.hash == ImageNode(text=unplaced.text, image_path=unplaced.image_path).hash
