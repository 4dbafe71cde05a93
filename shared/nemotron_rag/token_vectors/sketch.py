"""What the first stage of a search over many vectors looks at: sketches of them, and their mean. It knows no store.

MaxSim looks for single tokens, and the mean of a page does not show them: on pages of words it finds few of the best
pages. In the few directions along which the vectors of a model differ most, each token stays, and similarities hold:
what is left out are the directions with the least of every vector (principal components; Pearson 1901).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.protocols import FloatArray
from nemotron_rag.token_vectors._pooling import unit

__all__ = ["main_directions", "mean_vector", "sketch", "sketch_dimensions"]

_LEAST = 128  # dimensions; the similarities of fewer say too little
_SHARE = 8  # of a long vector's numbers, one in so many
_ROWS = 8192  # that directions are found from: more change them little


def sketch_dimensions(dimensions: int) -> int:
    """How many numbers the sketch of a vector has: an eighth, but at least 128, and at most half."""
    return max(1, min(max(_LEAST, dimensions // _SHARE), dimensions // 2))


def main_directions(pages: Sequence[NDArray[np.floating[Any]]]) -> FloatArray:
    """The directions that hold most of the given vectors: (dimensions, `sketch_dimensions`), orthonormal columns.

    Args:
        pages: (tokens, dimensions) of each; a few typical pages are enough.
    """
    rows = np.concatenate(pages)
    rows = rows[:: -(-len(rows) // _ROWS)].astype(np.float32)
    _, directions = np.linalg.eigh(rows.T @ rows)  # by rising share of the rows' length
    main: FloatArray = directions[:, ::-1][:, : sketch_dimensions(rows.shape[1])]
    return np.ascontiguousarray(main)


def sketch(tokens: NDArray[np.floating[Any]], directions: FloatArray) -> FloatArray:
    """What of vectors lies along directions: (tokens, dimensions) -> (tokens, `sketch_dimensions`)."""
    sketches: FloatArray = tokens.astype(np.float32, copy=False) @ directions
    return sketches


def mean_vector(tokens: NDArray[np.floating[Any]]) -> FloatArray:
    """The direction of the average: (dimensions,) of length 1."""
    mean: FloatArray = unit(tokens.astype(np.float32, copy=False).mean(axis=0, keepdims=True))[0]
    return mean
