"""Which family a checkpoint belongs to, by its config.json. Pure data: it loads nothing and imports no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemotron_rag.errors import UnknownModelError
from nemotron_rag.types import Kind

__all__ = ["FAMILIES", "Family", "find_family"]


@dataclass(frozen=True, slots=True)
class Family:
    """How a checkpoint's config.json says which family it belongs to.

    Args:
        module: under `nemotron_rag.models`.
        kind: what it makes.
        model_type: that field of config.json.
        fields: others that tell it from families of the same `model_type`.
    """

    module: str
    kind: Kind
    model_type: str
    fields: Mapping[str, Any] = field(default_factory=dict)


# The first match counts: the more particular family of a model_type stands first.
FAMILIES: tuple[Family, ...] = (
    Family("llama_nemotron_colembed_vl", "multivector_embedder", "llama_nemotron_vl", {"pooling": "colbert"}),
    Family("llama_nemotron_embed_vl", "embedder", "llama_nemotron_vl"),
    Family("llama_nemotron_rerank_vl", "reranker", "llama_nemotron_vl_rerank"),
    Family("llama_nemotron_text_embed", "embedder", "llama_bidirec", {"architectures": ["LlamaBidirectionalModel"]}),
    Family(
        "llama_nemotron_text_rerank",
        "reranker",
        "llama_bidirec",
        {"architectures": ["LlamaBidirectionalForSequenceClassification"]},
    ),
    Family("nemotron_colembed_qwen3_vl", "multivector_embedder", "qwen3_vl_nemotron_embed"),
    Family("jina_reranker_m0", "reranker", "qwen2_vl", {"architectures": ["JinaVLForRanking"]}),
    Family("monoqwen2_vl", "reranker", "qwen2_vl", {"architectures": ["Qwen2VLForConditionalGeneration"]}),
)


def find_family(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint.

    Args:
        config: what its config.json holds.

    Raises:
        UnknownModelError: no family has that `model_type` and the fields that go with it.
    """
    for family in FAMILIES:
        wanted = {"model_type": family.model_type, **family.fields}
        if all(config.get(key) == value for key, value in wanted.items()):
            return family
    known = list(dict.fromkeys(family.model_type for family in FAMILIES))
    model_type = config.get("model_type")
    other = f" with architectures {config.get('architectures')}" if model_type in known else ""
    raise UnknownModelError(f"a model of type {model_type!r}{other}; supported types: {', '.join(known)}")
