"""A chat model of LlamaIndex writes queries about pages, for an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from llama_index.core.base.llms.types import ChatMessage, ContentBlock, ImageBlock, MessageRole, TextBlock
from llama_index.core.llms import LLM

from nemotron_rag.documents.llm_images import MAX_BYTES, MAX_SIDE, encode_for_llm
from nemotron_rag.types import Page

__all__ = ["page_asker"]


def page_asker(
    llm: LLM, *, max_side: int | None = MAX_SIDE, max_bytes: int | None = MAX_BYTES
) -> Callable[[str, Page], str]:
    """For `nemotron_rag.evaluation.queries_from_chat`: shows a page, its text and image, to a chat model.

    Args:
        llm: one that sees images.
        max_side: of an image, pixels; larger ones are scaled down. None for no limit.
        max_bytes: of an image; larger ones lose quality, then size. None for no limit.

    Raises:
        ImageError: a page's image cannot be read; from the function that is returned.

    Example:
        >>> from llama_index.core.llms import MockLLM
        >>> ask = page_asker(MockLLM(is_chat_model=True))
        >>> "Sales grew" in ask("Write a question.", Page("Sales grew by 4 %.", id="1", source="a.pdf"))
        True
    """

    def ask(instructions: str, page: Page) -> str:
        where = f"{PurePath(page.source).name}, page {page.number}"
        blocks: list[ContentBlock] = [TextBlock(text=f"{where}\n{page.text}".strip())]
        if page.image is not None:
            image = encode_for_llm(page.image, max_side=max_side, max_bytes=max_bytes)
            blocks.append(ImageBlock(image=image.data, image_mimetype=image.mime_type))
        message = ChatMessage(role=MessageRole.USER, blocks=[*blocks, TextBlock(text=instructions)])
        return llm.chat([message]).message.content or ""

    return ask
