"""Token pooling: fewer vectors for a page, each the average of several."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.types import FloatArray

__all__ = ["distinct", "pool_grid", "sum_clusters", "unit"]

_BLOCK = 4096  # tokens clustered together: their distances take 64 MiB


def unit(rows: FloatArray) -> FloatArray:
    """Scale rows to length 1; rows of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: FloatArray = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def distinct(tokens: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Drop repeated rows, keeping the first of each; MaxSim does not change by it."""
    _, first = np.unique(tokens, axis=0, return_index=True)
    unique: NDArray[np.floating[Any]] = tokens[np.sort(first)]
    return unique


def sum_clusters(tokens: FloatArray, rows: int) -> FloatArray:
    """Sum the most similar tokens until `rows` are left: (tokens, dim) -> (rows, dim).

    Agglomerative clustering by Ward's criterion, as in the token pooling of ColPali (Faysse et al. 2024) and ColBERT
    (Clavie et al. 2024). Passages of more than 4096 tokens are clustered block by block.

    Args:
        tokens: of length 1.
        rows: number of sums, from 1 to the number of tokens.
    """
    pieces = -(-len(tokens) // _BLOCK)
    if pieces > 1:
        shares = [len(share) for share in np.array_split(np.arange(rows), pieces)]
        parts = zip(np.array_split(tokens, pieces), shares, strict=True)
        return np.concatenate([sum_clusters(part, share) for part, share in parts if share])
    return _sums(tokens, _ward_labels(tokens, rows))


def pool_grid(tokens: FloatArray, boxes: FloatArray) -> FloatArray:
    """Replace an image's tokens by the averages of its rows and columns; tokens without a box stay.

    Tokens of different sizes, such as those of tiles and of a thumbnail, are pooled separately.

    Args:
        tokens: (tokens, dim) of length 1.
        boxes: (tokens, 4) left, top, right, bottom in fractions of the image; NaN for tokens of text.

    Returns:
        (rows, dim) of length 1: first the tokens without a box, then the rows, then the columns.
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
    """Sum the tokens of each label: (labels, dim), in the order of their first tokens."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[inverse]
    sums = np.zeros((len(first), tokens.shape[1]), dtype=np.float32)
    np.add.at(sums, place, tokens)
    return sums


def _ward_labels(tokens: FloatArray, clusters: int) -> NDArray[np.intp]:
    """Cut the Ward tree of the tokens into a number of clusters; returns a label for each token."""
    merges = sorted(_ward_merges(tokens), key=lambda merge: merge[0])  # stable: a cluster's parts come before it
    labels = np.arange(len(tokens))
    for _, gone, kept in merges[: len(tokens) - clusters]:
        labels[labels == labels[gone]] = labels[kept]
    return labels


def _ward_merges(tokens: FloatArray) -> list[tuple[float, int, int]]:
    """Return all merges of the Ward tree, as (distance, token of one cluster, token of the other), in any order.

    The nearest-neighbour chain of Benzecri (1982): follow nearest neighbours until two are each other's, and merge
    them. Distances between clusters are updated by the formula of Lance and Williams (1967).
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
    """Merge the cluster `gone` into the cluster `kept`, in place."""
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
