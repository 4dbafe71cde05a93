"""Our store and retriever inside LangChain's own retrievers, indexing and chains: the real packages."""

from __future__ import annotations

import asyncio

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.runnables import RunnablePassthrough
from PIL import Image

from langchain_nemotron_rag import (
    NemotronEmbeddings,
    NemotronPageRetriever,
    NemotronPageVectorStore,
    NemotronRerank,
    PDFPageLoader,
    PDFPageParser,
    create_page_retriever_tool,
    to_content_blocks,
)
from nemotron_rag import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.langchain import data_uri
from support.pages import add, make_pdf

QUERY = "Where do tornadoes form?"


@pytest.fixture
def pages(report_pdf) -> list[Document]:
    return PDFPageLoader(report_pdf, parser=PDFPageParser(workers=0, ocr="never", dpi=72)).load()


@pytest.fixture
def store():
    store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
    yield store
    store.close()


@pytest.fixture
def page_retriever(tmp_path):
    make_pdf(tmp_path / "storms.pdf", "Tornadoes form in storms", "", "Bread")
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), max_pixels=20_000) as pages:
        add(pages, tmp_path / "storms.pdf")
    retriever = NemotronPageRetriever(index=tmp_path / "index", embedder=FakeEmbedder(), reranker=FakeReranker())
    yield retriever
    retriever.close()


def test_compression_over_the_store(pages, embeddings, rerank):
    """Real vectors, images kept as files, real logits."""
    store = NemotronPageVectorStore.from_documents(pages, embeddings)
    chain = ContextualCompressionRetriever(
        base_compressor=rerank, base_retriever=store.as_retriever(search_kwargs={"k": 4})
    )
    found = chain.invoke(QUERY)
    assert {document.id for document in found} == {page.id for page in pages}
    relevances = [document.metadata["relevance_score"] for document in found]
    assert relevances == sorted(relevances, reverse=True)
    expected = {page.id: page.metadata["relevance_score"] for page in rerank.compress_documents(pages, QUERY)}
    for document in found:  # the images came back as they were
        assert document.metadata["relevance_score"] == pytest.approx(expected[document.id], abs=1e-3)
    again = asyncio.run(chain.ainvoke(QUERY))
    assert {document.id for document in again} == {document.id for document in found}
    store.close()


def test_a_pipeline_over_the_store(pages, store):
    store.add_documents(pages)
    pipeline = DocumentCompressorPipeline(transformers=[NemotronRerank(model=FakeReranker(), top_n=1)])
    chain = ContextualCompressionRetriever(base_compressor=pipeline, base_retriever=store.as_retriever())
    assert [page.metadata["page"] for page in chain.invoke("tornadoes form in thunderstorms")] == [0]


def test_ensembles_tell_pages_apart(pages, store, page_retriever):
    store.add_documents(pages)
    single = EnsembleRetriever(retrievers=[page_retriever], weights=[1.0])
    assert len(single.invoke(QUERY)) == 3
    both = EnsembleRetriever(retrievers=[page_retriever, store.as_retriever()], id_key="page_id")
    assert len(both.invoke(QUERY)) == 3 + len(pages)
    assert len(asyncio.run(both.ainvoke(QUERY))) == 3 + len(pages)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_indexing_is_idempotent(store, asynchronous):
    records = InMemoryRecordManager(namespace="pages")
    records.create_schema()
    pages = [
        Document(f"page {n}", metadata={"source": "a.pdf", "image": data_uri(Image.new("RGB", (9, 9), (n * 80, 0, 0)))})
        for n in range(3)
    ]

    def put(documents, cleanup):
        options = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "sha256", "batch_size": 2}
        if asynchronous:
            return asyncio.run(aindex(documents, records, store, **options))
        return index(documents, records, store, **options)

    assert put(pages, "full") == {"num_added": 3, "num_updated": 0, "num_skipped": 0, "num_deleted": 0}
    before = sorted(document.id for document in store.similarity_search("page", k=9))
    assert put(pages, "full") == {"num_added": 0, "num_updated": 0, "num_skipped": 3, "num_deleted": 0}
    assert sorted(document.id for document in store.similarity_search("page", k=9)) == before
    assert len(before) == 3
    changed = [*pages[:2], Document("page two, new", metadata=pages[2].metadata)]
    assert put(changed, "incremental") == {"num_added": 1, "num_updated": 0, "num_skipped": 2, "num_deleted": 1}
    found = store.similarity_search("page", k=9)
    assert sorted(document.page_content for document in found) == ["page 0", "page 1", "page two, new"]
    assert all("image" in document.metadata for document in found)
    assert put([], "full")["num_deleted"] == 3
    assert store.similarity_search("page") == []


def test_what_was_found_can_be_stored_again(page_retriever, store):
    found = page_retriever.invoke(QUERY)
    store.add_documents(found)
    assert {document.id for document in store.similarity_search(QUERY)} == {document.id for document in found}


def test_from_a_query_to_content_blocks(page_retriever):
    chain = {"pages": page_retriever, "query": RunnablePassthrough()} | RunnablePassthrough.assign(
        blocks=lambda inputs: to_content_blocks(inputs["pages"], image_format="jpeg")
    )
    for answer in (chain.invoke(QUERY), asyncio.run(chain.ainvoke(QUERY))):
        images = [block for block in answer["blocks"] if block["type"] == "image"]
        assert len(images) == len(answer["pages"]) == 3
        assert {block["mime_type"] for block in images} <= {"image/jpeg", "image/png"}, "the smaller one"


def test_as_a_tool(page_retriever):
    tool = create_page_retriever_tool(page_retriever, "pages", "Finds pages.")
    message = tool.invoke({"type": "tool_call", "name": "pages", "id": "1", "args": {"query": QUERY}})
    assert sum(block["type"] == "image" for block in message.content) == 3
