"""Token vectors of any page: pooled, stored, projected and compared as the definitions say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.boxes import grid_boxes, tile_boxes
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.late_interaction.pooling import distinct, pool_grid, sum_clusters, unit
from nemotron_rag.late_interaction.projection import fit_basis, mean_vector, project, projected_dimensions
from nemotron_rag.late_interaction.token_vectors import MAX_VALUES, TokenVectors, fit_query
from nemotron_rag.models._base.pooling import mean_pool, token_vectors
from nemotron_rag.models._llama.tiling import choose_grid

seeds = st.integers(0, 2**32 - 1)


@st.composite
def vectors(draw: st.DrawFn, *, dim: int | None = None, most: int = 24) -> np.ndarray:
    """(tokens, dim) float32 of length 1 in random directions, some of them more than once."""
    rng = np.random.default_rng(draw(seeds))
    width = dim or draw(st.integers(2, 16))
    base = unit(rng.normal(size=(draw(st.integers(1, most)), width)).astype(np.float32))
    repeats = draw(st.lists(st.integers(0, len(base) - 1), max_size=8))
    return np.concatenate([base, base[repeats]])


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])]


@given(vectors(most=12), st.integers(1, 16), st.sampled_from(["float16", "float32"]))
@settings(max_examples=150)
def test_a_stored_page_has_few_rows_of_length_one(tokens, max_rows, storage):
    stored = TokenVectors(max_rows=max_rows, storage=storage).fit(tokens)
    assert stored.dtype == np.dtype(storage)
    unequal = np.unique(tokens.astype(storage), axis=0)
    assert len(stored) == min(max_rows, len(unequal))
    np.testing.assert_allclose(np.linalg.norm(stored.astype(np.float32), axis=1), 1, atol=2e-3)
    if len(unequal) <= max_rows:
        np.testing.assert_array_equal(_sorted(stored), unequal)


@given(vectors(), st.integers(1, 30), st.data())
def test_repeating_tokens_changes_nothing(tokens, max_rows, data):
    repeated = data.draw(st.lists(st.integers(0, len(tokens) - 1), max_size=8))
    stored = TokenVectors(max_rows=max_rows)
    np.testing.assert_array_equal(stored.fit(np.concatenate([tokens, tokens[repeated]])), stored.fit(tokens))


@given(vectors(), seeds)
def test_the_order_of_tokens_does_not_decide_what_is_stored(tokens, seed):
    shuffled = np.random.default_rng(seed).permutation(tokens)
    np.testing.assert_array_equal(_sorted(TokenVectors().fit(shuffled)), _sorted(TokenVectors().fit(tokens)))


@given(vectors(), st.integers(1, 30))
def test_without_pooling_a_page_is_stored_whole_or_refused(tokens, max_rows):
    stored = TokenVectors(max_rows=max_rows, pooling="none", storage="float32")
    if len(np.unique(tokens, axis=0)) > max_rows:
        with pytest.raises(InputError, match="pool them with pooling='hierarchical'"):
            stored.fit(tokens)
    else:
        np.testing.assert_array_equal(stored.fit(tokens), distinct(tokens))


@given(vectors())
def test_distinct_keeps_the_first_of_equal_rows(tokens):
    first = [i for i, row in enumerate(tokens) if not (tokens[:i] == row).all(axis=1).any()]
    np.testing.assert_array_equal(distinct(tokens), tokens[first])


@given(vectors(dim=6, most=12).map(distinct), st.data())
def test_clusters_are_those_of_wards_criterion(tokens, data):
    rows = data.draw(st.integers(1, len(tokens)))
    found = sum_clusters(tokens, rows)
    assert found.shape == (rows, tokens.shape[1])
    np.testing.assert_allclose(_sorted(found), _sorted(_naive_ward(tokens, rows)), atol=1e-4)


def _naive_ward(tokens: np.ndarray, rows: int) -> np.ndarray:
    """Join the two clusters whose joining adds least to the squared distances from the means, until few are left."""
    clusters = [tokens[[i]] for i in range(len(tokens))]
    while len(clusters) > rows:

        def cost(pair: tuple[int, int]) -> float:
            a, b = (clusters[i] for i in pair)
            return len(a) * len(b) / (len(a) + len(b)) * float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum())

        i, j = min(itertools.combinations(range(len(clusters)), 2), key=cost)
        clusters[i] = np.concatenate([clusters[i], clusters.pop(j)])
    return np.stack([cluster.sum(axis=0) for cluster in clusters])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), seeds)
def test_a_pooled_grid_is_the_averages_of_its_rows_and_columns(columns, rows, others, seed):
    rng = np.random.default_rng(seed)
    tokens = unit(rng.normal(size=(others + rows * columns, 5)).astype(np.float32))
    boxes = np.concatenate([np.full((others, 4), np.nan, np.float32), grid_boxes(columns, rows)])
    grid = tokens[others:].reshape(rows, columns, 5)
    expected = np.concatenate([tokens[:others], unit(grid.mean(axis=1)), unit(grid.mean(axis=0))])
    np.testing.assert_allclose(pool_grid(tokens, boxes), expected, atol=1e-5)


@given(st.integers(1, 8), st.integers(2, 5), seeds)
@settings(max_examples=10)
def test_a_query_fits_into_a_request_and_every_token_counts(tokens, rows, seed):
    query = unit(np.random.default_rng(seed).normal(size=(tokens, MAX_VALUES // rows)).astype(np.float32))
    fitted = fit_query(query)
    assert len(fitted) == min(tokens, rows)
    np.testing.assert_allclose(fitted.sum(axis=0), query.sum(axis=0), atol=1e-4)


@given(st.integers(1, 4096))
def test_projected_vectors_are_shorter_but_not_empty(dimensions):
    projected = projected_dimensions(dimensions)
    assert 1 <= projected <= max(1, dimensions // 2)
    assert projected == 1 or projected >= min(128, dimensions // 2)


@given(st.lists(vectors(dim=12), min_size=1, max_size=4), seeds)
def test_the_projection_basis_is_orthonormal_and_holds_most_of_the_vectors(pages, seed):
    basis = fit_basis(pages)
    assert basis.shape == (12, projected_dimensions(12))
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-5)
    other, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=basis.shape))
    rows = np.concatenate(pages)
    assert (project(rows, basis) ** 2).sum() >= (project(rows, other.astype(np.float32)) ** 2).sum() - 1e-3
    np.testing.assert_allclose(project(basis.T, basis), np.eye(basis.shape[1]), atol=1e-5)


@given(vectors())
def test_the_mean_vector_has_length_one_and_the_direction_of_the_sum(tokens):
    mean = mean_vector(tokens)
    assert np.linalg.norm(mean) == pytest.approx(1, abs=1e-5)
    total = tokens.astype(np.float64).sum(axis=0)
    assert mean @ total == pytest.approx(np.linalg.norm(total), abs=1e-4)


@given(st.lists(vectors(dim=4, most=5), max_size=4), st.lists(vectors(dim=4, most=5), max_size=4), st.booleans())
def test_maxsim_equals_a_double_loop(queries, passages, padded):
    expected = np.zeros((len(queries), len(passages)))
    longest = max(map(len, passages), default=0)
    for (i, query), (j, passage) in itertools.product(enumerate(queries), enumerate(passages)):
        rows = [*passage, *[np.zeros(4)] * (longest - len(passage) if padded else 0)]
        expected[i, j] = sum(max(float(token @ row) for row in rows) for token in query)
    found = maxsim(queries, passages, padded=padded)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4), st.booleans())
def test_tile_boxes_cover_the_image_once(width, height, side, thumbnail):
    columns, rows = choose_grid(width, height, max_tiles=6)
    boxes = tile_boxes(columns, rows, side=side, thumbnail=thumbnail)
    tiles = boxes[: columns * rows * side**2]
    np.testing.assert_array_equal(boxes[len(tiles) :], grid_boxes(side, side) if thumbnail else np.empty((0, 4)))
    whole = grid_boxes(columns * side, rows * side)
    np.testing.assert_allclose(_sorted(tiles.round(4)), _sorted(whole.round(4)), atol=2e-4)
    assert (whole[:, 2:] - whole[:, :2]).prod(axis=1).sum() == pytest.approx(1, abs=1e-4)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), seeds)
def test_rows_of_a_packed_batch_are_those_of_its_sequences(lengths, seed):
    hidden = torch.from_numpy(np.random.default_rng(seed).normal(size=(sum(lengths), 3)).astype(np.float32))
    parts = hidden.split(lengths)
    for part, vector in zip(parts, token_vectors(hidden, lengths), strict=True):
        torch.testing.assert_close(vector, part / part.norm(dim=1, keepdim=True))
    torch.testing.assert_close(mean_pool(hidden, lengths), torch.stack([part.mean(dim=0) for part in parts]))
