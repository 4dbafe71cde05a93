"""The stand-in for an LLM quotes what it was shown, names its page, and calls tools before it answers."""

from __future__ import annotations

import doctest

import pytest
from llama_index.core.base.llms.types import ChatMessage, LLMMetadata, TextBlock
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.tools import FunctionTool
from PIL import Image

from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, PageRetrieverTool
from llama_index_nemotron_rag import quoting
from llama_index_nemotron_rag.quoting import QuotingLLM
from nemotron_rag import Page, PageIndex
from nemotron_rag.testing import FakeEmbedder

TEXTS = {1: "Whales eat krill. They are large.", 2: "Red apples are sweet! Pears are not."}


def retriever():
    index = PageIndex(embedder=FakeEmbedder())
    image = Image.new("RGB", (20, 30))
    pages = [Page(text, image, id=f"p{number}", source="a.pdf", number=number) for number, text in TEXTS.items()]
    index.add(pages, progress=False)
    return NemotronPageRetriever(index)


def test_examples_of_the_docstring():
    assert doctest.testmod(quoting).failed == 0


async def test_in_a_query_engine():
    for multimodal in (False, True):
        engine = RetrieverQueryEngine.from_args(retriever(), llm=QuotingLLM(), multimodal=multimodal)
        assert str(await engine.aquery("Are apples sweet?")) == '"Red apples are sweet!" (a.pdf, page 2)'


async def test_says_so_where_no_word_is_shared():
    engine = RetrieverQueryEngine.from_args(retriever(), llm=QuotingLLM())
    assert "no text" in str(await engine.aquery("Tornadoes?"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside LlamaIndex's agents
async def test_an_agent_calls_the_tool_and_quotes_what_came_back():
    from llama_index.core.agent.workflow import FunctionAgent

    tool = PageRetrieverTool.from_defaults(retriever(), name="search", description="Finds pages.")
    agent = FunctionAgent(tools=[tool], llm=QuotingLLM())
    assert str(await agent.run("What do whales eat?")) == '"Whales eat krill." (a.pdf, page 1)'


def test_each_query_of_a_conversation_is_searched_for():
    tools = [FunctionTool.from_defaults(lambda query: query, name="search", description="Finds pages.")]
    llm = QuotingLLM()
    asked = ChatMessage(role="user", content="Are apples sweet?")
    call = llm.chat([asked], tools=tools).message
    result = ChatMessage(role="tool", blocks=[TextBlock(text="page_label: 1\nfile_name: a.pdf\nApples are sweet.")])
    answer = llm.chat([asked, call, result], tools=tools).message
    assert answer.content == '"Apples are sweet." (a.pdf, page 1)'
    again = llm.chat([asked, call, result, answer, ChatMessage(role="user", content="Pears?")], tools=tools).message
    assert [(block.tool_name, block.tool_kwargs) for block in (*call.blocks, *again.blocks)] == [
        ("search", {"query": "Are apples sweet?"}),
        ("search", {"query": "Pears?"}),
    ]


def test_a_heading_in_a_block_of_its_own():
    texts = [
        "page_label: 3",
        "file_name: a.pdf",
        "\nWhales eat krill.",
        "page_label: 4\nfile_name: b.pdf",
        "Apples are red.",
    ]
    blocks = [TextBlock(text="\n".join(texts[:2])), *(TextBlock(text=text) for text in texts[2:])]
    asked = TextBlock(text="---------------------\nGiven the pages. Query: What do whales eat?\nAnswer: ")
    answer = QuotingLLM().chat([ChatMessage(role="user", blocks=[*blocks, asked])]).message.content
    assert answer == '"Whales eat krill." (a.pdf, page 3)'


async def test_refining_keeps_the_better_sentence():
    class Small(QuotingLLM):
        @property
        def metadata(self):
            return LLMMetadata(context_window=700, num_output=50, is_chat_model=True)

    engine = RetrieverQueryEngine.from_args(retriever(), llm=Small(), response_mode="refine", multimodal=True)
    for query, answer in {
        "Are apples sweet?": '"Red apples are sweet!" (a.pdf, page 2)',
        "What do whales eat?": '"Whales eat krill." (a.pdf, page 1)',
    }.items():
        assert str(await engine.aquery(query)) == answer
