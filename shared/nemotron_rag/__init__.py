"""Find and rank PDF pages by their images, with NVIDIA's open Nemotron retrieval models in your own process.

Importing this package loads neither torch nor transformers; loading a model does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nemotron_rag.errors import NemotronRagError
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.models.catalog import CATALOG
from nemotron_rag.models.load import LoadOptions, load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.protocols import Embedder, MultiVectorEmbedder, PageStore, Reranker
from nemotron_rag.runtime.vision_cache import VisionCacheInfo, configure_vision_cache, vision_cache_info
from nemotron_rag.types import AddReport, Failure, Hit, ModelSpec, Page, Passage, Ranked

if TYPE_CHECKING:
    from nemotron_rag.index import PageIndex

__all__ = [
    "CATALOG",
    "AddReport",
    "Embedder",
    "Failure",
    "Hit",
    "LoadOptions",
    "ModelSpec",
    "MultiVectorEmbedder",
    "NemotronRagError",
    "Page",
    "PageIndex",
    "PageStore",
    "Passage",
    "Ranked",
    "Reranker",
    "TokenVectors",
    "VisionCacheInfo",
    "configure_vision_cache",
    "load_embedder",
    "load_multivector_embedder",
    "load_reranker",
    "vision_cache_info",
]


def __getattr__(name: str) -> Any:
    """`PageIndex` needs the extras `pdf` and `qdrant`, so it is imported when it is first used."""
    if name == "PageIndex":
        from nemotron_rag.index import PageIndex  # noqa: PLC0415

        return PageIndex
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
