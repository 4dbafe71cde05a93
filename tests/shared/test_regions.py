"""Where on a page a query is answered: boxes of lines, whatever the model and however the page lies."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pymupdf
import pytest
from PIL import Image

from nemotron_rag.documents.pdf import ocr_available, read_pdf
from nemotron_rag.documents.word_boxes import (
    PlacedWord,
    check_word_boxes,
    decode_word_boxes,
    encode_word_boxes,
    text_lines,
    word_boxes_of,
)
from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.index.regions import crop, find_regions
from nemotron_rag.late_interaction.heatmap import Heatmap
from nemotron_rag.report import Answer, page_link, render_report
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from nemotron_rag.types import Page, WordBoxes
from support.pages import add

WHO = ["The northern warehouse", "Our Lisbon office", "The marketing team", "A regional supplier", "The turbine"] * 2
DOES = ["stores", "reported", "replaced", "measured", "cancelled", "inspected", "doubled"] * 2
WHAT = ["olive oil", "fewer complaints", "broken sensors", "pension contracts", "salmon from Norway"]
WHAT += ["panels on the roof", "travel expenses", "the inventory list", "vaccine shipments", "wooden furniture"]
SENTENCES = [" ".join(words) + "." for words in zip(WHO, DOES, WHAT, strict=False)]
FONT = 10


def overlap(one, other) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared)


def made(*, rotation=0, columns=1, cropped=False, sentences=SENTENCES):
    """A PDF, and the box of each sentence on its image."""
    document = pymupdf.open()
    page = document.new_page(width=595, height=842)
    places = []
    for index, sentence in enumerate(sentences):
        rows = -(-len(sentences) // columns)
        x, y = 60 + 250 * (index // rows), 120 + 13 * (index % rows)
        page.insert_text((x, y), sentence, fontsize=FONT if columns == 1 else FONT - 2)
        size = FONT if columns == 1 else FONT - 2
        places.append(
            pymupdf.Rect(x, y - 1.075 * size, x + pymupdf.get_text_length(sentence, fontsize=size), y + 0.3 * size)
        )
    if cropped:
        page.set_cropbox(pymupdf.Rect(40, 60, 560, 500))
        places = [place - (40, 60, 40, 60) for place in places]
    page.set_rotation(rotation)
    turned = [place * page.rotation_matrix for place in places]
    width, height = page.rect.width, page.rect.height
    return document.tobytes(), [(t.x0 / width, t.y0 / height, t.x1 / width, t.y1 / height) for t in turned]


def opened(path, data, **options):
    path.write_bytes(data)
    index = PageIndex(embedder=options.pop("embedder", FakeEmbedder()), **options)
    assert add(index, path).failures == ()
    return index


LAYOUTS = [{}, *({"rotation": angle} for angle in (90, 180, 270)), {"columns": 2}, {"cropped": True}]


@pytest.mark.parametrize("layout", [*LAYOUTS, {"cropped": True, "rotation": 90}])
def test_the_line_of_a_sentence_is_found(tmp_path, layout):
    data, boxes = made(**layout)
    with opened(tmp_path / "made.pdf", data) as index:
        (hit,) = index.search("warehouse")
        for sentence, box in zip(SENTENCES, boxes, strict=True):
            best = index.regions(hit.page, sentence)[0]
            assert overlap(best.box, box) >= 0.5, sentence
            assert (best.text, best.evidence) == (sentence, "words")
            assert best.score == pytest.approx(1)


def test_a_sentence_over_two_lines_is_one_region_and_the_next_sentence_is_not_in_it(tmp_path):
    lines = ["The harbour crane was repaired", "by engineers of a Danish firm.", "The harbour has a lighthouse."]
    data, boxes = made(sentences=lines)
    with opened(tmp_path / "made.pdf", data) as index:
        (hit,) = index.search("crane")
        best = index.regions(hit.page, "The harbour crane was repaired by engineers of a Danish firm.")[0]
        assert best.text.split("\n") == lines[:2]
        union = (boxes[0][0], boxes[0][1], max(boxes[0][2], boxes[1][2]), boxes[1][3])
        assert overlap(best.box, union) > 0.9


def test_a_word_broken_at_the_end_of_a_line_is_found():
    words = [PlacedWord("photo-", (0, 0, 30, 10), 0, 0), PlacedWord("voltaics", (0, 12, 40, 22), 0, 1),
             PlacedWord("coal", (0, 40, 20, 50), 0, 2)]  # fmt: skip
    (best,) = find_regions(word_boxes_of(words, 100, 100, longest=99), "photovoltaics", k=1)
    assert best.text in ("photo-", "voltaics")


@pytest.mark.parametrize("rotation", [0, 90])
def test_running_titles_do_not_win_over_the_line_that_answers(tmp_path, rotation):
    """A footer has the words of the document's title, and the line that answers has others of the query."""
    document = pymupdf.open()
    page = document.new_page(width=595, height=842)
    page.insert_text((60, 30), "Annual performance report 2018 of the personnel office", fontsize=FONT)
    page.insert_text((60, 300), "Veterans were 31 percent of new hires in the report year.", fontsize=FONT)
    page.insert_text((60, 820), "Annual performance report 2018 of the personnel office", fontsize=FONT)
    page.set_rotation(rotation)
    with opened(tmp_path / "made.pdf", document.tobytes()) as index:
        (hit,) = index.search("x")
        query = "How many veterans did the personnel office hire by its annual performance report 2018?"
        assert index.regions(hit.page, query)[0].text.startswith("Veterans were")
        assert index.regions(hit.page, "the annual performance report of 2018")[0].text.startswith("Annual")


