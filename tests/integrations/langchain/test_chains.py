"""Inside LangChain's own retrievers, pipelines, stores and chains, as users combine them: PDF to answer, offline."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever, MultiQueryRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_qdrant import QdrantVectorStore
from langchain_text_splitters import CharacterTextSplitter

from langchain_nemotron_rag import (
    NemotronEmbeddings,
    NemotronPageRetriever,
    NemotronPageVectorStore,
    NemotronRerank,
    PDFPageLoader,
    PDFPageParser,
    to_human_message,
)
from langchain_nemotron_rag._documents import FoundMetadata
from nemotron_rag import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.adapters import PAGES

QUERY = "Where do tornadoes form?"


@pytest.fixture
def pages(report_pdf) -> list[Document]:
    return PDFPageLoader(report_pdf, parser=PDFPageParser(workers=0, ocr="never", dpi=72)).load()


@pytest.fixture
def qdrant(pages, embeddings):
    store = QdrantVectorStore.from_documents(pages, embeddings, location=":memory:", collection_name="pages")
    yield store
    store.client.close()


@pytest.fixture
def compression(qdrant, rerank) -> ContextualCompressionRetriever:
    """Real vectors, real logits, images read from data URIs that Qdrant stored."""
    retriever = qdrant.as_retriever(search_kwargs={"k": 4})
    return ContextualCompressionRetriever(base_compressor=rerank, base_retriever=retriever)


def scores(documents) -> list[float]:
    return [document.metadata["relevance_score"] for document in documents]


async def test_compression_over_qdrant(compression, rerank, pages, runs):
    wanted = rerank.compress_documents(pages, QUERY)
    found = compression.invoke(QUERY, config={"callbacks": [runs]})
    assert scores(found) == pytest.approx(scores(wanted), abs=1e-4)
    assert {d.metadata["page_id"] for d in found} == {page.metadata["page_id"] for page in pages}
    assert runs.only("NemotronRerank")["parent"] == runs.only("ContextualCompressionRetriever")["id"]
    assert runs.ended[runs.only("NemotronRerank")["id"]]["images"] == 4
    again = await compression.ainvoke(QUERY, config={"callbacks": [runs]})
    assert scores(again) == pytest.approx(scores(found), abs=1e-4)
    parents = {run["parent"] for run in runs.started if run["name"] == "NemotronRerank"}
    assert parents == {run["id"] for run in runs.started if run["name"] == "ContextualCompressionRetriever"}


async def test_sixteen_users_at_once(compression):
    queries = [f"{QUERY} {number}" for number in range(16)]
    serial = [compression.invoke(query) for query in queries]
    together = await asyncio.gather(*(compression.ainvoke(query) for query in queries))
    for found, wanted in zip(together, serial, strict=True):
        assert [d.metadata["page_id"] for d in found] == [d.metadata["page_id"] for d in wanted]
        assert scores(found) == pytest.approx(scores(wanted), abs=1e-4)


async def test_in_a_pipeline(runs):
    pipeline = DocumentCompressorPipeline(
        transformers=[
            CharacterTextSplitter(separator=". ", chunk_size=20, chunk_overlap=0),
            NemotronRerank(model=FakeReranker(), top_n=2),
            NemotronRerank(model=FakeReranker(), top_n=1, provenance=True),
        ]
    )
    documents = [Document("blue whales sing. red apples grow. green apples", metadata={"source": "a"})]
    (found,) = pipeline.compress_documents(documents, "red apples", callbacks=[runs])
    assert (found.page_content, found.metadata["source"]) == ("red apples grow", "a")
    assert found.metadata["retrieval_score"] == found.metadata["relevance_score"] == 5.0
    assert len(runs.started) == 2
    assert await pipeline.acompress_documents(documents, "red apples") == [found]


async def test_in_an_ensemble(pages):
    """Two pages have equal texts, one has none: only texts or ids that differ keep them apart."""
    store = InMemoryVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
    store.add_documents(pages)
    retriever = store.as_retriever(search_kwargs={"k": 4})
    ensemble = EnsembleRetriever(retrievers=[retriever, retriever], weights=[0.5, 0.5], id_key="page_id")
    compressed = ContextualCompressionRetriever(
        base_compressor=NemotronRerank(model=FakeReranker(), top_n=None), base_retriever=ensemble
    )
    for found in (compressed.invoke("tornadoes"), await compressed.ainvoke("tornadoes")):
        assert {document.id for document in found} == {page.id for page in pages}
        assert found[0].id == pages[0].id
    by_text = EnsembleRetriever(retrievers=[retriever, retriever], weights=[0.5, 0.5])
    assert len(by_text.invoke("tornadoes")) == 3, "the page without text is not merged with another"


class Everything(BaseRetriever):
    """Finds all of its documents for whatever is asked, as a retriever by words might."""

    documents: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.documents


@pytest.mark.parametrize("options", [{}, {"id_key": "page_id"}])
def test_an_ensemble_knows_the_pages_of_an_index_in_a_loader(report_pdf, monkeypatch, options):
    monkeypatch.chdir(report_pdf.parent)
    loaded = PDFPageLoader(report_pdf, workers=0, ocr="never", dpi=72).load()  # by an absolute path
    with PageIndex(embedder=FakeEmbedder(), dpi=72) as index:
        index.add(report_pdf.name, progress=False, ocr="never")
        for place in (index, NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))):
            if place is not index:
                place.add_documents(PDFPageLoader(report_pdf.name, workers=0, ocr="never", dpi=72).lazy_load())
            ours = NemotronPageRetriever(index=place, k=4)
            both = EnsembleRetriever(retrievers=[Everything(documents=loaded), ours], weights=[0.5, 0.5], **options)
            assert sorted(page.metadata["page_number"] for page in ours.invoke(QUERY)) == [1, 2, 3, 4]
            found = [page.metadata["page_number"] for page in both.invoke(QUERY)]
            assert sorted(found) == [1, 2, 3, 4] if options else sorted(found) in ([1, 2, 4], [1, 3, 4])  # equal texts


def test_retrieval_chain(compression):
    answer = RunnableLambda(lambda inputs: f"{inputs['input']} -> {len(inputs['context'])} pages")
    result = create_retrieval_chain(compression, answer).invoke({"input": QUERY})
    assert result["answer"] == f"{QUERY} -> 4 pages"
    assert scores(result["context"]) == sorted(scores(result["context"]), reverse=True)


async def test_from_pdf_to_answer_in_one_chain(qdrant, rerank):
    sent = []

    def remember(message):
        sent.append(message)
        return [message]

    best = rerank.model_copy(update={"top_n": 2})
    chain = (
        {"documents": qdrant.as_retriever(), "query": RunnablePassthrough()}
        | RunnablePassthrough.assign(documents=best.as_runnable())
        | RunnableLambda(lambda found: to_human_message(found["query"], found["documents"]))
        | RunnableLambda(remember)
        | GenericFakeChatModel(messages=iter([AIMessage("In thunderstorms [1].")] * 2))
        | StrOutputParser()
    )
    assert chain.invoke(QUERY) == "In thunderstorms [1]."
    assert await chain.ainvoke(QUERY) == "In thunderstorms [1]."
    for message in sent:
        assert [block["type"] for block in message.content_blocks] == ["text", "image", "text", "image", "text"]
        assert message.content_blocks[-1]["text"] == QUERY
    assert [block.get("base64") for block in sent[0].content_blocks] == [
        block.get("base64") for block in sent[1].content_blocks
    ]


def test_as_nvidias_hosted_reranker_is_used(pages):
    """The same calls, keys and defaults, so that one line swaps the hosted class for the local one."""
    compressor = NemotronRerank(model=FakeReranker())
    found = compressor.compress_documents(query="tornadoes", documents=pages * 2)
    assert len(found) == compressor.top_n == 5
    assert scores(found)[0] == 5.0, "a raw logit, not a probability"
    assert [type(score) for score in scores(found)] == [float] * 5
    assert found[0].metadata["image"] == pages[0].metadata["image"]
    assert all("relevance_score" not in page.metadata for page in pages)
    compressor.top_n = 0
    assert compressor.compress_documents(pages, "tornadoes") == []


class Queries(FakeListLLM):
    """Writes the same three queries every time."""

    def __init__(self) -> None:
        super().__init__(responses=["red apples\napples in winter\nred"])


async def test_several_queries_give_each_page_once():
    """`MultiQueryRetriever` compares whole documents, whose scores differ from query to query."""
    with PageIndex(embedder=FakeEmbedder()) as index:
        index.add(PAGES, progress=False)
        for reranker in (False, NemotronRerank(model=FakeReranker(), provenance=True, score_key="logit")):
            for image_form in ("data_uri", "reference", "none"):
                pages = NemotronPageRetriever(index=index, k=3, reranker=reranker, image_form=image_form)
                several = MultiQueryRetriever.from_llm(retriever=pages, llm=Queries(), include_original=True)
                for found in (several.invoke("red apples in winter"), await several.ainvoke("red apples in winter")):
                    ids = [document.id for document in found]
                    assert len(ids) == len(set(ids)) >= 3


def test_a_fusion_of_queries_by_what_documents_are_written_as():
    """As in LangChain's RAG fusion, which counts documents by ``dumps(document)``."""
    with PageIndex(embedder=FakeEmbedder(), reranker=FakeReranker()) as index:
        index.add(PAGES, progress=False)
        for reranker in (None, NemotronRerank(model=FakeReranker(), score_key="logit", provenance=True)):
            retriever = NemotronPageRetriever(index=index, reranker=reranker, k=4, include_scores=False)
            fused = [dumps(page) for query in ("red apples", "apples in winter") for page in retriever.invoke(query)]
            assert len(fused) == 8
            assert len(set(fused)) == len({json.loads(page)["kwargs"]["id"] for page in fused})


def test_metadata_that_were_found_are_dicts_like_any_other():
    one, other = (FoundMetadata({"page": 1, "score": score}, ["score"]) for score in (0.5, 0.7))
    assert one == other
    assert (one != other) is False
    assert one != FoundMetadata({"page": 2, "score": 0.5}, ["score"])
    assert one != dict(other)
    assert one == dict(one)
    assert json.loads(json.dumps(one)) == dict(one)
    for again in (copy.deepcopy(one), copy.copy(one), pickle.loads(pickle.dumps(one))):
        assert (again, dict(again), again.scores) == (one, dict(one), one.scores)
    document = Document("a").model_copy(update={"metadata": one})
    assert json.loads(dumps(document))["kwargs"]["metadata"] == dict(one)
    assert repr(document) == repr(Document("a", metadata=dict(one)))
