"""The stand-in for a chat model quotes what it was shown, cites it, and calls tools before it answers."""

from __future__ import annotations

import doctest

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from langchain_nemotron_rag import citations_of, create_page_chain, move_tool_images, quoting, to_human_message
from langchain_nemotron_rag.quoting import QuotingChatModel
from nemotron_rag.errors import InputError

PAGES = [
    Document("Whales eat krill. They are large.", metadata={"source": "sea.pdf", "page": 0}),
    Document("Red apples are sweet! Pears are not.", metadata={"source": "fruit.pdf", "page": 4}),
]
IMAGE = {"type": "image", "url": "https://example.org/1.png"}


@tool
def search(query: str) -> str:
    """Finds pages."""
    return query


def test_examples_of_the_docstring():
    assert doctest.testmod(quoting).failed == 0


def test_quotes_the_nearest_sentence_and_cites_its_page():
    answer = QuotingChatModel().invoke([SystemMessage("Cite."), to_human_message("Are apples sweet?", PAGES)])
    assert answer.content == '"Red apples are sweet!" [2]'
    assert citations_of(answer.content, PAGES)[0]["source"] == "fruit.pdf"


def test_says_so_where_no_word_is_shared():
    assert "no text" in QuotingChatModel().invoke([to_human_message("Tornadoes?", PAGES)]).content


def test_in_a_chain():
    chain = create_page_chain(RunnableLambda(lambda inputs: PAGES), QuotingChatModel())
    assert chain.invoke("What do whales eat?")["answer"] == '"Whales eat krill." [1]'


def test_calls_a_tool_once_and_then_answers():
    model = QuotingChatModel()
    bound = model.bind_tools([search])
    asked = HumanMessage("Are apples sweet?")
    call = bound.invoke([asked])
    assert [(each["name"], each["args"]) for each in call.tool_calls] == [("search", {"query": "Are apples sweet?"})]
    result = ToolMessage([{"type": "text", "text": "[1] fruit.pdf\nApples are sweet."}, IMAGE], tool_call_id="call_1")
    assert bound.invoke([asked, call, result]).content == '"Apples are sweet." [1]'
    assert bound.invoke([asked, call, result, HumanMessage("And pears?")]).tool_calls[0]["args"] == {
        "query": "And pears?"
    }
    assert [len(messages) for messages in model.seen] == [1, 3, 4]


def test_a_strict_one_refuses_images_of_tools_and_takes_them_from_the_user():
    strict = QuotingChatModel(images_in_tools=False).bind_tools([search])
    asked = HumanMessage("Are apples sweet?")
    call = strict.invoke([asked])
    result = ToolMessage([{"type": "text", "text": "[1] fruit.pdf\nApples are sweet."}, IMAGE], tool_call_id="call_1")
    with pytest.raises(InputError, match="put create_tool_image_middleware"):
        strict.invoke([asked, call, result])
    moved = move_tool_images([asked, call, result])
    assert [message.type for message in moved] == ["human", "ai", "tool", "human"]
    assert strict.invoke(moved).content == '"Apples are sweet." [1]'


def test_two_models_do_not_share_what_they_saw():
    one, other = QuotingChatModel(), QuotingChatModel()
    one.invoke("apples")
    assert (len(one.seen), len(other.seen)) == (1, 0)


def test_needs_a_message_of_the_user():
    with pytest.raises(InputError, match="wanted a message of the user"):
        QuotingChatModel().invoke([SystemMessage("x")])