def test_nothing_is_found_where_the_page_has_no_content_word_of_the_query(tmp_path):
    data, _ = made()
    with opened(tmp_path / "made.pdf", data) as index:
        (hit,) = index.search("x")
        assert index.regions(hit.page, "The quarks of the cosmos") == []
        assert index.regions(hit.page, "") == []
        assert len(index.regions(hit.page, "the supplier measured", k=2)) <= 2


def test_arguments_are_checked(tmp_path):
    data, _ = made()
    with opened(tmp_path / "made.pdf", data) as index:
        (hit,) = index.search("x")
        for options, reason in [({"k": 0}, "positive"), ({"by": "magic"}, "auto"), ({"by": "vectors"}, "one vector")]:
            with pytest.raises(InputError, match=reason):
                index.regions(hit.page, "office", **options)
        with pytest.raises(InputError, match="str"):
            index.regions(hit.page, Page(id="1"))


async def test_async_equals_sync(tmp_path):
    data, _ = made()
    with opened(tmp_path / "made.pdf", data) as index:
        (hit,) = index.search("x")
        assert await index.aregions(hit.page, SENTENCES[2]) == index.regions(hit.page, SENTENCES[2]) != []


def test_a_reranker_orders_crops(tmp_path):
    data, _ = made()
    with opened(tmp_path / "made.pdf", data, reranker=FakeReranker()) as index:
        (hit,) = index.search("x", rerank=False)
        best, *others = index.regions(hit.page, SENTENCES[3], rerank=True)
        assert (best.text, best.evidence) == (SENTENCES[3], "reranker")
        assert best.score == pytest.approx(5)
        assert all(other.score < 5 for other in others)


def test_words_are_stored_beside_the_image_and_go_with_the_page(tmp_path):
    data, _ = made()
    path = tmp_path / "made.pdf"
    with opened(path, data, location=tmp_path / "index") as index:
        (hit,) = index.search("x")
        (sidecar,) = (tmp_path / "index").rglob("*.words")
        assert sidecar.with_suffix(".png") == hit.page.image.path
        path.unlink()
        assert index.word_boxes(hit.page).words[:2] == ("The", "northern")
        assert index.check().faults == ()
        assert index.check().leftovers == ()
        index.delete(ids=[hit.page.id])
        assert list((tmp_path / "index").rglob("*.words")) == []


def test_damaged_and_lost_words_are_found_by_check(tmp_path):
    data, _ = made()
    with opened(tmp_path / "made.pdf", data, location=tmp_path / "index") as index:
        (sidecar,) = (tmp_path / "index").rglob("*.words")
        lost = sidecar.with_name("0b5a3c9e-1f44-5a55-8d0c-3c7d1a0e9f10.words")
        shutil.copy(sidecar, lost)
        sidecar.write_bytes(sidecar.read_bytes()[:-9])
        report = index.check()
        assert "words" in report.faults[0].reason
        assert len(report.leftovers) == 1
        index.repair()
        assert not lost.exists()
        assert not sidecar.exists()
        assert add(index, tmp_path / "made.pdf").added == 1
        assert index.check().faults == ()


