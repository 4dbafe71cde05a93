"""Pooling against SciPy's Ward clustering (stored labels), the limit, projection; what MaxSim loses by each."""

from __future__ import annotations

import numpy as np
import pytest

from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction import pooling
from nemotron_rag.late_interaction.boxes import tile_boxes
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.late_interaction.projection import fit_basis, mean_vector, project, projected_dimensions
from nemotron_rag.late_interaction.token_vectors import MAX_VALUES, TokenVectors, fit_query


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def random_rows(n, dimensions, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((n, dimensions)))


def blobs(centres, each, *, dimensions=16, spread=0.1, seed=0):
    """Vectors around some centres, in mixed order, and which centre each belongs to."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(centres), each))
    middle = unit(generator.standard_normal((centres, dimensions)))
    return unit(middle[labels] + spread * generator.standard_normal((len(labels), dimensions))), labels


# ---- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "rows"), [(4096, 255), (2560, 409), (3072, 341), (128, 8191)])
def test_pages_are_cut_to_what_qdrant_takes(dimensions, rows):
    settings = TokenVectors().resolved(dimensions)
    assert settings == TokenVectors(pooling="hierarchical", max_rows=rows, storage="float16")
    assert rows * dimensions < 1_048_576 <= (rows + 1) * dimensions
    assert TokenVectors(**settings.to_json()) == settings


def test_what_does_not_fit_is_refused_with_what_would():
    with pytest.raises(
        InputError, match=r"300 vectors of 4096 dimensions are 1,228,800 values .* give max_rows=255 or less"
    ):
        TokenVectors(max_rows=300).resolved(4096)
    page = random_rows(12, 8)
    with pytest.raises(InputError, match="12 vectors of 8 dimensions, at most 10 can be stored; pool them"):
        TokenVectors(pooling="none", max_rows=10).fit(page)
    assert TokenVectors(pooling="none", max_rows=12).fit(page).shape == (12, 8)


@pytest.mark.parametrize("wrong", [{"pooling": "mean"}, {"storage": "int4"}, {"max_rows": 0}, {"max_rows": "9"}])
def test_settings_that_do_not_exist_are_refused(wrong):
    with pytest.raises(InputError, match=r"must be .*got"):
        TokenVectors(**wrong)


def test_short_pages_are_stored_as_they_are_but_for_repetitions():
    page = random_rows(20, 8)
    twice = np.concatenate([page[:5], page])
    assert np.array_equal(TokenVectors(storage="float32").fit(twice), page)
    assert np.array_equal(TokenVectors().fit(twice), page.astype(np.float16))


# ---- hierarchical -----------------------------------------------------------------------------------------------


def test_alike_tokens_are_averaged():
    page, labels = blobs(12, 5)
    rows = TokenVectors(max_rows=12, storage="float32").fit(page)
    first = [np.flatnonzero(labels == label)[0] for label in range(12)]
    means = unit(np.stack([page[labels == label].mean(0) for label in np.argsort(first)]))
    np.testing.assert_allclose(rows, means, atol=1e-5)


def test_the_tree_is_that_of_scipy():
    rows = unit(np.sin(np.arange(150.0) ** 2).reshape(30, 5))
    # scipy 1.17.1: fcluster(linkage(rows, "ward"), 9, "maxclust"), clusters named in the order of their first rows
    wanted = [0, 1, 2, 3, 4, 5, 6, 2, 1, 5, 7, 8, 0, 0, 4, 6, 4, 0, 8, 5, 1, 4, 7, 1, 2, 3, 4, 3, 8, 8]
    labels = pooling._ward_labels(rows, 9)
    names = list(dict.fromkeys(labels.tolist()))
    assert [names.index(label) for label in labels] == wanted


def test_long_passages_are_clustered_piece_by_piece(monkeypatch):
    monkeypatch.setattr(pooling, "_BLOCK", 100)
    rows = TokenVectors(max_rows=7).fit(random_rows(250, 8))
    assert rows.shape == (7, 8)
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1, atol=1e-3)


def test_blank_paper_goes_before_words():
    words = random_rows(40, 64)
    blank = unit(words[:1] * 0 + 1 + 0.05 * np.random.default_rng(1).standard_normal((160, 64)))
    page = np.concatenate([blank[:80], words, blank[80:]])
    rows = TokenVectors(max_rows=50, storage="float32").fit(page)
    assert maxsim([words], [rows])[0, 0] > 39.9  # of 40


# ---- grid -------------------------------------------------------------------------------------------------------


def test_a_grid_becomes_its_rows_and_columns():
    boxes = tile_boxes(2, 1, side=2, thumbnail=True)  # 2 rows of 4 in the tiles, 2 of 2 in the thumbnail
    tokens = random_rows(3 + len(boxes), 32)
    places = np.concatenate([np.full((3, 4), np.nan, dtype=np.float32), boxes])
    rows = TokenVectors(pooling="grid", storage="float32").fit(tokens, places)
    assert len(rows) == 3 + (2 + 2) + (4 + 2)
    assert np.array_equal(rows[:3], tokens[:3])
    top = (boxes[:, 1] == 0) & (boxes[:, 2] - boxes[:, 0] < 0.3)
    assert np.abs(rows - unit(tokens[3:][top].mean(0))).max(axis=1).min() < 1e-6


# ---- queries --------------------------------------------------------------------------------------------------


def test_a_query_too_long_for_a_request_keeps_its_weights():
    rows = MAX_VALUES // 4096
    query, _ = blobs(rows, 2, dimensions=4096, spread=0.001)
    short = fit_query(query)
    assert short.shape == (rows, 4096)
    page = random_rows(50, 4096, seed=7)
    np.testing.assert_allclose(maxsim([short], [page]), maxsim([query], [page]), rtol=0.02)
    assert fit_query(page) is page


# ---- projection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "columns"), [(4096, 512), (384, 128), (200, 100), (64, 32), (1, 1)])
def test_projected_vectors_are_short(dimensions, columns):
    assert projected_dimensions(dimensions) == columns


def in_few_directions(count: int, *, seed: int, dimensions: int = 512, few: int = 40) -> np.ndarray:
    """Vectors that lie in few directions, but for some noise, as those of trained models do."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((dimensions, few)))[0].T
    return unit(random_rows(count, few, seed=seed) @ basis + 0.1 * random_rows(count, dimensions, seed=seed + 1))


