"""MaxSim, the score of late interaction: for each query token the best passage token, summed. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.errors import InputError
from nemotron_rag.types import FloatArray

__all__ = ["maxsim"]

_SIMILARITIES = 1 << 24  # computed at once: 64 MiB of float32


def maxsim(
    queries: Sequence[NDArray[np.floating]], passages: Sequence[NDArray[np.floating]], *, padded: bool = False
) -> FloatArray:
    """Score every query with every passage.

    Args:
        queries: one (tokens, dim) array each, of any float type.
        passages: one (tokens, dim) array each, with the same dim.
        padded: score as the published `get_scores` of the ColEmbed models does: it pads the passages to the longest
            one with rows of zeros and lets those take part, so that with a shorter passage a query token whose
            similarities are all negative counts 0. False scores every passage on its own.

    Returns:
        (queries, passages) float32.

    Raises:
        InputError: an array is empty, not two-dimensional, or of another dim.

    Example:
        >>> maxsim([np.eye(2)], [np.eye(2), np.eye(2)[:1]])
        array([[2., 1.]], dtype=float32)
    """
    _check(queries, passages)
    if not queries or not passages:
        return np.zeros((len(queries), len(passages)), dtype=np.float32)
    tokens = np.concatenate(queries).astype(np.float32, copy=False)  # (query tokens, dim)
    starts = np.cumsum([0, *(len(query) for query in queries[:-1])])
    longest = max(map(len, passages)) if padded else 0
    best = [_best(tokens, passage, has_zeros=len(passage) < longest) for passage in passages]  # each (query tokens,)
    return np.stack([np.add.reduceat(values, starts) for values in best], axis=1)


def _best(tokens: FloatArray, passage: NDArray[np.floating], *, has_zeros: bool) -> FloatArray:
    """Return the largest similarity of each query token in a passage: (query tokens,)."""
    columns = passage.astype(np.float32, copy=False).T  # (dim, passage tokens)
    step = max(1, _SIMILARITIES // len(passage))
    best = np.concatenate([(tokens[i : i + step] @ columns).max(axis=1) for i in range(0, len(tokens), step)])
    return np.maximum(best, 0) if has_zeros else best


def _check(queries: Sequence[NDArray[np.floating]], passages: Sequence[NDArray[np.floating]]) -> None:
    named = [(f"query {i}", query) for i, query in enumerate(queries)]
    named += [(f"passage {i}", passage) for i, passage in enumerate(passages)]
    for name, array in named:
        if array.ndim != 2 or not len(array):
            raise InputError(f"{name} has shape {array.shape}, expected (tokens, dim) with at least one token")
        if array.shape[1] != named[0][1].shape[1]:
            raise InputError(
                f"{name} has dim {array.shape[1]}, {named[0][0]} has {named[0][1].shape[1]}; they must be equal"
            )
