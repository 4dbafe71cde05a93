"""Documents that are no PDFs, through both frameworks: told apart by content, cited by their own name."""

from __future__ import annotations

import io

import pytest
from llama_index.core import SimpleDirectoryReader
from PIL import Image

from langchain_nemotron_rag import DocumentPageLoader, PDFPageLoader
from llama_index.readers.nemotron_rag import DocumentPageReader, PDFPageReader
from nemotron_rag.documents.kinds import suffixes
from nemotron_rag.errors import InputError
from support.pages import make_pdf


@pytest.fixture
def folder(tmp_path):
    """A text, a web page, a picture that is called a PDF, a fax of two pages, and what is no document."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# Storms")
    (docs / "b.html").write_text("<html><body><p>Hail</p></body></html>")
    Image.new("RGB", (60, 40), "white").save(docs / "c.pdf", "PNG")
    Image.new("1", (60, 40)).save(docs / "d.tif", save_all=True, append_images=[Image.new("1", (60, 40))])
    (docs / "e.py").write_text("print()")
    return docs


WANTED = [("a.md", 1, "md"), ("b.html", 1, "html"), ("c.pdf", 1, None), ("d.tif", 1, "tiff"), ("d.tif", 2, "tiff")]


def test_langchain(folder, caplog):
    pages = list(DocumentPageLoader(folder, ocr="never").lazy_load())
    found = [
        (page.metadata["source"].rpartition("/")[2], page.metadata["page_number"], page.metadata.get("format"))
        for page in pages
    ]
    assert found == WANTED
    assert [page.page_content for page in pages[:2]] == ["Storms", "Hail"]
    assert "left out 1 files that are no documents" in caplog.text
    assert "e.py" in caplog.text
    data = (folder / "d.tif").read_bytes()
    assert len(list(DocumentPageLoader([data, io.BytesIO(data)], ocr="never").lazy_load())) == 4


def test_llama_index(folder, tmp_path, caplog):
    reader = DocumentPageReader(image_folder=tmp_path / "images", ocr="never")
    pages = reader.load_data(folder)
    found = [(page.metadata["file_name"], page.metadata["page_number"], page.metadata.get("format")) for page in pages]
    assert found == WANTED
    assert [page.text for page in pages[:2]] == ["Storms", "Hail"]
    assert "e.py" in caplog.text
    whole = SimpleDirectoryReader(folder, required_exts=suffixes(), file_extractor=dict.fromkeys(suffixes(), reader))
    assert len(whole.load_data()) == 5


@pytest.mark.parametrize("engine", ["auto", "mupdf", "pdfium"])
def test_the_engine_is_the_users(folder, tmp_path, engine, caplog):
    pytest.importorskip("pypdfium2")
    pdf, wanted = make_pdf(tmp_path / "f.pdf", "Fog"), [engine if engine == "pdfium" else None]
    options = {"pdf_engine": engine, "ocr": "never", "workers": 0}
    for loader in (PDFPageLoader, DocumentPageLoader):
        assert [page.metadata.get("pdf_engine") for page in loader(pdf, **options).lazy_load()] == wanted
    for reader in (PDFPageReader, DocumentPageReader):
        pages = reader(image_folder=tmp_path / "images", **options).load_data(pdf)
        assert [page.metadata.get("pdf_engine") for page in pages] == wanted
    texts = [page.page_content for page in DocumentPageLoader(folder / "a.md", **options).lazy_load()]
    assert texts == ([] if engine == "pdfium" else ["Storms"])
    assert ("pdf_engine='auto'" in caplog.text) == (engine == "pdfium")  # said, with what to do


def test_unknown_engines_are_refused_when_it_is_built(tmp_path):
    with pytest.raises(InputError, match="pdf_engine must be one of .*, got 'poppler'"):
        PDFPageLoader(make_pdf(tmp_path / "f.pdf", "Fog"), pdf_engine="poppler")
    with pytest.raises(ValueError, match="'pdfium'"):
        PDFPageReader(pdf_engine="poppler")


def test_the_loaders_of_pdfs_take_pdfs_alone(folder, caplog):
    (folder / "c.pdf").unlink()
    assert list(PDFPageLoader(folder).lazy_load()) == []
    assert PDFPageReader().load_data(folder) == []
    assert "there is no PDF in" in caplog.text
