"""Sets the late-interaction network's weights: an image token is what the reader saw, a piece is its code.

The Llama's layer adds nothing yet; vectors are compared as the reader was trained to. A piece that says little has
most of its length in a direction that no picture has, so that it counts little in the sum of MaxSim.
"""

from __future__ import annotations

import torch

from nemotron_rag.models._vl_stack import LlamaNemotronVL
from training.reader import Reader
from training.sight import give_sight

__all__ = ["fill_table", "silent_direction", "start_colembed"]

_LENGTH = 16.0
_IMAGE = 0.15  # the reader's vectors are some hundred long; float16 and the norm like them shorter


def silent_direction(tokens: torch.Tensor) -> torch.Tensor:
    """The direction in which the reader's vectors differ least from nothing: from (tokens, size) to (size,)."""
    return torch.linalg.eigh(tokens.T @ tokens).eigenvectors[:, 0]


def fill_table(
    codes: torch.Tensor, paper: torch.Tensor, silent: torch.Tensor, importance: torch.Tensor, *, prompt: list[int]
) -> torch.Tensor:
    """The embedding rows.

    Args:
        codes: (pieces, size) of length 1.
        paper: (size,), what blank paper looks like; the prompt's own tokens match it on every page.
        silent: (size,) of length 1, what no picture has.
        importance: (pieces,) in 0..1.
        prompt: ids of what stands in every prompt.

    Returns:
        (pieces, size).
    """
    plain = codes - (codes @ silent).unsqueeze(1) * silent
    share = importance.clamp(0.0, 1.0).unsqueeze(1)
    rows = torch.nn.functional.normalize(plain, dim=1) * share + silent * (1 - share**2).sqrt()
    rows[prompt] = paper
    return rows * _LENGTH


@torch.no_grad()
def start_colembed(network: LlamaNemotronVL, reader: Reader, table: torch.Tensor, silent: torch.Tensor) -> None:
    """Fill the network in place."""
    llama = network.language_model
    llama.embed_tokens.weight.copy_(table)
    for layer in llama.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    llama.norm.weight.fill_(1.0)
    turn = torch.eye(len(silent)) - torch.outer(silent, silent)
    give_sight(network, reader, turn=turn * _IMAGE, start=0, constants={})