def test_an_index_without_words_reads_them_from_the_unchanged_pdf(tmp_path, caplog):
    data, _ = made()
    path = tmp_path / "made.pdf"
    with opened(path, data, location=tmp_path / "index") as index:
        for sidecar in (tmp_path / "index").rglob("*.words"):
            sidecar.unlink()
        (hit,) = index.search("x")
        assert index.regions(hit.page, SENTENCES[1])[0].text == SENTENCES[1]
        path.write_bytes(made(sentences=["Something else."])[0])
        with caplog.at_level(logging.WARNING, "nemotron_rag"):
            assert index.regions(hit.page, SENTENCES[1]) == []
        assert "add it again" in caplog.text


def test_a_caller_can_give_word_boxes_of_an_ocr_of_their_own():
    boxes = word_boxes_of([PlacedWord("sales", (10, 10, 50, 20), 0, 0)], 100, 100, longest=9)
    image = Image.new("RGB", (100, 100), "white")
    with PageIndex(embedder=FakeEmbedder()) as index:
        add(index, [Page(id="p1", text="sales", image=image, word_boxes=boxes), Page(id="p2", text="sales")])
        for hit in index.search("sales"):
            assert hit.page.word_boxes is None
            assert "word_boxes" not in repr(hit.page)
            found = index.regions(hit.page, "sales")
            assert [region.text for region in found] == (["sales"] if hit.page.id == "p1" else [])
        bad = WordBoxes(("a b",), boxes.boxes, boxes.lines)
        assert "spaces" in add(index, [Page(id="p3", text="x", image=image, word_boxes=bad)]).failures[0].reason


def test_word_boxes_survive_their_bytes():
    words = [
        PlacedWord(word, (i, 2 * i, i + 1, 2 * i + 1), 0, i // 3) for i, word in enumerate(["ab", "税率", "مرحبا", "é"])
    ]
    found = word_boxes_of(words, 9, 19, longest=99)
    back = decode_word_boxes(encode_word_boxes(found))
    assert back.words == found.words
    assert (back.lines == found.lines).all()
    np.testing.assert_allclose(back.boxes, found.boxes, atol=1e-4)
    empty = decode_word_boxes(encode_word_boxes(word_boxes_of([], 1, 1, longest=1)))
    assert text_lines(empty) == []


@pytest.mark.parametrize("data", [b"", b"NRW1", b"NRW1" + bytes(20), b"PK\x03\x04"])
def test_damaged_bytes_are_refused(data):
    with pytest.raises(InputError, match="damaged word boxes"):
        decode_word_boxes(data)


def test_bytes_that_unpack_to_too_much_are_refused():
    import zlib

    with pytest.raises(InputError, match="more than"):
        decode_word_boxes(b"NRW1" + zlib.compress(bytes(2**24)))


def test_what_is_not_on_the_page_is_left_out_and_cells_are_lines_of_their_own():
    words = [
        PlacedWord("gone", (-30, 0, -10, 10), 0, 0),
        PlacedWord("cut", (-5, 0, 10, 10), 0, 1),
        PlacedWord("near", (12, 0, 30, 10), 0, 2),
        PlacedWord("far", (80, 0, 95, 10), 0, 2),
        PlacedWord("nan", (float("nan"), 0, 1, 1), 0, 3),
    ]
    found = word_boxes_of(words, 100, 100, longest=99)
    assert [line.text for line in text_lines(found)] == ["cut near", "far"]
    assert found.boxes[0].tolist() == pytest.approx([0, 0, 0.1, 0.1])
    check_word_boxes(found)


def test_heat_decides_where_words_do_not():
    words = word_boxes_of(
        [PlacedWord("Revenue", (0, 0, 40, 10), 0, 0), PlacedWord("Staff", (0, 50, 40, 60), 0, 1)], 100, 100, longest=99
    )
    similarities = np.zeros((1, 10, 10), np.float32)
    similarities[0, 5, 1] = 1
    heatmap = Heatmap(Image.new("RGB", (100, 100)), ("Employees",), similarities)
    (best,) = find_regions(words, "Employees", heatmap=heatmap)
    assert (best.text, best.evidence) == ("Staff", "vectors")
    (place,) = find_regions(None, "Employees", heatmap=heatmap)
    assert place.box == pytest.approx((0.1, 0.5, 0.2, 0.6))
    assert place.text == ""


def test_a_late_interaction_model_that_reads_pages_gives_the_words_too(tmp_path):
    data, _ = made()
    with opened(tmp_path / "made.pdf", data, embedder=FakeMultiVectorEmbedder()) as index:
        (hit,) = index.search("x")
        assert index.regions(hit.page, SENTENCES[4])[0].text == SENTENCES[4]
        assert index.regions(hit.page, SENTENCES[4], by="words")[0].evidence == "words"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["starter-embed-vl", "starter-colembed"])
