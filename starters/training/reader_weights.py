"""Copies a trained reader into a network: its tower, and a projector that lays image tokens where they belong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from training.network import LlamaNemotronVL
from training.reader import Reader

__all__ = ["copy_reader"]


@torch.no_grad()
def copy_reader(
    network: LlamaNemotronVL, reader: Reader, *, turn: torch.Tensor, start: int, constants: Mapping[int, float]
) -> None:
    """Copy tower and projector.

    Args:
        network: filled in place.
        reader: trained; its own width must not exceed the network's.
        turn: (rows, reader width), what the projector's output is multiplied with.
        start: the dimension of the hidden state where the first row goes.
        constants: by dimension, what every image token carries there.
    """
    tower: Any = network.vision_model
    copied = {name: value for name, value in reader.tower.state_dict().items() if "patch_embedding" not in name}
    tower.load_state_dict(copied, strict=False)
    # The tower sees each channel as 1 - 2 x ink: ink is half of one less their mean.
    ink: Any = reader.ink
    patches = tower.embeddings.patch_embedding
    patches.weight.copy_(-ink.weight.expand_as(patches.weight) / 6)
    patches.bias.copy_(ink.bias + ink.weight.sum(dim=(1, 2, 3)) / 2)
    projector: Any = network.mlp1
    own: Any = reader.projector
    norm, first, _, last = projector
    own_norm, own_first, _, own_last = own
    norm.load_state_dict(own_norm.state_dict())
    width = own_first.out_features
    for layer in (first, last):
        layer.weight.zero_()
        layer.bias.zero_()
    first.weight[:width], first.bias[:width] = own_first.weight, own_first.bias
    rows = slice(start, start + len(turn))
    last.weight[rows, :width], last.bias[rows] = turn @ own_last.weight, turn @ own_last.bias
    for dimension, value in constants.items():
        last.bias[dimension] = value
