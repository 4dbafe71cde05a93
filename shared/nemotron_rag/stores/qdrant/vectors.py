"""The named vectors of a page's point: one vector, or token vectors with what their first stage needs.

One: `VECTOR`. Token vectors: `TOKENS` as they are, compared one with the other by MaxSim and never put into a graph;
`PROJECTED`, through which a search finds its candidates; and in `VECTOR` their mean. Both have `TERMS` besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qdrant_client import models

from nemotron_rag.errors import InputError, StoreError
from nemotron_rag.late_interaction.projection import mean_vector, project, projected_dimensions
from nemotron_rag.late_interaction.token_vectors import MAX_VALUES
from nemotron_rag.stores.collection_options import CollectionOptions, Quantization
from nemotron_rag.stores.qdrant.bm25 import passage_terms
from nemotron_rag.types import FloatArray, Page, PageVectors, TokenStorage

__all__ = [
    "PROJECTED",
    "TERMS",
    "TOKENS",
    "VECTOR",
    "check_size",
    "named_vectors",
    "number_count",
    "quantization",
    "short_lists",
    "vectors_config",
]

VECTOR = "dense"
"""Name of the one vector, or of the mean of token vectors."""

TOKENS = "tokens"
"""Name of the token vectors."""

PROJECTED = "sketches"
"""Name of the projected token vectors."""

TERMS = "bm25"
"""Name of the sparse vector of the page's words."""

_DECIMALS = 7  # of a number of a vector of length 1: far below what float16 keeps, and half as long to send
_QUANTIZED: Mapping[TokenStorage, Any] = {
    "int8": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
    ),
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
}


def quantization(name: Quantization | None) -> Any:
    """Qdrant's words for a `Quantization`; None for none."""
    if name == "turbo4":  # a datatype of token vectors, a quantization of others
        bits = models.TurboQuantBitSize.BITS4
        return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, always_ram=True))
    return None if name is None else _QUANTIZED[name]


def vectors_config(
    dimensions: int, token_storage: TokenStorage | None, options: CollectionOptions
) -> dict[str, models.VectorParams]:
    """The dense vectors of a new collection.

    Args:
        dimensions: of a vector.
        token_storage: number format of token vectors; None for one vector a page.
        options: of the collection.

    Raises:
        StoreError: this qdrant-client knows no such number format.
    """
    config = {
        VECTOR: models.VectorParams(
            size=dimensions,
            distance=models.Distance.COSINE,
            on_disk=options.vectors_on_disk,
            quantization_config=quantization(options.quantization),
        )
    }
    if token_storage is None:
        return config
    stored_as = "float16" if token_storage in _QUANTIZED else token_storage
    config[TOKENS] = _multivector(dimensions, stored_as)
    config[TOKENS].quantization_config = _QUANTIZED.get(token_storage)
    config[TOKENS].on_disk = True
    config[PROJECTED] = _multivector(projected_dimensions(dimensions), "float16")
    config[PROJECTED].on_disk = options.vectors_on_disk
    return config


def check_size(page: Page, vectors: PageVectors) -> None:
    """Refuse what a server would, wherever the page goes: an embedded index may be moved to a server.

    Args:
        page: for the message.
        vectors: (dimensions,), or (tokens, dimensions).

    Raises:
        InputError: so many vectors are not stored.
    """
    if vectors.ndim == 2 and not 0 < vectors.size <= MAX_VALUES:
        rows, dimensions = vectors.shape
        raise InputError(
            f"page {page.number} of {page.source or page.id!r} has {rows} vectors of {dimensions} numbers, Qdrant "
            f"takes 1 to {MAX_VALUES // dimensions} of that length a page; pool them, see nemotron_rag.TokenVectors"
        )


def number_count(vectors: PageVectors) -> int:
    """How many numbers are sent for a page's vectors."""
    if vectors.ndim == 1:
        return len(vectors)
    rows: int
    dimensions: int
    rows, dimensions = vectors.shape
    return rows * (dimensions + projected_dimensions(dimensions)) + dimensions


def named_vectors(
    page: Page, vectors: PageVectors, basis: FloatArray | None, *, arrays: bool, analysis: int
) -> dict[str, Any]:
    """What a page's point holds.

    Args:
        page: its text gives the terms.
        vectors: (dimensions,), or (tokens, dimensions) of length 1.
        basis: of the projection, for token vectors.
        arrays: vectors as arrays of their own number format, which an embedded Qdrant keeps as they are, at a
            fraction of the bytes of lists; False for lists, which are what a server can be sent.
        analysis: of the text; see `nemotron_rag.documents.words`.
    """
    terms = {TERMS: passage_terms(page.text, analysis)}
    if basis is None:
        return {VECTOR: vectors if arrays else vectors.tolist(), **terms}
    rows_by_name: dict[str, Any] = {TOKENS: vectors, PROJECTED: project(vectors, basis)}
    sent = rows_by_name if arrays else {name: short_lists(rows) for name, rows in rows_by_name.items()}
    mean = mean_vector(vectors)
    return {VECTOR: mean if arrays else mean.tolist(), **sent, **terms}


def short_lists(rows: PageVectors) -> list[list[float]]:
    """Rows as lists of decimals that are short to send."""
    lists: list[list[float]] = np.round(rows.astype(np.float64), _DECIMALS).tolist()
    return lists


def _multivector(dimensions: int, storage: TokenStorage) -> models.VectorParams:
    """Token vectors of length 1, compared by MaxSim, never put into a graph."""
    try:
        datatype = models.Datatype(storage)
    except ValueError as error:
        raise StoreError(f"this qdrant-client knows no datatype {storage!r}; update it, or choose float16") from error
    return models.VectorParams(
        size=dimensions,
        distance=models.Distance.DOT,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
        hnsw_config=models.HnswConfigDiff(m=0),
        datatype=datatype,
    )
