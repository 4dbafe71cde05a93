"""Sets an embedder's weights so that it starts as a weighted, damped bag of pieces instead of noise.

Named dimensions of the hidden state: GATE is large for pieces that should not count, DAMPED for repeated ones (their
final-norm weight is 0, so the final RMSNorm shrinks the rest); ONE is the same everywhere, START marks the first token,
IMAGE image tokens; CODE tells pieces apart for attention; CODE and all behind it is what ends up in the vector. Image
tokens come in small, as what the reader saw, and the feed-forward layer adds the pieces that it remembers.
"""

from __future__ import annotations

from typing import Any

import torch

from training.memory_stage import Memory
from training.network import LlamaNemotronVL
from training.reader import LENGTH as READ
from training.reader import Reader
from training.reader_weights import copy_reader

__all__ = ["CODE", "CODE_LENGTH", "LENGTH", "fill_table", "lean", "piece_codes", "start_embedder"]

GATE, ONE, START, IMAGE, DAMPED = range(5)
CODE = slice(5, 36)
"""31 dimensions: as many as a head of 64 has slowly turning rotary ones, less one for the START sink."""

LENGTH = 30.0
"""Norm of a piece's vector part."""

CODE_LENGTH = 8.0
_ONE, _START = 8.0, 29.0
_AMPLIFY = 30.0
_MATCH = 18.0  # attention logit of two equal pieces
_REPEATS = 4.0  # about as many repeats make the gate half open; the norm in front of the attention doubles it
_DAMPING = 5.0
_HINT = 0.01  # share of DAMPED that a piece has of itself, for the attention to take over
_SMALLEST = 0.01  # share that the least informative piece keeps
_SEEN = 0.01  # length of what the reader saw: next to nothing, since all of a page's tokens add it to the mean
_SEEN_ONE, _SEEN_IMAGE, _SEEN_GATE = 0.08, 0.12, 0.38  # beside it; so large that memories stay in proportion
_EPSILON = 1e-5  # of the norms
_MEMORY = 40.0  # length of a unit's vector for each cosine above its threshold
_SECOND_HALF = 1 / 3.2  # weaker, so that half a vector finds nearly what the whole one finds
_SLOW = [*range(16, 31), *range(48, 63)]  # dimensions of a head whose rotation over a page is negligible
_SINK = 63
_SLOW_CODE = [*_SLOW, 31]


def piece_codes(pieces: int) -> torch.Tensor:
    """Random codes, the same ones at every call: (pieces, 31)."""
    return torch.randn(pieces, CODE.stop - CODE.start, generator=torch.Generator().manual_seed(7))


def lean(directions: torch.Tensor) -> torch.Tensor:
    """Make the first half of the vector louder than the second, so that it finds pages nearly as well alone.

    Args:
        directions: (pieces, hidden - 36) of any length.

    Returns:
        The same shape, of length 1.
    """
    first = (directions.shape[1] + CODE.stop) // 2 - CODE.stop
    loudness = torch.ones(directions.shape[1])
    loudness[first:] = _SECOND_HALF
    return torch.nn.functional.normalize(torch.nn.functional.normalize(directions, dim=1) * loudness, dim=1)


def fill_table(directions: torch.Tensor, importance: torch.Tensor, *, start_id: int, silent: list[int]) -> torch.Tensor:
    """The embedding rows.

    Args:
        directions: (pieces, hidden - 36) of any length.
        importance: (pieces,) in 0..1, the share of a piece's vector that survives the final norm.
        start_id: of the start-of-text token.
        silent: ids of what stands in every prompt and should not count.

    Returns:
        (pieces, hidden).
    """
    pieces, free = directions.shape
    rows = torch.zeros(pieces, free + CODE.stop)
    codes = piece_codes(pieces)
    share = importance.clamp(_SMALLEST, 0.98)
    share[silent] = _SMALLEST
    scale = (share / 0.15).clamp(0.1, 1.0).unsqueeze(1)
    unit = torch.nn.functional.normalize
    rows[:, CODE] = unit(codes, dim=1) * CODE_LENGTH * scale
    rows[:, CODE.stop :] = lean(directions) * (LENGTH**2 - CODE_LENGTH**2) ** 0.5 * scale
    size = LENGTH * scale.squeeze(1) / _AMPLIFY
    rows[:, GATE] = size * (1 / share**2 - 1).sqrt()
    rows[:, DAMPED] = size / share * _HINT
    rows[:, ONE] = _ONE
    rows[start_id] = 0
    rows[start_id, ONE], rows[start_id, START] = _ONE, _START
    return rows


