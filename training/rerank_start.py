"""Sets a reranker's weights so that it starts as "which share of the question's rare words is in the passage".

Layer 0 tells question from passage, layer 1 lets each piece of the question look for itself in the passage, layer 2
carries the weighted share of hits to every token, so that the mean pooling does not depend on the passage's length.
It knows no data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nemotron_rag.models._vl_stack import LlamaNemotronVL
from training.hits_stage import USUAL, Hits

__all__ = ["FREE", "fill_table", "start_reranker"]

ONE, START, MARK, SIDE, WEIGHT, HIT, SCORE, SHORT = range(8)
CODE = slice(8, 39)
FREE = slice(39, None)
"""Dimensions left to what is learned."""

_ONE, _START, _MARK = 4.0, 20.8, 20.8
_CODE_LENGTH = 12.0
_FILLER = 20.8  # makes rows as long as any other, or the final norm would make them louder
_QUIET = -16.0  # log weight of tokens that must not count as question
_WEIGHT_SCALE = 0.5
_MATCH = 18.0  # attention logit of two equal pieces
_PASSAGE = 6.0  # further logit of the passage's tokens
_HIT, _SHARE = 2.0, 3.0  # how loud hits and their weighted share are
_ZERO = 0.45  # share of hits that gets the logit 0
_SIDE = 2.0
_SLOW = [*range(16, 31), *range(48, 63), 31]  # dimensions of a head whose rotation over a page is negligible
_SINK = 63
_SINES = (-0.01, 0.13, 0.02, 1.0, -0.3, 0.23, 1.0, -0.05, 0.46, 0.39, 0.59, *[1.0] * 20)
"""Factors that keep the sum of sin(frequency x distance) above 0.33 for 1 to 2500 tokens, at rope_theta 1e7."""


def fill_table(
    directions: torch.Tensor,
    codes: torch.Tensor,
    weights: torch.Tensor,
    *,
    start_id: int,
    mark_id: int,
    quiet: Sequence[int],
) -> torch.Tensor:
    """The embedding rows.

    Args:
        directions: (pieces, hidden - 39) of any length.
        codes: (pieces, 31) of any length.
        weights: (pieces,) logarithm of what each piece counts as part of a question.
        start_id: of the start-of-text token.
        mark_id: of the piece that divides question and passage.
        quiet: ids of further tokens of the prompt.

    Returns:
        (pieces, hidden).
    """
    unit = torch.nn.functional.normalize
    pieces, free = directions.shape
    hidden = free + CODE.stop
    rows = torch.zeros(pieces, hidden)
    rows[:, CODE] = unit(codes, dim=1) * _CODE_LENGTH
    rows[:, FREE] = unit(directions, dim=1) * (hidden - _CODE_LENGTH**2 - _ONE**2) ** 0.5
    rows[:, WEIGHT] = weights * _WEIGHT_SCALE
    special = torch.tensor([start_id, mark_id, *quiet])
    rows[special] = 0
    rows[special, WEIGHT] = _QUIET * _WEIGHT_SCALE
    rows[special, FREE.start] = _FILLER
    rows[torch.tensor([start_id, mark_id]), FREE.start] = 0
    rows[:, ONE] = _ONE
    rows[start_id, START] = _START
    rows[mark_id, MARK] = _MARK
    return rows


@torch.no_grad()
def start_reranker(network: LlamaNemotronVL, table: torch.Tensor, hits: Hits) -> torch.Tensor:
    """Fill the network in place.

    Args:
        network: to be filled.
        table: the embedding rows.
        hits: what `hits_stage` learned.

    Returns:
        The head, (1, hidden).
    """
    llama = network.language_model
    llama.embed_tokens.weight.copy_(table)
    for layer in llama.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        dim = layer.self_attn.head_dim
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.weight[:dim] = 0
    _find_side(llama.layers[0].self_attn)
    _measure(llama.layers[0].self_attn)
    _find_hits(llama.layers[1].self_attn, hits)
    _gather(llama.layers[2].self_attn)
    llama.norm.weight.fill_(1.0)
    last = network.mlp1[3]
    last.weight.zero_()
    last.bias.zero_()
    last.bias[ONE], last.bias[WEIGHT] = _ONE, _QUIET * _WEIGHT_SCALE
    last.bias[FREE.start] = _FILLER
    head = torch.zeros(1, table.shape[1])
    head[0, SCORE] = hits.scale / (_HIT * _SHARE)
    head[0, ONE] = -_ZERO * hits.scale / _ONE
    return head


def _find_side(attention: torch.nn.Module) -> None:
    """Tokens behind the mark look at it, all others at the start.

    The sum of sin(frequency x distance) over all rotary frequencies has, with `_SINES`, the sign of the distance.
    """
    dim = attention.head_dim
    half, root = dim // 2, dim**0.5
    query, key = attention.q_proj.weight, attention.k_proj.weight
    for pair, factor in enumerate(_SINES):
        key[pair, MARK] = 80.0 * factor * root / _MARK
        query[pair + half, ONE] = -1.0 / _ONE
    query[half - 1, ONE] = 1.0 / _ONE
    key[half - 1, START] = 14.0 * root / _START
    attention.v_proj.weight[0, MARK] = 1.0 / _MARK
    attention.o_proj.weight[SIDE, 0] = _SIDE


def _measure(attention: torch.nn.Module) -> None:
    """Head 2 looks at all tokens of the text alike and at the start: the longer the text, the less at the start."""
    dim, heads = attention.head_dim, attention.num_key_value_groups
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[heads * dim : (heads + 1) * dim], key[dim : 2 * dim], attention.v_proj.weight[dim : 2 * dim] = 0, 0, 0
    query[heads * dim + _SINK, ONE] = 1.0 / _ONE
    key[dim + _SINK, START] = math.log(USUAL) * dim**0.5 / _START
    key[dim + _SINK, FREE.start] = -20.0 * dim**0.5 / _FILLER
    attention.v_proj.weight[dim, START] = 1.0 / _START
    attention.o_proj.weight[SHORT, heads * dim] = 1.0


def _find_hits(attention: torch.nn.Module, hits: Hits) -> None:
    """Head 0: a piece of the question looks at equal pieces of the passage, and at the start.

    The start draws more the longer the passage is, as `hits_stage` says.
    """
    dim = attention.head_dim
    root = dim**0.5
    query, key = attention.q_proj.weight, attention.k_proj.weight
    size = (_MATCH * root) ** 0.5 / _CODE_LENGTH
    for row, column in zip(_SLOW, range(CODE.start, CODE.stop), strict=True):
        query[row, column] = size
        key[row, column] = size
    query[_SINK, ONE] = (1.0 + 0.5 * hits.length / _MATCH) / _ONE
    query[_SINK, SHORT] = -hits.length / _MATCH
    sink = _MATCH + _PASSAGE + hits.repeats
    key[_SINK, START] = sink * root / _START
    key[_SINK, SIDE] = _PASSAGE * root / _SIDE
    attention.v_proj.weight[0, SIDE] = 1.0 / _SIDE
    attention.o_proj.weight[HIT, 0] = _HIT


def _gather(attention: torch.nn.Module) -> None:
    """Head 0: every token looks at the question's pieces by their weight, and takes over their hits."""
    dim = attention.head_dim
    root = dim**0.5
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[_SINK, ONE] = 1.0 / _ONE
    key[_SINK, WEIGHT] = root / _WEIGHT_SCALE
    key[_SINK, SIDE] = -24.0 * root / _SIDE
    key[_SINK, START] = -10.0 * root / _START
    attention.v_proj.weight[0, HIT] = 1.0
    attention.o_proj.weight[SCORE, 0] = _SHARE
