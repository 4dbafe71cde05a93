"""The last steps: prompts with history, and citations."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda

from langchain_nemotron_rag import NemotronPageRetriever, citations_of, create_page_chain, create_page_prompt
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
