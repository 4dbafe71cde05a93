"""Write checkpoints of random weights in the published formats; speed does not depend on the weights.

The tokenizer beside this file is a small one of 5,120 tokens: no benchmark needs a model to be installed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, SiglipVisionConfig

from benchmarks.networks import TextNetwork, VLNetwork
from benchmarks.sizes import Size

__all__ = ["Kind", "model_config", "write_checkpoint"]

Kind: TypeAlias = Literal["embed_vl", "rerank_vl", "embed_text"]

_TOKENIZER = Path(__file__).with_name("tokenizer.json")
_CONTEXT = 5118  # <IMG_CONTEXT> in that tokenizer; 5114 and 5116 are its start and padding tokens
_PROCESSOR: dict[str, Any] = {"norm_type": "siglip", "use_thumbnail": True, "dynamic_image_size": True}
_ARCHITECTURES = {
    "embed_vl": ("llama_nemotron_vl", "LlamaNemotronVLModel"),
    "rerank_vl": ("llama_nemotron_vl_rerank", "LlamaNemotronVLForSequenceClassification"),
    "embed_text": ("llama_bidirec", "LlamaBidirectionalModel"),
}


def write_checkpoint(kind: Kind, parent: Path, *, size: Size, device: torch.device, dtype: torch.dtype) -> Path:
    """Write ``config.json``, the tokenizer and random weights; what an earlier run wrote there is taken as it is.

    Args:
        kind: which family.
        parent: gets a folder of that name.
        size: the geometry.
        device: where the weights are drawn.
        dtype: number format of the weights.

    Returns:
        The folder.
    """
    folder = parent / kind
    config = model_config(kind, size)
    if folder.exists():
        if json.loads((folder / "config.json").read_text(encoding="utf-8")) != config:
            raise ValueError(f"{folder} holds a model of another size; give another folder")
        return folder
    half = Path(tempfile.mkdtemp(dir=parent))  # a run that is broken off leaves no folder that looks whole
    (half / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(_TOKENIZER, half)
    save_file(_weights(kind, config, device=device, dtype=dtype), half / "model.safetensors")
    return half.rename(folder)


def model_config(kind: Kind, size: Size) -> dict[str, Any]:
    """What a checkpoint's ``config.json`` holds."""
    model_type, architecture = _ARCHITECTURES[kind]
    llm = size.llama
    common = {"model_type": model_type, "architectures": [architecture], "pooling": "avg"}
    if kind == "embed_text":
        return common | llm
    vision = size.tower
    return common | {
        "llm_config": llm,
        "vision_config": vision,
        "force_image_size": vision["image_size"],
        "img_context_token_id": _CONTEXT,
        "prompt_template": "v1",
        "max_input_tiles": size.tiles,
        **_PROCESSOR,
    }


def _weights(
    kind: Kind, config: dict[str, Any], *, device: torch.device, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Random tensors under their published names. Embedder and reranker get equal towers, as they may have."""
    network = _network(kind, config).to(dtype)
    weights = {name: _draw(name, tensor, device) for name, tensor in network.state_dict().items()}
    if kind == "embed_text":
        return {name.removeprefix("language_model."): tensor for name, tensor in weights.items()}
    if kind == "embed_vl":
        return weights
    hidden = config["llm_config"]["hidden_size"]
    head = _draw("score.weight", torch.empty(1, hidden, dtype=dtype, device="meta"), device)
    return {f"model.{name}": tensor for name, tensor in weights.items()} | {"score.weight": head}


def _network(kind: Kind, config: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        if kind == "embed_text":
            return TextNetwork(LlamaConfig(**{k: v for k, v in config.items() if k != "architectures"}))
        vision = SiglipVisionConfig(**config["vision_config"])
        return VLNetwork(LlamaConfig(**config["llm_config"]), vision, context=_CONTEXT)


def _draw(name: str, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Draw a weight: ones and zeros for norms and biases, else noise scaled to preserve the activations' size."""
    if like.ndim == 1:
        fill = torch.zeros if name.endswith("bias") else torch.ones
        return fill(like.shape, dtype=like.dtype)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(like.shape, generator=generator, device=device, dtype=torch.float32)
    inputs = like[0].numel() if "embed" not in name or "patch" in name else 1
    return (noise / inputs**0.5).to("cpu", like.dtype)  # type: ignore[no-any-return]
