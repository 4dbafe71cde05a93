"""Read the configuration of a Nemotron 3 or 3.5 checkpoint from its JSON files.

Numbers of network, images, lengths and score come from the files; a value that this package does not implement raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nemotron_rag.errors import CheckpointError
from nemotron_rag.models._base.sentence import Pooling, read_max_length, read_pooling
from nemotron_rag.models._mistral.pixels import PixelSettings, read_pixel_settings
from nemotron_rag.models._mistral.rope import Rope, read_rope
from nemotron_rag.runtime.budget import layer_bytes
from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["MistralConfig", "TextConfig", "VisionConfig", "read_mistral_config", "read_processor"]

_VISION_THETA = 10_000.0  # default of the published configuration class


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Shape of the language model; the fields have the published names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    rms_norm_eps: float
    rope: Rope


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Shape of tower and projector.

    Args:
        hidden_size: width of the tower.
        intermediate_size: width of its MLP.
        num_hidden_layers: of the tower.
        num_attention_heads: of the tower.
        hidden_act: activation of its MLP.
        patch_size: side of a patch, pixels.
        rope_theta: base of its rotary frequencies.
        merge_size: one image token is merged from merge_size x merge_size patches.
        projector_act: activation of the projector.
        projector_bias: whether its last two layers have biases.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    patch_size: int
    rope_theta: float
    merge_size: int
    projector_act: str
    projector_bias: bool

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    def patch_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of activations for each patch; see `layer_bytes`."""
        width = self.hidden_size
        return layer_bytes(hidden=width, mlp=self.intermediate_size, queries=width, keys=width, dtype=dtype)


@dataclass(frozen=True, slots=True)
class MistralConfig:
    """Settings of network, images, lengths and score.

    Args:
        text: of the language model.
        vision: of tower and projector; None for a model that reads no images.
        pixels: how images are prepared; None likewise.
        image_token_id: token id of an image token; None likewise.
        pooling: how hidden states are pooled.
        max_length: most tokens of an input.
        temperature: a reranker's logits are divided by it.
    """

    text: TextConfig
    vision: VisionConfig | None
    pixels: PixelSettings | None
    image_token_id: int | None
    pooling: Pooling
    max_length: int
    temperature: float

    @property
    def tower_settings(self) -> str:
        """Everything that decides the image tokens besides weights and the resized image."""
        return f"pixtral {self.vision} {self.text.rms_norm_eps} {self.pixels}"


def read_mistral_config(folder: Path) -> MistralConfig:
    """Read ``config.json`` and the processor's files.

    Raises:
        CheckpointError: a file is missing or broken, or a value is not implemented.
    """
    config = read_json(folder, "config.json")
    try:
        return _build(folder, config)
    except CheckpointError as error:
        known = str(folder) in str(error)
        raise error if known else CheckpointError(f"checkpoint {folder} {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json of checkpoint {folder} cannot be used: {error!r}") from error


def read_processor(folder: Path) -> dict[str, Any]:
    """Read the fields of processor and image processor; the processor's decide where both have one.

    Transformers 5 writes both into the same file, earlier releases into two.
    """
    processor = read_json(folder, "processor_config.json", optional=True)
    image = processor.get("image_processor") or read_json(folder, "preprocessor_config.json", optional=True)
    return image | processor


def _build(folder: Path, config: Mapping[str, Any]) -> MistralConfig:
    fields = config.get("text_config") or config
    if fields.get("is_causal", config.get("is_causal")) is not False:
        raise CheckpointError("does not say is_causal=false, only attention in both directions is implemented")
    if fields.get("sliding_window") is not None:
        raise CheckpointError(f"has sliding_window={fields['sliding_window']!r}, only null is implemented")
    temperature = float(config.get("score_temperature", config.get("temperature", 1.0)))
    if not temperature > 0:
        raise CheckpointError(f"has score_temperature={temperature}, expected a number above 0")
    vision = _vision(config) if "vision_config" in config else None
    pixels = None
    if vision is not None:
        pixels = read_pixel_settings(read_processor(folder), patch_size=vision.patch_size, merge_size=vision.merge_size)
    return MistralConfig(
        text=_text(fields),
        vision=vision,
        pixels=pixels,
        image_token_id=_image_token(config) if vision else None,
        pooling=read_pooling(folder, config),
        max_length=read_max_length(folder, config),
        temperature=temperature,
    )


def _text(fields: Mapping[str, Any]) -> TextConfig:
    heads = int(fields["num_attention_heads"])
    head_dim = int(fields.get("head_dim") or fields["hidden_size"] // heads)
    return TextConfig(
        vocab_size=int(fields["vocab_size"]),
        hidden_size=int(fields["hidden_size"]),
        intermediate_size=int(fields["intermediate_size"]),
        num_hidden_layers=int(fields["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(fields.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        hidden_act=str(fields["hidden_act"]),
        rms_norm_eps=float(fields["rms_norm_eps"]),
        rope=read_rope(fields, head_dim=head_dim),
    )


def _vision(config: Mapping[str, Any]) -> VisionConfig:
    fields = config["vision_config"]
    if config.get("vision_feature_layer", -1) not in (-1, [-1]):
        raise CheckpointError(f"has vision_feature_layer={config['vision_feature_layer']!r}, only -1 is implemented")
    rope = fields.get("rope_parameters") or fields
    return VisionConfig(
        hidden_size=int(fields["hidden_size"]),
        intermediate_size=int(fields["intermediate_size"]),
        num_hidden_layers=int(fields["num_hidden_layers"]),
        num_attention_heads=int(fields["num_attention_heads"]),
        hidden_act=str(fields["hidden_act"]),
        patch_size=int(fields["patch_size"]),
        rope_theta=float(rope.get("rope_theta") or _VISION_THETA),
        merge_size=int(config["spatial_merge_size"]),
        projector_act=str(config["projector_hidden_act"]),
        projector_bias=bool(config["multimodal_projector_bias"]),
    )


def _image_token(config: Mapping[str, Any]) -> int:
    return int(config["image_token_index"] if "image_token_index" in config else config["image_token_id"])
