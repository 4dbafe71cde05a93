"""A retriever as a tool for agents, whose result carries the images of pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import BaseModel, Field, create_model
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.tools import RetrieverTool, ToolMetadata, ToolOutput

from llama_index_nemotron_rag.events import light_nodes
from llama_index_nemotron_rag.places import FILE_KEYS
from llama_index_nemotron_rag.retriever import NemotronPageRetriever
from llama_index_nemotron_rag.shown import shown_nodes
from nemotron_rag.errors import InputError

__all__ = ["PageRetrieverTool"]

_TAKEN = ("input", "args", "kwargs")


class _Search(BaseModel):
    input: str = Field(description="What to look for, as a question or in keywords.")


class PageRetrieverTool(RetrieverTool):
    """LlamaIndex's `RetrieverTool`, which gives an agent the texts of pages alone, with their images.

    For LLMs that take images in the results of tools. Each image comes once, in the blocks; the raw output holds the
    nodes without the bytes of images.

    Args:
        retriever: finds the pages.
        metadata: name and description of the tool; see also `from_defaults`.
        node_postprocessors: for what was found.
        filter_keys: metadata keys by which the model may narrow a search, each with a description for it, such as
            ``{"file_name": "Name of a file.", "year": "Year of the report."}``, with a `NemotronPageRetriever` over an
            index or a `NodeCollection`. A file is found by a part of its name, others by equal values. The retriever's
            own filters hold all the same.

    Raises:
        InputError: a key cannot be used, or the retriever's own filters cannot be joined with others.

    Example:
        >>> from llama_index.retrievers.nemotron_rag import NemotronPageRetriever
        >>> from nemotron_rag import Page, PageIndex
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> index = PageIndex(embedder=FakeEmbedder())
        >>> report = index.add([Page(id="p", text="Revenue rose.", source="a.pdf")], progress=False)
        >>> tool = PageRetrieverTool.from_defaults(NemotronPageRetriever(index), name="reports")
        >>> print(tool.call(input="revenue").content)
        page_label: 1
        file_name: a.pdf
        Revenue rose.
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        metadata: ToolMetadata,
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
        *,
        filter_keys: Mapping[str, str] | None = None,
    ) -> None:
        self._filter_keys = dict(filter_keys or {})
        if wrong := [
            key for key in self._filter_keys if not key.isidentifier() or key.startswith("_") or key in _TAKEN
        ]:
            raise InputError(f"filter_keys must be names other than {', '.join(_TAKEN)}, got {wrong[0]!r}")
        if self._filter_keys:
            _narrowed(retriever, {key: _filter_of(key, "x") for key in self._filter_keys})  # refused now, if it is
            metadata = replace(metadata, fn_schema=_schema(self._filter_keys))
        super().__init__(retriever, metadata, node_postprocessors)

    @classmethod
    def from_defaults(
        cls,
        retriever: BaseRetriever,
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
        name: str | None = None,
        description: str | None = None,
        *,
        filter_keys: Mapping[str, str] | None = None,
    ) -> Self:
        """A tool by its name and description; the other arguments are those of the class."""
        metadata = RetrieverTool.from_defaults(retriever, name=name, description=description).metadata
        return cls(retriever, metadata, node_postprocessors, filter_keys=filter_keys)

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Search for all arguments as one query, except those by which it is narrowed.

        Raises:
            InputError: there are none, or one that narrows is no plain value.
        """
        retriever, query, given = self._asked(args, kwargs)
        nodes = self._apply_node_postprocessors(retriever.retrieve(query), QueryBundle(query))
        return self._output(nodes, {"input": query, **given})

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """`call` for event loops."""
        retriever, query, given = self._asked(args, kwargs)
        found = await retriever.aretrieve(query)
        nodes = await self._async_apply_node_postprocessors(found, QueryBundle(query))
        return self._output(nodes, {"input": query, **given})

    def _asked(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[BaseRetriever, str, dict[str, str | int | float | bool]]:
        """What to search with, what for, and by what it was narrowed."""
        query = _query(args, {key: value for key, value in kwargs.items() if key not in self._filter_keys})
        given = {key: kwargs[key] for key in self._filter_keys if kwargs.get(key) not in (None, "")}
        if not given:
            return self._retriever, query, given
        for key, value in given.items():
            if not isinstance(value, str | int | float | bool):
                raise InputError(f"{key} must be a text, a number or a truth value, got {type(value).__name__}")
        return _narrowed(self._retriever, {key: _filter_of(key, value) for key, value in given.items()}), query, given

    def _output(self, nodes: list[NodeWithScore], asked: dict[str, Any]) -> ToolOutput:
        blocks: list[Any] = [
            block for item in shown_nodes(nodes) for block in item.node.get_content_blocks(MetadataMode.LLM)
        ]
        return ToolOutput(
            tool_name=self.metadata.get_name(),
            content=None if blocks else "No page was found.",
            blocks=blocks or None,
            raw_input=asked,
            raw_output=light_nodes(nodes),
        )


def _schema(keys: Mapping[str, str]) -> type[BaseModel]:
    """The arguments of a tool."""
    fields: dict[str, Any] = {
        key: (str | int | float | bool | None, Field(default=None, description=description))
        for key, description in keys.items()
    }
    return create_model("Search", __base__=_Search, **fields)


def _narrowed(retriever: BaseRetriever, filters: Mapping[str, Any]) -> NemotronPageRetriever:
    if not isinstance(retriever, NemotronPageRetriever):
        raise InputError(f"filter_keys need a NemotronPageRetriever, got {type(retriever).__name__}")
    return retriever.narrowed(filters)


def _filter_of(key: str, value: Any) -> Any:
    """Models see the names of files, not their folders."""
    return {"contains": value} if key in FILE_KEYS and isinstance(value, str) else value


def _query(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    query = "\n".join(str(value) for value in (*args, *kwargs.values()) if value is not None).strip()
    if not query:
        raise InputError("wanted a query in words, got no arguments; call the tool with input=")
    return query
