"""A chat model of LangChain writes queries about pages, for an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable

from langchain_nemotron_rag._documents import IMAGE_KEY, document_of_page
from langchain_nemotron_rag.content import ContentOptions, to_human_message
from nemotron_rag.errors import InputError
from nemotron_rag.types import Page

__all__ = ["page_asker"]


def page_asker(
    model: BaseLanguageModel[Any] | Runnable[Any, Any], **options: Unpack[ContentOptions]
) -> Callable[[str, Page], str]:
    """For `nemotron_rag.evaluation.queries_from_chat`: shows a page, its text and image, to a chat model.

    Args:
        model: a chat model that sees images, or a chain that begins with one and takes messages.
        **options: those of `to_content_blocks`, such as ``max_side``.

    Raises:
        InputError: what it returns is no message; from the function that is returned.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from nemotron_rag.evaluation import queries_from_chat
        >>> ask = page_asker(FakeListChatModel(responses=["How much did sales grow?"]))
        >>> queries_from_chat([Page("Sales grew by 4 %.", id="1", source="a.pdf")], ask)[0].text
        'How much did sales grow?'
    """

    def ask(instructions: str, page: Page) -> str:
        document = document_of_page(page)
        if page.image is not None:
            document.metadata[options.get("image_key", IMAGE_KEY)] = page.image
        answer = model.invoke([to_human_message(instructions, [document], **options)])
        if isinstance(answer, BaseMessage):
            return str(answer.text)
        if not isinstance(answer, str):
            raise InputError(f"the model must return a message, got {type(answer).__name__}; give a chat model")
        return answer

    return ask
