"""A retriever as a tool of agents, whose result carries the images of pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, cast

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.messages.content import ContentBlock
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, run_in_executor
from langchain_core.tools import StructuredTool
from langchain_core.vectorstores import VectorStore
from pydantic import BaseModel, Field, create_model

from langchain_nemotron_rag._documents import IMAGE_KEY
from langchain_nemotron_rag.content import ContentOptions, to_content_blocks
from nemotron_rag.errors import InputError

if TYPE_CHECKING:
    from langchain_nemotron_rag.retrievers import NemotronPageRetriever

__all__ = ["create_page_retriever_tool"]

_NOTHING: ContentBlock = {"type": "text", "text": "Nothing was found."}


class _Query(BaseModel):
    query: str = Field(description="What to look for, as a question or in keywords.")


@dataclass(frozen=True)
class _Narrowing:
    """What a model may narrow searches by.

    Args:
        retriever: of the tool.
        keys: of metadata, with their descriptions.

    Raises:
        InputError: the retriever's own filter is none that can be joined with another, or a key cannot be used.
    """

    retriever: Runnable[Any, Any]
    keys: Mapping[str, str]

    def __post_init__(self) -> None:
        if wrong := [key for key in self.keys if not key.isidentifier() or key in ("query", "callbacks")]:
            raise InputError(f"filter_keys must be names other than query and callbacks, got {wrong[0]!r}")
        if self.keys:
            self._joined({})

    def schema(self) -> type[BaseModel]:
        """The arguments of the tool."""
        fields: dict[str, Any] = {
            key: (str | int | float | bool | None, Field(default=None, description=description))
            for key, description in self.keys.items()
        }
        return create_model("Search", __base__=_Query, **fields) if fields else _Query

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the retriever is called with for what a model gave."""
        wanted = {key: value for key, value in given.items() if key in self.keys and value not in (None, "")}
        if isinstance(name := wanted.get("source"), str):
            wanted["source"] = {"contains": name}  # models see the names of files, not their folders
        return {"filter": self._joined(wanted)} if wanted else {}

    def _joined(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """A filter that the retriever's own one still limits."""
        from langchain_nemotron_rag.retrievers import NemotronPageRetriever  # noqa: PLC0415  # what stands on Qdrant
        from langchain_nemotron_rag.vectorstores import NemotronPageVectorStore  # noqa: PLC0415

        place = self.retriever.index if isinstance(self.retriever, NemotronPageRetriever) else None
        if place is None or (isinstance(place, VectorStore) and not isinstance(place, NemotronPageVectorStore)):
            raise InputError("filter_keys need a NemotronPageRetriever over an index or a NemotronPageVectorStore")
        own = cast("NemotronPageRetriever", self.retriever).filter
        if own is not None and not isinstance(own, Mapping):
            raise InputError(f"filter_keys need a retriever whose filter is a dict, got {type(own).__name__}")
        return {"and": [own, wanted]} if own else wanted


def create_page_retriever_tool(
    retriever: BaseRetriever,
    name: str,
    description: str,
    *,
    include_images: bool = True,
    artifact_images: bool = False,
    filter_keys: Mapping[str, str] | None = None,
    **options: Unpack[ContentOptions],
) -> StructuredTool:
    r"""A retriever tool whose result carries the pages' images; LangChain's own passes on texts alone.

    The documents are the message's artifact; their images are in its content already, and not kept a second time.
    The model must accept images in tool results, as Anthropic's do and OpenAI's with ``use_responses_api=True``. For
    others put `create_tool_image_middleware` into the agent, or `move_tool_images` before the model.

    Args:
        retriever: finds the pages.
        name: of the tool, for the model.
        description: what can be found with it, for the model.
        include_images: False leaves the images out, so that no checkpoint holds them; put
            ``create_tool_image_middleware(retriever)`` into the agent, which shows them to the model.
        artifact_images: whether the documents in the artifact keep their images, so that each is there twice.
        filter_keys: metadata keys by which the model may narrow a search, each with a description for it, such as
            ``{"source": "Name of a file.", "year": "Year of the report."}``, with a `NemotronPageRetriever`. A file is
            found by a part of its name, others by equal values. The retriever's own filter holds all the same.
        **options: those of `to_content_blocks`.

    Raises:
        InputError: it is no retriever, an option cannot be used, or the retriever's own filter cannot be joined with
            another.

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
    if not isinstance(retriever, Runnable):
        raise InputError(f"expected a retriever, got {type(retriever).__name__}; of a store give as_retriever()")
    to_content_blocks([], **options)  # a misspelt option is found now, not when a model calls the tool
    image_key = options.get("image_key", IMAGE_KEY)

    def found(documents: Sequence[Document]) -> tuple[list[ContentBlock], list[Document]]:
        shown = documents if include_images else [_without(document, image_key) for document in documents]
        blocks = to_content_blocks(shown, **options) or [_NOTHING]
        artifact = documents if artifact_images else [_without(document, image_key) for document in documents]
        return blocks, list(artifact)

    narrowed = _Narrowing(retriever, filter_keys or {})

    def search(query: str, callbacks: Callbacks = None, **given: Any) -> tuple[list[ContentBlock], list[Document]]:
        return found(retriever.invoke(query, config={"callbacks": callbacks}, **narrowed.options(given)))

    async def asearch(
        query: str, callbacks: Callbacks = None, **given: Any
    ) -> tuple[list[ContentBlock], list[Document]]:
        documents = await retriever.ainvoke(query, config={"callbacks": callbacks}, **narrowed.options(given))
        return await run_in_executor(None, found, documents)

    return StructuredTool(
        name=name,
        description=description,
        func=search,
        coroutine=asearch,
        args_schema=narrowed.schema(),
        response_format="content_and_artifact",
    )


def _without(document: Document, image_key: str) -> Document:
    metadata = {key: value for key, value in document.metadata.items() if key not in (image_key, "mime_type")}
    return document.model_copy(update={"metadata": metadata})
