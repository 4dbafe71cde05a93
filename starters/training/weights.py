"""Builds nemotron-rag's own network for a checkpoint folder, and writes its weights under the published names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.network import LlamaNemotronVL, read_json, read_vl_config

__all__ = ["load_network", "new_network", "save_network"]


def new_network(folder: Path, *, seed: int = 0) -> LlamaNemotronVL:
    """The network of a folder's ``config.json`` with random weights of the usual size."""
    torch.manual_seed(seed)
    is_colbert = read_json(folder, "config.json")["pooling"] == "colbert"
    network = LlamaNemotronVL(read_vl_config(folder, vectors="colbert" if is_colbert else "one"))
    for module in network.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.02)
    return network


def _published(name: str, *, is_reranker: bool) -> str:
    nested = (
        name.replace("vision_model.", "vision_model.vision_model.", 1) if name.startswith("vision_model.") else name
    )
    return f"model.{nested}" if is_reranker else nested


def save_network(network: LlamaNemotronVL, folder: Path, *, score: torch.Tensor | None = None) -> Path:
    """Write ``model.safetensors`` in float16.

    Args:
        network: what to save.
        folder: of the checkpoint.
        score: (1, hidden) head; makes it a reranker.
    """
    is_reranker = score is not None
    weights = {_published(name, is_reranker=is_reranker): value for name, value in network.state_dict().items()}
    if score is not None:
        weights["score.weight"] = score
    halves = {name: value.detach().to(torch.float16).contiguous() for name, value in weights.items()}
    bad = [name for name, value in halves.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"weights do not fit float16: {', '.join(bad)}")
    path = folder / "model.safetensors"
    save_file(halves, path, metadata={"format": "pt"})
    path.chmod(0o644)  # it is shipped: anybody may read it
    return path


def load_network(folder: Path) -> tuple[LlamaNemotronVL, torch.Tensor | None]:
    """The network of a checkpoint in float32, and its head if it is a reranker."""
    network = new_network(folder)
    stored = load_file(folder / "model.safetensors")
    score = stored.pop("score.weight", None)
    plain = {
        name.removeprefix("model.").replace("vision_model.vision_model.", "vision_model."): value.float()
        for name, value in stored.items()
    }
    network.load_state_dict(plain)
    return network, None if score is None else score.float()
