"""From host to device without waiting. It knows no model."""

from __future__ import annotations

import torch

__all__ = ["staged"]


def staged(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor in memory that a GPU copies from by itself (page-locked), for CUDA; the tensor itself otherwise.

    Args:
        tensor: on the CPU.
        device: where ``tensor.to(device, non_blocking=True)`` will bring it.
    """
    return tensor.pin_memory() if device.type == "cuda" else tensor
