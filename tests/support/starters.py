"""Random twins of the starter checkpoints: what passes with them proves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nemotron_rag_starters import checkpoint


def random_twin(name: str, parent: Path) -> Path:
    """A copy of a starter checkpoint with noise for weights; its norms are left as a fresh network has them."""
    folder = Path(shutil.copytree(checkpoint(name), parent / name))
    generator = torch.Generator().manual_seed(0)
    weights = load_file(folder / "model.safetensors")
    noise = {
        name: torch.ones_like(w) if "norm" in name else torch.randn(w.shape, generator=generator).to(w.dtype) * 0.02
        for name, w in weights.items()
    }
    save_file(noise, folder / "model.safetensors")
    return folder
