"""A retriever as a tool for agents, whose result carries the images of pages."""

from __future__ import annotations

from typing import Any

from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.tools import RetrieverTool, ToolOutput

from llama_index_nemotron_rag.events import light_nodes
from llama_index_nemotron_rag.shown import shown_nodes
from nemotron_rag.errors import InputError

__all__ = ["PageRetrieverTool"]


class PageRetrieverTool(RetrieverTool):
    """LlamaIndex's `RetrieverTool`, which gives an agent the texts of pages alone, with their images.

    For LLMs that take images in the results of tools. Each image comes once, in the blocks; the raw output holds the
    nodes without the bytes of images. Arguments are those of `RetrieverTool` and its `from_defaults`.

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

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Search for all arguments as one query.

        Raises:
            InputError: there are none.
        """
        query = _query(args, kwargs)
        nodes = self._apply_node_postprocessors(self._retriever.retrieve(query), QueryBundle(query))
        return self._output(query, nodes)

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """`call` for event loops."""
        query = _query(args, kwargs)
        found = await self._retriever.aretrieve(query)
        return self._output(query, await self._async_apply_node_postprocessors(found, QueryBundle(query)))

    def _output(self, query: str, nodes: list[NodeWithScore]) -> ToolOutput:
        blocks: list[Any] = [
            block for item in shown_nodes(nodes) for block in item.node.get_content_blocks(MetadataMode.LLM)
        ]
        return ToolOutput(
            tool_name=self.metadata.get_name(),
            content=None if blocks else "No page was found.",
            blocks=blocks or None,
            raw_input={"input": query},
            raw_output=light_nodes(nodes),
        )


def _query(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    query = "\n".join(str(value) for value in (*args, *kwargs.values()) if value is not None).strip()
    if not query:
        raise InputError("wanted a query in words, got no arguments; call the tool with input=")
    return query
