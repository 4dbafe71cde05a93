"""Which device and number format a model runs on. It knows no model."""

from __future__ import annotations

import torch

from nemotron_rag.errors import InputError

__all__ = ["resolve_device", "resolve_dtype", "split_devices"]

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def resolve_device(device: str | None) -> torch.device:
    """The named device; without a name CUDA, else Apple's MPS, else the CPU.

    Raises:
        InputError: the device is not known to torch or not there on this machine.
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
    """The first device, which computes in this process, and those that need a process each.

    Args:
        devices: one name, several between commas, or None for the best one there is.
    """
    return (None,) if devices is None else tuple(name.strip() for name in devices.split(","))


def resolve_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The named number format; without a name bfloat16 on CUDA, float16 on MPS and float32 on the CPU.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``, or their short forms ``fp32``, ``bf16``, ``fp16``.
        device: where the model will run.

    Raises:
        InputError: the name is none of these.
    """
    if dtype is None:
        return {"cuda": torch.bfloat16, "mps": torch.float16}.get(device.type, torch.float32)
    if dtype not in _DTYPES:
        raise InputError(f"no dtype named {dtype!r}; give one of: {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
