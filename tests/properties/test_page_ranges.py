"""Page selections of any form: they mean what is written, and what means nothing raises `InputError`."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nemotron_rag.documents.pdf import parse_pages, resolve_pages
from nemotron_rag.errors import InputError

blanks = st.text(" \t", max_size=2)
numbers = st.integers(1, 60)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int | None]:
    first = draw(numbers)
    return first, draw(st.none() | st.just(first) | st.integers(first, 80))


@st.composite
def written(draw: st.DrawFn) -> tuple[str, list[tuple[int, int | None]]]:
    """A text, and the ranges that it means."""
    parts, meant = [], draw(st.lists(ranges(), min_size=1, max_size=5))
    for first, last in meant:
        single = last == first and draw(st.booleans())
        tokens = [str(first)] if single else [str(first), "-", "" if last is None else str(last)]
        parts.append("".join(draw(blanks) + token for token in tokens) + draw(blanks))
    return ",".join(parts), meant


@given(written())
def test_a_text_is_read_as_the_ranges_it_names(text_and_ranges):
    text, meant = text_and_ranges
    assert parse_pages(text) == meant


@given(written(), st.integers(1, 70))
def test_resolved_pages_are_those_of_any_range_sorted_and_unique(text_and_ranges, page_count):
    text, meant = text_and_ranges
    if any(first > page_count for first, _ in meant):
        with pytest.raises(InputError, match=rf"the last one is {page_count}"):
            resolve_pages(parse_pages(text), page_count)
        return
    expected = [
        page
        for page in range(1, page_count + 1)
        if any(first <= page and (last is None or page <= last) for first, last in meant)
    ]
    assert resolve_pages(parse_pages(text), page_count) == expected


@given(st.lists(numbers, max_size=20))
def test_numbers_and_their_text_mean_the_same_pages(pages):
    from_numbers = resolve_pages(parse_pages(pages), 60)
    assert from_numbers == sorted(set(pages))
    assert from_numbers == resolve_pages(parse_pages(iter(pages)), 60)
    if pages:
        assert from_numbers == resolve_pages(parse_pages(",".join(map(str, pages))), 60)


@given(st.integers(1, 500))
def test_no_selection_is_every_page(page_count):
    assert resolve_pages(parse_pages(None), page_count) == list(range(1, page_count + 1))


@given(st.text("0123456789-, x²٣\n", max_size=12) | st.text(max_size=6))
def test_any_other_text_raises_input_error(text):
    try:
        found = parse_pages(text)
    except InputError:
        return
    assert all(first >= 1 and (last is None or first <= last) for first, last in found)
    assert len(found) == text.count(",") + 1


@given(st.lists(st.integers(-3, 3) | st.booleans() | st.text(max_size=2) | st.floats(), min_size=1, max_size=4))
def test_anything_but_positive_integers_raises_input_error(pages):
    assume(not all(type(page) is int and page > 0 for page in pages))
    with pytest.raises(InputError):
        parse_pages(pages)
