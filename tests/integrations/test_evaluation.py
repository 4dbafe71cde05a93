"""Retrievers of both frameworks go into an evaluation as they are, and their chat models write queries."""

import base64

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core.base.base_retriever import BaseRetriever as LlamaRetriever
from llama_index.core.llms import ChatMessage, ChatResponse, MockLLM
from llama_index.core.schema import NodeWithScore, TextNode
from PIL import Image

import langchain_nemotron_rag
import llama_index.retrievers.nemotron_rag as llama
from nemotron_rag.evaluation import evaluate, queries_from_chat
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import Page
from support.pages import make_pdf

ROWS = [
    {"question": "red apples", "file": "fruit.pdf", "page": 1},
    {"question": "ripe pears", "file": "fruit.pdf", "page": 2},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    make_pdf(folder / "pdfs" / "fruit.pdf", "red apples grow", "ripe pears fall", "plums")
    with PageIndex(folder / "index", embedder=FakeEmbedder()) as index:
        index.add(folder / "pdfs", progress=False)
        yield index


def measured(retriever, **options):
    return evaluate(ROWS, retrievers={"r": retriever}, k=3, progress=False, **options)["r"]


class Chunks(BaseRetriever):
    """Two chunks of a page, as text splitters make them of the pages of LangChain's own loaders."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        page = 0 if "apples" in query else 1
        here = {"source": "/home/me/fruit.pdf", "page": page, "page_label": "i"}
        return [
            Document("one", metadata=here),
            Document("two", metadata=here),
            Document("x", metadata={**here, "page": 2}),
        ]


class Nodes(LlamaRetriever):
    def _retrieve(self, query_bundle):
        label = "1" if "apples" in query_bundle.query_str else "2"
        node = TextNode(text="one", metadata={"file_name": "fruit.pdf", "page_label": label})
        return [NodeWithScore(node=node, score=0.5), NodeWithScore(node=node, score=0.4)]


@pytest.mark.parametrize("retriever", [Chunks(), Nodes()], ids=["LangChain", "LlamaIndex"])
def test_any_retriever_goes_in_as_it_is(retriever):
    found = measured(retriever)
    assert found.intervals["mrr"].mean == 1
    assert len(found.answers[0].pages) == len(set(found.answers[0].pages))


def test_ours_give_what_the_index_alone_gives(index):
    alone = measured(index)
    for retriever in (
        langchain_nemotron_rag.NemotronPageRetriever(index=index, k=3),
        llama.NemotronPageRetriever(index, similarity_top_k=3),
    ):
        found = measured(retriever)
        assert [answer.pages for answer in found.answers] == [answer.pages for answer in alone.answers]
        for ours, theirs in zip(found.answers, alone.answers, strict=True):
            assert ours.scores == pytest.approx(theirs.scores)


def test_a_store_of_langchain_as_retriever():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    store.add_documents([Document(f"page {i}", metadata={"source": "fruit.pdf", "page_number": i}) for i in (1, 2, 3)])
    found = measured(store.as_retriever(search_kwargs={"k": 3}))
    assert found.intervals["recall@3"].mean == 1
    assert measured(store.as_retriever(search_kwargs={"k": 1})).notes == (
        "r returned 1 pages at most, fewer than k=3: let it return more",
    )


# ---- chat models ----

PAGE = Page("Sales grew.", image=Image.new("RGB", (40, 30), "red"), id="1", source="dir/a.pdf", number=3)


def test_a_chat_model_of_langchain_sees_text_and_image():
    seen = []

    class Sees(GenericFakeChatModel):
        def _generate(self, messages, *args, **options):
            seen.extend(messages)
            return super()._generate(messages, *args, **options)

    model = Sees(messages=iter([AIMessage([{"type": "text", "text": "How much did sales grow?"}])]))
    (query,) = queries_from_chat([PAGE], langchain_nemotron_rag.page_asker(model))
    assert query.text == "How much did sales grow?"
    assert query.judgements == {"dir/a.pdf#page=3": 1}
    blocks = seen[0].content_blocks
    assert [block["type"] for block in blocks] == ["text", "image", "text"]
    assert "Sales grew." in blocks[0]["text"]
    assert base64.b64decode(blocks[1]["base64"])
    assert "Write 1 question " in blocks[2]["text"]


def test_a_chat_model_of_llamaindex_sees_text_and_image():
    seen = []

    class Sees(MockLLM):
        def chat(self, messages, **options):
            seen.extend(messages)
            return ChatResponse(message=ChatMessage("How much did sales grow?"))

    (query,) = queries_from_chat([PAGE], llama.page_asker(Sees(is_chat_model=True)))
    assert query.text == "How much did sales grow?"
    assert [block.block_type for block in seen[0].blocks] == ["text", "image", "text"]
    assert seen[0].blocks[1].image_mimetype in ("image/png", "image/jpeg")
