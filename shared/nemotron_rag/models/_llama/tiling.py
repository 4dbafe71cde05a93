"""Choose the tile grid of an image: `dynamic_preprocess` of the published Llama-Nemotron VL processors.

Ties between grids are decided by float64 rounding, so the order of the operations below must not be changed.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["choose_grid", "count_tiles"]

_MAX_ENLARGEMENT = 0.6  # of the published rule: more tile area than 0.6 of the image's area does not raise the score


@lru_cache(maxsize=64)
def _candidates(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Return all (columns, rows) with at most `max_tiles` tiles, fewest tiles first."""
    grids = [(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles + 1) if i * j <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def choose_grid(width: int, height: int, *, max_tiles: int, tile_size: int = 512) -> tuple[int, int]:
    """Choose the (columns, rows) grid that an image is resized to.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        max_tiles: most tiles allowed, thumbnail not counted.
        tile_size: side of a tile, pixels.

    Returns:
        Columns and rows; the image is resized to ``(columns * tile_size, rows * tile_size)``.
    """
    aspect = width / height
    area = width * height
    best_score, best = float("-inf"), (1, 1)
    for columns, rows in _candidates(max_tiles):
        target = columns / rows
        area_gain = min((columns * rows * tile_size * tile_size) / area, _MAX_ENLARGEMENT)
        score = area_gain * min(target / aspect, aspect / target)
        if score > best_score:
            best_score, best = score, (columns, rows)
    return best


def count_tiles(grid: tuple[int, int], *, use_thumbnail: bool) -> int:
    """Count the tiles of an image, the thumbnail included if the grid has more than one tile."""
    tiles = grid[0] * grid[1]
    return tiles + 1 if use_thumbnail and tiles > 1 else tiles
