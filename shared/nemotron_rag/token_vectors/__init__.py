"""How the many vectors of a page are made to fit the store: pooled, cut in number, and stored in few bytes.

Plain numpy; it knows no model and no store but for Qdrant's limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.errors import InputError
from nemotron_rag.protocols import FloatArray
from nemotron_rag.token_vectors._pooling import distinct, pool_grid, sum_clusters, unit

__all__ = ["MAX_VALUES", "Pooling", "Storage", "TokenVectors", "fit_query"]

MAX_VALUES = 2**20 - 1
"""Most numbers, rows times dimensions, that a Qdrant server takes as the many vectors of one point."""

Pooling: TypeAlias = Literal["hierarchical", "grid", "none"]
"""Which tokens are averaged; see `TokenVectors`."""

Storage: TypeAlias = Literal["float32", "float16", "int8", "binary", "turbo4"]
"""Number format on a server; see `TokenVectors`."""

_CHOICES: Mapping[str, tuple[str, ...]] = {"pooling": get_args(Pooling), "storage": get_args(Storage)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVectors:
    """How an index stores the token vectors of a late-interaction model. None: as the index has it, or the default.

    Args:
        pooling: what is done with pages of more than `max_rows` tokens; shorter ones are stored as they are.
            "hierarchical", the default, averages the tokens that are most alike (agglomerative clustering, Ward's
            criterion). "grid" always replaces the tokens of a picture by the averages of its rows and columns. "none"
            refuses such pages.
        max_rows: most vectors of a page; by default as many as Qdrant takes: fewer than 1,048,576 / dimensions.
        storage: number format on a server. "float16", the default, or "float32". "int8" and "binary" compare copies
            of 8 bits or 1 bit per number, kept in memory, and the best pages once more with the float16 originals on
            disk. "turbo4" keeps 4 bits only (TurboQuant; Qdrant 1.19). An embedded Qdrant stores floats only.

    Raises:
        InputError: a value is none of these.

    Example:
        >>> TokenVectors().resolved(4096)
        TokenVectors(pooling='hierarchical', max_rows=255, storage='float16')
    """

    pooling: Pooling | None = None
    max_rows: int | None = None
    storage: Storage | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise InputError(f"token {name} must be one of {', '.join(choices)}; got {value!r}")
        if self.max_rows is not None and (not isinstance(self.max_rows, int) or self.max_rows < 1):
            raise InputError(f"max_rows must be a whole number from 1 on, got {self.max_rows!r}")

    def resolved(self, dimensions: int) -> TokenVectors:
        """The same with nothing left open.

        Raises:
            InputError: so many rows do not fit.
        """
        most = MAX_VALUES // dimensions
        if self.max_rows is not None and self.max_rows > most:
            raise InputError(
                f"{self.max_rows} vectors of {dimensions} numbers are {self.max_rows * dimensions:,} numbers a page, "
                f"Qdrant takes fewer than {MAX_VALUES + 1:,}; give max_rows={most} or less, or leave it out"
            )
        return replace(
            self,
            pooling=self.pooling or "hierarchical",
            max_rows=self.max_rows or most,
            storage=self.storage or "float16",
        )

    def fit(self, tokens: FloatArray, boxes: FloatArray | None = None) -> NDArray[np.floating[Any]]:
        """What is stored of one page: (tokens, dimensions) -> (rows, dimensions) of length 1, `max_rows` at most.

        Equal vectors are kept once. The result is float32 if that is the storage, else float16.

        Args:
            tokens: the page.
            boxes: (tokens, 4), where each stands, NaN for text; see `LocatingEmbedder`. For "grid", which needs them.

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
                f"the page has {len(stored)} vectors of {tokens.shape[1]} numbers, {rows} may be stored; "
                "pool them with pooling='hierarchical', or show the model fewer tiles"
            )
        return unit(sum_clusters(stored.astype(np.float32), rows)).astype(dtype)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, from which ``TokenVectors(**fields)`` makes the same."""
        return asdict(self)


def fit_query(tokens: FloatArray) -> FloatArray:
    """Make a question fit into a request: (tokens, dimensions) -> (rows, dimensions).

    A long one, or a page's picture, has too many vectors. The most similar are added up, so that each still counts.
    """
    rows = MAX_VALUES // tokens.shape[1]
    return tokens if len(tokens) <= rows else sum_clusters(tokens, rows)
