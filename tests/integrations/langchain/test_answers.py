"""The last steps: prompts with history, citations, and images of tools for models that read them from users alone."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda

from langchain_nemotron_rag import (
    NemotronEmbeddings,
    NemotronPageRetriever,
    NemotronPageVectorStore,
    citations_of,
    create_page_chain,
    create_page_prompt,
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


class Model(GenericFakeChatModel):
    """Says what it was told to say, and keeps what it was asked."""

    asked: Any

    def _generate(self, messages, *args, **kwargs):
        self.asked.append(messages)
        return super()._generate(messages, *args, **kwargs)


def model(*answers: str) -> Model:
    return Model(messages=iter([AIMessage(answer) for answer in answers]), asked=[])


@pytest.fixture
def retriever():
    with PageIndex(embedder=FakeEmbedder()) as index:
        index.add(PAGES, progress=False)
        yield NemotronPageRetriever(index=index, k=2)


async def test_a_chain_answers_with_images_history_and_citations(retriever):
    chat = model("It is winter [2][1, 2] [9].", "Again [1].", "Streamed [1].")
    chain = create_page_chain(retriever, chat, system_prompt="Be brief.")
    history = [("human", "Hello"), AIMessage("Hi")]
    answer = chain.invoke({"input": "red apples in winter", "chat_history": history})
    (messages,) = chat.asked
    assert [message.type for message in messages] == ["system", "human", "ai", "human"]
    assert [block["type"] for block in messages[-1].content] == ["text", "image", "text", "image", "text"]
    assert [cited["number"] for cited in answer["citations"]] == [2, 1]
    assert answer["citations"][1] == {"number": 1, "source": "a.pdf", "page_number": 4, "page_id": "p4"}
    assert sorted(answer) == ["answer", "chat_history", "citations", "context", "input"]
    assert (await chain.ainvoke("red apples in winter"))["citations"][0]["page_id"] == "p4"
    parts = [part["answer"] for part in chain.stream("red apples") if "answer" in part]
    assert len(parts) > 1
    assert "".join(parts) == "Streamed [1]."
    with pytest.raises(InputError, match='"input"'):
        chain.invoke({"question": "red apples"})


def test_langchains_own_retrieval_chain_shows_images(retriever):
    chat = model("Yes.")
    chain = create_retrieval_chain(retriever, create_page_prompt() | chat | StrOutputParser())
    assert chain.invoke({"input": "red apples"})["answer"] == "Yes."
    assert isinstance(chat.asked[0][0], SystemMessage)
    assert "image" in [block["type"] for block in chat.asked[0][1].content]


def test_a_step_of_ones_own_finds_the_documents():
    page = Document("Revenue rose.", id="a")
    chain = create_page_chain(RunnableLambda(lambda inputs: [page]), model("[1]"))
    assert chain.invoke("q")["citations"] == [{"number": 1}]
    with pytest.raises(TypeError, match="max_sides"):
        create_page_chain(RunnableLambda(lambda inputs: []), model("a"), max_sides=3)


def test_citations_that_lead_nowhere_are_said(caplog):
    assert citations_of("As [3] says, and [0] and [x].", [Document("a")] * 2) == []
    assert "cites [3]" in caplog.text


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


class Request:
    def __init__(self, messages) -> None:
        self.messages = messages

    def override(self, *, messages):
        return Request(messages)


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


async def test_the_middleware_moves_them_for_the_model_alone(monkeypatch, retriever):
    middleware = types.ModuleType("langchain.agents.middleware")
    middleware.AgentMiddleware = type("AgentMiddleware", (), {})
    for name in ("langchain", "langchain.agents"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "langchain.agents.middleware", middleware)
    moving = create_tool_image_middleware()
    assert isinstance(moving, middleware.AgentMiddleware)
    request = Request(TALK)

    async def answer(request):
        return request.messages

    assert moving.wrap_model_call(request, lambda request: request.messages) == move_tool_images(TALK)
    assert await moving.awrap_model_call(request, answer) == move_tool_images(TALK)
    assert request.messages is TALK
    left_out = create_page_retriever_tool(retriever, "search", "d", include_images=False).invoke(CALL)
    request = Request([*TALK[:2], left_out])
    for move, sent in ((True, ["human", "ai", "tool", "human"]), (False, ["human", "ai", "tool"])):
        showing = create_tool_image_middleware(retriever, move=move)
        for seen in (
            showing.wrap_model_call(request, lambda it: it.messages),
            await showing.awrap_model_call(request, answer),
        ):
            assert [message.type for message in seen] == sent
            assert "image" in kinds(seen[-1])
    with pytest.raises(TypeError, match="max_sides"):
        create_tool_image_middleware(max_sides=1)


def test_without_langchain_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain", None)
    with pytest.raises(InputError, match="pip install langchain"):
        create_tool_image_middleware()
