"""Tile grids of any image size: within bounds, and the best by the published score."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_rag.models._llama.tiling import choose_grid, count_tiles

sides = st.integers(1, 5000)
max_tiles = st.integers(1, 12)


def _score(grid: tuple[int, int], width: int, height: int, tile_size: int) -> Fraction:
    """The published score, without rounding."""
    columns, rows = grid
    gain = min(Fraction(columns * rows * tile_size**2, width * height), Fraction(3, 5))
    aspect, target = Fraction(width, height), Fraction(columns, rows)
    return gain * min(target / aspect, aspect / target)


@given(sides, sides, max_tiles, st.sampled_from([256, 448, 512]))
@settings(max_examples=300)
def test_no_other_grid_has_a_better_score(width, height, max_tiles, tile_size):
    grid = choose_grid(width, height, max_tiles=max_tiles, tile_size=tile_size)
    assert min(grid) >= 1
    assert grid[0] * grid[1] <= max_tiles
    others = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if c * r <= max_tiles]
    best = max(_score(other, width, height, tile_size) for other in others)
    assert _score(grid, width, height, tile_size) >= best * (1 - Fraction(1, 10**12))


@given(sides, sides, max_tiles, st.integers(1, 50))
@settings(max_examples=300)
def test_only_the_size_relative_to_a_tile_counts(width, height, max_tiles, factor):
    grid = choose_grid(width, height, max_tiles=max_tiles, tile_size=512)
    assert choose_grid(width * factor, height * factor, max_tiles=max_tiles, tile_size=512 * factor) == grid


@given(sides, sides, max_tiles)
def test_an_image_on_its_side_gets_as_good_a_grid(width, height, max_tiles):
    upright = _score(choose_grid(width, height, max_tiles=max_tiles), width, height, 512)
    turned = _score(choose_grid(height, width, max_tiles=max_tiles), height, width, 512)
    assert abs(upright - turned) < Fraction(1, 10**12)


@given(sides, sides, st.integers(1, 11))
def test_more_tiles_never_make_the_score_worse(width, height, tiles):
    fewer, more = (choose_grid(width, height, max_tiles=n) for n in (tiles, tiles + 1))
    assert _score(more, width, height, 512) >= _score(fewer, width, height, 512) * (1 - Fraction(1, 10**12))


@given(st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_thumbnail_is_counted_beside_more_than_one_tile(columns, rows, use_thumbnail):
    extra = count_tiles((columns, rows), use_thumbnail=use_thumbnail) - columns * rows
    assert extra == (1 if use_thumbnail and (columns, rows) != (1, 1) else 0)
