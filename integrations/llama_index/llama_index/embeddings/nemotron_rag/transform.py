"""The step of an ingestion pipeline that embeds pages by picture and text. It knows neither models nor stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, field_validator
from llama_index.core.schema import BaseNode, TransformComponent

from llama_index.embeddings.nemotron_rag.base import NemotronEmbedding
from llama_index.embeddings.nemotron_rag.components import NodeReading
from llama_index.embeddings.nemotron_rag.pages import aembed_pages, embed_pages

__all__ = ["NemotronPageEmbedder"]


class NemotronPageEmbedder(NodeReading, TransformComponent):
    """Sets `node.embedding` from each node's picture and text, where LlamaIndex would embed its metadata and text.

    Put it last among the transformations of an `IngestionPipeline`, or call it on nodes before a `VectorStoreIndex` is
    built of them: LlamaIndex keeps an embedding that is there. It is set on the node that was given, as by every
    embedding of LlamaIndex.

    The cache of an `IngestionPipeline` knows nodes by metadata and text alone: put a hash of the picture into the
    metadata of pages without text, or set ``disable_cache=True``.

    Args:
        embed_model: computes the vectors, `image_batch_size` nodes at a time; that bounds the decoded pictures.

    The other arguments are those of `NodeReading`.

    Raises:
        ImageError: a picture cannot be read and `on_missing_image` is ``raise``; the message names the node.

    Example:
        >>> from llama_index.core.schema import ImageNode
        >>> from nemotron_rag.testing import FakeEmbedder
        >>> embedder = NemotronPageEmbedder(embed_model=NemotronEmbedding(FakeEmbedder(dimensions=8)))
        >>> picture = "R0lGODdhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
        >>> page, = embedder([ImageNode(text="Revenue rose.", image=picture)])
        >>> len(page.embedding)
        8
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True)

    embed_model: NemotronEmbedding

    @field_validator("embed_model", mode="before")
    @classmethod
    def _restored(cls, value: Any) -> Any:
        return NemotronEmbedding.from_dict(value) if isinstance(value, dict) else value

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores it."""
        return "NemotronPageEmbedder"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed the nodes; `show_progress` draws a bar, other arguments are for other transformations."""
        return embed_pages(self.embed_model, self, nodes, show_progress=kwargs.get("show_progress", False))

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """The same, without blocking the event loop."""
        return await aembed_pages(self.embed_model, self, nodes, show_progress=kwargs.get("show_progress", False))
