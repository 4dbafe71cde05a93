"""Operations that an input needs at least: a multiply-add counts two, norms and activations nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["sequence_operations", "tile_operations"]


def tile_operations(folder: Path) -> int:
    """Count the operations of tower and projector for one tile."""
    config = read_json(folder, "config.json")
    vision, llm = config["vision_config"], config["llm_config"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    width, wide, hidden = vision["hidden_size"], vision["intermediate_size"], llm["hidden_size"]
    embedding = 2 * patches * 3 * vision["patch_size"] ** 2 * width
    layer = 2 * patches * (4 * width * width + 2 * width * wide) + 4 * patches * patches * width
    projector = 2 * patches // 4 * (4 * width * hidden + hidden * hidden)
    return int(embedding + vision["num_hidden_layers"] * layer + projector)


def sequence_operations(folder: Path, tokens: int) -> int:
    """Count the operations of the Llama for one sequence without padding."""
    config = read_json(folder, "config.json")
    llm: dict[str, Any] = config.get("llm_config", config)
    hidden, wide, head = llm["hidden_size"], llm["intermediate_size"], llm["head_dim"]
    queries, keys = llm["num_attention_heads"] * head, llm["num_key_value_heads"] * head
    weights = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * wide
    layer = 2 * tokens * weights + 4 * tokens * tokens * queries
    return int(llm["num_hidden_layers"] * layer)
