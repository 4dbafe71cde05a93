"""What reaches the LLM: text and image of a page in every engine and in agents, and each image once."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings

import pytest
from llama_index.core import SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.base.llms.types import ImageBlock, TextBlock
from llama_index.core.chat_engine import MultiModalContextChatEngine
from llama_index.core.chat_engine.multi_modal_condense_plus_context import MultiModalCondensePlusContextChatEngine
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter
from llama_index.core.query_engine.multi_modal import SimpleMultiModalQueryEngine
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, TextNode

from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.postprocessor.nemotron_rag_rerank import KeepPageText, NemotronRerank
from llama_index.readers.nemotron_rag import PDFPageReader
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, PageRetrieverTool
from nemotron_rag import Passage
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.llama_index import SeeingLLM, b64, listening, png_file
from support.pages import make_pdf

WORDS = "red apples grow on trees. " * 12


@pytest.fixture(autouse=True)
def _no_loop_is_left():
    """LlamaIndex's sync methods leave event loops open."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.set_event_loop(None)
        gc.collect()


@pytest.fixture
def embedding():
    return NemotronEmbedding(FakeEmbedder())


@pytest.fixture
def chunks(tmp_path):
    """Four chunks of one page, and another page."""
    path = str(png_file(tmp_path))
    nodes = [ImageNode(text=f"apples {n}", image_path=path) for n in range(4)]
    return [
        NodeWithScore(node=node, score=1.0 - n / 10)
        for n, node in enumerate([*nodes, ImageNode(text="w", image=b64())])
    ]


def _blocks(items, kind=ImageBlock):
    return [
        block for item in items for block in item.node.get_content_blocks(MetadataMode.LLM) if isinstance(block, kind)
    ]


@pytest.mark.parametrize("step", [KeepPageText(), NemotronRerank(FakeReranker(), top_n=None)])
def test_an_image_is_shown_once_however_many_chunks_come(step, chunks):
    before = [item.node.to_dict() for item in chunks]
    found = step.postprocess_nodes(chunks, query_str="apples 3")
    assert len(_blocks(found)) == 2
    assert len(_blocks(found, TextBlock)) == 5
    assert len(_blocks(found[:1])) == 1  # the best chunk shows it
    assert {item.node.image_path for item in found} == {chunks[0].node.image_path, None}  # rerankers still see it
    assert [item.node.to_dict() for item in chunks] == before


def test_the_image_is_shown_by_whichever_chunk_comes_first_in_the_end(chunks):
    first = NemotronRerank(FakeReranker(), top_n=None).postprocess_nodes(chunks, query_str="apples 3")
    last = NemotronRerank(FakeReranker(), top_n=1).postprocess_nodes(first, query_str="apples 1")
    assert last[0].node.text == "apples 1"
    assert len(_blocks(last)) == 1


@pytest.fixture(params=["context", "condense", "query"])
def engine_of(request):
    def make(retriever, llm, *steps):
        steps = list(steps)
        if request.param == "context":
            made = MultiModalContextChatEngine.from_defaults(retriever, multi_modal_llm=llm, node_postprocessors=steps)
            return made.chat
        if request.param == "condense":
            made = MultiModalCondensePlusContextChatEngine.from_defaults(
                retriever, multi_modal_llm=llm, node_postprocessors=steps
            )
            return made.chat
        with pytest.warns(DeprecationWarning, match="SimpleMultiModalQueryEngine"):
            return SimpleMultiModalQueryEngine(retriever, multi_modal_llm=llm, node_postprocessors=steps).query

    return make


def test_multimodal_engines_show_text_and_image(engine_of, index):
    llm = SeeingLLM()
    retriever = NemotronPageRetriever(index, similarity_top_k=2, reranker=FakeReranker())
    engine_of(retriever, llm, KeepPageText(split=True))("red apples")
    assert len(llm.blocks(ImageBlock)) == 2
    assert "green apples and pears" in llm.text()
    assert "nature.pdf" in llm.text()


def test_split_leaves_texts_alone_and_loses_no_page(tmp_path):
    text, gone = TextNode(text="a"), ImageNode(text="b", image_path=str(tmp_path / "gone.png"))
    image = ImageNode(image=b64())
    items = [NodeWithScore(node=node, score=0.5) for node in (text, gone, image)]
    found = KeepPageText(split=True).postprocess_nodes(items)
    assert [item.node.get_content() for item in found] == ["a", "b", ""]
    assert [type(item.node) for item in found] == [TextNode, TextNode, ImageNode]
    assert {item.score for item in found} == {0.5}


def test_texts_get_the_image_of_their_page_back(tmp_path, caplog):
    path = str(png_file(tmp_path))
    inside = TextNode(text="a", metadata={"page_image_path": path})
    items = [
        NodeWithScore(node=inside),
        NodeWithScore(node=TextNode(text="b", metadata={"page_image_path": "/etc/hosts"})),
    ]
    assert _blocks(KeepPageText().postprocess_nodes(items)) == []
    step = KeepPageText(image_keys="page_image_path", image_roots=tmp_path)
    found = step.postprocess_nodes(items)
    assert [len(_blocks([item])) for item in found] == [1, 0]
    assert "outside the allowed folders" in caplog.text
    assert KeepPageText.from_dict(step.to_dict()).image_roots == [str(tmp_path)]


