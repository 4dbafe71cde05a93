"""A second engine renders PDFs: the same pages as the first, alone, and where the first refuses."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

import numpy as np
import pymupdf
import pytest

from nemotron_rag.documents.pdf import _pool, count_pages, ocr_available, read_outline, read_pdf
from nemotron_rag.documents.pdf._engines import Renderer
from nemotron_rag.documents.reading import Document
from nemotron_rag.documents.word_boxes import text_lines
from nemotron_rag.errors import InputError, MissingExtraError, PdfError, PdfPasswordError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
from support.pages import add, make_pdf

pytest.importorskip("pypdfium2")
REFUSED = (  # MuPDF finds no pages in it, since /Count is absurd; pdfium finds the one that is there
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1000000000>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]>>endobj\ntrailer<</Root 1 0 R/Size 4>>\n%%EOF"
)


def made(*, rotation: int = 0, cropped: bool = False, **options) -> bytes:
    document = pymupdf.open()
    page = document.new_page(width=300, height=200)
    page.insert_text((60, 80), ["Photovol-", "taics grew by 4 %."], fontsize=12)
    if cropped:
        page.set_cropbox(pymupdf.Rect(20, 30, 280, 190))
    page.set_rotation(rotation)
    document.set_metadata({"title": "A report", "creationDate": "D:20240102030405Z"})
    document.set_toc([[1, "First", 1]])
    return document.tobytes(**options)


def both(data: bytes, **options):
    return tuple(next(read_pdf(data, pdf_engine=engine, on_error="raise", **options)) for engine in ("mupdf", "pdfium"))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("cropped", [False, True])
def test_pages_are_the_same(rotation, cropped):
    one, other = both(made(rotation=rotation, cropped=cropped), dpi=100)
    assert other.image.size == one.image.size
    assert np.abs(np.asarray(one.image, int) - np.asarray(other.image, int)).mean() < 4
    if rotation != 90:  # of lines that stand, pdfium reads the right one first
        assert other.text == one.text == "Photovoltaics grew by 4 %."
    assert other.id == one.id
    assert dict(other.metadata) == {**one.metadata, "pdf_engine": "pdfium"}
    lines, others = sorted(text_lines(one.word_boxes)), sorted(text_lines(other.word_boxes))
    assert [line.text for line in others] == [line.text for line in lines] == ["Photovol-", "taics grew by 4 %."]
    for line, same in zip(lines, others, strict=True):
        np.testing.assert_allclose(same.box, line.box, atol=0.02)


def test_outlines_and_counts_are_the_same():
    for engine in ("mupdf", "pdfium"):
        assert read_outline(made(), pdf_engine=engine) == [("First", 1)]
        assert count_pages(made(), pdf_engine=engine) == 1


def test_passwords_are_asked_for():
    locked = made(encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="pä", owner_pw="o")
    assert next(read_pdf(locked, pdf_engine="pdfium", password="pä")).text
    for password, reason in [(None, "needs a password"), ("no", "is wrong")]:
        with pytest.raises(PdfPasswordError, match=reason):
            list(read_pdf(locked, pdf_engine="pdfium", password=password, on_error="raise"))


def test_what_mupdf_refuses_is_rendered_by_pdfium_and_says_so(tmp_path):
    with pytest.raises(PdfError):
        list(read_pdf(REFUSED, pdf_engine="mupdf", on_error="raise"))
    (page,) = read_pdf(REFUSED, on_error="raise")
    assert page.metadata["pdf_engine"] == "pdfium"
    assert "pdf_engine" not in next(read_pdf(made())).metadata
    path = tmp_path / "refused.pdf"
    path.write_bytes(REFUSED)
    with PageIndex(embedder=FakeEmbedder()) as index:
        assert add(index, path).added == 1


def test_a_page_that_mupdf_refuses_is_rendered_by_pdfium(monkeypatch):
    renderer = Renderer()
    try:
        assert renderer.handle({"op": "open", "path": None, "password": None}, made())[0]["page_count"] == 1
        first = renderer._engines["mupdf"]
        answered = first.handle

        def refusing(request, body):
            return ({"error": "pdf", "reason": "no"}, b"") if request["op"] == "render" else answered(request, body)

        monkeypatch.setattr(first, "handle", refusing)
        limits = {"dpi": 72, "max_pixels": 10**6, "max_side": 10**4, "max_text": 10**4}
        request = {"op": "render", "number": 1, "ocr": "never", "language": "eng", "seconds": 60, **limits}
        for _ in range(2):
            assert renderer.handle(request, b"")[0]["metadata"]["pdf_engine"] == "pdfium"
    finally:
        renderer.handle({"op": "close"}, b"")


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_where_mupdf_dies_pdfium_renders_the_page_and_then_the_rest():
    many = pymupdf.open()
    for number in range(1, 21):
        many.new_page(width=200, height=100).insert_text((20, 50), f"page {number}")
    engines = []
    for page in read_pdf(many.tobytes(), workers=1, on_error="raise"):
        assert page.text == f"page {page.number}"
        engines.append(page.metadata.get("pdf_engine", "mupdf"))
        for process in [*_pool._POOL._living] if engines.count("pdfium") < 3 else ():
            process._process.kill()
    assert engines[0] == "mupdf"
    assert engines[-14:] == ["pdfium"] * 14


def test_where_mupdf_dies_in_opening_a_document_pdfium_opens_it(monkeypatch):
    opened = _pool.Seat.open

    def dies(seat):
        if seat._opening["engine"] != "pdfium":
            raise _pool.WorkerDiedError("crashed the renderer")
        return opened(seat)

    monkeypatch.setattr(_pool.Seat, "open", dies)
    assert next(read_pdf(made(), on_error="raise")).metadata["pdf_engine"] == "pdfium"
    assert count_pages(made()) == 1
    with pytest.raises(PdfError, match="cannot be opened: it crashed the renderer"):
        list(read_pdf(made(), on_error="raise", pdf_engine="mupdf"))


def test_a_page_is_read_again_for_its_words_by_the_engine_that_rendered_it(tmp_path, monkeypatch):
    path = tmp_path / "report.pdf"
    path.write_bytes(made())
    asked = []
    read = Document.pages

    def noted(document, **options):
        asked.append(document.pdf_engine)
        return read(document, **options)

    for engine, wanted in [("pdfium", "pdfium"), ("mupdf", "mupdf"), (None, "auto")]:
        with PageIndex(tmp_path / f"index-{engine}", embedder=FakeEmbedder(), pdf_engine=engine) as index:
            add(index, path)
            for sidecar in (tmp_path / f"index-{engine}").rglob("*.words"):
                sidecar.unlink()
            (hit,) = index.search("x")
            monkeypatch.setattr(Document, "pages", noted)
            assert index.regions(hit.page, "How much did photovoltaics grow?")
            monkeypatch.setattr(Document, "pages", read)
            assert asked.pop() == wanted


def test_it_works_without_pymupdf(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pymupdf" else found(name, *rest)
    )
    monkeypatch.setitem(sys.modules, "pymupdf", None)
    monkeypatch.delitem(sys.modules, "nemotron_rag.documents.pdf._render", raising=False)
    (page,) = read_pdf(made(), workers=0, on_error="raise")
    assert (page.text, page.metadata["pdf_engine"]) == ("Photovoltaics grew by 4 %.", "pdfium")
    with pytest.raises(MissingExtraError, match=r"nemotron-rag\[pdf\]"):
        read_pdf(made(), pdf_engine="mupdf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name.startswith("py") else found(name))
    with pytest.raises(MissingExtraError, match=r"nemotron-rag\[pdfium\]"):
        read_pdf(made(), pdf_engine="pdfium")


def test_names_are_checked():
    with pytest.raises(InputError, match="'pdfium'"):
        read_pdf(made(), pdf_engine="poppler")
    with pytest.raises(InputError, match="'pdfium'"):
        PageIndex(embedder=FakeEmbedder(), pdf_engine="poppler")


def test_an_index_notes_its_engine_and_may_go_on_with_another(tmp_path):
    first, second = make_pdf(tmp_path / "a.pdf", "apples"), make_pdf(tmp_path / "b.pdf", "pears")
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), pdf_engine="pdfium") as index:
        add(index, first)
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as index:
        assert index._state.render_settings()["pdf_engine"] == "pdfium"
        assert index._state.store.read_record()["pdf_engine"] == "pdfium"
    with PageIndex(tmp_path / "index", embedder=FakeEmbedder(), pdf_engine="mupdf") as index:
        assert add(index, [first, second]).added == 1
        engines = {hit.page.source[-5:]: hit.page.metadata.get("pdf_engine") for hit in index.search("x")}
        assert engines == {"a.pdf": "pdfium", "b.pdf": None}


@pytest.mark.slow
def test_scans_are_read_by_the_program_tesseract():
    if not ocr_available():
        pytest.skip("Tesseract's data for English is not installed (apt-get install tesseract-ocr)")
    pixels = pymupdf.open(stream=made())[0].get_pixmap(dpi=200)
    scan = pymupdf.open()
    scan.new_page(width=300, height=200).insert_image(pymupdf.Rect(0, 0, 300, 200), pixmap=pixels)
    one, other = both(scan.tobytes())
    assert other.metadata["text_source"] == one.metadata["text_source"] == "ocr"
    assert "grew by 4" in other.text
    last, same = text_lines(one.word_boxes)[-1], text_lines(other.word_boxes)[-1]
    np.testing.assert_allclose(same.box, last.box, atol=0.05)