def test_projections_keep_the_similarities_of_pages_that_came_later():
    basis = fit_basis([in_few_directions(300, seed=1), in_few_directions(200, seed=3)])
    assert basis.shape == (512, 128)
    np.testing.assert_allclose(basis.T @ basis, np.eye(128), atol=1e-4)
    query, page = in_few_directions(20, seed=5), in_few_directions(300, seed=7)
    rough = project(query, basis) @ project(page, basis).T
    assert np.abs(rough - query @ page.T).max() < 0.02
    blind = np.linalg.qr(random_rows(512, 128))[0] * 2  # 128 random dimensions, made longer by sqrt(512 / 128)
    assert np.abs(project(query, blind) @ project(page, blind).T - query @ page.T).max() > 0.15


@pytest.mark.slow
def test_a_basis_of_few_vectors_and_of_very_many():
    assert fit_basis([random_rows(3, 64)]).shape == (64, 32)  # the others are any
    many = [in_few_directions(5000, seed=seed) for seed in (1, 3, 5, 7)]
    part = in_few_directions(10, seed=9)
    basis = fit_basis(many)
    assert np.linalg.norm(project(part, basis), axis=1).min() > 0.99


def test_the_mean_has_length_one():
    page = random_rows(9, 16).astype(np.float16)
    mean = mean_vector(page)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, unit(page.astype(np.float32).mean(0)), atol=1e-3)
