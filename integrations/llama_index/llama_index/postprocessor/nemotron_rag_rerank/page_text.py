"""Give the LLM the text of a page beside its picture, where no reranker does. It knows no model and opens no file."""

from __future__ import annotations

from llama_index.core.bridge.pydantic import ConfigDict
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index.embeddings.nemotron_rag.nodes import for_llm

__all__ = ["KeepPageText"]


class KeepPageText(BaseNodePostprocessor):
    """Turns every `ImageNode` with text into a `PageNode`: LlamaIndex would show the LLM its picture alone.

    `NemotronRerank` does it already; this is for query engines without one. Set the `context_window` of the LLM:
    LlamaIndex reckons 2125 tokens a picture, asks once for each picture where only one fits, and with
    ``simple_summarize`` silently drops those that do not.

    Example:
        >>> from llama_index.core.schema import ImageNode, NodeWithScore
        >>> nodes = [NodeWithScore(node=ImageNode(text="Revenue rose.", image="iVBORw0KGgo="))]
        >>> page, = KeepPageText().postprocess_nodes(nodes)
        >>> [type(block).__name__ for block in page.node.get_content_blocks()]
        ['TextBlock', 'ImageBlock']
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "KeepPageText"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return [NodeWithScore(node=for_llm(item.node), score=item.score) for item in nodes]
