"""The last step: documents -> content blocks that any chat model reads, with the pages' images."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.messages.content import ContentBlock, create_image_block, create_text_block
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import run_in_executor
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, Field

from langchain_nemotron_rag._documents import IMAGE_KEY, describe, image_of, text_of
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import ImageFormat, encode_image
from nemotron_rag.errors import ImageError

__all__ = ["ContentOptions", "create_page_retriever_tool", "to_content_blocks", "to_human_message"]


class ContentOptions(TypedDict, total=False):
    """What the functions of this module take beside their subject; see `to_content_blocks`."""

    image_key: str
    image_roots: Sequence[str | os.PathLike[str]]
    image_hosts: Sequence[str]
    image_format: ImageFormat
    on_image_error: Literal["raise", "text"]


def to_content_blocks(
    documents: Sequence[Document],
    *,
    image_key: str = IMAGE_KEY,
    image_roots: Sequence[str | os.PathLike[str]] = (),
    image_hosts: Sequence[str] = (),
    image_format: ImageFormat = "jpeg",
    on_image_error: Literal["raise", "text"] = "raise",
) -> list[ContentBlock]:
    r"""Documents as LangChain's standard content blocks: for each a text, then its image if it has one.

    The text opens with the document's number, source and page, so that the answer can cite it. Images are decoded
    and written anew, so that whatever form they had, the block holds an upright image of the stated type.

    Args:
        documents: from a retriever or reranker.
        image_key: where in the metadata the image is.
        image_roots: folders whose files may be opened because a document names them.
        image_hosts: hosts that images may be fetched from because a document names them.
        image_format: "jpeg" and "webp" stay small for scans and photographs, "png" keeps every pixel.
        on_image_error: an image may not be opened or is broken: "raise", or go on with the document's "text".

    Raises:
        ImageError: an image may not be opened or cannot be read; the message names the document.

    Example:
        >>> page = Document("Revenue rose.", metadata={"source": "report.pdf", "page": 2})
        >>> to_content_blocks([page])[0]["text"]
        '[1] report.pdf, page 3\nRevenue rose.'
    """
    access = ImageAccess(roots=image_roots, hosts=image_hosts)
    blocks: list[ContentBlock] = []
    for index, document in enumerate(documents):
        blocks.append(create_text_block("\n".join(filter(None, [_heading(document, index + 1), text_of(document)]))))
        image = image_of(document, image_key=image_key, access=access)
        try:
            if image is not None:
                data = base64.b64encode(encode_image(image.open(), image_format)).decode("ascii")
                blocks.append(create_image_block(base64=data, mime_type=f"image/{image_format}"))
        except ImageError as error:
            if on_image_error == "raise":
                raise error.named(describe(document, index)) from error
    return blocks


def to_human_message(query: str, documents: Sequence[Document], **options: Unpack[ContentOptions]) -> HumanMessage:
    """The message to send to a chat model: the documents' texts and images, then the query.

    Args:
        query: the user's.
        documents: from a retriever or reranker.
        **options: those of `to_content_blocks`.

    Example:
        >>> message = to_human_message("Did revenue rise?", [Document("Revenue rose.")])
        >>> [block["type"] for block in message.content_blocks]
        ['text', 'text']
    """
    return HumanMessage(content_blocks=[*to_content_blocks(documents, **options), create_text_block(query)])


class _Query(BaseModel):
    query: str = Field(description="What to look for, as a question or in keywords.")


def create_page_retriever_tool(
    retriever: BaseRetriever, name: str, description: str, **options: Unpack[ContentOptions]
) -> StructuredTool:
    r"""A retriever tool whose result carries the pages' images; LangChain's own passes on texts alone.

    The documents themselves are the message's artifact. The model must accept images in tool results.

    Args:
        retriever: finds the pages.
        name: of the tool, for the model.
        description: what can be found with it, for the model.
        **options: those of `to_content_blocks`.

    Example:
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from langchain_nemotron_rag import NemotronEmbeddings
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> store = InMemoryVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
        >>> _ = store.add_texts(["Tornadoes form in thunderstorms."])
        >>> tool = create_page_retriever_tool(store.as_retriever(), "search", "Finds pages about storms.")
        >>> tool.invoke("tornadoes")[0]["text"]
        '[1]\nTornadoes form in thunderstorms.'
    """
    to_content_blocks([], **options)  # a misspelt option is found now, not when a model calls the tool

    def search(query: str, callbacks: Callbacks = None) -> tuple[list[ContentBlock], list[Document]]:
        documents = retriever.invoke(query, config={"callbacks": callbacks})
        return _found(documents, options), documents

    async def asearch(query: str, callbacks: Callbacks = None) -> tuple[list[ContentBlock], list[Document]]:
        documents = await retriever.ainvoke(query, config={"callbacks": callbacks})
        return await run_in_executor(None, _found, documents, options), documents

    return StructuredTool(
        name=name,
        description=description,
        func=search,
        coroutine=asearch,
        args_schema=_Query,
        response_format="content_and_artifact",
    )


def _found(documents: Sequence[Document], options: ContentOptions) -> list[ContentBlock]:
    return to_content_blocks(documents, **options) or [create_text_block("Nothing was found.")]


def _heading(document: Document, number: int) -> str:
    """``[1] report.pdf, page 3``; what is not known is left out."""
    parts = [str(document.metadata["source"])] if document.metadata.get("source") else []
    page = document.metadata.get("page")
    if isinstance(page, int):
        parts.append(f"page {page + 1}")  # LangChain's loaders count from 0
    return f"[{number}] {', '.join(parts)}".rstrip()
