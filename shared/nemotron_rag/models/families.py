"""How a checkpoint's family is detected from its config.json, and which options a family takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemotron_rag.errors import UnknownModelError
from nemotron_rag.types import Kind

__all__ = ["FAMILIES", "Family", "family_of", "find_family"]


@dataclass(frozen=True, slots=True)
class Family:
    """A model family, and the fields of config.json that identify it.

    Args:
        module: under `nemotron_rag.models`.
        kind: of its models.
        model_type: field of config.json.
        fields: other fields that distinguish families of the same `model_type`; among them ``saved_as``, which stands
            for the class of sentence-transformers that saved the folder.
        options: the `LoadOptions` that it takes, besides device, dtype and revision.
        has_prefixes: whether a query begins with ``query: `` and a passage with ``passage: ``, which a server that does
            not know the one from the other leaves to its clients.
    """

    module: str
    kind: Kind
    model_type: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    options: frozenset[str] = frozenset({"max_length"})
    has_prefixes: bool = False


_TILES = frozenset({"max_length", "max_input_tiles", "use_thumbnail", "compile"})
_GRID = frozenset({"max_length", "max_image_tokens"})
_INSTRUCTED = _GRID | {"instruction"}


# The first match counts: the more specific family of a model_type comes first.
FAMILIES: tuple[Family, ...] = (
    Family("llama_nemotron_colembed_vl", "multivector_embedder", "llama_nemotron_vl", {"pooling": "colbert"}, _TILES),
    Family(
        "llama_nemotron_embed_vl",
        "embedder",
        "llama_nemotron_vl",
        options=_TILES | {"dimensions"},
        has_prefixes=True,
    ),
    Family("llama_nemotron_rerank_vl", "reranker", "llama_nemotron_vl_rerank", options=_TILES),
    Family(
        "llama_nemotron_text_embed",
        "embedder",
        "llama_bidirec",
        {"architectures": ["LlamaBidirectionalModel"]},
        frozenset({"max_length", "dimensions"}),
        has_prefixes=True,
    ),
    Family(
        "llama_nemotron_text_rerank",
        "reranker",
        "llama_bidirec",
        {"architectures": ["LlamaBidirectionalForSequenceClassification"]},
    ),
    Family(  # a reranker that was trained with sentence-transformers; its head is a module of its own
        "nemotron35_rerank",
        "reranker",
        "mistral3",
        {"architectures": ["Mistral3Model"], "saved_as": "CrossEncoder"},
        frozenset({"max_length", "max_image_tokens"}),
    ),
    Family(
        "nemotron35_embed",
        "embedder",
        "mistral3",
        {"architectures": ["Mistral3Model"]},
        _GRID | {"dimensions"},
    ),
    Family(
        "nemotron35_rerank",
        "reranker",
        "mistral3",
        {"architectures": ["Mistral3ForSequenceClassification"]},
        _GRID,
    ),
    Family(
        "nemotron3_embed",
        "embedder",
        "ministral3",
        {"architectures": ["Ministral3Model"]},
        frozenset({"max_length", "dimensions"}),
        has_prefixes=True,
    ),
    Family("nemotron_colembed_qwen3_vl", "multivector_embedder", "qwen3_vl_nemotron_embed", options=_GRID),
    Family("qwen3_vl_embed", "embedder", "qwen3_vl", options=_INSTRUCTED | {"dimensions"}),
    Family("qwen3_vl_rerank", "reranker", "qwen3_vl", options=_INSTRUCTED),
    Family("jina_reranker_m0", "reranker", "qwen2_vl", {"architectures": ["JinaVLForRanking"]}, _GRID),
    Family("monoqwen2_vl", "reranker", "qwen2_vl", {"architectures": ["Qwen2VLForConditionalGeneration"]}, _GRID),
)


def find_family(config: Mapping[str, Any], *kinds: Kind) -> Family:
    """Find the family of a checkpoint.

    Args:
        config: contents of its config.json.
        kinds: that are asked for. They decide between families whose config.json are alike, and only between those;
            without them it is the first one.

    Raises:
        UnknownModelError: no family has that `model_type` and the fields that go with it.
    """
    for family in FAMILIES:
        identifying = {"model_type": family.model_type, **family.fields}
        if all(config.get(key) == value for key, value in identifying.items()):
            alike = [
                other for other in FAMILIES if (other.model_type, other.fields) == (family.model_type, family.fields)
            ]
            return next((other for other in alike if other.kind in kinds), family)
    known = list(dict.fromkeys(family.model_type for family in FAMILIES))
    model_type = config.get("model_type")
    other = f" with architectures {config.get('architectures')}" if model_type in known else ""
    raise UnknownModelError(f"a model of type {model_type!r}{other}; supported types: {', '.join(known)}")


def family_of(module: str) -> Family:
    """Return the family of a module, as named by a catalog row."""
    return next(family for family in FAMILIES if family.module == module)
