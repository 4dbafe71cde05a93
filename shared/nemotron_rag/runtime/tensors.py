"""Arrays as the tensors that code written for PyTorch expects, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

__all__ = ["Carrier", "padded", "similarity", "to_arrays", "to_tensor", "unpadded"]


class Carrier(torch.Tensor):
    """A tensor of row numbers that carries the inputs of the rows, wherever code written for tensors moves it.

    A processor of ours does not compute: the model does, from these inputs.
    """

    inputs: list[Any]

    @staticmethod
    def of(inputs: list[Any]) -> Carrier:
        """A carrier of these inputs, (n,) int64."""
        carrier: Carrier = torch.arange(len(inputs)).as_subclass(Carrier)
        carrier.inputs = inputs
        return carrier

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Itself: what it carries is moved by the model."""
        return self

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """Itself."""
        return self


def to_tensor(array: NDArray[Any]) -> torch.Tensor:
    """The array as a tensor on the CPU."""
    return torch.from_numpy(np.ascontiguousarray(array))


def to_arrays(rows: Any) -> list[NDArray[np.float32]]:
    """Rows of a tensor, an array or a list of them as float32 arrays; a (tokens, dimensions) one is of one input."""
    if getattr(rows, "ndim", 0) == 2:
        rows = [rows]
    return [torch.as_tensor(row).detach().cpu().float().numpy() for row in rows]


def padded(rows: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    """Token vectors of n inputs as one (n, longest, dimensions) tensor, filled up with zeros on the right."""
    return pad_sequence([to_tensor(row) for row in rows], batch_first=True)


def unpadded(rows: Any) -> list[NDArray[np.float32]]:
    """What `padded` was given: without the rows of zeros at the end; of an empty one the first row stays."""
    arrays = []
    for row in to_arrays(rows):  # (longest, dimensions)
        filled = np.flatnonzero(np.abs(row).sum(axis=-1))
        arrays.append(row[: filled[-1] + 1 if len(filled) else 1])
    return arrays


def similarity(ones: Any, others: Any, *, pairwise: bool = False) -> torch.Tensor:
    """Cosines of (n, dimensions) with (m, dimensions) vectors: (n, m), or of row i with row i: (n,)."""
    one, other = (normalize(torch.as_tensor(each).float(), dim=-1) for each in (ones, others))
    return (one * other).sum(-1) if pairwise else torch.atleast_2d(one) @ torch.atleast_2d(other).T
