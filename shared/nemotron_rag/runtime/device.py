"""Resolve the device and the number format that a model runs in."""

from __future__ import annotations

import torch

from nemotron_rag.errors import InputError

__all__ = ["resolve_device", "resolve_dtype", "split_devices", "staged"]

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def resolve_device(device: str | None) -> torch.device:
    """Return the named device; None means CUDA, else Apple's MPS, else the CPU.

    Raises:
        InputError: torch does not know the device, or this machine does not have it.
    """
    if device is None:
        return torch.device(_best_device())
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"device {device!r} cannot be used here ({reason}); give 'cpu', 'cuda', 'cuda:N' or 'mps'"
        ) from error
    return resolved


def split_devices(devices: str | None) -> tuple[str | None, ...]:
    """Split a comma-separated list of devices: the first computes in this process, each other in one of its own.

    Args:
        devices: one name, several between commas, or None for the best device available.
    """
    return (None,) if devices is None else tuple(name.strip() for name in devices.split(","))


def resolve_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """Return the named number format; None means bfloat16 on CUDA, float16 on MPS and float32 on the CPU.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``, or their short forms ``fp32``, ``bf16``, ``fp16``.
        device: where the model will run.

    Raises:
        InputError: the name is not one of these.
    """
    if dtype is None:
        return {"cuda": torch.bfloat16, "mps": torch.float16}.get(device.type, torch.float32)
    if dtype not in _DTYPES:
        raise InputError(f"no dtype named {dtype!r}; give one of: {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def staged(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor in page-locked memory, which a CUDA device copies without blocking; elsewhere as it is.

    Args:
        tensor: on the CPU.
        device: the target of ``tensor.to(device, non_blocking=True)``.
    """
    return tensor.pin_memory() if device.type == "cuda" else tensor


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
