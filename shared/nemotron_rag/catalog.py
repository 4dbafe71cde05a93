"""Every supported checkpoint, one frozen row each. Pure data: it loads nothing and imports no model.

Sources: the model cards and configuration files of the named repositories at the pinned revisions.
"""

from __future__ import annotations

from nemotron_rag.errors import UnknownModelError
from nemotron_rag.types import Kind, Modality, ModelSpec

__all__ = ["CATALOG", "FAMILIES", "find"]

# `model_type` in a checkpoint's config.json -> module under nemotron_rag.models, and what it makes.
FAMILIES: dict[str, tuple[str, Kind]] = {
    "llama_nemotron_vl": ("llama_nemotron_embed_vl", "embedder"),
    "llama_nemotron_vl_rerank": ("llama_nemotron_rerank_vl", "reranker"),
}

_VL: tuple[Modality, ...] = ("text", "image", "image_text")
# The card's settings for llama-nemotron-embed-vl-1b-v2 and llama-nemotron-rerank-vl-1b-v2.
_VL_LENGTHS: dict[Modality, int] = {"image": 2048, "text": 8192, "image_text": 10240}
_STARTER = "ours, tiny, for trying things out; not a model of NVIDIA's"
_NVIDIA_LICENCE = "NVIDIA Open Model License + Llama 3.2 Community License"

CATALOG: tuple[ModelSpec, ...] = (
    ModelSpec(
        id="llama-nemotron-embed-vl-1b-v2",
        repo="nvidia/llama-nemotron-embed-vl-1b-v2",
        revision="582e3bf72aee355e3c59ed89de53543c5b0657ee",
        kind="embedder",
        family="llama_nemotron_embed_vl",
        licence=_NVIDIA_LICENCE,
        commercial=True,
        parameters=1_678_252_480,
        dimensions=(2048,),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=True,
    ),
    ModelSpec(
        id="llama-nemotron-rerank-vl-1b-v2",
        repo="nvidia/llama-nemotron-rerank-vl-1b-v2",
        revision="9c20c4aedf9ec87b6b7346c3bc4754ea030dab35",
        kind="reranker",
        family="llama_nemotron_rerank_vl",
        licence=_NVIDIA_LICENCE,
        commercial=True,
        parameters=1_678_254_528,
        dimensions=(),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=True,
    ),
    ModelSpec(
        id="starter-embed-vl",
        repo=None,
        revision=None,
        kind="embedder",
        family="llama_nemotron_embed_vl",
        licence="Apache-2.0",
        commercial=True,
        parameters=14_032_576,
        dimensions=(512, 1024),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=False,
        note=_STARTER,
    ),
    ModelSpec(
        id="starter-rerank-vl",
        repo=None,
        revision=None,
        kind="reranker",
        family="llama_nemotron_rerank_vl",
        licence="Apache-2.0",
        commercial=True,
        parameters=8_656_576,
        dimensions=(),
        modalities=_VL,
        max_input_tiles=6,
        max_length=_VL_LENGTHS,
        verified=False,
        note=_STARTER,
    ),
)


def find(name: str) -> ModelSpec:
    """Look a model up by its exact catalog id or hub repository.

    Args:
        name: for example ``llama-nemotron-embed-vl-1b-v2`` or ``nvidia/llama-nemotron-embed-vl-1b-v2``.

    Raises:
        UnknownModelError: no row has that name; the message lists the known ones.
    """
    for spec in CATALOG:
        if name in (spec.id, spec.repo):
            return spec
    known = ", ".join(spec.id for spec in CATALOG)
    raise UnknownModelError(f"no model named {name!r}; give a local folder with a config.json, or one of: {known}")
