"""Read the configuration of a Qwen2-VL or Qwen3-VL checkpoint from its JSON files.

Flat files (transformers 4.45) and nested ones, `rope_scaling` and `rope_parameters` are all read. A value that this
package does not implement raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from transformers import Qwen2Config, Qwen3Config
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from nemotron_rag.errors import CheckpointError
from nemotron_rag.models._qwen.pixels import PixelSettings, read_pixel_settings
from nemotron_rag.runtime.attention import PACKED_ATTENTION, PACKED_CAUSAL_ATTENTION
from nemotron_rag.runtime.budget import layer_bytes
from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["QwenConfig", "QwenGeneration", "read_qwen_config"]

QwenGeneration: TypeAlias = Literal[2, 3]
"""Generation of the architecture: Qwen2-VL or Qwen3-VL."""

_CLASSES: Mapping[QwenGeneration, Any] = {
    2: (Qwen2Config, Qwen2VLVisionConfig),
    3: (Qwen3Config, Qwen3VLVisionConfig),
}
# The fields of these classes that describe a shape.
_TEXT_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_act", "rms_norm_eps", "vocab_size", "max_position_embeddings", "head_dim", "attention_bias"),
)
_VISION_FIELDS = (
    *("depth", "embed_dim", "hidden_size", "hidden_act", "intermediate_size", "mlp_ratio", "num_heads"),
    *("out_hidden_size", "patch_size", "spatial_merge_size", "temporal_patch_size"),
    *("num_position_embeddings", "deepstack_visual_indexes"),
)
# The only values implemented; others change the computation.
_SUPPORTED = {"pooling": "colbert"}
_SUPPORTED_TEXT = {"use_sliding_window": False}
_SUPPORTED_PIXELS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
_IMAGE_TOKEN = 151_655  # default of the published configuration classes


@dataclass(frozen=True, slots=True)
class QwenConfig:
    """Settings of network, pixels and prompts.

    Args:
        generation: of the architecture.
        text: of the language model's layers: a `Qwen2Config` or `Qwen3Config`, by generation.
        vision: of the tower: a `Qwen2VLVisionConfig` or `Qwen3VLVisionConfig`, by generation.
        rope_theta: base of the rotary frequencies.
        mrope_section: number of frequencies for time, rows and columns.
        image_token_id: token id of an image token.
        pixels: how images are prepared.
        processor: all fields of the processor's files.
    """

    generation: QwenGeneration
    text: Any
    vision: Any
    rope_theta: float
    mrope_section: tuple[int, int, int]
    image_token_id: int
    pixels: PixelSettings
    processor: Mapping[str, Any]

    @property
    def head_dim(self) -> int:
        """Width of an attention head of the language model."""
        given = getattr(self.text, "head_dim", None)
        return int(given or self.text.hidden_size // self.text.num_attention_heads)

    @property
    def tower_settings(self) -> str:
        """Everything that decides the tower's output besides weights and pixels."""
        vision = self.vision
        taps = getattr(vision, "deepstack_visual_indexes", ())
        return f"qwen {self.generation} {vision.num_heads} {vision.hidden_act} {taps} {self.pixels}"

    def patch_bytes(self, dtype: torch.dtype) -> int:
        """Return the tower's bytes of activations for each patch; see `layer_bytes`. Rotation is in float32."""
        vision = self.vision
        width = vision.embed_dim if self.generation == 2 else vision.hidden_size
        mlp = int(width * vision.mlp_ratio) if self.generation == 2 else vision.intermediate_size
        rotated = width * torch.float32.itemsize // dtype.itemsize
        return layer_bytes(hidden=width, mlp=mlp, queries=rotated, keys=rotated, dtype=dtype)


def read_qwen_config(folder: Path, *, generation: QwenGeneration, causal: bool) -> QwenConfig:
    """Read ``config.json`` and the processor's files.

    Args:
        folder: the checkpoint.
        generation: of the family.
        causal: whether a token attends only to itself and the tokens before it.

    Raises:
        CheckpointError: a file is missing or broken, or a value is not implemented.
    """
    config = read_json(folder, "config.json")
    processor = read_json(folder, "processor_config.json", optional=True)
    # transformers 5 writes the image processor's settings into the same file, earlier releases into another.
    processor = (processor.get("image_processor") or read_json(folder, "preprocessor_config.json")) | processor
    try:
        built = _build(config, processor, generation)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {folder} {error}") from None
    except Exception as error:  # the validation errors of transformers share no base class
        raise CheckpointError(f"config.json of checkpoint {folder} cannot be used: {error!r}") from error
    built.text._attn_implementation = PACKED_CAUSAL_ATTENTION if causal else PACKED_ATTENTION
    built.vision._attn_implementation = "sdpa"
    return built


def _build(config: Mapping[str, Any], processor: Mapping[str, Any], generation: QwenGeneration) -> QwenConfig:
    text = config.get("text_config") or config
    for fields, supported in ((config, _SUPPORTED), (text, _SUPPORTED_TEXT), (processor, _SUPPORTED_PIXELS)):
        for name, value in supported.items():
            if fields.get(name) not in (None, value):
                raise CheckpointError(f"has {name}={fields[name]!r}, only {value!r} is implemented")
    layers, tower = _CLASSES[generation]
    vision = tower(**_select(config["vision_config"], _VISION_FIELDS))
    theta, section = _rope(text)
    built = QwenConfig(
        generation=generation,
        text=layers(**_select(text, _TEXT_FIELDS)),
        vision=vision,
        rope_theta=theta,
        mrope_section=section,
        image_token_id=int(config.get("image_token_id", _IMAGE_TOKEN)),
        pixels=read_pixel_settings(processor, vision.to_dict()),
        processor=processor,
    )
    if 2 * sum(section) != built.head_dim:
        raise CheckpointError(f"has mrope_section {list(section)}, expected a sum of {built.head_dim // 2}")
    return built


def _rope(text: Mapping[str, Any]) -> tuple[float, tuple[int, int, int]]:
    """Return base and sections of the rotary positions."""
    rope = text.get("rope_parameters") or text["rope_scaling"]
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(f"has rotary positions of type {kind!r}, only 'default' and 'mrope' are implemented")
    time, rows, columns = rope["mrope_section"]
    return float(rope.get("rope_theta") or text["rope_theta"]), (time, rows, columns)


def _select(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Select the fields with these names; missing ones get the default of the published class."""
    return {name: fields[name] for name in names if name in fields}
