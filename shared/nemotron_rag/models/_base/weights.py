"""Names of weights as training tools leave them: prefixes of wrappers, buffers, adapters that were not merged."""

from __future__ import annotations

from pathlib import Path

import torch

from nemotron_rag.errors import CheckpointError
from nemotron_rag.runtime.checkpoint import find_tensor

__all__ = ["find_weight", "load_weight", "own_name"]

# Of torch's data parallelism, of torch.compile, of PEFT, and of transformers' models with a head.
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "model.")
_BUFFERS = ("inv_freq", "position_ids")  # computed, not loaded
_UNMERGED = (".lora_", ".base_layer.", ".modules_to_save.", ".original_module.")


def own_name(name: str) -> str | None:
    """Return a weight's name without what wrappers put before it; None for a buffer that is computed.

    Raises:
        CheckpointError: it is of an adapter that was not merged into the model.
    """
    if any(part in name for part in _UNMERGED):
        raise CheckpointError(
            f"weight {name} is of a LoRA adapter that was not merged; save what PeftModel.merge_and_unload() gives"
        )
    while prefix := next((wrapper for wrapper in _WRAPPERS if name.startswith(wrapper)), None):
        name = name.removeprefix(prefix)
    return None if name.endswith(_BUFFERS) else name


def find_weight(folder: Path, name: str) -> torch.Tensor | None:
    """Load one weight of a checkpoint by its own name, float32 on the CPU; None if no file contains it."""
    for wrapper in ("", *_WRAPPERS):
        found = find_tensor(folder, wrapper + name)
        if found is not None:
            return found
    return None


def load_weight(folder: Path, name: str) -> torch.Tensor:
    """Load one weight of a checkpoint by its own name, float32 on the CPU.

    Raises:
        CheckpointError: no weight file contains it.
    """
    found = find_weight(folder, name)
    if found is None:
        raise CheckpointError(f"checkpoint {folder} has no weight named {name}")
    return found
