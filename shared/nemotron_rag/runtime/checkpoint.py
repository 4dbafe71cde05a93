"""Read a checkpoint folder: JSON and safetensors only; no code from it is ever run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from nemotron_rag.errors import CheckpointError

__all__ = ["find_tensor", "fingerprint", "load_tensor", "load_weights", "read_json"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SAMPLES = 64  # blocks read for a fingerprint: milliseconds instead of hashing gigabytes
_BLOCK = 4096  # bytes


def read_json(folder: Path, name: str, *, optional: bool = False) -> dict[str, Any]:
    """Read one JSON object of a checkpoint.

    Args:
        folder: the checkpoint.
        name: file name in it.
        optional: return an empty dict when the file is missing.

    Raises:
        CheckpointError: the file is missing or is not a JSON object.
    """
    path = folder / name
    if optional and not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {name} of checkpoint {folder}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} of checkpoint {folder} holds {type(value).__name__}, expected a JSON object")
    return value


def load_weights(
    module: nn.Module, folder: Path, *, rename: Callable[[str], str | None], device: torch.device, dtype: torch.dtype
) -> None:
    """Load a checkpoint's tensors into a module that was built on the meta device.

    Args:
        module: receives the tensors.
        folder: holds ``model.safetensors``, or its shards and ``model.safetensors.index.json``.
        rename: the module's name for a tensor of the checkpoint; None for a tensor that is known to be unused.
        device: where the weights go.
        dtype: number format that they are converted to.

    Raises:
        CheckpointError: files are missing or broken, or names or shapes differ from the module's.
    """
    state: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder):
        try:
            tensors = load_file(path, device=str(device))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read weights {path}: {error}") from error
        for name, tensor in tensors.items():
            target = rename(name)
            if target is not None:
                state[target] = tensor.to(dtype)
    _check_fit(module, state, folder)
    module.load_state_dict(state, assign=True)
    module.requires_grad_(requires_grad=False)
    module.eval()


def load_tensor(folder: Path, name: str) -> torch.Tensor:
    """Load one tensor of a checkpoint, float32 on the CPU.

    Raises:
        CheckpointError: no weight file contains it.
    """
    found = find_tensor(folder, name)
    if found is None:
        raise CheckpointError(f"checkpoint {folder} has no weight named {name}")
    return found


def find_tensor(folder: Path, name: str) -> torch.Tensor | None:
    """Load one tensor of a checkpoint, float32 on the CPU; None if no weight file contains it."""
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                if name in file.keys():  # noqa: SIM118  # not a dict
                    return file.get_tensor(name).float()  # type: ignore[no-any-return]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read weights {path}: {error}") from error
    return None


def fingerprint(folder: Path) -> str:
    """Return 16 hex digits that identify a checkpoint: a hash of the size and 64 blocks of each weight file."""
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for i in range(_SAMPLES):
                file.seek(i * max(size - _BLOCK, 0) // (_SAMPLES - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        raise CheckpointError(f"checkpoint {folder} has neither {_SINGLE} nor {_INDEX}; only safetensors are read")
    names = sorted(set(read_json(folder, _INDEX).get("weight_map", {}).values()))
    for name in names:
        # The index is untrusted: its names must not lead out of the folder.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{_INDEX} of checkpoint {folder} names {name!r}, expected a file name in the same folder"
            )
    return [folder / name for name in names]


def _check_fit(module: nn.Module, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"weights of checkpoint {folder} do not fit its config.json: "
            f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
        )
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise CheckpointError(
                f"weight {name} of checkpoint {folder} has shape {tuple(state[name].shape)}, "
                f"its config.json needs {tuple(shape)}"
            )