def test_the_starters_find_nine_of_ten_sentences(tmp_path, name):
    data, boxes = made()
    with opened(tmp_path / "made.pdf", data, embedder=name) as index:
        (hit,) = index.search("warehouse")
        best = [index.regions(hit.page, sentence)[0].box for sentence in SENTENCES]
        assert sum(overlap(*pair) >= 0.5 for pair in zip(best, boxes, strict=True)) >= 0.9 * len(boxes)


def test_a_crop_is_of_the_image_and_never_empty():
    image = Image.new("RGB", (100, 200))
    assert crop(image, (0.2, 0.2, 0.4, 0.3), margin=0).size == (20, 20)
    assert crop(image, (1, 1, 1, 1), margin=0).size == (1, 1)


@pytest.mark.slow
def test_scans_have_the_boxes_of_tesseract(tmp_path):
    if not ocr_available():
        pytest.skip("Tesseract's data for English is not installed (apt-get install tesseract-ocr)")
    lines = [
        "The northern warehouse stores olive oil.",
        "Our office reported fewer complaints.",
        "A supplier measured contracts.",
    ]
    drawn, boxes = made(sentences=lines)
    scan = pymupdf.open()
    pixels = pymupdf.open(stream=drawn)[0].get_pixmap(dpi=200)
    scan.new_page(width=595, height=842).insert_image(pymupdf.Rect(0, 0, 595, 842), pixmap=pixels)
    (page,) = read_pdf(scan.tobytes())
    assert page.metadata["text_source"] == "ocr"
    with opened(tmp_path / "scan.pdf", scan.tobytes()) as index:
        (hit,) = index.search("x")
        for line, box in zip(lines, boxes, strict=True):
            assert overlap(index.regions(hit.page, line)[0].box, box) >= 0.5, line


def test_reports_frame_regions_and_link_to_the_page(tmp_path):
    data, _ = made()
    with opened(tmp_path / "made #1.pdf", data) as index:
        hits = index.search("x")
        plain, framed = (
            render_report([Answer(SENTENCES[0], hits, regions=regions)]) for regions in (None, index.regions)
        )
        assert plain != framed
        assert f'href="{(tmp_path / "made #1.pdf").as_uri()}#page=1"' in framed
        assert "%231.pdf#page=1" in framed

        def failing(page, query):
            raise InputError("no")

        assert render_report([Answer(SENTENCES[0], hits, regions=failing)]) == plain


@pytest.mark.parametrize(
    ("source", "link"),
    [
        ("https://example.org/a.pdf?x=1&y=<b>#old", "https://example.org/a.pdf?x=1&y=%3Cb%3E#page=3"),
        ("HTTP://example.org/a.PDF", "http://example.org/a.PDF#page=3"),
        ("https://user:key@example.org/a.pdf", None),
        ("https://example.org/a.html", None),
        ("javascript:alert(1)//a.pdf", None),
        ("s3://bucket/a.pdf", None),
        ("data:application/pdf;base64,AA==", None),
        ("missing.pdf", None),
        ("", None),
        ("\0.pdf", None),
    ],
)
def test_links_are_to_pdfs_on_the_web_or_here_alone(source, link):
    assert page_link(Page(id="1", source=source, number=3)) == link
