"""PDFPageParser and PDFPageLoader: pages as documents that stores, retrievers and indexing tell apart."""

from __future__ import annotations

import base64
import copy
import gc
import io
import json
import shutil

import pymupdf
import pytest
from langchain_core.documents import Document
from langchain_core.documents.base import Blob
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from PIL import Image

from langchain_nemotron_rag import NemotronEmbeddings, NemotronRerank, PDFPageLoader, PDFPageParser
from langchain_nemotron_rag._documents import IMAGE_KEY
from nemotron_rag.documents.pdf import read_pdf
from nemotron_rag.errors import ImageError, InputError, PdfError
from nemotron_rag.testing import FakeEmbedder, FakeReranker


@pytest.fixture
def parser() -> PDFPageParser:
    return PDFPageParser(workers=0, ocr="never", dpi=72)


def opened(document) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(document.metadata["image"].split(",")[1])))


def test_a_path_may_be_called_as_other_loaders_call_it(parser, report_pdf):
    for loader in (
        PDFPageLoader(file_path=report_pdf, parser=parser),
        PDFPageLoader(file_path=[report_pdf], parser=parser),
    ):
        assert len(loader.load()) == 4
    for given in ({}, {"path": report_pdf, "file_path": report_pdf}):
        with pytest.raises(InputError, match="PDFPageLoader wants a path or file_path="):
            PDFPageLoader(**given, parser=parser)


def test_pages_with_text_image_and_provenance(parser, report_pdf):
    pages = list(PDFPageLoader(report_pdf, parser=parser).lazy_load())
    originals = list(read_pdf(report_pdf, workers=0, ocr="never", dpi=72))
    assert [page.metadata["page_id"] for page in pages] == [original.id for original in originals]
    assert len({page.id for page in pages}) == len(pages)
    first = dict(pages[0].metadata)
    assert opened(pages[0]).tobytes() == originals[0].image.tobytes(), "PNG keeps every pixel"
    assert first.pop("image").startswith("data:image/png;base64,")
    assert first.pop("creationdate").startswith("2026-01-02")
    assert first == {
        "source": str(report_pdf),
        "page": 0,
        "page_number": 1,
        "page_id": originals[0].id,
        "total_pages": 4,
        "title": "Storms",
        "width": 200.0,
        "height": 260.0,
        "text_source": "layer",
        "mime_type": "image/png",
    }
    assert [page.page_content for page in pages] == [
        "Tornadoes form in thunderstorms.",
        "CONFIDENTIAL",
        "CONFIDENTIAL",
        f"[page image] {report_pdf.name} p.4 ({originals[3].id[:8]})",
    ]
    assert [page.metadata.get("text_is_placeholder", False) for page in pages] == [False, False, False, True]


def test_metadata_is_plain_json(parser, report_pdf):
    for page in PDFPageLoader(report_pdf, parser=parser).lazy_load():
        assert json.loads(json.dumps(page.metadata)) == page.metadata
        assert Document.model_validate_json(page.model_dump_json()) == page


def test_images_in_a_folder(report_pdf, tmp_path):
    folder = tmp_path / "new" / "pages"
    parser = PDFPageParser(image_folder=folder, image_format="jpeg", workers=0, ocr="never", dpi=72)
    pages = PDFPageLoader(report_pdf, parser=parser).load()
    assert sorted(str(path) for path in folder.iterdir()) == sorted(page.metadata["image"] for page in pages)
    with Image.open(pages[0].metadata["image"]) as written:
        assert (written.format, written.size) == ("JPEG", (200, 260))
    assert pages[0].metadata["mime_type"] == "image/jpeg"
    assert PDFPageLoader(report_pdf, parser=parser).load() == pages, "parsing again changes nothing"
    rerank = NemotronRerank(model=FakeReranker(), image_roots=[folder])
    assert rerank.compress_documents(pages, "tornadoes form")[0].id == pages[0].id
    with pytest.raises(ImageError, match="outside the allowed folders"):
        NemotronRerank(model=FakeReranker(), on_image_error="raise").compress_documents(pages, "q")


