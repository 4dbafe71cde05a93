"""The last step before an LLM: images of nodes within limits of size and number."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field, field_validator
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_nemotron_rag.nodes import ImageLimits
from llama_index_nemotron_rag.settings import Component
from llama_index_nemotron_rag.shown import limited_nodes
from nemotron_rag.documents.crops import check_max_crops
from nemotron_rag.documents.images import ImageFormat
from nemotron_rag.documents.llm_images import MAX_BYTES, MAX_SIDE
from nemotron_rag.ranking import check_count

__all__ = ["PageImageLimits"]


class PageImageLimits(Component, BaseNodePostprocessor):
    """A postprocessor that says how large, and how many, the page images are that an LLM gets.

    Put it behind retriever and reranker: ``node_postprocessors=[NemotronRerank(...), PageImageLimits(max_images=3)]``.
    Without it pages of our retrievers and rerankers have the default size, and no limit of number. Nodes, and what is
    stored, stay as they are; an image is made smaller when the message for the LLM is built.

    Args:
        image_format: None for the stored file, or a JPEG where that is smaller; "png" keeps every pixel.
        max_side: of an image, pixels; larger ones are scaled down. None for no limit.
        max_bytes: of an image, before base64; larger ones lose quality, then size. None for no limit.
        max_images: the first so many images; of the nodes behind them the texts. None for all. Crops count, too, but
            never take the place of a page.
        max_crops: behind the image of a page so many of its regions at most, cut out at full resolution, as far as the
            node says in ``metadata["regions"]`` where they are; `NemotronPageRetriever(regions=3)` does. For engines
            that take the blocks of nodes, as those with ``multimodal=True`` and `PageRetrieverTool` do.

    Example:
        >>> from llama_index_nemotron_rag.nodes import PageNode
        >>> nodes = [NodeWithScore(node=PageNode(text=text, image="iVBORw0KGgo=")) for text in ("one", "two")]
        >>> shown = PageImageLimits(max_images=1).postprocess_nodes(nodes)
        >>> [type(block).__name__ for item in shown for block in item.node.get_content_blocks()]
        ['TextBlock', 'ImageBlock', 'TextBlock']
    """

    image_format: ImageFormat | None = None
    max_side: int | None = Field(default=MAX_SIDE, ge=1)
    max_bytes: int | None = Field(default=MAX_BYTES, ge=1)
    max_images: int | None = None
    max_crops: int = 0

    @field_validator("max_images")
    @classmethod
    def _check(cls, value: Any) -> Any:
        check_count("max_images", value)
        return value

    @field_validator("max_crops")
    @classmethod
    def _check_crops(cls, value: Any) -> Any:
        check_max_crops(value)
        return value

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        limits = ImageLimits(self.image_format, self.max_side, self.max_bytes)
        return limited_nodes(nodes, limits, max_images=self.max_images, max_crops=self.max_crops)
