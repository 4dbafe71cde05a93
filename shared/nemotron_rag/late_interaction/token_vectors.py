"""Settings for storing the token vectors of a page: pooling, the largest number of vectors, number format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.pooling import distinct, pool_grid, sum_clusters, unit
from nemotron_rag.types import FloatArray, TokenStorage

__all__ = ["MAX_VALUES", "Pooling", "TokenVectors", "fit_query"]

MAX_VALUES = 2**20 - 1
"""Qdrant's limit for the multi-vector of a point: the most values, rows times dimensions."""

Pooling: TypeAlias = Literal["hierarchical", "grid", "none"]
"""How token vectors are pooled; see `TokenVectors`."""

_CHOICES: Mapping[str, tuple[str, ...]] = {"pooling": get_args(Pooling), "storage": get_args(TokenStorage)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVectors:
    """How an index stores the token vectors of a late-interaction model. None: the index's setting, or the default.

    Args:
        pooling: how pages of more than `max_rows` tokens are reduced; shorter ones are stored as they are.
            "hierarchical", the default, averages the most similar tokens (agglomerative clustering, Ward's
            criterion). "grid" always replaces the tokens of an image by the averages of its rows and columns. "none"
            refuses such pages.
        max_rows: most vectors of a page; by default as many as Qdrant takes: fewer than 1,048,576 / dimensions.
        storage: number format on a server. "float16", the default, or "float32". "int8" and "binary" compare copies
            of 8 bits or 1 bit per number, held in memory, and the best pages once more with the float16 originals on
            disk. "turbo4" keeps 4 bits only (TurboQuant; Qdrant 1.19). Qdrant in memory stores floats only.

    Raises:
        InputError: a value is not one of these.

    Example:
        >>> TokenVectors().resolved(4096)
        TokenVectors(pooling='hierarchical', max_rows=255, storage='float16')
    """

    pooling: Pooling | None = None
    max_rows: int | None = None
    storage: TokenStorage | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise InputError(f"token {name} must be one of {', '.join(choices)}; got {value!r}")
        if self.max_rows is not None and (not isinstance(self.max_rows, int) or self.max_rows < 1):
            raise InputError(f"max_rows must be a positive integer, got {self.max_rows!r}")

    def resolved(self, dimensions: int) -> TokenVectors:
        """Return these settings with defaults filled in.

        Args:
            dimensions: of the vectors.

        Raises:
            InputError: `max_rows` is above Qdrant's limit.
        """
        most = MAX_VALUES // dimensions
        if self.max_rows is not None and self.max_rows > most:
            raise InputError(
                f"{self.max_rows} vectors of {dimensions} dimensions are {self.max_rows * dimensions:,} values a page, "
                f"Qdrant takes fewer than {MAX_VALUES + 1:,}; give max_rows={most} or less, or leave it out"
            )
        return replace(
            self,
            pooling=self.pooling or "hierarchical",
            max_rows=self.max_rows or most,
            storage=self.storage or "float16",
        )

    def fit(self, tokens: FloatArray, boxes: FloatArray | None = None) -> NDArray[np.floating[Any]]:
        """Pool the vectors of one page for storage: (tokens, dimensions) -> (rows, dimensions), `max_rows` at most.

        Rows have length 1, and equal ones are stored once. They are float32 if that is the storage, else float16.

        Args:
            tokens: vectors of the page.
            boxes: (tokens, 4) box of each token, NaN for text; see `LocatingEmbedder`. Needed by "grid" only.

        Raises:
            InputError: there are more than `max_rows`, and pooling is "none".
        """
        settings = self.resolved(tokens.shape[1])
        dtype = np.float32 if settings.storage == "float32" else np.float16
        if settings.pooling == "grid" and boxes is not None:
            tokens = pool_grid(tokens, boxes)
        stored = distinct(tokens.astype(dtype))
        rows = settings.max_rows or MAX_VALUES
        if len(stored) <= rows:
            return stored
        if settings.pooling == "none":
            raise InputError(
                f"the page has {len(stored)} vectors of {tokens.shape[1]} dimensions, at most {rows} can be stored; "
                "pool them with pooling='hierarchical', or lower max_input_tiles"
            )
        return unit(sum_clusters(stored.astype(np.float32), rows)).astype(dtype)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``TokenVectors(**fields)`` restores the settings."""
        return asdict(self)


def fit_query(tokens: FloatArray) -> FloatArray:
    """Pool the vectors of a query to Qdrant's limit: (tokens, dimensions) -> (rows, dimensions).

    A long text or a page image may have too many vectors. The most similar ones are summed, so that each still counts.
    """
    rows = MAX_VALUES // tokens.shape[1]
    return tokens if len(tokens) <= rows else sum_clusters(tokens, rows)
