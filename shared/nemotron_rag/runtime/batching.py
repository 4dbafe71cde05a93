"""Compute a batch; on out-of-memory, halve it and retry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch

from nemotron_rag.errors import ItemTooLargeError

__all__ = ["Compute", "Sized", "compute_batch"]


class Sized(Protocol):
    """An input whose cost is a number of tokens."""

    @property
    def tokens(self) -> int:
        """Tokens that the model computes for it."""


S = TypeVar("S", bound=Sized)
Compute = Callable[[Sequence[S]], Sequence[torch.Tensor]]
"""From prepared inputs to one float32 tensor each, on the CPU; their shapes may differ."""

# Devices other than CUDA have no exception class of their own for it, and neither has cuBLAS.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def compute_batch(
    items: Sequence[S], compute: Compute[S], *, too_many: Callable[[int], None] = lambda tokens: None
) -> Iterator[torch.Tensor]:
    """Compute a batch; when the device runs out of memory, its halves.

    Args:
        items: at least one.
        compute: computes a batch, or raises an out-of-memory error.
        too_many: called with a number of tokens that did not fit.

    Yields:
        One tensor for each item, in order, on the CPU.

    Raises:
        ItemTooLargeError: one item alone does not fit.
    """
    try:
        rows = compute(items)
    except RuntimeError as error:
        if not any(words in str(error) for words in _OUT_OF_MEMORY) and not isinstance(error, torch.OutOfMemoryError):
            raise
        if len(items) == 1:
            raise ItemTooLargeError(
                f"an input of {items[0].tokens} tokens alone does not fit into device memory; "
                f"lower max_input_tiles or max_length"
            ) from error
    else:
        yield from rows
        return
    # Outside the handler: the exception's frames would keep alive the tensors that must be freed.
    torch.cuda.empty_cache()
    too_many(sum(item.tokens for item in items))
    middle = len(items) // 2
    yield from compute_batch(items[:middle], compute, too_many=too_many)
    yield from compute_batch(items[middle:], compute, too_many=too_many)
