"""A stand-in for an LLM, without a network: it quotes the pages that it was shown, and says which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, LLMMetadata, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM

from nemotron_rag.documents.evidence import nearest_sentence

__all__ = ["QuotingLLM"]

_START = re.compile(r"(?=^page_label: )", re.MULTILINE)  # heading and text may be one block, or several
_PAGE = re.compile(  # behind the name of the file there is a line break, or in multimodal prompts a space
    r"page_label: (?P<page>[^\n]*)\nfile_name: (?P<file>[^\n]*?\.\w{1,5}(?=\s)|[^\n]*)\s+(?P<text>.*)", re.DOTALL
)
_BEHIND = re.compile(r"\n(?:-----|Query: )")  # what LlamaIndex's prompts have behind the pages
_QUERY = re.compile(r"Query: (.*?)\s*\n(?:Original Answer: (?P<before>.*?)\s*\nNew )?Answer:\s*$", re.DOTALL)
_CONTEXT = 128_000  # tokens; what does not fit into one prompt, engines refine page by page
_NOTHING = "I was shown no text with a word of the query."


class QuotingLLM(MockFunctionCallingLLM):
    r"""Quotes the sentence of the pages it was shown that has most words in common with the query, and names its page.

    It understands nothing and sees no images, but takes them: for tests, and for trying an engine or an agent offline.
    With tools, it first calls the first one of them with the query, and then quotes what came back.

    Args:
        **options: those of LlamaIndex's `MockFunctionCallingLLM`.

    Example:
        >>> page = "page_label: 3\nfile_name: report.pdf\nSales grew by 4 %."
        >>> blocks = [TextBlock(text=page), TextBlock(text="Query: Did sales grow?\nAnswer: ")]
        >>> QuotingLLM().chat([ChatMessage(role="user", blocks=blocks)]).message.content
        '"Sales grew by 4 %." (report.pdf, page 3)'
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"is_chat_model": True, "response_generator": _reply, **options})

    @property
    def metadata(self) -> LLMMetadata:
        """As that of an LLM of today, which takes many pages at once."""
        return LLMMetadata(context_window=_CONTEXT, is_function_calling_model=True, is_chat_model=True)

    @classmethod
    def class_name(cls) -> str:
        """Its name in settings."""
        return "QuotingLLM"


def _reply(messages: Sequence[ChatMessage], **options: Any) -> ChatMessage:
    users = [place for place, message in enumerate(messages) if message.role == MessageRole.USER]
    since = list(messages)[users[-1] if users else 0 :]
    query, before = _query(since)
    called = any(message.role == MessageRole.TOOL for message in since)
    if options.get("tools") and not called:
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=[_call(options["tools"][0], query)])
    return ChatMessage(role=MessageRole.ASSISTANT, content=_quote(since, query, before))


def _query(messages: Sequence[ChatMessage]) -> tuple[str, str]:
    """The query, and the answer that is to be refined; empty for none."""
    texts = [block.text for block in messages[0].blocks if isinstance(block, TextBlock)] if messages else []
    last = texts[-1] if texts else ""
    found = _QUERY.search(last)
    return (found.group(1), found["before"] or "") if found else (last, "")


def _call(tool: Any, query: str) -> ToolCallBlock:
    metadata = tool.metadata
    parameters: Mapping[str, Any] = metadata.get_parameters_dict()
    name = next(iter(parameters.get("required") or parameters["properties"]))
    return ToolCallBlock(tool_call_id="call_1", tool_name=metadata.get_name(), tool_kwargs={name: query})


def _quote(messages: Sequence[ChatMessage], query: str, before: str) -> str:
    texts = [block.text for message in messages for block in message.blocks if isinstance(block, TextBlock)]
    pages = [page for part in _START.split("\n".join(texts)) if (page := _PAGE.match(part))]
    quoted = nearest_sentence([before, *(_BEHIND.split(page["text"])[0] for page in pages)], query)
    if quoted is None:
        return _NOTHING
    place, sentence = quoted
    if place == 0:
        return before
    return f'"{sentence}" ({pages[place - 1]["file"]}, page {pages[place - 1]["page"]})'
