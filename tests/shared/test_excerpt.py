"""What is shown of a page's text, and that nothing a terminal obeys is left in it."""

import pytest

from nemotron_rag.documents.text import excerpt, one_line, printable, split_marked


def marked(text, query):
    return [piece for piece, found in split_marked(text, query) if found]


def test_excerpt_finds_the_stretch_with_the_most_query_words():
    text = "filler " * 200 + "red apples keep best in cold rooms " + "filler " * 200
    shown = excerpt(text, "how do apples keep in cold rooms", words=20)
    assert "apples keep best in cold rooms" in shown
    assert shown.startswith("… ")
    assert shown.endswith(" …")


def test_excerpt_begins_at_the_top_when_nothing_matches():
    assert excerpt("one two three four", "zebra", words=2) == "one two …"
    assert excerpt("one two", "zebra", words=60) == "one two"
    assert excerpt("", "zebra") == ""


def test_excerpt_is_bounded_without_spaces():
    assert len(excerpt("語" * 100_000, "語", words=10)) < 120


def test_long_words_numbers_and_acronyms_are_marked():
    text = "The state of HPC in 2024 of the art"
    assert marked(text, "what is the state of HPC in 2024?") == ["state", "HPC", "2024"]


def test_short_words_are_marked_when_there_are_no_others():
    assert marked("who is it", "who is") == ["who", "is"]


def test_marks_whole_words_in_any_case_and_loses_nothing():
    text = "Kläranlage, KLÄRANLAGE; Kläranlagen"
    assert marked(text, "die kläranlage") == ["Kläranlage", "KLÄRANLAGE"]
    assert "".join(piece for piece, _ in split_marked(text, "die kläranlage")) == text


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\udcffb", "a\u202eb", "a\x00b", "a\nb", "a\x9bb"])
def test_printable_escapes_what_a_terminal_obeys(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.startswith("a\\")
    shown.encode("utf-8")


def test_one_line_joins_lines_and_keeps_joiners():
    assert one_line("a\n  b\x07\tc") == "a b c"
    assert one_line("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"  # a Persian word with its joiner