def test_pages_are_streamed(parser, report_pdf, monkeypatch):
    made = []
    monkeypatch.setattr(
        "langchain_nemotron_rag.document_loaders.encode_image",
        lambda image, kind: made.append(kind) or b"x",
    )
    pages = PDFPageLoader(report_pdf, parser=parser).lazy_load()
    assert made == []
    next(pages)
    assert made == ["png"]


async def test_async_loading(parser, report_pdf):
    loader = PDFPageLoader(report_pdf, parser=parser)
    assert [page async for page in loader.alazy_load()] == loader.load()


def test_folders(parser, report_pdf, tmp_path):
    (tmp_path / "deep").mkdir()
    pdf = pymupdf.open(report_pdf)
    pdf.select([0])
    pdf.save(tmp_path / "deep" / "one.pdf")
    (tmp_path / "notes.txt").write_text("no PDF")
    pages = PDFPageLoader(tmp_path, parser=parser).load()
    assert [(page.metadata["source"], page.metadata["page"]) for page in pages] == [
        (str(tmp_path / "deep" / "one.pdf"), 0),
        *[(str(report_pdf), number) for number in range(4)],
    ]
    assert len({page.id for page in pages}) == 5
    with pytest.raises(InputError, match="nothing is at"):
        PDFPageLoader(tmp_path / "missing", parser=parser).load()


def test_blobs(parser, report_pdf):
    data = report_pdf.read_bytes()
    named = Blob.from_data(data, path="s3://bucket/report.pdf", metadata={"team": "weather", "page": "ours wins"})
    page = next(parser.lazy_parse(named))
    assert (page.metadata["source"], page.metadata["team"], page.metadata["page"]) == (
        "s3://bucket/report.pdf",
        "weather",
        0,
    )
    unnamed = next(parser.lazy_parse(Blob.from_data(data)))
    assert unnamed.metadata["source"].startswith("sha256:")
    assert unnamed.metadata["page_id"] == page.metadata["page_id"], "it follows from the bytes"
    assert unnamed.id != page.id, "the id follows from the name too"


def test_what_cannot_be_read(tmp_path, report_pdf):
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 no more")
    failures = []
    parser = PDFPageParser(workers=0, dpi=72, ocr="never", report=failures.append)
    assert len(PDFPageLoader(tmp_path, parser=parser).load()) == 4
    assert [failure.source for failure in failures] == [str(tmp_path / "broken.pdf")]
    strict = PDFPageParser(workers=0, on_error="raise")
    with pytest.raises(PdfError, match="broken.pdf"):
        PDFPageLoader(tmp_path / "broken.pdf", parser=strict).load()
    with pytest.raises(InputError, match="image_format must be one of png, jpeg, webp, got 'gif'"):
        PDFPageParser(image_format="gif")


def test_options_reach_the_reader(report_pdf, tmp_path):
    locked = tmp_path / "locked.pdf"
    pymupdf.open(report_pdf).save(locked, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="owner")
    parser = PDFPageParser(
        pages=(n for n in (2, 4)), password="secret", dpi=36, workers=0, ocr="never", image_key="scan"
    )
    for _ in range(2):  # a generator of pages serves every document
        pages = list(parser.lazy_parse(Blob.from_path(locked)))
        assert [page.metadata["page_number"] for page in pages] == [2, 4]
    assert pages[0].metadata["scan"].startswith("data:")
    assert IMAGE_KEY not in pages[0].metadata


def test_indexing_keeps_pages_apart_and_is_idempotent(parser, report_pdf, tmp_path):
    shutil.copy(report_pdf, tmp_path / "copy.pdf")
    loader = PDFPageLoader(report_pdf, parser=parser)
    store = InMemoryVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
    records = InMemoryRecordManager(namespace="pages")
    records.create_schema()
    how = {"cleanup": "incremental", "source_id_key": "source", "key_encoder": "sha256"}
    assert index(loader, records, store, **how)["num_added"] == 4
    again = index(loader, records, store, **how)
    assert (again["num_added"], again["num_skipped"], again["num_deleted"]) == (0, 4, 0)


