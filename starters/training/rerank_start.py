"""Sets a reranker's weights so that it starts as "which share of the query's rare words is in the passage".

Layer 0 tells query from passage, layer 1 lets each piece of the query look for itself in the passage, layer 2
carries the weighted share of hits to every token, so that the mean pooling does not depend on the passage's length.
In layer 1 each piece also looks for itself among the image tokens, takes over what the reader saw where it looks most
like it, and the feed-forward layer multiplies the two: MaxSim, in a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from training.hits_stage import USUAL, Hits
from training.network import LlamaNemotronVL
from training.reader import LENGTH, Reader
from training.reader_weights import copy_reader

ONE, START, MARK, SIDE, WEIGHT, HIT, SCORE, SHORT, FILL, IMAGE = range(10)
CODE = slice(10, 41)
SIGHT = slice(41, 125)
SEEN = slice(125, 209)
FREE = slice(209, None)
"""Dimensions left to what is learned."""

_ROW = 384**0.5  # of a row: the norm in front of a layer then leaves it as it is
_ONE, _START, _MARK = 4.0, 17.0, 17.0
_QUIET = -8.0  # weight, in the row's scale, of tokens that must not count as query
_PLAIN_FILL = (_ROW**2 - _ONE**2 - _QUIET**2) ** 0.5  # what makes the rows of those as long as all others
_START_FILL = (_ROW**2 - _ONE**2 - _QUIET**2 - _START**2) ** 0.5  # the same of the start token, and of the mark
_UNSEEN = 20.0  # attention logit less for tokens that are not text, when its length is measured
_CODE_LENGTH, _SIGHT_LENGTH = 10.0, 8.0
_READ, _IMAGE = 12.0, 4.0  # what an image token carries: what was read, and that it is of an image
_TAKEN = 4.0  # how loud a piece takes over what it found
_SHARP = 40.0  # attention logit of a piece and an image token that looks exactly like it
_WORTH = 1.5  # a sight counts so much beside a hit in the text
_LOUD = 200.0  # makes all tokens equally loud in the mean
_WEIGHT_SCALE = 0.5
_MATCH = 18.0  # attention logit of two equal pieces
_PASSAGE = 6.0  # further logit of the passage's tokens
_HIT, _SHARE = 2.0, 3.0  # how loud hits and their weighted share are
_ZERO = 0.45  # share of hits that gets the logit 0
_SIDE = 2.0
_HALF = 64  # of a head's dimensions
_SLOW = [*range(62, 20, -1), *range(126, 84, -1)]  # those whose rotation over a page is negligible, and two more:
_SPARE, _SINK = 63, 127
_KNOWN = 60.0  # logit of the start beside an endless text layer; half of it at the usual length
_IN_IMAGE = 50.0  # further logit of image tokens: more than equal pieces of text get
_SINES = (-0.01, 0.13, 0.02, 1.0, -0.3, 0.23, 1.0, -0.05, 0.46, 0.39, 0.59, *[1.0] * 20)
"""Factors that keep the sum of sin(frequency x distance) above 0.33 for 1 to 2500 tokens, at rope_theta 1e14."""


def fill_table(
    directions: torch.Tensor,
    codes: torch.Tensor,
    sights: torch.Tensor,
    weights: torch.Tensor,
    *,
    start_id: int,
    mark_id: int,
    quiet: Sequence[int],
) -> torch.Tensor:
    """The embedding rows.

    Args:
        directions: (pieces, hidden - 209) of any length.
        codes: (pieces, 31) of any length.
        sights: (pieces, 84) of length 1, what each piece looks like to the reader.
        weights: (pieces,) logarithm of what each piece counts as part of a query.
        start_id: of the start-of-text token.
        mark_id: of the piece that divides query and passage.
        quiet: ids of further tokens of the prompt.

    Returns:
        (pieces, hidden).
    """
    unit = torch.nn.functional.normalize
    pieces, free = directions.shape
    hidden = free + FREE.start
    rows = torch.zeros(pieces, hidden)
    rows[:, CODE] = unit(codes, dim=1) * _CODE_LENGTH
    rows[:, SIGHT] = sights * _SIGHT_LENGTH
    rest = _ROW**2 - _CODE_LENGTH**2 - _SIGHT_LENGTH**2 - _ONE**2
    rows[:, FREE] = unit(directions, dim=1) * rest**0.5
    rows[:, WEIGHT] = weights * _WEIGHT_SCALE
    special = torch.tensor([start_id, mark_id, *quiet])
    rows[special] = 0
    rows[special, WEIGHT] = _QUIET
    rows[special, FILL] = _PLAIN_FILL
    rows[torch.tensor([start_id, mark_id]), FILL] = _START_FILL
    rows[:, ONE] = _ONE
    rows[start_id, START] = _START
    rows[mark_id, MARK] = _MARK
    return rows


@torch.no_grad()
def start_reranker(
    network: LlamaNemotronVL, table: torch.Tensor, hits: Hits, reader: Reader, turn: torch.Tensor
) -> torch.Tensor:
    """Fill the network in place.

    Args:
        network: to be filled.
        table: the embedding rows.
        hits: what `hits_stage` learned.
        reader: what reads images.
        turn: (84, reader width), onto what is compared of what the reader saw.

    Returns:
        The head, (1, hidden).
    """
    llama: Any = network.language_model
    llama.embed_tokens.weight.copy_(table)
    for layer in llama.layers:
        layer.self_attn.o_proj.weight.zero_()
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            projection.weight.zero_()
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.weight.zero_()
    _find_side(llama.layers[0].self_attn)
    _measure(llama.layers[0].self_attn)
    _find_hits(llama.layers[1].self_attn, hits)
    _find_images(llama.layers[1].self_attn)
    _compare(llama.layers[1].mlp)
    _gather(llama.layers[2].self_attn)
    _even_out(llama.layers[2].self_attn)
    llama.norm.weight.fill_(1.0)
    llama.norm.weight[FILL] = 0
    fill = (_ROW**2 - _ONE**2 - _QUIET**2 - _READ**2 - _IMAGE**2) ** 0.5
    constants = {ONE: _ONE, IMAGE: _IMAGE, FILL: fill, WEIGHT: _QUIET}
    copy_reader(network, reader, turn=turn * _READ / LENGTH, start=SIGHT.start, constants=constants)
    head = torch.zeros(1, table.shape[1])
    loudness = _LOUD / _ROW
    head[0, SCORE] = hits.scale * loudness / (_HIT * _SHARE)
    head[0, ONE] = -_ZERO * hits.scale * loudness / _ONE
    return head


def _find_side(attention: Any) -> None:
    """Tokens behind the mark look at it, all others at the start.

    The sum of sin(frequency x distance) over all rotary frequencies has, with `_SINES`, the sign of the distance.
    """
    dim = attention.head_dim
    root = dim**0.5
    query, key = attention.q_proj.weight, attention.k_proj.weight
    for number, factor in enumerate(_SINES):
        key[number, MARK] = 80.0 * factor * root / _MARK
        query[number + _HALF, ONE] = -1.0 / _ONE
    query[_HALF - 1, ONE] = 1.0 / _ONE
    key[_HALF - 1, START] = 14.0 * root / _START
    attention.v_proj.weight[0, MARK] = 1.0 / _MARK
    attention.o_proj.weight[SIDE, 0] = _SIDE


def _measure(attention: Any) -> None:
    """Head 1 looks at all tokens of the text alike and at the start: the longer the text, the less at the start."""
    dim = attention.head_dim
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[dim + _SINK, ONE] = 1.0 / _ONE
    key[dim + _SINK, START] = (math.log(USUAL) + _UNSEEN * _START_FILL / _ROW) * dim**0.5 / _START
    key[dim + _SINK, FILL] = -_UNSEEN * dim**0.5 / _ROW
    key[dim + _SINK, IMAGE] = -_UNSEEN * dim**0.5 / _IMAGE
    attention.v_proj.weight[dim, START] = 1.0 / _START
    attention.o_proj.weight[SHORT, dim] = 1.0


def _find_hits(attention: Any, hits: Hits) -> None:
    """Head 0: a piece of the query looks at equal pieces of the passage, and at the start.

    The start draws more the longer the passage is, as `hits_stage` says.
    """
    dim = attention.head_dim
    root = dim**0.5
    query, key = attention.q_proj.weight, attention.k_proj.weight
    size = (_MATCH * root) ** 0.5 / _CODE_LENGTH
    for row, column in zip(_SLOW, range(CODE.start, CODE.stop), strict=False):
        query[row, column] = size
        key[row, column] = size
    query[_SINK, ONE] = (1.0 + 0.5 * hits.length / _MATCH) / _ONE
    query[_SINK, SHORT] = -hits.length / _MATCH
    sink = _MATCH + _PASSAGE + hits.repeats
    key[_SINK, START] = sink * root / _START
    key[_SINK, SIDE] = _PASSAGE * root / _SIDE
    attention.v_proj.weight[0, SIDE] = 1.0 / _SIDE
    attention.o_proj.weight[HIT, 0] = _HIT


def _find_images(attention: Any) -> None:
    """Head 1: a piece of the query looks at the image tokens most like it, and takes over what they are.

    The more words the text layer has, the more the start draws instead: reading adds errors to words that are known.
    """
    dim = attention.head_dim
    root = dim**0.5
    query, key = attention.q_proj.weight, attention.k_proj.weight
    size = (_SHARP * root / (_SIGHT_LENGTH * _READ)) ** 0.5
    for row, column in zip(_SLOW, range(SIGHT.start, SIGHT.stop), strict=False):
        query[dim + row, column] = size
        key[dim + row, column] = size
    query[dim + _SINK, ONE] = 1.0 / _ONE
    key[dim + _SINK, IMAGE] = _IN_IMAGE * root / _IMAGE
    key[dim + _SINK, START] = _IN_IMAGE * root / _START
    query[dim + _SPARE, ONE] = 1.0 / _ONE
    query[dim + _SPARE, SHORT] = -1.0
    key[dim + _SPARE, START] = _KNOWN * root / _START
    for row in range(SIGHT.stop - SIGHT.start):
        attention.v_proj.weight[dim + row, SIGHT.start + row] = 1.0 / _READ
        attention.o_proj.weight[SEEN.start + row, dim + row] = _TAKEN


def _compare(layer: Any) -> None:
    """Two units a dimension multiply exactly: silu(a) b + silu(-a) (-b) = a b."""
    size = SIGHT.stop - SIGHT.start
    for row in range(size):
        for unit, sign in ((row, 1.0), (size + row, -1.0)):
            layer.gate_proj.weight[unit, SIGHT.start + row] = sign / _SIGHT_LENGTH
            layer.up_proj.weight[unit, SEEN.start + row] = sign / _TAKEN
            layer.down_proj.weight[HIT, unit] = _HIT * _WORTH


def _even_out(attention: Any) -> None:
    """Head 1: every token looks at the start, and takes over a length that drowns its own."""
    dim = attention.head_dim
    attention.q_proj.weight[dim + _SINK, ONE] = 1.0 / _ONE
    attention.k_proj.weight[dim + _SINK, START] = 60.0 * dim**0.5 / _START
    attention.v_proj.weight[dim, START] = 1.0 / _START
    attention.o_proj.weight[FILL, dim] = _LOUD


def _gather(attention: Any) -> None:
    """Head 0: every token looks at the query's pieces by their weight, and takes over their hits."""
    dim = attention.head_dim
    root = dim**0.5
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[_SINK, ONE] = 1.0 / _ONE
    key[_SINK, WEIGHT] = root / _WEIGHT_SCALE
    key[_SINK, SIDE] = -24.0 * root / _SIDE
    key[_SINK, START] = -10.0 * root / _START
    attention.v_proj.weight[0, HIT] = 1.0
    attention.o_proj.weight[SCORE, 0] = _SHARE
