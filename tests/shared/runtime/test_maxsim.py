"""MaxSim against the plain formula."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction import maxsim as maxsim_module
from nemotron_rag.late_interaction.maxsim import maxsim


def _ragged(lengths, dim=6, seed=0):
    random = np.random.default_rng(seed)
    return [random.standard_normal((n, dim), dtype=np.float32) for n in lengths]


def _plain(queries, passages):
    return [[sum(max(float(q @ p) for p in passage) for q in query) for passage in passages] for query in queries]


@pytest.mark.parametrize("held_at_once", [1, 7, 40, 1 << 24])
def test_ragged_inputs_in_blocks_of_any_size(monkeypatch, held_at_once):
    monkeypatch.setattr(maxsim_module, "_SIMILARITIES", held_at_once)
    queries, passages = _ragged([3, 1, 5]), _ragged([4, 9, 1, 2], seed=1)
    found = maxsim(queries, passages)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, _plain(queries, passages), rtol=1e-5)


def test_no_padding_takes_part():
    """A row of zeros, as the published code pads with, would win over similarities that are all negative."""
    query, short, long = np.array([[1.0, 0.0]]), np.array([[-0.6, 0.8]]), np.array([[-1.0, 0.0], [-0.8, 0.6]])
    np.testing.assert_allclose(maxsim([query], [short, long]), [[-0.6, -0.8]], rtol=1e-6)


def test_padding_takes_part_if_wanted():
    """Only shorter passages have rows of zeros, and these win only over similarities that are all negative."""
    queries = [np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])]
    short, long = np.array([[-0.6, 0.8]]), np.array([[-1.0, 0.0], [-0.8, 0.6]])
    found = maxsim(queries, [short, long], padded=True)
    np.testing.assert_allclose(found, [[0.0, -0.8], [0.8, -0.2]], atol=1e-6)
    np.testing.assert_allclose(maxsim(queries, [short], padded=True), maxsim(queries, [short]))


def test_stored_half_precision_is_scored_in_float32():
    queries, passages = _ragged([4]), _ragged([50, 60], seed=2)
    half = [passage.astype(np.float16) for passage in passages]
    np.testing.assert_allclose(maxsim(queries, half), maxsim(queries, [p.astype(np.float32) for p in half]), rtol=1e-6)


def test_example():
    assert doctest.testmod(maxsim_module) == (0, 1)


def test_nothing_in_nothing_out():
    assert maxsim([], []).shape == (0, 0)
    assert maxsim(_ragged([2]), []).shape == (1, 0)
    assert maxsim([], _ragged([2, 3])).shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "passages", "message"),
    [
        (
            [np.ones((2, 3)), np.ones((0, 3))],
            [],
            r"query 1 has shape \(0, 3\), expected \(tokens, dim\) with at least one token",
        ),
        ([np.ones((2, 3))], [np.ones(3)], r"passage 0 has shape \(3,\)"),
        ([np.ones((2, 3))], [np.ones((2, 3)), np.ones((2, 4))], "passage 1 has dim 4, query 0 has 3"),
    ],
)
def test_arrays_that_cannot_be_scored(queries, passages, message):
    with pytest.raises(InputError, match=message):
        maxsim(queries, passages)
