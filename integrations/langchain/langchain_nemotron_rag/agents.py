"""Images in the results of tools, for chat models that read images in messages of the user alone."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import run_in_executor

from langchain_nemotron_rag.content import ContentOptions, to_content_blocks
from nemotron_rag.errors import InputError

if TYPE_CHECKING:
    from langchain_nemotron_rag.retrievers import NemotronPageRetriever

__all__ = ["create_tool_image_middleware", "move_tool_images", "show_tool_images"]

_IMAGES = ("image", "image_url")
_MOVED = "(The image is in the user's message that follows.)"
_INTRODUCED = "Images that the tools returned, in the order of their results:"


def move_tool_images(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Messages whose tool results are texts; their images follow in a message of the user.

    OpenAI's Chat Completions and many other models refuse images in tool results, or do not see them. Put this before
    such a model: ``RunnableLambda(move_tool_images) | model``; in an agent, `create_tool_image_middleware`.

    Args:
        messages: of a conversation, from any tools; they are not changed.

    Returns:
        The same messages where there is nothing to move. Equal messages give equal ones.

    Example:
        >>> found = ToolMessage([{"type": "text", "text": "[1] report.pdf"}, {"type": "image", "url": "u"}],
        ...                     tool_call_id="1")
        >>> [(message.type, [block["type"] for block in message.content]) for message in move_tool_images([found])]
        [('tool', ['text', 'text']), ('human', ['text', 'text', 'image'])]
    """
    result: list[BaseMessage] = []
    waiting: list[str | dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, ToolMessage):
            result += _sent(waiting)
            waiting = []
            result.append(message)
            continue
        content, images = _split(message.content)
        result.append(message.model_copy(update={"content": content}) if images else message)
        waiting += images
    return result + _sent(waiting)


def show_tool_images(
    messages: Sequence[BaseMessage], retriever: NemotronPageRetriever, **options: Unpack[ContentOptions]
) -> list[BaseMessage]:
    """Messages whose tool results show the images of their documents, which were left out of them.

    Args:
        messages: of a conversation, not changed. Those of tools made with ``include_images=False`` are completed, also
            after a checkpoint; all others are returned as they are.
        retriever: of the tool: it knows where the images are.
        **options: those of `to_content_blocks`.

    Raises:
        ImageError: an image cannot be read, and `on_image_error` is "raise".
    """
    return [_completed(message, retriever, options) for message in messages]


def create_tool_image_middleware(
    retriever: NemotronPageRetriever | None = None, *, move: bool = True, **options: Unpack[ContentOptions]
) -> Any:
    """A middleware for LangChain's agents that shows the images of tool results to the chat model.

    ``create_agent(model, tools=[tool], middleware=[create_tool_image_middleware()])``. Only what the model is sent is
    changed: the agent's state, and so its checkpoints, keep the images where they are, once; or not at all, with a tool
    made with ``include_images=False`` and its `retriever` given here.

    Args:
        retriever: of tools that leave images out; see `show_tool_images`.
        move: into a message of the user, for models that take none in tool results; see `move_tool_images`.
        **options: those of `to_content_blocks`, for images of the retriever.

    Returns:
        A `langchain.agents.middleware.AgentMiddleware`.

    Raises:
        InputError: langchain 1.x is not installed, or an option cannot be used.
    """
    to_content_blocks([], **options)  # a misspelt option is found now

    def seen(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        shown = list(messages) if retriever is None else show_tool_images(messages, retriever, **options)
        return move_tool_images(shown) if move else shown

    try:
        middleware = importlib.import_module("langchain.agents.middleware")
    except ImportError as error:
        raise InputError(
            "the middleware is for agents of langchain 1.x; install it with: pip install langchain"
        ) from error

    def wrap_model_call(self: object, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(request.override(messages=seen(request.messages)))

    async def awrap_model_call(self: object, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        return await handler(request.override(messages=await run_in_executor(None, seen, request.messages)))

    methods = {"wrap_model_call": wrap_model_call, "awrap_model_call": awrap_model_call}
    return type("ToolImageMiddleware", (middleware.AgentMiddleware,), methods)()


def _completed(message: BaseMessage, retriever: NemotronPageRetriever, options: ContentOptions) -> BaseMessage:
    """A message of a tool with the images of the documents in its artifact."""
    if not isinstance(message, ToolMessage) or _split(message.content)[1] or not isinstance(message.artifact, list):
        return message
    documents = [found for each in message.artifact if (found := _document(each)) is not None]
    if not documents or len(documents) < len(message.artifact):  # of another tool
        return message
    blocks = to_content_blocks(retriever.with_images(documents), **options)
    return message.model_copy(update={"content": blocks})


def _document(held: Any) -> Document | None:
    """A document of an artifact, which is a dict after a checkpoint."""
    if isinstance(held, Document):
        return held
    if not isinstance(held, Mapping) or not isinstance(held.get("page_content"), str):
        return None
    return Document(held["page_content"], id=held.get("id"), metadata=dict(held.get("metadata") or {}))


def _sent(blocks: Sequence[str | dict[str, Any]]) -> list[BaseMessage]:
    return [HumanMessage([{"type": "text", "text": _INTRODUCED}, *blocks])] if blocks else []


def _split(content: str | Sequence[str | dict[Any, Any]]) -> tuple[Any, list[str | dict[str, Any]]]:
    """What stays of a tool's result; and what goes, each image below the first line of the text before it."""
    if isinstance(content, str):
        return content, []
    stays: list[Any] = []
    goes: list[str | dict[str, Any]] = []
    for block in content:
        if not isinstance(block, Mapping) or block.get("type") not in _IMAGES:
            stays.append(block)
            continue
        if heading := _text(stays[-1] if stays else "").split("\n", 1)[0]:
            goes.append({"type": "text", "text": heading})
        goes.append(dict(block))
        stays.append({"type": "text", "text": _MOVED})
    return stays, goes


def _text(block: Any) -> str:
    text = block.get("text") if isinstance(block, Mapping) else block
    return text if isinstance(text, str) and text != _MOVED else ""
