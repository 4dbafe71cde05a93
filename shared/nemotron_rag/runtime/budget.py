"""The token budget of a batch: bounded by free memory and by the point of diminishing returns."""

from __future__ import annotations

import torch

__all__ = ["layer_bytes", "tokens_at_once"]

# Larger batches are no faster: 18 pages of 7 tiles keep a large GPU busy; on a CPU, 8192 tokens at once, which do not
# fit into its caches, take a third longer than 4 times 2048.
_ENOUGH = {"cuda": 32_768, "cpu": 2_048}
_ENOUGH_ELSEWHERE = 8_192
_SHARE = 0.5  # of the free memory; the rest is for outputs, uploads and other models


def layer_bytes(*, hidden: int, mlp: int, queries: int, keys: int, dtype: torch.dtype) -> int:
    """Peak bytes of activations for each token in a transformer layer, without its weights.

    Residual, normed input and output, and at once with them either the three products of a gated MLP, or queries and
    keys before, during and after their rotation; and the norm's float32.

    Args:
        hidden: width of the residual stream.
        mlp: width of the MLP.
        queries: heads times head width.
        keys: key heads times head width.
        dtype: of the activations.
    """
    return dtype.itemsize * (3 * hidden + max(3 * mlp, 6 * queries + 4 * keys)) + 10 * hidden


def tokens_at_once(device: torch.device, *, token_bytes: int) -> int:
    """Tokens of a batch, at least one; on CUDA by the memory that is free with the weights loaded.

    Args:
        device: where the batch will be computed.
        token_bytes: activations for each token, see `layer_bytes`.
    """
    enough = _ENOUGH.get(device.type, _ENOUGH_ELSEWHERE)
    if device.type != "cuda":
        return enough
    return max(1, min(enough, int(_free_bytes(device) * _SHARE) // token_bytes))


def _free_bytes(device: torch.device) -> int:
    """Bytes that the driver reports as free, and those that torch has reserved but does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
