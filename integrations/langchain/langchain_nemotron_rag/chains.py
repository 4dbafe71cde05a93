"""A whole answer in one chain: pages are found, a chat model sees them with the conversation, and what it cites."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, SystemMessage, convert_to_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough, run_in_executor

from langchain_nemotron_rag.content import ContentOptions, to_content_blocks, to_human_message
from nemotron_rag.errors import InputError

__all__ = ["SYSTEM_PROMPT", "citations_of", "create_page_chain", "create_page_prompt"]

SYSTEM_PROMPT = (
    "Answer the question from the numbered pages alone; read their images as well as their texts. "
    "Cite every page that you use by its number, like [1]. If the pages do not hold the answer, say so."
)
_CITED = re.compile(r"\[\s*(\d+(?:\s*[,;]\s*\d+)*)\s*\]")
_SAID = ("source", "page_number", "page_id")
_log = logging.getLogger("nemotron_rag")


def create_page_prompt(
    *, system_prompt: str | None = SYSTEM_PROMPT, **options: Unpack[ContentOptions]
) -> Runnable[dict[str, Any], list[BaseMessage]]:
    """The step before the chat model: a query, documents and the conversation so far become messages, with images.

    Takes ``{"input": ..., "context": [documents], "chat_history": [messages]}``, as LangChain's own chains have it, so
    ``create_retrieval_chain(retriever, create_page_prompt() | model | StrOutputParser())`` shows images too.

    Args:
        system_prompt: what the model is told first; None to say nothing.
        **options: those of `to_content_blocks`.

    Example:
        >>> prompt = create_page_prompt(system_prompt="Be brief.")
        >>> messages = prompt.invoke({"input": "Did revenue rise?", "context": [Document("Revenue rose.")]})
        >>> [message.type for message in messages]
        ['system', 'human']
    """
    to_content_blocks([], **options)  # a misspelt option is found now

    def build(inputs: Mapping[str, Any]) -> list[BaseMessage]:
        first = [] if system_prompt is None else [SystemMessage(system_prompt)]
        history = convert_to_messages(inputs.get("chat_history") or [])
        return [*first, *history, to_human_message(_query(inputs), inputs.get("context") or [], **options)]

    async def abuild(inputs: Mapping[str, Any]) -> list[BaseMessage]:
        return await run_in_executor(None, build, inputs)

    return RunnableLambda(build, afunc=abuild, name="page_prompt")


def create_page_chain(
    retriever: BaseRetriever | Runnable[Any, Any],
    model: BaseChatModel | Runnable[Any, Any],
    *,
    system_prompt: str | None = SYSTEM_PROMPT,
    **options: Unpack[ContentOptions],
) -> Runnable[Any, dict[str, Any]]:
    """Find pages, show them to a chat model, and say which it cites.

    Takes a query, or ``{"input": query, "chat_history": [messages]}``. Returns that with ``context``, the documents;
    ``answer``, a text, which streams; and ``citations``, see `citations_of`.

    Args:
        retriever: a retriever, which gets the query; or another step from that dict to documents, such as LangChain's
            history-aware retriever.
        model: the chat model; it must read images.
        system_prompt: what the model is told first; None to say nothing.
        **options: those of `to_content_blocks`.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> page = Document("Revenue rose.", metadata={"source": "report.pdf", "page_number": 3})
        >>> chain = create_page_chain(RunnableLambda(lambda inputs: [page]), FakeListChatModel(responses=["Yes [1]."]))
        >>> answer = chain.invoke("Did revenue rise?")
        >>> answer["answer"], answer["citations"]
        ('Yes [1].', [{'number': 1, 'source': 'report.pdf', 'page_number': 3}])
    """
    prompt = create_page_prompt(system_prompt=system_prompt, **options)
    find: Runnable[Any, Any] = RunnableLambda(_query) | retriever if isinstance(retriever, BaseRetriever) else retriever
    answer = prompt | model | StrOutputParser()
    return (
        RunnableLambda(_inputs)
        | RunnablePassthrough.assign(context=find)
        | RunnablePassthrough.assign(answer=answer)
        | RunnablePassthrough.assign(citations=RunnableLambda(_citations))
    ).with_config(run_name="page_chain")


def citations_of(answer: str, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """The documents that an answer cites by number, ``[1]`` or ``[1, 3]``, in the order of its text, each once.

    Args:
        answer: of a chat model that saw the documents as `to_content_blocks` numbers them.
        documents: the same ones.

    Returns:
        For each its ``number``, from 1, and of its metadata ``source``, ``page_number`` and ``page_id``, if it has
        them. Numbers that no document has are left out, with a warning.
    """
    numbers = [int(number) for found in _CITED.findall(answer) for number in re.findall(r"\d+", found)]
    cited = []
    for number in dict.fromkeys(numbers):
        if not 1 <= number <= len(documents):
            _log.warning("the answer cites [%d], but %d documents were given; left out", number, len(documents))
            continue
        metadata = documents[number - 1].metadata
        cited.append({"number": number} | {key: metadata[key] for key in _SAID if key in metadata})
    return cited


def _inputs(given: Any) -> dict[str, Any]:
    """The chain's input as a new dict."""
    inputs = {"input": given} if isinstance(given, str) else given
    _query(inputs)
    return dict(inputs)


def _query(inputs: Any) -> str:
    query = inputs.get("input") if isinstance(inputs, Mapping) else None
    if not isinstance(query, str):
        got = f"keys {sorted(inputs)}" if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f'expected a query, or a dict with the query as "input", got {got}')
    return query


def _citations(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return citations_of(inputs["answer"], inputs["context"])
