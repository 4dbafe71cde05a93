"""Token pooling: fewer vectors for a page, each the average of several. It knows neither models nor limits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.protocols import FloatArray

__all__ = ["distinct", "pool_grid", "sum_clusters", "unit"]

_BLOCK = 4096  # tokens clustered together: their distances take 64 MiB


def unit(rows: FloatArray) -> FloatArray:
    """Rows of length 1; those of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: FloatArray = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def distinct(tokens: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Every row once, in the order of the first ones: the best of equal rows is the same, so MaxSim does not change."""
    _, first = np.unique(tokens, axis=0, return_index=True)
    kept: NDArray[np.floating[Any]] = tokens[np.sort(first)]
    return kept


def sum_clusters(tokens: FloatArray, rows: int) -> FloatArray:
    """Add up the tokens that are most alike until few enough are left: (tokens, dim) -> (rows, dim).

    Agglomerative clustering by Ward's criterion, as in the token pooling of ColPali (Faysse et al. 2024) and ColBERT
    (Clavie et al. 2024). Passages of more than 4096 tokens are clustered piece by piece.

    Args:
        tokens: of length 1.
        rows: how many to keep, at least 1 and at most as many as there are.
    """
    pieces = -(-len(tokens) // _BLOCK)
    if pieces > 1:
        shares = [len(share) for share in np.array_split(np.arange(rows), pieces)]
        parts = zip(np.array_split(tokens, pieces), shares, strict=True)
        return np.concatenate([sum_clusters(part, share) for part, share in parts if share])
    return _sums(tokens, _ward_labels(tokens, rows))


def pool_grid(tokens: FloatArray, boxes: FloatArray) -> FloatArray:
    """Replace a picture's tokens by the averages of its rows and columns; those without a place stay.

    Tokens of several sizes, such as those of tiles and of a thumbnail, are pooled apart.

    Args:
        tokens: (tokens, dim) of length 1.
        boxes: (tokens, 4) left, top, right, bottom in fractions of the picture; NaN without a place.

    Returns:
        (rows, dim) of length 1: first what has no place, then the rows, then the columns.
    """
    placed = ~np.isnan(boxes[:, 0])
    size = np.round(boxes[:, 2:] - boxes[:, :2], 6)  # (tokens, 2)
    pools = [tokens[~placed]]
    for side in (1, 0):  # rows have equal tops, columns equal left edges
        keys = np.column_stack([size, np.round(boxes[:, side], 6)])[placed]
        if len(keys):
            labels = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
            pools.append(unit(_sums(tokens[placed], labels)))
    return np.concatenate(pools)


def _sums(tokens: FloatArray, labels: NDArray[np.intp]) -> FloatArray:
    """The sum of each label's tokens: (labels, dim), in the order of their first tokens."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[inverse]
    sums = np.zeros((len(first), tokens.shape[1]), dtype=np.float32)
    np.add.at(sums, place, tokens)
    return sums


def _ward_labels(tokens: FloatArray, clusters: int) -> NDArray[np.intp]:
    """Cut the Ward tree of the tokens into so many clusters: a label for each token."""
    merges = sorted(_ward_merges(tokens), key=lambda merge: merge[0])  # stable: a cluster's parts come before it
    labels = np.arange(len(tokens))
    for _, gone, kept in merges[: len(tokens) - clusters]:
        labels[labels == labels[gone]] = labels[kept]
    return labels


def _ward_merges(tokens: FloatArray) -> list[tuple[float, int, int]]:
    """All merges of the Ward tree, as (distance, a token of the one cluster, a token of the other), in any order.

    The nearest-neighbour chain of Benzecri (1982): follow nearest neighbours until two are each other's, merge these.
    Distances between clusters are kept up to date by the formula of Lance and Williams (1967).
    """
    distances = np.maximum(2 - 2 * (tokens @ tokens.T), 0)  # squared; (tokens, tokens)
    np.fill_diagonal(distances, np.inf)
    sizes = np.ones(len(tokens), dtype=np.float32)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < len(tokens) - 1:
        if not chain:
            chain.append(int(np.argmax(sizes > 0)))
        near = int(np.argmin(distances[chain[-1]]))
        if len(chain) < 2 or distances[chain[-1], near] < distances[chain[-1], chain[-2]]:
            chain.append(near)
            continue
        gone, kept = chain.pop(), chain.pop()
        merges.append((float(distances[gone, kept]), gone, kept))
        _merge(distances, sizes, gone, kept)
    return merges


def _merge(distances: FloatArray, sizes: FloatArray, gone: int, kept: int) -> None:
    """Note that two clusters are one now, under the name of the second."""
    total = sizes + sizes[gone] + sizes[kept]
    joined = (
        (sizes + sizes[gone]) * distances[gone]
        + (sizes + sizes[kept]) * distances[kept]
        - sizes * distances[gone, kept]
    ) / total
    sizes[kept] += sizes[gone]
    sizes[gone] = 0
    distances[kept] = distances[:, kept] = joined
    distances[gone] = distances[:, gone] = np.inf
    distances[kept, kept] = np.inf