QUICK = {"workers": 0, "ocr": "never", "dpi": 36}


def numbers(loader: PDFPageLoader) -> list[int]:
    return [page.metadata["page_number"] for page in loader.lazy_load()]


def test_what_a_loader_takes(report_pdf, tmp_path):
    data = report_pdf.read_bytes()
    locked = tmp_path / "locked.pdf"
    pymupdf.open(report_pdf).save(locked, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="owner")
    with report_pdf.open("rb") as file:
        for source in (str(report_pdf), data, io.BytesIO(data), file, Blob.from_data(data)):
            assert numbers(PDFPageLoader(source, pages="2-3", **QUICK)) == [2, 3]
            loader = PDFPageLoader([source, report_pdf], pages=[1], **QUICK)
            assert numbers(loader) == numbers(loader) == [1, 1]
    assert numbers(PDFPageLoader(locked, password="secret", pages="1", **QUICK)) == [1]
    named = PDFPageLoader((path for path in [locked]), password="secret", image_key="scan", **QUICK).load()
    assert named[0].metadata["scan"].startswith("data:")


def test_what_a_loader_refuses(report_pdf, tmp_path, caplog):
    for missing in (tmp_path / "none.pdf", [report_pdf, str(tmp_path / "none")]):
        with pytest.raises(InputError, match="nothing is at .*none"):
            PDFPageLoader(missing)
    with pytest.raises(InputError, match=r"has no option extract_images; give one of: .*pages"):
        PDFPageLoader(report_pdf, extract_images=True)
    with pytest.raises(InputError, match="pages came with a parser"):
        PDFPageLoader(report_pdf, parser=PDFPageParser(), pages="1")
    with pytest.raises(InputError, match="got int"):
        PDFPageLoader([3])
    (tmp_path / "empty").mkdir()
    assert PDFPageLoader(tmp_path / "empty").load() == []
    assert "there is no PDF in" in caplog.text


@pytest.fixture
def scans(tmp_path):
    """Three pages without text."""
    pdf = pymupdf.open()
    for number in range(3):
        pdf.new_page(width=200, height=260).draw_rect((20, 60, 60 + 30 * number, 150), fill=(0.8, 0.3 * number, 0.1))
    pdf.save(tmp_path / "scan.pdf")
    return PDFPageLoader(tmp_path / "scan.pdf", **QUICK).load()


async def test_pages_without_text_are_embedded_by_their_images_in_any_store(scans):
    embeddings = NemotronEmbeddings(model=FakeEmbedder())
    wanted = embeddings.embed_pages(scans)
    labels = [page.page_content for page in scans]
    assert embeddings.embed_documents(labels) == await embeddings.aembed_documents(labels) == wanted
    store = InMemoryVectorStore(embeddings)
    store.add_documents(scans)
    for page, vector in zip(scans, wanted, strict=True):
        assert store.similarity_search_by_vector(vector, k=1)[0].id == page.id
    copies = copy.deepcopy(scans)
    scans.clear()
    gc.collect()
    assert embeddings.embed_documents([page.page_content for page in copies]) == wanted, "while one document has it"


def test_labels_alone_are_no_texts(scans, caplog):
    embeddings = NemotronEmbeddings(model=FakeEmbedder())
    labels = [page.page_content for page in scans]
    scans.clear()
    gc.collect()
    empty = embeddings.embed_documents([""])[0]
    assert embeddings.embed_documents(["red apples", *labels])[1:] == [empty] * 3
    assert "3 pages without text are embedded as nothing" in caplog.text


def test_a_model_of_texts_embeds_no_label(scans, caplog):
    class Texts(FakeEmbedder):
        def embed_passages(self, passages):
            if any(passage.image is not None for passage in passages):
                raise InputError("reads no images")
            return super().embed_passages(passages)

    embeddings = NemotronEmbeddings(model=Texts())
    assert embeddings.embed_documents([scans[0].page_content]) == embeddings.embed_documents([""])
