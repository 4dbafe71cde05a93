"""Read the configuration of a Llama-Nemotron VL checkpoint from its JSON files.

Field names and defaults are those of the published `LlamaNemotronVLConfig` and processors. A value that this package
does not implement raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from transformers import LlamaConfig, SiglipVisionConfig

from nemotron_rag.errors import CheckpointError
from nemotron_rag.models._base.sentence import Pooling, pooling_named
from nemotron_rag.models._llama.layers import llama_config, plain
from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["VLConfig", "Vectors", "read_vl_config"]

Vectors: TypeAlias = Literal["one", "colbert"]
"""What is made of hidden states: one vector, pooled as the checkpoint says, or one for each token."""

# Mean and standard deviation by `norm_type`; values of the published processors.
_NORMALISATIONS = {
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# The only values implemented; others change the computation.
_SUPPORTED = {
    "select_layer": -1,
    "ps_version": "v2",
    "downsample_ratio": 0.5,
    "keep_aspect_ratio": False,
    "pre_feature_reduction": False,
}


@dataclass(frozen=True, slots=True)
class VLConfig:
    """Settings of network, prompts and tiling.

    Args:
        vision: of the SigLIP tower.
        llm: of the bidirectional Llama.
        tile_size: side of a tile, pixels.
        patch_size: side of a patch, pixels.
        image_context_id: token id of ``<IMG_CONTEXT>``.
        max_input_tiles: default of the most tiles per image, thumbnail not counted.
        use_thumbnail: whether the whole image follows its tiles as one small tile.
        mean: of the three channels, in units of 0..1.
        std: of the three channels, in units of 0..1.
        query_prefix: put before queries.
        passage_prefix: put before passages.
        max_query_length: tokens a query may have.
        prompt_template: how a reranker joins query and passage.
        temperature: a reranker's logits are divided by it.
        pooling: how hidden states become one vector.
    """

    vision: SiglipVisionConfig
    llm: LlamaConfig
    tile_size: int
    patch_size: int
    image_context_id: int
    max_input_tiles: int
    use_thumbnail: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    query_prefix: str
    passage_prefix: str
    max_query_length: int
    prompt_template: str | None
    temperature: float
    pooling: Pooling

    @property
    def tower_settings(self) -> str:
        """Everything that decides the tower's output besides weights and pixels."""
        vision = self.vision
        return f"siglip {vision.num_attention_heads} {vision.hidden_act} {vision.layer_norm_eps} {self.mean} {self.std}"

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of one tile: a quarter of its patches, by the pixel shuffle."""
        return (self.tile_size // self.patch_size // 2) ** 2


def read_vl_config(folder: Path, *, vectors: Vectors = "one") -> VLConfig:
    """Read ``config.json`` and the processor's files.

    Args:
        folder: the checkpoint.
        vectors: of the family; for one vector the checkpoint says how it is pooled.

    Raises:
        CheckpointError: a file is missing or broken, or a value is not implemented.
    """
    config = read_json(folder, "config.json")
    processor = read_json(folder, "preprocessor_config.json", optional=True)
    processor |= read_json(folder, "processor_config.json", optional=True)
    for name, value in _SUPPORTED.items():
        if config.get(name, value) != value:
            raise CheckpointError(f"checkpoint {folder} has {name}={config[name]!r}, only {value!r} is implemented")
    try:
        pooling = _pooling(config) if vectors == "one" else "avg"
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {folder} {error}") from None
    try:
        return _build(config, processor, pooling)
    except Exception as error:  # the validation errors of transformers share no base class
        raise CheckpointError(f"config.json of checkpoint {folder} cannot be used: {error!r}") from error


def _pooling(config: dict[str, Any]) -> Pooling:
    """As vLLM reads it: of the whole model, else of its language model."""
    given = config.get("pooling") or (config.get("llm_config") or {}).get("pooling") or "avg"
    return pooling_named(str(given), is_reranker="rerank" in str(config.get("model_type")))


def _build(config: dict[str, Any], processor: dict[str, Any], pooling: Pooling) -> VLConfig:
    vision = SiglipVisionConfig(**plain(config["vision_config"]))
    vision._attn_implementation = "sdpa"  # every tile has the same length: nothing to pack
    mean, std = _NORMALISATIONS[processor.get("norm_type", "siglip")]
    both = config | processor  # the processor's own settings take precedence
    # Without dynamic tiling an image is resized to one tile.
    dynamic = both.get("dynamic_image_size", False)
    return VLConfig(
        vision=vision,
        llm=llama_config(config["llm_config"]),
        tile_size=int(config.get("force_image_size") or config["vision_config"]["image_size"]),
        patch_size=int(config["vision_config"]["patch_size"]),
        image_context_id=int(config["img_context_token_id"]),
        max_input_tiles=int(both.get("max_input_tiles", 6)) if dynamic else 1,
        use_thumbnail=bool(both.get("use_thumbnail", False)),
        mean=mean,
        std=std,
        query_prefix=str(both.get("query_prefix", "query:")),
        passage_prefix=str(both.get("passage_prefix", "passage:")),
        max_query_length=int(both.get("q_max_length") or 512),
        prompt_template=both.get("prompt_template"),
        temperature=float(config.get("temperature", 1.0)),
        pooling=pooling,
    )
