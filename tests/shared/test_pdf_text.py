"""Text layers that can be trusted: read from right to left, or said to be undecodable."""

# ruff: noqa: RUF001  # letters of other scripts are meant

from __future__ import annotations

import os
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_rag import PageIndex
from nemotron_rag.documents.pdf import ocr_available, read_pdf
from nemotron_rag.documents.pdf._glyphs import PlacedCharacter
from nemotron_rag.documents.pdf._quality import is_undecodable, legible, quality_of
from nemotron_rag.documents.pdf._right_to_left import in_reading_order
from nemotron_rag.documents.reading import read_document
from nemotron_rag.documents.word_boxes import text_lines
from nemotron_rag.testing import FakeEmbedder

DATA = Path(__file__).parents[1] / "data" / "pdf"

LINES = (DATA / "right-to-left.txt").read_text(encoding="utf-8").splitlines()


ENGINES = pytest.mark.parametrize("engine", ["mupdf", "pdfium"])


@ENGINES
@pytest.mark.parametrize("program", ["libreoffice", "chromium"])
def test_lines_from_right_to_left_come_as_they_were_written(program, engine):
    """In either engine, in the text and in the boxes of its words; pdfium drops what parts Persian letters."""
    (page,) = read_pdf(DATA / f"right-to-left-{program}.pdf", ocr="never", pdf_engine=engine)
    written = [line.replace("\u200c", "") if engine == "pdfium" else line for line in LINES]
    assert [line for line in written if line not in page.text.split("\n")] == []
    lines = text_lines(page.word_boxes)
    assert [line.text for line in lines if line.text in written] == written
    assert all(line.box[1] < after.box[1] for line, after in pairwise(lines))


@ENGINES
def test_a_ligature_of_two_letters(engine):
    (page,) = read_pdf(DATA / "lam-alef.pdf", ocr="never", pdf_engine=engine)
    assert page.text == "الاشتراك"
    assert page.word_boxes.words == ("الاشتراك",)


def portfolio() -> bytes:
    pdf = pymupdf.open()
    pdf.new_page().insert_text((72, 72), "Open this portfolio in another program.")
    pdf.embfile_add("contract.pdf", b"%PDF-1.4")
    pdf.xref_set_key(pdf.pdf_catalog(), "Collection", "<</View/T>>")
    return pdf.tobytes()


def form() -> bytes:
    pdf = pymupdf.open()
    pdf.new_page().insert_text((72, 72), "Please wait...")
    pdf.xref_set_key(pdf.pdf_catalog(), "NeedsRendering", "true")
    pdf.xref_set_key(pdf.pdf_catalog(), "AcroForm", "<</Fields[]/XFA(<xdp/>)>>")
    return pdf.tobytes()


@pytest.mark.parametrize(
    ("made", "says"),
    [(portfolio, "is a portfolio, of which only the cover is read"), (form, "is an XFA form, of which only a cover")],
)
@ENGINES
def test_covers_are_said_to_be_covers(made, says, engine, tmp_path):
    path = tmp_path / "cover.pdf"
    path.write_bytes(made())
    for on_error in ("skip", "raise"):  # it is no error
        noticed = []
        assert len(list(read_pdf(path, report=noticed.append, on_error=on_error, pdf_engine=engine))) == 1
    with PageIndex(embedder=FakeEmbedder(), pdf_engine=engine) as index:
        report = index.add(path, progress=False)
        assert report.added == 1
        said = says if made is form or engine == "mupdf" else "holds files that are not read; save its file and add it"
        assert said in report.failures[0].reason
    from llama_index.readers.nemotron_rag import PDFPageReader

    assert len(PDFPageReader(image_folder=tmp_path).load_data(path)) == 1


PERSIAN = [
    "سود شرکت ۱۲٫۵٪ افزایش یافت",
    "کارمند نمی\u200cتواند بیش از ۳۰ روز غایب باشد",
    "نشانی: www.example.com",
]
JAPANESE = ["売上高は前年比12.5%増の3,400億円となった。", "この規程は、従業員の休暇について定める。"]


