"""Images of tools, for models that read them in messages of the user alone; with LangChain's own agents."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from qdrant_client import models

from langchain_nemotron_rag import (
    NemotronEmbeddings,
    NemotronPageRetriever,
    NemotronPageVectorStore,
    create_page_retriever_tool,
    create_tool_image_middleware,
    move_tool_images,
    show_tool_images,
    to_human_message,
)
from nemotron_rag import PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder
from support.adapters import PAGES


@pytest.fixture
def retriever():
    with PageIndex(embedder=FakeEmbedder()) as index:
        index.add(PAGES, progress=False)
        yield NemotronPageRetriever(index=index, k=2)


RESULT = ToolMessage(
    [
        {"type": "text", "text": "[1] report.pdf, page 3\nRevenue rose."},
        {"type": "image", "base64": "aaaa", "mime_type": "image/png"},
        {"type": "text", "text": "[2] report.pdf, page 4"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,bbbb"}},
    ],
    tool_call_id="1",
    artifact=[Document("Revenue rose.")],
)
PLAIN = ToolMessage("Nothing was found.", tool_call_id="2")
TALK = [HumanMessage("Did revenue rise?"), AIMessage("", tool_calls=[]), RESULT, PLAIN, AIMessage("Yes.")]


def test_images_of_tools_move_into_a_message_of_the_user():
    before = [message.model_copy(deep=True) for message in TALK]
    moved = move_tool_images(TALK)
    assert [message.type for message in moved] == ["human", "ai", "tool", "tool", "human", "ai"]
    assert {block["type"] for block in moved[2].content} == {"text"}
    assert (moved[2].tool_call_id, moved[2].artifact) == ("1", RESULT.artifact)
    shown = [block.get("text", block["type"]) for block in moved[4].content]
    assert shown[1:] == ["[1] report.pdf, page 3", "image", "[2] report.pdf, page 4", "image_url"]
    assert before == TALK
    assert move_tool_images(TALK) == moved
    assert move_tool_images(moved) == moved
    assert move_tool_images([PLAIN, *TALK[:2]]) == [PLAIN, *TALK[:2]]
    assert [message.type for message in move_tool_images(TALK[:3])] == ["human", "ai", "tool", "human"]


CALL = {"name": "search", "args": {"query": "red apples"}, "id": "1", "type": "tool_call"}


def kinds(message) -> list[str]:
    return [block["type"] for block in message.content]


async def test_images_that_no_checkpoint_holds(retriever, tmp_path):
    with_images = create_page_retriever_tool(retriever, "search", "d").invoke(CALL)
    without = create_page_retriever_tool(retriever, "search", "d", include_images=False).invoke(CALL)
    assert len(without.model_dump_json()) < 3000
    assert kinds(without) == ["text", "text"]
    saved = without.model_copy(update={"artifact": [document.model_dump() for document in without.artifact]})
    for message in (without, saved):
        (shown, plain) = show_tool_images([message, PLAIN], retriever)
        assert shown.content == with_images.content
        assert plain is PLAIN
    assert show_tool_images([with_images, TALK[0]], retriever) == [with_images, TALK[0]]
    other = ToolMessage("found", artifact=["no documents"], tool_call_id="3")
    assert show_tool_images([other], retriever) == [other]
    shown = show_tool_images([without], retriever, max_images=1)
    assert kinds(shown[0]) == ["text", "image", "text"]


def test_late_images_of_every_place(retriever, tmp_path):
    store = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()), location=tmp_path / "store")
    store.add_documents(retriever.with_images(retriever.invoke("red apples")))
    for place in (retriever, NemotronPageRetriever(index=store, k=2)):
        found = place.model_copy(update={"include_images": False}).invoke("red apples")
        assert not any("image" in document.metadata for document in found)
        assert kinds(to_human_message("q", place.with_images(found))) == ["text", "image", "text", "image", "text"]
        assert place.with_images([Document("another", id="x")]) == [Document("another", id="x")]
    store.close()


class Model(GenericFakeChatModel):
    """Calls tools and answers as it was told, and keeps what it was asked."""

    asked: Any

    def _generate(self, messages, *args, **kwargs):
        self.asked.append(messages)
        return super()._generate(messages, *args, **kwargs)

    def bind_tools(self, tools, **kwargs):
        return self


def calling(*queries: str) -> AIMessage:
    calls = [{"name": "search", "args": {"query": query}, "id": query} for query in queries]
    return AIMessage("", tool_calls=calls)


def model(*answers: AIMessage) -> Model:
    return Model(messages=iter(answers), asked=[])


def sent(messages) -> list[str]:
    """Kinds of messages, and of those with images how many."""
    return [message.type + "+" * (str(message.content).count("'base64'")) for message in messages]


THREAD = {"configurable": {"thread_id": "1"}}


async def test_an_agent_shows_the_images_of_its_tools_to_the_model_alone(retriever):
    chat = model(calling("red apples"), AIMessage("Winter."), calling("green pears", "blue whales"), AIMessage("No."))
    tool = create_page_retriever_tool(retriever, "search", "Finds pages.")
    saver = InMemorySaver()
    agent = create_agent(chat, [tool], middleware=[create_tool_image_middleware()], checkpointer=saver)
    agent.invoke({"messages": [HumanMessage("Which apples?")]}, THREAD)
    state = (await agent.ainvoke({"messages": [HumanMessage("And pears?")]}, THREAD))["messages"]
    assert [sent(messages) for messages in chat.asked] == [
        ["human"],
        ["human", "ai", "tool", "human++"],
        ["human", "ai", "tool", "human++", "ai", "human"],
        ["human", "ai", "tool", "human++", "ai", "human", "ai", "tool", "tool", "human++++"],
    ]
    assert sent(state) == ["human", "ai", "tool++", "ai", "human", "ai", "tool++", "tool++", "ai"]
    assert chat.asked[-1] == move_tool_images(state[:-1])


async def test_an_agent_whose_checkpoints_hold_no_image(retriever):
    chat = model(calling("red apples"), AIMessage("Winter."), AIMessage("As I said."))
    tool = create_page_retriever_tool(retriever, "search", "Finds pages.", include_images=False)
    saver = InMemorySaver()
    agent = create_agent(chat, [tool], middleware=[create_tool_image_middleware(retriever)], checkpointer=saver)
    agent.invoke({"messages": [HumanMessage("Which apples?")]}, THREAD)
    state = (await agent.ainvoke({"messages": [HumanMessage("Sure?")]}, THREAD))["messages"]
    assert sent(chat.asked[1]) == ["human", "ai", "tool", "human++"]
    assert sent(chat.asked[2]) == ["human", "ai", "tool", "human++", "ai", "human"]  # from a checkpoint
    assert sent(state) == ["human", "ai", "tool", "ai", "human", "ai"]
    assert all("iVBOR" not in str(saved) for saved in saver.blobs.values())


async def test_images_stay_in_the_results_for_models_that_read_them_there(retriever):
    chat = model(calling("red apples"), AIMessage("Winter."))
    tool = create_page_retriever_tool(retriever, "search", "Finds pages.", include_images=False)
    agent = create_agent(chat, [tool], middleware=[create_tool_image_middleware(retriever, move=False)])
    await agent.ainvoke({"messages": [HumanMessage("Which apples?")]})
    assert sent(chat.asked[1]) == ["human", "ai", "tool++"]
    with pytest.raises(TypeError, match="max_sides"):
        create_tool_image_middleware(max_sides=1)


def test_without_langchain_it_says_what_to_install(monkeypatch):
    for name in ("langchain", "langchain.agents", "langchain.agents.middleware"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install langchain"):
        create_tool_image_middleware()


async def test_a_model_narrows_a_search_within_the_retrievers_own_filter(retriever):
    keys = {"source": "Name of a file.", "page_number": "Number of a page, from 1."}
    tool = create_page_retriever_tool(retriever, "search", "d", filter_keys=keys)
    assert tool.args["source"]["description"] == "Name of a file."

    async def pages(**given):
        calls = [{"name": "search", "args": {"query": "apples", **given}, "id": "1", "type": "tool_call"}]
        messages = [tool.invoke(call) for call in calls] + [await tool.ainvoke(call) for call in calls]
        assert messages[0].content == messages[1].content
        return sorted(document.metadata["page_id"] for document in messages[0].artifact or [])

    retriever.k = 6
    assert len(await pages()) == 6
    assert await pages(source="a.pdf") == ["p2", "p4", "p6"]
    assert await pages(source="", page_number=3) == ["p3"]
    retriever.filter = {"source": "b.pdf"}
    assert await pages() == ["p1", "p3", "p5"]
    assert await pages(page_number=4) == []
    assert await pages(page_number=3) == ["p3"]
    retriever.filter = models.Filter()
    with pytest.raises(InputError, match="whose filter is a dict, got Filter"):
        create_page_retriever_tool(retriever, "search", "d", filter_keys=keys)
    with pytest.raises(InputError, match="NemotronPageRetriever over"):
        create_page_retriever_tool(RunnableLambda(len), "search", "d", filter_keys=keys)
    with pytest.raises(InputError, match="other than query"):
        create_page_retriever_tool(retriever, "search", "d", filter_keys={"query": "x"})
