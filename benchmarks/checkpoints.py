"""Checkpoints of random weights in the published formats: how fast a network is does not depend on what it learned.

Full size is the geometry of the 1.7 B models at their 7 tiles a page. The small one has the same kinds of layers,
heads, tiles and patches and nearly the tower's share of the work, but two narrow layers each, and 3 tiles a page.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, SiglipVisionConfig

import nemotron_rag
from benchmarks.networks import TextNetwork, VLNetwork

__all__ = ["Kind", "write_checkpoint"]

Kind: TypeAlias = Literal["embed_vl", "rerank_vl", "embed_text"]

_TOKENIZER = Path(nemotron_rag.__file__).parent / "checkpoints" / "starter-embed-vl" / "tokenizer.json"
_CONTEXT = 5118  # <IMG_CONTEXT> in that tokenizer; 5114 and 5116 are its start and padding tokens
_PROCESSOR: dict[str, Any] = {"norm_type": "siglip", "use_thumbnail": True, "dynamic_image_size": True}
_ARCHITECTURES = {
    "embed_vl": ("llama_nemotron_vl", "LlamaNemotronVLModel"),
    "rerank_vl": ("llama_nemotron_vl_rerank", "LlamaNemotronVLForSequenceClassification"),
    "embed_text": ("llama_bidirec", "LlamaBidirectionalModel"),
}
_LLAMA = {
    "vocab_size": 128_266,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "bos_token_id": 5114,
    "pad_token_id": 5116,
    "pooling": "avg",
}
_SMALL_LLAMA = {
    "vocab_size": 5120,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 512,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "model_type": "siglip_vision_model",
}
_SMALL_TOWER = {"hidden_size": 144, "intermediate_size": 538, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_checkpoint(kind: Kind, parent: Path, *, full: bool, device: torch.device, dtype: torch.dtype) -> Path:
    """Write ``config.json``, the starter's tokenizer and random weights.

    Args:
        kind: which family.
        parent: gets a folder of that name.
        full: the 1.7 B geometry instead of the small one.
        device: where the weights are drawn.
        dtype: number format of the weights.

    Returns:
        The folder.
    """
    folder = parent / kind
    folder.mkdir()
    config = _config(kind, full=full)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(_TOKENIZER, folder)
    save_file(_weights(kind, config, device=device, dtype=dtype), folder / "model.safetensors")
    return folder


def _config(kind: Kind, *, full: bool) -> dict[str, Any]:
    model_type, architecture = _ARCHITECTURES[kind]
    llm = _LLAMA if full else _LLAMA | _SMALL_LLAMA
    common = {"model_type": model_type, "architectures": [architecture], "pooling": "avg"}
    if kind == "embed_text":
        return common | llm
    vision = _TOWER if full else _TOWER | _SMALL_TOWER
    return common | {
        "llm_config": llm,
        "vision_config": vision,
        "force_image_size": vision["image_size"],
        "img_context_token_id": _CONTEXT,
        "prompt_template": "v1",
        "max_input_tiles": 6 if full else 2,
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
    """Ones and zeros where a fresh network has them, else noise that keeps the size of what flows through."""
    if like.ndim == 1:
        fill = torch.zeros if name.endswith("bias") else torch.ones
        return fill(like.shape, dtype=like.dtype)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(like.shape, generator=generator, device=device, dtype=torch.float32)
    inputs = like[0].numel() if "embed" not in name or "patch" in name else 1
    return (noise / inputs**0.5).to("cpu", like.dtype)  # type: ignore[no-any-return]