@pytest.mark.parametrize(
    ("lines", "encoding"),
    [
        (PERSIAN, "utf-8"),
        (JAPANESE, "utf-8"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (["Größe und Maß: 4 % höher", "Réunion à Genève, été 2024"], "cp1252"),
    ],
)
@pytest.mark.parametrize("kind", ["txt", "md"])
def test_texts_in_any_letters_and_encoding(lines, encoding, kind):
    (page,) = read_document("\n\n".join(lines).encode(encoding), name=f"letter.{kind}", ocr="never")
    assert [line for line in page.text.split("\n") if line] == lines


def unspaced(text: str) -> str:
    return unicodedata.normalize("NFC", "".join(text.split()))


def placed(visual: str) -> list[PlacedCharacter]:
    return [PlacedCharacter(character, 10.0 * n, 10.0 * n + 10) for n, character in enumerate(visual)]


@pytest.mark.parametrize(
    ("visual", "logical"),
    [
        ("גבא", "אבג"),
        ("123 גבא", "אבג 123"),
        ("-5% גבא 1,250", "1,250 אבג -5%"),
        ("$5 גבא", "אבג $5"),
        ("12.5%-ב הלע", "עלה ב-12.5%"),
        ("(LLM( גבא", "אבג (LLM)"),  # turned round in part
        ("2024 1999 גבא", "אבג 1999 2024"),
        ("GPU H200 ודהגבא", "אבגהדו GPU H200"),
        (")ד( גבא", "אבג (ד)"),  # brackets as written, not as drawn
        ("(ד) גבא", "אבג (ד)"),  # as drawn
        ("only English (here)", "only English (here)"),
        ("an גבא in English and more English", "an אבג in English and more English"),
    ],
)
def test_what_is_drawn_becomes_what_is_read(visual, logical):
    more = "" if "English" not in logical else " words words words"
    (line,) = in_reading_order([placed(visual + more)])
    assert line.text == logical + more


def test_the_order_in_which_glyphs_are_drawn_does_not_matter():
    visual = placed("123 GPU גבא")
    assert in_reading_order([visual]) == in_reading_order([visual[::-1]]) == in_reading_order([visual[4:] + visual[:4]])


def test_marks_belong_to_the_letters_on_which_they_stand():
    """As Chromium draws: a letter without a width in a gap, its mark before it, and gaps narrower than spaces."""
    drawn = [("ي", 40, 45), ("و", 33, 40), ("ً", 29, 29), ("م", 29, 29), ("ا", 23, 27), ("ن", 8, 20)]
    letters = [PlacedCharacter(text, left, right) for text, left, right in drawn]
    gaps = [(29, 33, True), (27, 29, True), (20, 23, False), (45, 48, False)]
    spaces = [PlacedCharacter(" ", left, right, made) for left, right, made in gaps]
    (line,) = in_reading_order([[*letters, *spaces]])
    assert line.text.strip() == "يومًا ن"


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=1), st.floats(0, 100), st.floats(0, 10), st.booleans()), max_size=30
    )
)
def test_any_characters_anywhere_are_some_text(characters):
    line = [PlacedCharacter(text, left, left + width, made) for text, left, width, made in characters]
    (read,) = in_reading_order([line])
    assert isinstance(read.text, str)
    assert unspaced("".join(word for word, _ in read.words)) == unspaced(read.text)


@ENGINES
def test_an_undecodable_layer_is_no_text(engine):
    (page,) = read_pdf(DATA / "no-tounicode.pdf", ocr="never", pdf_engine=engine)
    assert (page.text, page.metadata["text_source"], page.metadata["text_quality"]) == ("", "undecodable", 0.0)
    assert page.word_boxes.words == ()


@pytest.mark.slow
@ENGINES
def test_an_undecodable_layer_goes_to_ocr(engine):
    (page,) = read_pdf(DATA / "no-tounicode.pdf", pdf_engine=engine)
    if ocr_available():
        assert page.metadata["text_source"] == "ocr"
        assert "Battery recycling plant" in page.text
    else:
        assert page.metadata["text_source"] == "undecodable"


@pytest.mark.parametrize(
    ("text", "is_junk"),
    [
        ("\ufffd\ufffd\ufffd\ufffd", True),
        ("\ue001\ue002\ue003 \ue004", True),
        ("\uf0b7 One\n\uf0b7 Two\n\uf0b7 Three items of a list", False),
        ("", False),
        ("Contents ........................................ 3", False),
        ("-----------------------------------------", False),
        ("!\"#$%&'() *+,-./:;< =>?@[\\]^_`{|}~ !\"#$ %&'()*", True),
        ("f(x) = (x + 1)² / {a, b} <-> ∀x ∈ A: x ≥ 0", False),
        ("日本語の文書を検索する", False),
        ("Wörter ﬁnden 12 %", False),
    ],
)
def test_what_is_junk(text, is_junk):
    assert is_undecodable(text) is is_junk


def test_of_a_layer_that_is_partly_junk_the_rest_is_kept():
    text = "????\nTotal 1,250\n?? ?? ?????????.".replace("?", "\ufffd")
    assert is_undecodable(text)
    assert legible(text) == "Total 1,250"
    assert quality_of("ab\ufffd\ufffd") == 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_files_whose_names_are_no_unicode_are_told_apart(tmp_path):
    files = {b"caf\xe9.pdf": "one", b"caf\xe8.pdf": "two", b"\xff.txt": "three"}
    paths = {text: Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name, text in files.items()}
    for text, path in paths.items():
        pdf = pymupdf.open()
        pdf.new_page(width=200, height=100).insert_text((20, 50), text)
        path.write_bytes(text.encode() if path.suffix == ".txt" else pdf.tobytes())
    with PageIndex(embedder=FakeEmbedder()) as index:
        report = index.add(tmp_path, progress=False)
        assert (report.added, report.failures) == (3, ())
        assert len(index.sources()) == 3
        assert index.add(tmp_path, progress=False).unchanged == 3
        assert index.sync(tmp_path, progress=False).removed == 0
        paths["one"].unlink()
        assert index.sync(tmp_path, progress=False).removed == 1
        assert {hit.page.text for hit in index.search("two", k=3)} == {"two", "three"}
