"""Computing a batch, or its halves where the device's memory does not hold it. It knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch

from nemotron_rag.errors import ItemTooLargeError

__all__ = ["Compute", "Sized", "compute_batch"]


class Sized(Protocol):
    """Anything with a cost in tokens."""

    @property
    def tokens(self) -> int:
        """Tokens that the model computes for it."""


S = TypeVar("S", bound=Sized)
Compute = Callable[[Sequence[S]], Sequence[torch.Tensor]]
"""From prepared inputs to one float32 tensor each, on the CPU; their shapes may differ."""


def compute_batch(items: Sequence[S], compute: Compute[S]) -> Iterator[torch.Tensor]:
    """Compute a batch; where the device's memory does not hold it, its halves.

    Yields:
        One tensor for each item, in order, on the CPU.

    Raises:
        ItemTooLargeError: one item alone does not fit.
    """
    try:
        rows = compute(items)
    except torch.OutOfMemoryError as error:
        if len(items) == 1:
            raise ItemTooLargeError(
                f"an input of {items[0].tokens} tokens alone does not fit into device memory; "
                f"lower max_input_tiles or max_length"
            ) from error
    else:
        yield from rows
        return
    # Outside the handler: the exception's frames would keep the tensors alive that are to be freed.
    torch.cuda.empty_cache()
    middle = len(items) // 2
    yield from compute_batch(items[:middle], compute)
    yield from compute_batch(items[middle:], compute)