@torch.no_grad()
def start_embedder(network: LlamaNemotronVL, table: torch.Tensor, reader: Reader, memory: Memory) -> None:
    """Fill the network in place: the table, the head that counts repeats, the gate's amplifier, sight and memory."""
    llama: Any = network.language_model
    llama.embed_tokens.weight.copy_(table)
    for layer in llama.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    _count_repeats(llama.layers[0].self_attn)
    amplifier = llama.layers[-1].mlp
    for unit, dimension in enumerate((GATE, DAMPED)):
        for weight in (amplifier.gate_proj.weight, amplifier.up_proj.weight):
            weight[unit] = 0
        amplifier.gate_proj.weight[unit, ONE] = 1.0
        amplifier.up_proj.weight[unit, dimension] = 1.0
        amplifier.down_proj.weight[dimension, unit] = (_AMPLIFY - 1) / _ONE
    llama.norm.weight.fill_(1.0)
    llama.norm.weight[: CODE.start] = 0
    size = memory.keys.shape[1]
    constants = {ONE: _SEEN_ONE, IMAGE: _SEEN_IMAGE, GATE: _SEEN_GATE}
    turn = torch.eye(size) * _SEEN / READ
    copy_reader(network, reader, turn=turn, start=table.shape[1] - size, constants=constants)
    _remember(amplifier, memory)


def _remember(layer: Any, memory: Memory) -> None:
    """Fill the units behind the amplifier's two. Only image tokens have IMAGE, so all units are silent in a text."""
    hidden, (units, size) = layer.gate_proj.in_features, memory.keys.shape
    square = _SEEN**2 + _SEEN_ONE**2 + _SEEN_IMAGE**2 + _SEEN_GATE**2
    loud = (square / hidden + _EPSILON) ** -0.5  # what the norm in front of the layer multiplies an image token with
    rows = slice(2, 2 + units)
    for weight in (layer.gate_proj.weight, layer.up_proj.weight):
        weight[rows] = 0
    layer.gate_proj.weight[rows, hidden - size :] = memory.keys / (_SEEN * loud)
    layer.gate_proj.weight[rows, IMAGE] = -memory.thresholds / (_SEEN_IMAGE * loud)
    layer.up_proj.weight[rows, IMAGE] = 1.0 / (_SEEN_IMAGE * loud)
    layer.down_proj.weight[CODE.start :, rows] = memory.values[:, CODE.start :].T * _MEMORY


def _count_repeats(attention: Any) -> None:
    """Head 0 looks at equal pieces and at the start; the more equal ones, the more it damps.

    With f as the share of equal ones and s as the piece's importance, DAMPED becomes 5 f / s and GATE is the root of
    1 / s^2 - 1, so that 1 + GATE^2 + DAMPED^2 is (1 + 25 f^2) / s^2: the two weaken a piece independently.
    """
    dim = attention.head_dim
    query, key, value = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
    query[:dim], key[:dim], value[:dim] = 0, 0, 0
    size = (_MATCH * dim**0.5) ** 0.5 / CODE_LENGTH
    for row, column in zip(_SLOW_CODE, range(CODE.start, CODE.stop), strict=True):
        query[row, column] = size
        key[row, column] = size
    sink = (_MATCH + torch.log(torch.tensor(_REPEATS)).item()) * dim**0.5
    query[_SINK, ONE] = 1.0 / _ONE
    key[_SINK, START] = sink / _START
    value[0, DAMPED] = 1.0 / _HINT
    attention.o_proj.weight[DAMPED, 0] = _DAMPING
