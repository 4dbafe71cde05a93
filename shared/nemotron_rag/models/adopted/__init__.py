"""Models of sentence-transformers in the place of ours: `adopt` takes a loaded one, and needs only its methods.

The package itself is not imported; a class of your own with the same methods is taken too.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from nemotron_rag.errors import InputError
from nemotron_rag.models.adopted.embedders import AdoptedEmbedder, AdoptedMultiVectorEmbedder
from nemotron_rag.models.adopted.reranker import AdoptedReranker
from nemotron_rag.types import Kind

__all__ = ["AdoptedEmbedder", "AdoptedMultiVectorEmbedder", "AdoptedReranker", "adopt", "foreign_kind"]

M = TypeVar("M")

_CLASSES: dict[Kind, Any] = {
    "embedder": AdoptedEmbedder,
    "multivector_embedder": AdoptedMultiVectorEmbedder,
    "reranker": AdoptedReranker,
}


def adopt(model: M) -> M:
    """A model of sentence-transformers as one of ours; whatever else it is comes back as it is.

    `PageIndex` and the adapters do this to every model that they are given. Call it yourself to have the methods of
    `Embedder`, `MultiVectorEmbedder` or `Reranker`, or one of the three classes for options.

    Args:
        model: a loaded ``SentenceTransformer``, ``MultiVectorEncoder`` or ``CrossEncoder``; or what has their methods.

    Raises:
        InputError: its vectors are sparse, or it has more than one label.

    Example:
        >>> import numpy as np
        >>> from nemotron_rag import Passage
        >>> class Words:  # has the methods of a SentenceTransformer
        ...     def encode(self, inputs, **options):
        ...         return np.array([[len(text), text.count("e")] for text in inputs])
        ...     def similarity(self, ones, others):
        ...         return ones @ others.T
        >>> adopt(Words()).embed_passages([Passage("three")]).round(2)
        array([[0.93, 0.37]], dtype=float32)
    """
    native = getattr(model, "native", None)
    if isinstance(getattr(native, "kind", None), str):  # one of ours in their call shape
        return cast("M", native)
    kind = foreign_kind(model)
    return model if kind is None else cast("M", _CLASSES[kind](model))


def foreign_kind(model: object) -> Kind | None:
    """What a model of sentence-transformers is to us; None if it is none.

    Raises:
        InputError: its vectors are sparse.
    """
    if isinstance(model, type) or isinstance(getattr(model, "kind", None), str):
        return None
    if _has(model, "predict", "rank"):
        return "reranker"
    if not _has(model, "encode", "similarity"):
        return None
    if _has(model, "sparsity"):
        raise InputError(
            f"{type(model).__name__} computes sparse vectors, wanted dense ones: give a SentenceTransformer or "
            "MultiVectorEncoder; words are found by hybrid search"
        )
    return "multivector_embedder" if "maxsim" in str(getattr(model, "similarity_fn_name", "")).lower() else "embedder"


def _has(model: object, *methods: str) -> bool:
    return all(callable(getattr(model, method, None)) for method in methods)
