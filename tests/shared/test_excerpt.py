"""What is shown of a page's text, and that nothing a terminal obeys is left in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("消費税率の引き上げは延期された。", "消費税率", ["消費税率"]),
        ("新幹線の運行本数は今年度から増える。運行", "運行本数は", ["運行本数は", "運行"]),
        ("米の生産量は減少している。", "米", ["米"]),
        ("매출이 크게 증가했다.", "매출 증가", ["매출", "증가"]),
        ("รายได้ของบริษัทเพิ่มขึ้น", "บริษัท", ["บริษัท"]),
        ("कंपनी की आय में वृद्धि हुई।", "वृद्धि", ["वृद्धि"]),
        ("الشَّاعِرُ في بغداد", "الشاعر بغداد", ["الشَّاعِرُ", "بغداد"]),
        ("L'élève a visité le château.", "eleve CHATEAU", ["élève", "château"]),
        ("2024年度の売上 revenue", "売上 revenue", ["売上", "revenue"]),
    ],
)
def test_words_of_all_languages_are_marked(text, query, expected):
    assert marked(text, query) == expected
    assert "".join(piece for piece, _ in split_marked(text, query)) == text


def test_an_excerpt_without_spaces_shows_what_was_found():
    text = "富士山は活火山である。" * 200 + "消費税率の引き上げは延期された。" + "信濃川は長い川である。" * 200
    assert "消費税率の引き上げ" in excerpt(text, "消費税率", words=10)


@given(text=st.text(max_size=60), query=st.text(max_size=20))
def test_marking_loses_nothing(text, query):
    assert "".join(piece for piece, _ in split_marked(text, query)) == text
    assert excerpt(text, query) == one_line(text)


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\udcffb", "a\u202eb", "a\x00b", "a\nb", "a\x9bb"])
def test_printable_escapes_what_a_terminal_obeys(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.startswith("a\\")
    shown.encode("utf-8")


def test_one_line_joins_lines_and_keeps_joiners():
    assert one_line("a\n  b\x07\tc") == "a b c"
    assert one_line("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"  # a Persian word with its joiner
