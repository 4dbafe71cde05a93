"""Sets the late-interaction network's weights: an image token is what the reader saw, a piece is its code.

Directions of the hidden state are turned so that the last ones hold next to nothing of either; named, they are free:
SILENT is the length that a query's piece has less the less it says, so that it counts little in the sum of MaxSim.
In passages the layer takes it away: there every token is as long as any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import normalize

from training.network import LlamaNemotronVL
from training.reader import LENGTH, Reader
from training.reader_weights import copy_reader

__all__ = ["fill_table", "start_colembed"]

SILENT, ONE, START, PASSAGE, SIDE = range(-5, 0)
_PLAIN = -5
_ROW, _ONE, _MARK, _SIDE = 16.0, 4.0, 8.0, 4.0
_SINK, _MARKED = 30.0, 45.0  # attention logits of the start and of the word that begins a passage


def fill_table(
    codes: torch.Tensor,
    paper: torch.Tensor,
    turn: torch.Tensor,
    importance: torch.Tensor,
    *,
    start_id: int,
    mark_id: int,
    prompt: list[int],
) -> torch.Tensor:
    """The embedding rows.

    Args:
        codes: (pieces, size) of length 1.
        paper: (size,), what blank paper looks like; the prompt's own tokens match it on every page.
        turn: (size, size), directions at right angles, those that matter most first.
        importance: (pieces,) in 0..1.
        start_id: of the start-of-text token.
        mark_id: of the piece that begins a passage's prompt.
        prompt: ids of what stands in every prompt, those two among them.

    Returns:
        (pieces, size).
    """
    rows = codes @ turn.T
    share = importance.clamp(0.0, 1.0)
    rows[:, _PLAIN:] = 0
    rows = normalize(rows, dim=1) * share.unsqueeze(1)
    rows[:, SILENT] = (1 - share**2).sqrt()
    rows[prompt] = turn @ paper
    rows[prompt, _PLAIN:] = 0
    rows = normalize(rows, dim=1) * _ROW
    rows[:, ONE] = _ONE
    rows[start_id, START] = _MARK
    rows[mark_id, PASSAGE] = _MARK
    return rows


@torch.no_grad()
def start_colembed(network: LlamaNemotronVL, reader: Reader, table: torch.Tensor, turn: torch.Tensor) -> None:
    """Fill the network in place."""
    llama: Any = network.language_model
    llama.embed_tokens.weight.copy_(table)
    (layer,) = llama.layers
    for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.self_attn.o_proj):
        projection.weight.zero_()
    for projection in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
        projection.weight.zero_()
    _find_side(layer.self_attn)
    _give_full_length(layer.mlp)
    llama.norm.weight.fill_(1.0)
    llama.norm.weight[ONE:] = 0
    plain = turn.clone()
    plain[_PLAIN:] = 0
    ones = {table.shape[1] + ONE: _ONE}
    copy_reader(network, reader, turn=plain * _ROW / LENGTH, start=0, constants=ones)


def _find_side(attention: Any) -> None:
    """Every token looks at the word that begins a passage, or at the start where there is none."""
    row = attention.head_dim - 1  # a dimension of the head whose rotation is negligible
    size = attention.q_proj.in_features**0.5
    special = size / (_ROW**2 + _ONE**2 + _MARK**2) ** 0.5  # what the norm multiplies such a token with
    own = size / (_ROW**2 + _ONE**2) ** 0.5
    root = attention.head_dim**0.5
    attention.q_proj.weight[row, ONE] = 1.0 / (_ONE * own)
    attention.k_proj.weight[row, START] = _SINK * root / (_MARK * special)
    attention.k_proj.weight[row, PASSAGE] = _MARKED * root / (_MARK * special)
    attention.v_proj.weight[0, PASSAGE] = 1.0 / (_MARK * special)
    attention.o_proj.weight[SIDE, 0] = _SIDE


def _give_full_length(layer: Any) -> None:
    """Take SILENT from the tokens of a passage: silu(a) b + silu(-a) (-b) = a b."""
    shrunk = layer.gate_proj.in_features**0.5 / (_ROW**2 + _ONE**2 + _SIDE**2) ** 0.5
    for unit, sign in enumerate((1.0, -1.0)):
        layer.gate_proj.weight[unit, SIDE] = sign / (_SIDE * shrunk)
        layer.up_proj.weight[unit, SILENT] = sign / shrunk
        layer.down_proj.weight[SILENT, unit] = -1.0
