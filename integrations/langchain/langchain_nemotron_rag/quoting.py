"""A stand-in for a chat model, without a network: it quotes the pages that it was shown, and cites them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from nemotron_rag.documents.evidence import nearest_sentence
from nemotron_rag.errors import InputError

__all__ = ["QuotingChatModel"]

_NUMBERED = re.compile(r"\[(\d+)\][^\n]*\n(.*)", re.DOTALL)
_NOTHING = "I was shown no text with a word of the query."


class QuotingChatModel(BaseChatModel):
    """Quotes the sentence of the pages it was shown that has most words in common with the query, and cites its page.

    It understands nothing and sees no images, but takes them: for tests, and for trying a chain or an agent offline.
    With tools bound, it first calls the first one of them with the query, and then quotes what came back.

    Args:
        images_in_tools: whether images may stand in the results of tools. False refuses them, as OpenAI's Chat
            Completions and many others do; see `create_tool_image_middleware`.
        seen: what it was sent, a list of messages for each call; for tests.

    Example:
        >>> from langchain_core.documents import Document
        >>> from langchain_nemotron_rag import to_human_message
        >>> pages = [Document("Costs fell."), Document("Sales grew by 4 %.")]
        >>> QuotingChatModel().invoke([to_human_message("Did sales grow?", pages)]).content
        '"Sales grew by 4 %." [2]'
    """

    images_in_tools: bool = True
    seen: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "quoting-stand-in"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        """The same model, which calls the first of these tools before it answers."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        self.seen.append(list(messages))
        self._check(messages)
        asked = _place_of_query(messages)
        query, since = _last_text(messages[asked]), messages[asked:]
        called = any(isinstance(message, ToolMessage) for message in since)
        reply = _call(options["tools"][0], query) if options.get("tools") and not called else _quote(since, query)
        return ChatResult(generations=[ChatGeneration(message=reply)])

    def _check(self, messages: Sequence[BaseMessage]) -> None:
        tools = [message for message in messages if isinstance(message, ToolMessage)]
        if not self.images_in_tools and any(block["type"] == "image" for m in tools for block in m.content_blocks):
            raise InputError(
                "images are taken in messages of the user only, and a tool's result has one; put "
                "create_tool_image_middleware() into the agent, or move_tool_images before the model"
            )


def _place_of_query(messages: Sequence[BaseMessage]) -> int:
    """Where the user asked last: images of tools, which were moved behind their results, are no query."""
    humans = [
        place
        for place, message in enumerate(messages)
        if isinstance(message, HumanMessage) and not (place and _is_moved(message, messages[place - 1]))
    ]
    if not humans:
        raise InputError("wanted a message of the user, got none")
    return humans[-1]


def _is_moved(message: BaseMessage, before: BaseMessage) -> bool:
    return isinstance(before, ToolMessage) and any(block["type"] == "image" for block in message.content_blocks)


def _last_text(message: BaseMessage) -> str:
    texts = [block["text"] for block in message.content_blocks if block["type"] == "text"]
    return texts[-1] if texts else ""


def _call(tool: Mapping[str, Any], query: str) -> AIMessage:
    parameters = tool["function"]["parameters"]
    name = next(iter(parameters.get("required") or parameters["properties"]))
    call = {"name": tool["function"]["name"], "args": {name: query}, "id": "call_1", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


def _quote(messages: Sequence[BaseMessage], query: str) -> AIMessage:
    texts = [block["text"] for message in messages for block in message.content_blocks if block["type"] == "text"]
    pages = [found.groups() for text in texts if (found := _NUMBERED.fullmatch(text))]
    quoted = nearest_sentence([text for _, text in pages], query)
    return AIMessage(_NOTHING if quoted is None else f'"{quoted[1]}" [{pages[quoted[0]][0]}]')
