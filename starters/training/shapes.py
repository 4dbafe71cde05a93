"""The shapes of the starter checkpoints, and their JSON files in the published layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from training.tokens import write_tokenizer

__all__ = ["COLEMBED", "EMBED", "RERANK", "Shape", "write_folder"]

_TILE = 512  # pixels; 256 tokens a tile, as in the published checkpoints


@dataclass(frozen=True, slots=True)
class Shape:
    """What may differ between the checkpoints; the architecture does not."""

    name: str
    hidden: int
    layers: int
    intermediate: int
    is_reranker: bool = False
    pooling: str = "avg"
    vocabulary: int = 5120
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vision_hidden: int = 192
    vision_layers: int = 6
    vision_heads: int = 6
    vision_intermediate: int = 768
    rope_theta: float = 1e7
    use_thumbnail: bool = True


EMBED = Shape("starter-embed-vl", hidden=1024, layers=1, intermediate=1744, heads=1, kv_heads=1)
RERANK = Shape(
    "starter-rerank-vl",
    hidden=384,
    layers=3,
    intermediate=168,
    is_reranker=True,
    heads=2,
    kv_heads=2,
    head_dim=128,
    rope_theta=1e14,
    use_thumbnail=False,  # it reads nothing there, and every token costs time
)
COLEMBED = Shape("starter-colembed", hidden=384, layers=1, intermediate=32, pooling="colbert", heads=1, kv_heads=1)


def _llm(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": [
            "LlamaBidirectionalForSequenceClassification" if shape.is_reranker else "LlamaBidirectionalModel"
        ],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "eos_token_id": tokenizer.token_to_id("<|end_of_text|>"),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama_bidirec",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": tokenizer.token_to_id("<|finetune_right_pad_id|>"),
        "pooling": shape.pooling,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


def _vision(shape: Shape) -> dict[str, Any]:
    return {
        "attention_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": shape.vision_hidden,
        "image_size": _TILE,
        "intermediate_size": shape.vision_intermediate,
        "layer_norm_eps": 1e-06,
        "model_type": "siglip_vision_model",
        "num_attention_heads": shape.vision_heads,
        "num_channels": 3,
        "num_hidden_layers": shape.vision_layers,
        "patch_size": 16,
    }


def _config(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    common = {
        "bidirectional_attention": True,
        "downsample_ratio": 0.5,
        "dtype": "float16",
        "dynamic_image_size": True,
        "force_image_size": _TILE,
        "img_context_token_id": tokenizer.token_to_id("<IMG_CONTEXT>"),
        "keep_aspect_ratio": False,
        "llm_config": _llm(shape, tokenizer),
        "max_dynamic_patch": 6,
        "max_input_tiles": 6,
        "min_dynamic_patch": 1,
        "mlp_checkpoint": True,
        "p_max_length": 10240,
        "passage_prefix": "passage:",
        "pooling": shape.pooling,
        "pre_feature_reduction": False,
        "q_max_length": 512,
        "query_prefix": "query:",
        "select_layer": -1,
        "template": "bidirectional-llama-retriever",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": shape.use_thumbnail,
        "vision_config": _vision(shape),
        "vocab_size": shape.vocabulary,
    }
    if not shape.is_reranker:
        return common | {"architectures": ["LlamaNemotronVLModel"], "model_type": "llama_nemotron_vl"}
    return common | {
        "architectures": ["LlamaNemotronVLForSequenceClassification"],
        "model_type": "llama_nemotron_vl_rerank",
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "prompt_template": "v1",
        "temperature": 1.0,
    }


def _processor(shape: Shape) -> dict[str, Any]:
    common = {
        "dynamic_image_size": True,
        "max_input_tiles": 6,
        "num_image_token": 256,
        "pad_to_multiple_of": None,
        "padding": True,
        "template": "bidirectional-llama-retriever",
        "use_thumbnail": shape.use_thumbnail,
    }
    if shape.is_reranker:
        name = "LlamaNemotronVLRerankProcessor"
        own: dict[str, Any] = {"force_image_size": _TILE, "prompt_template": "v1", "rerank_max_length": None}
    else:
        name = "LlamaNemotronVLProcessor"
        own = {"image_size": _TILE, "norm_type": "siglip", "num_channels": 3, "p_max_length": 10240}
        own |= {"passage_prefix": "passage:", "q_max_length": 512, "query_prefix": "query:", "system_message": ""}
    return common | own | {"processor_class": name}


def _write(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_folder(shape: Shape, tokenizer: Tokenizer, folder: Path) -> None:
    """Write everything of a checkpoint but its weights and its card."""
    processor = _processor(shape)
    write_tokenizer(tokenizer, folder, processor=processor["processor_class"])
    _write(folder / "config.json", _config(shape, tokenizer))
    _write(folder / "processor_config.json", processor)
