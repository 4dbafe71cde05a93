"""What the first stage of a search over many vectors looks at: sketches of them, and their mean. It knows no store.

MaxSim looks for single tokens, and the mean of a page does not show them: on pages of words it finds few of the best
pages. Projected to few random dimensions, each token stays, and their similarities hold to about 1 / sqrt(dimensions)
(Johnson and Lindenstrauss 1984).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.protocols import FloatArray
from nemotron_rag.token_vectors._pooling import unit

__all__ = ["mean_vector", "sketch", "sketch_dimensions"]

_LEAST = 192  # dimensions; the similarities of fewer say too little
_SHARE = 8  # of a long vector's numbers, one in so many
_SEED = b"nemotron-rag sketch 1"


def sketch_dimensions(dimensions: int) -> int:
    """How many numbers the sketch of a vector has: an eighth, but at least 192, and at most half."""
    return max(1, min(max(_LEAST, dimensions // _SHARE), dimensions // 2))


def sketch(tokens: NDArray[np.floating[Any]]) -> FloatArray:
    """Project vectors: (tokens, dimensions) -> (tokens, `sketch_dimensions`), each of its own length.

    Otherwise vectors that happen to lie in the projection would be near to everything.
    """
    rows: FloatArray = tokens.astype(np.float32, copy=False)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    sketches: FloatArray = unit(rows @ _projection(rows.shape[1])) * lengths
    return sketches


def mean_vector(tokens: NDArray[np.floating[Any]]) -> FloatArray:
    """The direction of the average: (dimensions,) of length 1."""
    mean: FloatArray = unit(tokens.astype(np.float32, copy=False).mean(axis=0, keepdims=True))[0]
    return mean


@lru_cache(maxsize=8)
def _projection(dimensions: int) -> FloatArray:
    """Orthonormal columns made from hashed bits, so that they are the same with every numpy: (dimensions, sketch)."""
    columns = sketch_dimensions(dimensions)
    bits = hashlib.shake_256(_SEED).digest(-(-dimensions * columns // 8))
    signs = np.unpackbits(np.frombuffer(bits, dtype=np.uint8))[: dimensions * columns].astype(np.float64) * 2 - 1
    basis, triangle = np.linalg.qr(signs.reshape(dimensions, columns))
    return (basis * np.sign(np.diag(triangle))).astype(np.float32)  # LAPACKs differ in the signs
