"""The size that a Qwen-VL image is resized to: whole image tokens, within the budget, near its aspect ratio."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nemotron_rag.errors import ImageError
from nemotron_rag.models._qwen.pixels import PixelSettings, smart_size

lengths = st.integers(1, 6000)


@st.composite
def pixel_settings(draw: st.DrawFn) -> PixelSettings:
    patch, merge = draw(st.sampled_from([14, 16])), draw(st.integers(1, 2))
    token = (patch * merge) ** 2
    low = draw(st.integers(1, 64))
    return PixelSettings(
        patch_size=patch,
        merge_size=merge,
        temporal_patch_size=2,
        min_pixels=low * token,
        max_pixels=(4 * low + draw(st.integers(1, 2000))) * token,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )


def _is_strip(width: int, height: int) -> bool:
    return max(width, height) > 200 * min(width, height)


@given(lengths, lengths, pixel_settings())
def test_a_resized_image_has_whole_tokens_within_the_budget(width, height, settings):
    assume(not _is_strip(width, height))
    sides, side = smart_size(width, height, settings), settings.token_side
    assert all(length >= side and length % side == 0 for length in sides)
    assert sides[0] * sides[1] >= settings.min_pixels or min(sides) == side
    assert sides[0] * sides[1] <= settings.max_pixels or min(sides) == side


@given(lengths, lengths, pixel_settings())
def test_both_sides_are_scaled_alike_but_for_one_token(width, height, settings):
    assume(not _is_strip(width, height))
    resized, side = smart_size(width, height, settings), settings.token_side
    assume(min(resized) > side)  # a side of one token cannot shrink further
    scales = [((new - side) / old, (new + side) / old) for new, old in zip(resized, (width, height), strict=True)]
    assert max(low for low, _ in scales) <= min(high for _, high in scales) + 1e-9


@given(lengths, lengths, pixel_settings())
def test_an_image_on_its_side_gets_the_same_size_on_its_side(width, height, settings):
    assume(not _is_strip(width, height))
    assert smart_size(height, width, settings) == smart_size(width, height, settings)[::-1]


@given(st.integers(1, 60), st.integers(1, 60), pixel_settings())
def test_whole_tokens_within_the_budget_stay(columns, rows, settings):
    size = columns * settings.token_side, rows * settings.token_side
    assume(settings.min_pixels <= size[0] * size[1] <= settings.max_pixels)
    assert smart_size(*size, settings) == size


@given(st.integers(1, 20), st.integers(1, 100), st.booleans(), pixel_settings())
def test_strips_raise(short, extra, upright, settings):
    sides = short, 200 * short + extra
    with pytest.raises(ImageError, match="at most 200 times as long as wide"):
        smart_size(*(sides if upright else sides[::-1]), settings)
