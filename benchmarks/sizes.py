"""The sizes at which everything can be measured: the 1.7 B geometry, a small one for CPUs, and a toy for rehearsals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FULL", "SMALL", "TOY", "Size"]


@dataclass(frozen=True, slots=True)
class Size:
    """The geometry of the models, and how much they are given to do.

    Args:
        name: shown in reports.
        llama: fields of the language model's configuration.
        tower: fields of the vision tower's configuration.
        tiles: of a page at most, without its thumbnail.
        pages: images to embed, unless the command line says another number.
        reranked: pages for one query.
        prepared: pages of the load that shows how images are prepared.
        queries: asked one after the other, since one alone is too quick to be timed well.
        texts: how many short ones and how many long ones are mixed.
        long_text: words of a long one.
        passages: how many images, images with text, and texts are mixed.
        callers: threads that ask at once.
        matrix: rows of the matrices whose product is the peak, by device type.
    """

    name: str
    llama: dict[str, Any]
    tower: dict[str, Any]
    tiles: int
    pages: int
    reranked: int
    prepared: int
    queries: int
    texts: tuple[int, int]
    long_text: int
    passages: tuple[int, int, int]
    callers: int
    matrix: dict[str, int]


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
_SMALL_LLAMA = {
    "vocab_size": 5120,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
_SMALL_TOWER = {"hidden_size": 144, "intermediate_size": 538, "num_hidden_layers": 2, "num_attention_heads": 2}
_TOY = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}

FULL = Size(
    name="1.7 B geometry",
    llama=_LLAMA,
    tower=_TOWER,
    tiles=6,
    pages=128,
    reranked=25,  # a usual first stage
    prepared=96,
    queries=20,
    texts=(512, 16),
    long_text=2000,
    passages=(32, 32, 192),
    callers=16,
    matrix={"cuda": 8192, "cpu": 2048},
)
"""The geometry of the 1.7 B models at their 7 tiles a page."""

SMALL = Size(
    name="small",
    llama=_LLAMA | _SMALL_LLAMA,
    tower=_TOWER | _SMALL_TOWER,
    tiles=2,
    pages=12,
    reranked=25,
    prepared=96,
    queries=20,
    texts=(64, 2),
    long_text=2000,
    passages=(4, 4, 24),
    callers=16,
    matrix=FULL.matrix,
)
"""The same kinds of layers, heads and tiles and nearly the tower's share of the work, but two narrow layers each."""

TOY = Size(
    name="toy",
    llama=_LLAMA | _SMALL_LLAMA | _TOY,
    tower=_TOWER | _TOY | {"hidden_size": 32, "image_size": 64},
    tiles=2,
    pages=3,
    reranked=3,
    prepared=12,
    queries=2,
    texts=(16, 2),
    long_text=90,
    passages=(2, 2, 6),
    callers=2,
    matrix={"cuda": 1024, "cpu": 64},
)
"""Tiles of 64 pixels and one layer each: everything runs, nothing takes long, no figure means anything."""