def test_the_llm_is_told_the_files_name(tmp_path, embedding):
    (tmp_path / "pdfs").mkdir()
    make_pdf(tmp_path / "pdfs" / "a.pdf", "red apples")
    reader = PDFPageReader(image_folder=tmp_path / "images", ocr="never", dpi=40, workers=0)
    pages = SimpleDirectoryReader(tmp_path / "pdfs", file_extractor={".pdf": reader}).load_data()
    index = VectorStoreIndex(embedding(pages), embed_model=embedding)
    for step in (KeepPageText(), NemotronRerank(FakeReranker())):
        llm = SeeingLLM()
        engine = index.as_query_engine(llm=llm, node_postprocessors=[step], multimodal=True)
        engine.query("red apples")
        assert "file_name: a.pdf" in llm.text()
        assert str(tmp_path) not in llm.text()


# ---- pages are not texts ----------------------------------------------------------------------------------------


@pytest.fixture
def pages(tmp_path):
    make_pdf(tmp_path / "a.pdf", "red apples", "")
    return PDFPageReader(image_folder=tmp_path / "images", ocr="never", dpi=40, workers=0).load_data(tmp_path / "a.pdf")


def _wanted(pages):
    passages = [Passage(page.text, page.image_path) for page in pages]
    return FakeEmbedder().embed_passages(passages).tolist()


def _vectors(index):
    stored = index.vector_store.data
    by_page = {index.docstore.get_node(key).metadata["page_number"]: row for key, row in stored.embedding_dict.items()}
    return [row for _, row in sorted(by_page.items())]


@pytest.mark.parametrize("use_async", [False, True])
def test_the_embedding_alone_embeds_pages_as_pages(use_async, pages, embedding):
    with listening() as listener:
        index = VectorStoreIndex.from_documents(pages, embed_model=embedding, use_async=use_async)
    assert _vectors(index) == [pytest.approx(row) for row in _wanted(pages)]
    assert listener.named("EmbeddingStartEvent")


async def test_inserting_into_an_index_that_was_opened_again_embeds_pages(pages, embedding):
    first = VectorStoreIndex.from_documents(pages[:1], embed_model=embedding)
    again = VectorStoreIndex([], embed_model=embedding, storage_context=first.storage_context)
    again.insert(pages[1])
    assert _vectors(again) == [pytest.approx(row) for row in _wanted(pages)]
    other = VectorStoreIndex([], embed_model=embedding)
    for page in pages:
        await other.ainsert(page)
    assert _vectors(other) == [pytest.approx(row) for row in _wanted(pages)]


@pytest.mark.parametrize(
    "parser", [SentenceSplitter(chunk_size=40, chunk_overlap=0), HierarchicalNodeParser.from_defaults([60, 30])]
)
def test_parsers_keep_the_page_of_each_chunk(parser, tmp_path, embedding):
    make_pdf(tmp_path / "a.pdf", WORDS)
    pages = PDFPageReader(image_folder=tmp_path / "images", ocr="never", dpi=40, workers=0).load_data(
        tmp_path / "a.pdf"
    )
    nodes = [node for node in parser(pages) if isinstance(node, ImageNode)]
    index = VectorStoreIndex(nodes, embed_model=embedding)
    for node in nodes:
        wanted = FakeEmbedder().embed_passages([Passage(node.text, node.image_path)])[0]
        assert index.vector_store.data.embedding_dict[node.node_id] == pytest.approx(wanted.tolist())
    engine = index.as_query_engine(llm=(llm := SeeingLLM()), node_postprocessors=[KeepPageText()], multimodal=True)
    engine.query("apples")
    assert len(llm.blocks(ImageBlock)) == 1


def test_plain_texts_and_queries_are_texts(embedding):
    nodes = [TextNode(text="a"), TextNode(text="b")]
    index = VectorStoreIndex(nodes, embed_model=embedding)
    wanted = FakeEmbedder().embed_passages([Passage("a"), Passage("b")]).tolist()
    assert list(index.vector_store.data.embedding_dict.values()) == [pytest.approx(row) for row in wanted]
    assert embedding.get_text_embedding_batch(["a", "b"]) == [pytest.approx(row) for row in wanted]


# ---- agents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["index", "collection"])
async def test_a_tool_carries_texts_and_images(source, request):
    retriever = NemotronPageRetriever(request.getfixturevalue(source), similarity_top_k=2)
    tool = PageRetrieverTool.from_defaults(retriever, name="nature", node_postprocessors=[KeepPageText()])
    for output in (tool.call(input="red apples"), await tool.acall("red apples")):
        assert output.raw_input == {"input": "red apples"}
        assert sum(isinstance(block, ImageBlock) for block in output.blocks) == 2
        assert "red apples" in output.content
        assert len(output.raw_output) == 2
        assert len(json.dumps([item.to_dict() for item in output.raw_output])) < 20_000
    for nothing in ({}, {"input": " "}):
        with pytest.raises(InputError, match="wanted a query in words"):
            tool.call(**nothing)


def test_a_tool_that_finds_nothing_says_so(index):
    retriever = NemotronPageRetriever(index, filters={"page_number": 99})
    assert PageRetrieverTool.from_defaults(retriever).call("x").content == "No page was found."
