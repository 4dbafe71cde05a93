"""Texts of any characters: on one line, printable, and excerpted without being changed."""

from __future__ import annotations

import io
import re
from unicodedata import category

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nemotron_rag.documents import files
from nemotron_rag.documents.text import content_words, excerpt, one_line, printable, split_marked
from nemotron_rag.documents.words import folded, parts, query_words
from nemotron_rag.late_interaction.words import word_tokens

JOINERS = "\u200c\u200d"
vocabulary = st.sampled_from(
    ["tornado", "می\u200cروم", "Tornado,", "warning", "the", "of", "2024", "EU", "x", "größe", "文字"]
)
texts = st.text(max_size=30) | st.lists(vocabulary | st.text(max_size=5), max_size=40).map(" ".join)
queries = st.lists(vocabulary, max_size=5).map(" ".join) | st.text(max_size=10)


def _shows(text: str) -> bool:
    return all(c.isprintable() or c in JOINERS for c in text)


@given(texts)
def test_printable_text_has_nothing_a_terminal_obeys(text):
    assert _shows(printable(text))
    assert (printable(text) == text) == _shows(text)


@given(texts)
def test_one_line_is_one_line_and_keeps_what_shows(text):
    line = one_line(text)
    assert _shows(line)
    assert one_line(line).split() == line.split()
    assert [c for c in line if not c.isspace()] == [c for c in text if _shows(c) and not c.isspace()]


@given(texts, st.integers(4, 40))
def test_a_name_in_a_message_is_one_short_line(text, limit):
    line = files.one_line(text, limit=limit)
    assert line.isprintable()
    assert len(line) <= limit
    if len(text) <= limit and text.isprintable():
        assert line == " ".join(text.split())


def _words(text: str) -> list[str]:
    """Words with spaces around them, folded; no others, which have no ends."""
    return [folded(text[part.start : part.end]) for part in parts(text) if part.spaced]


def _is_spaced(text: str) -> bool:
    return all(part.spaced for part in parts(text))


@given(queries)
def test_content_words_are_words_of_the_query(query):
    every = {*_words(query), *query_words(query)} - {""}
    found = content_words(query)
    assert found <= every
    assert bool(found) == bool({folded(query[part.start : part.end]) for part in parts(query)} - {""})
    long = {folded(query[part.start : part.end]) for part in parts(query) if part.spaced and part.end - part.start >= 4}
    assert long - {""} <= found


def _count(tokens: list[str], query: str) -> int:
    return len({word for token in tokens for word in _words(token)} & content_words(query))


@given(texts, queries, st.integers(1, 20))
def test_an_excerpt_is_a_stretch_of_the_text_with_the_most_query_words(text, query, words):
    line = one_line(text)
    tokens = line.split(" ")
    found = excerpt(text, query, words=words)
    shown = found.removeprefix("… ") if found != line else found
    shown = shown.removesuffix(" …") if found != line else shown
    assert shown in line
    assert len(shown.split(" ")) <= words
    assert len(shown) <= 9 * words
    if max(map(len, tokens)) > 24:  # longer ones are cut
        return
    if len(tokens) <= words and len(line) <= 9 * words:
        assert found == line
    if len(shown) < 9 * words and _is_spaced(text):
        starts = range(0, max(1, len(tokens) - words + 1), max(1, words // 4))
        best = max(_count(tokens[start : start + words], query) for start in starts)
        assert _count(shown.split(" "), query) == best


@given(texts, queries)
def test_marked_pieces_are_the_text_again(text, query):
    pieces = split_marked(text, query)
    assert "".join(piece for piece, _ in pieces) == text
    marked = [piece for piece, is_match in pieces if is_match]
    if _is_spaced(text):
        assert all(folded(piece) in content_words(query) for piece in marked)
        assert len(marked) == sum(word in content_words(query) for word in _words(text))


@given(queries, st.integers(1, 4))
def test_words_get_the_tokens_that_overlap_them(query, length):
    starts = np.arange(0, max(1, len(query)), length)
    spans = np.stack([starts, np.minimum(starts + length, len(query))], axis=1)
    runs = [run for run in re.finditer(r"\S+", query) if any(category(c)[0] not in "PS" for c in run.group())]
    found = word_tokens(query, spans)
    assert len(found) == len(runs)
    for (word, tokens), run in zip(found, runs, strict=True):
        assert word in run.group()
        characters = set(range(*run.span()))
        assert tokens.tolist() == [i for i, span in enumerate(spans) if characters & set(range(*span))]


@given(st.binary(max_size=50), st.integers(0, 50), st.none() | st.integers(0, 60))
def test_a_stream_is_read_whole_or_refused_and_left_where_it_was(data, position, max_bytes):
    stream = io.BytesIO(data)
    stream.seek(min(position, len(data)))
    try:
        found = files.read_stream(stream, max_bytes=max_bytes)
    except files.TooManyBytesError:
        assert max_bytes is not None
        assert len(data) > max_bytes
    else:
        assert found == data
        assert max_bytes is None or len(data) <= max_bytes
    assert stream.tell() == min(position, len(data))
