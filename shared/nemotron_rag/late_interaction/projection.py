"""The first stage of a multi-vector search: token vectors projected onto a PCA basis, and their mean.

MaxSim matches single tokens, which the mean of a page's vectors does not show: on pages of text it finds few of the
best pages. Projected onto the principal components of the model's vectors (Pearson 1901), every token stays, and
similarities change little: only the components with the least variance are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.late_interaction.pooling import unit
from nemotron_rag.types import FloatArray

__all__ = ["fit_basis", "mean_vector", "project", "projected_dimensions"]

_LEAST = 128  # dimensions; with fewer, similarities are too rough
_SHARE = 8  # a long vector is reduced to one dimension in 8
_ROWS = 8192  # vectors that the basis is fitted on; more change it little


def projected_dimensions(dimensions: int) -> int:
    """Return the dimensions of a projected vector: an eighth, but at least 128, and at most half."""
    return max(1, min(max(_LEAST, dimensions // _SHARE), dimensions // 2))


def fit_basis(pages: Sequence[NDArray[np.floating[Any]]]) -> FloatArray:
    """Fit a projection basis, the principal components of token vectors, uncentred: orthonormal columns.

    Args:
        pages: (tokens, dimensions) of each page; a few typical pages are enough.

    Returns:
        (dimensions, `projected_dimensions`) float32.
    """
    rows = np.concatenate(pages)
    rows = rows[:: -(-len(rows) // _ROWS)].astype(np.float32)
    _, components = np.linalg.eigh(rows.T @ rows)  # by ascending eigenvalue
    basis: FloatArray = components[:, ::-1][:, : projected_dimensions(rows.shape[1])]
    return np.ascontiguousarray(basis)


def project(tokens: NDArray[np.floating[Any]], basis: FloatArray) -> FloatArray:
    """Project vectors onto the basis: (tokens, dimensions) -> (tokens, `projected_dimensions`).

    Args:
        tokens: of a page or a query.
        basis: see `fit_basis`.
    """
    projected: FloatArray = tokens.astype(np.float32, copy=False) @ basis
    return projected


def mean_vector(tokens: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the mean of the vectors, scaled to length 1: (dimensions,)."""
    mean: FloatArray = unit(tokens.astype(np.float32, copy=False).mean(axis=0, keepdims=True))[0]
    return mean
