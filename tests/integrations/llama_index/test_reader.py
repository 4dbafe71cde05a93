"""PDFPageReader: alone, in SimpleDirectoryReader, and through node parsers, document stores and indexes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from uuid import UUID

import fsspec
import pymupdf
import pytest
from llama_index.core import SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import Document, ImageDocument, ImageNode, MetadataMode, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from PIL import Image
from pydantic import PrivateAttr

from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.readers.nemotron_rag import PageDocument, PDFPageReader
from nemotron_rag.documents.images import load_image
from nemotron_rag.documents.pdf import PdfBudget, read_pdf
from nemotron_rag.errors import InputError, PdfError, PdfPasswordError, StoreError
from nemotron_rag.testing import FakeEmbedder
from support.pages import make_pdf


class _Numbers(TransformComponent):
    """Numbers its calls, so that an answer from a cache shows."""

    _calls: int = PrivateAttr(default=0)

    def __call__(self, nodes, **kwargs):
        self._calls += 1
        for node in nodes:
            node.embedding = [float(self._calls)]
        return nodes


@pytest.fixture
def pdf(tmp_path):
    return make_pdf(tmp_path / "docs" / "fruit.pdf", "red apples", "", "green pears")


@pytest.fixture
def reader(tmp_path):
    return PDFPageReader(image_folder=tmp_path / "images", workers=0)


def test_class():
    assert issubclass(PDFPageReader, BaseReader)
    assert PDFPageReader.class_name() == "PDFPageReader"


@pytest.mark.slow
def test_importing_it_loads_no_torch():
    code = "import sys, llama_index.readers.nemotron_rag; sys.exit('torch' in sys.modules or 'pymupdf' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_one_document_a_page_with_image_text_and_metadata(pdf, reader, tmp_path):
    pages = reader.load_data(pdf)
    assert [page.text for page in pages] == ["red apples", "", "green pears"]
    assert all(isinstance(page, Document) for page in pages)
    first = pages[0]
    assert (
        first.metadata.items()
        >= {
            "page_label": "1",
            "page_number": 1,
            "file_name": "fruit.pdf",
            "file_path": str(pdf),
            "source": str(pdf),
            "total_pages": 3,
            "page_image_path": first.image_path,
        }.items()
    )
    image = Path(first.image_path)
    assert image.is_relative_to(tmp_path / "images")
    assert image.is_absolute()
    assert hashlib.sha256(image.read_bytes()).hexdigest() == first.metadata["page_image_sha256"]
    shown = next(read_pdf(pdf, pages=[1], workers=0)).image
    assert load_image(image).tobytes() == shown.tobytes()


def test_ids_are_uuids_that_follow_from_file_and_page(pdf, reader):
    one, other = reader.load_data(pdf), reader.load_data(str(pdf))
    assert [page.id_ for page in one] == [page.id_ for page in other]
    assert len({UUID(page.id_) for page in one}) == 3
    assert [page.hash for page in one] == [page.hash for page in other]


def test_prompts_show_label_and_file_name_but_no_path_and_no_hash(pdf, reader):
    text, blank, _ = reader.load_data(pdf)
    assert text.get_content(MetadataMode.EMBED) == "red apples"
    assert text.get_content(MetadataMode.LLM) == "page_label: 1\nfile_name: fruit.pdf\n\nred apples"
    assert blank.get_content(MetadataMode.EMBED) == "page_label: 2"  # empty content would be dropped
    assert blank.get_content(MetadataMode.LLM) == "page_label: 2\nfile_name: fruit.pdf"


def test_the_label_is_the_printed_one(tmp_path, reader):
    document = pymupdf.open()
    document.new_page(width=100, height=100)
    document.set_page_labels([{"startpage": 0, "prefix": "A-", "style": "D", "firstpagenum": 7}])
    document.save(tmp_path / "a.pdf")
    page = reader.load_data(tmp_path / "a.pdf")[0]
    assert (page.metadata["page_label"], page.metadata["page_number"]) == ("A-7", 1)


def test_extra_info_is_kept_below_the_pages_own(pdf, reader):
    page = reader.load_data(pdf, extra_info={"year": 2024, "page_label": "x"})[0]
    assert (page.metadata["year"], page.metadata["page_label"]) == (2024, "1")
    assert page.get_content(MetadataMode.EMBED) == "year: 2024\n\nred apples"


def test_pages_are_read_a_few_ahead_of_their_taking(tmp_path, reader):
    pdf = make_pdf(tmp_path / "long.pdf", *map(str, range(12)))
    pages = reader.lazy_load_data(pdf)
    assert next(pages).text == "0"
    assert len(list((tmp_path / "images").rglob("*.png"))) <= 5
    assert [page.text for page in pages] == list(map(str, range(1, 12)))
    pages = reader.lazy_load_data(pdf)
    next(pages)
    pages.close()  # whoever stops early leaves nothing running
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nemotron-rag images")]


def test_equal_images_share_a_file_and_other_sizes_do_not(tmp_path):
    pdf = make_pdf(tmp_path / "a.pdf", "same", "same")
    folder = tmp_path / "images"
    paths = {page.image_path for page in PDFPageReader(image_folder=folder, workers=0).load_data(pdf)}
    larger = {page.image_path for page in PDFPageReader(image_folder=folder, dpi=50, workers=0).load_data(pdf)}
    assert len(paths) == len(larger) == 1
    assert paths != larger
    assert sorted(map(str, folder.rglob("*.*"))) == sorted(paths | larger)  # and no temporary files


def test_images_go_to_the_users_cache_by_default(pdf, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    page = PDFPageReader(workers=0).load_data(pdf)[0]
    assert Path(page.image_path).is_relative_to(tmp_path / "cache" / "nemotron-rag" / "pages")


def test_the_cache_folder_is_that_of_the_system(pdf, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *name, **_: tmp_path.joinpath("Library", *name))
    page = PDFPageReader(workers=0).load_data(pdf)[0]
    assert Path(page.image_path).is_relative_to(tmp_path / "Library" / "nemotron-rag" / "pages")


def test_webp(pdf, tmp_path):
    page = PDFPageReader(image_folder=tmp_path, image_format="webp", workers=0).load_data(pdf)[0]
    assert page.image_path.endswith(".webp")
    assert page.image_mimetype == page.as_node().image_mimetype == "image/webp"
    assert Image.open(io.BytesIO(Path(page.image_path).read_bytes())).format == "WEBP"


def test_inline_images_write_no_file(pdf, tmp_path):
    folder = tmp_path / "images"
    page = PDFPageReader(image_folder=folder, inline_images=True, image_format="jpeg", workers=0).load_data(pdf)[0]
    data = base64.b64decode(page.image)
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    assert page.metadata["page_image_sha256"] == hashlib.sha256(data).hexdigest()
    assert (page.image_path, page.image_mimetype, folder.exists()) == (None, "image/jpeg", False)
    assert "page_image_path" not in page.metadata


def test_jpeg_files_have_a_suffix_llama_index_knows(pdf, tmp_path):
    page = PDFPageReader(image_folder=tmp_path, image_format="jpeg", workers=0).load_data(pdf)[0]
    assert page.image_path.endswith(".jpg")
    assert ImageNode(image_path=page.image_path).image_mimetype == page.image_mimetype == "image/jpeg"


@pytest.mark.parametrize("pages", ["2-", [2, 3], range(2, 4), (2, 3)])
def test_page_selection(pdf, tmp_path, pages):
    found = PDFPageReader(image_folder=tmp_path, pages=pages, workers=0).load_data(pdf)
    assert [page.metadata["page_number"] for page in found] == [2, 3]


def test_passwords(tmp_path, reader):
    document = pymupdf.open()
    document.new_page(width=100, height=100)
    path = tmp_path / "secret.pdf"
    document.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="open sesame", owner_pw="owner")
    reader.on_error = "raise"
    with pytest.raises(PdfPasswordError, match=r"secret\.pdf"):
        reader.load_data(path)
    reader.password = "open sesame"
    assert len(reader.load_data(path)) == 1
    assert "open sesame" not in json.dumps(reader.to_dict()) + repr(reader)
    assert pickle.loads(pickle.dumps(reader)).password == "open sesame"


def test_options_reach_the_reading(pdf, tmp_path):
    options = {"dpi": 72, "ocr": "never", "ocr_language": "deu", "max_pixels": 100_000, "budget": PdfBudget(max_text=3)}
    page = PDFPageReader(image_folder=tmp_path, workers=0, **options).load_data(pdf)[0]
    assert page.text == "red"
    assert load_image(page.image_path).size == (120, 160)


def test_bad_files_are_reported_and_skipped_or_raised(tmp_path, caplog, pdf):
    bad = tmp_path / "bad.pdf"
    bad.write_bytes(b"%PDF-1.7 nothing more")
    failures = []
    options = {"image_folder": tmp_path, "workers": 0}
    skipping = PDFPageReader(**options, on_error="skip", report=failures.append)
    assert skipping.load_data(bad) == []
    assert [failure.source for failure in failures] == [str(bad)]
    assert len(PDFPageReader(**options).load_data([bad, pdf])) == 3  # the good one is not lost
    assert "bad.pdf" in caplog.text
    for reader in (PDFPageReader(**options), PDFPageReader(**options, on_error="raise")):
        with pytest.raises(PdfError, match=r"bad\.pdf"):
            reader.load_data(bad)


def test_simple_directory_reader_is_told_of_bad_files(tmp_path, capsys):
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7 nothing more")
    reader = {".pdf": PDFPageReader(image_folder=tmp_path / "images", workers=0)}
    with pytest.raises(Exception, match="Error loading file") as error:
        SimpleDirectoryReader(tmp_path, file_extractor=reader, raise_on_error=True).load_data()
    assert isinstance(error.value.__cause__, PdfError)
    assert SimpleDirectoryReader(tmp_path, file_extractor=reader).load_data() == []
    assert "Failed to load file" in capsys.readouterr().out


@pytest.mark.parametrize("form", [str, Path])
def test_a_missing_path_raises(form, tmp_path, reader):
    with pytest.raises(InputError, match="wanted a PDF or a folder of PDFs, but nothing is at .*nope"):
        reader.load_data(form(tmp_path / "nope.pdf"))
    with pytest.raises(InputError, match="nope"):
        reader.load_data([tmp_path / "nope.pdf"])


def test_folders_lists_bytes_and_files(pdf, tmp_path, reader, caplog):
    expected = [page.text for page in reader.load_data(pdf)]
    assert [page.text for page in reader.load_data(pdf.parent)] == expected
    assert [page.text for page in reader.load_data([pdf, str(pdf)])] == expected * 2
    by_bytes = reader.load_data(pdf.read_bytes())
    with pdf.open("rb") as file:
        by_file = reader.load_data(file)
    assert [page.text for page in by_bytes] == [page.text for page in by_file] == expected
    assert by_file[0].id_ == reader.load_data(pdf)[0].id_
    assert by_bytes[0].id_ == reader.load_data(io.BytesIO(pdf.read_bytes()))[0].id_ != by_file[0].id_
    (tmp_path / "empty").mkdir()
    assert reader.load_data(tmp_path / "empty") == []
    assert "there is no PDF in" in caplog.text


def test_arguments_are_checked(pdf, tmp_path, reader):
    with pytest.raises(ValueError, match="top_n"):
        PDFPageReader(top_n=3)
    with pytest.raises(ValueError, match="on_error"):
        PDFPageReader(on_error="ignore")
    with pytest.raises(InputError, match="wanted file as a path, bytes or a binary file, got int"):
        reader.load_data(5)
    with pytest.raises(InputError, match="page 9"):
        PDFPageReader(image_folder=tmp_path, pages=[9], workers=0).load_data(pdf)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="image_folder"):
        PDFPageReader(image_folder=tmp_path / "file", workers=0).load_data(pdf)


def test_other_file_systems(pdf, reader):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/shelf/fruit.pdf", pdf.read_bytes())
    pages = reader.load_data("/shelf/fruit.pdf", fs=fs)
    assert [page.text for page in pages] == ["red apples", "", "green pears"]
    assert pages[0].metadata["file_path"] == "/shelf/fruit.pdf"
    loader = SimpleDirectoryReader("/shelf", fs=fs, file_extractor={".pdf": reader})
    assert [page.id_ for page in loader.load_data()] == [page.id_ for page in pages]


async def test_async_reads_equal_pages_and_leaves_the_loop_free(pdf, reader):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    lazily, at_once = list(await reader.alazy_load_data(pdf)), await reader.aload_data(pdf)
    ticking.cancel()
    assert lazily == at_once == reader.load_data(pdf)
    assert ticks > 5


async def test_pages_stream_into_event_loops(tmp_path, reader):
    made = []
    source = _noting(make_pdf(tmp_path / "long.pdf", *map(str, range(20))), made)
    pages = reader.astream_data(source)
    assert (await anext(pages)).text == "0"
    assert len(made) == 1  # the second file is not asked for yet
    assert [page.text async for page in pages] == [str(n) for n in (*range(1, 20), *range(20))]
    with pytest.raises(InputError, match="nothing is at"):
        await anext(reader.astream_data(tmp_path / "nope.pdf"))


def _noting(pdf, made):
    for _ in range(2):
        made.append(pdf)
        yield pdf


def test_iterators_of_files(tmp_path, pdf, reader, capsys):
    (pdf.parent / "bad.pdf").write_bytes(b"%PDF-1.7 nothing more")
    found = reader.load_data(pdf.parent.rglob("*.pdf"), show_progress=True)
    assert [page.text for page in found] == ["red apples", "", "green pears"]
    assert "Reading pages" in capsys.readouterr().err
    assert reader.load_data({pdf}) == reader.load_data(pdf)


def test_it_serialises_and_pickles(reader, tmp_path):
    reader = PDFPageReader(image_folder=tmp_path, pages=range(1, 4), dpi=72, budget=PdfBudget(max_pages=9))
    data = json.loads(json.dumps(reader.to_dict()))
    assert data["class_name"] == "PDFPageReader"
    assert PDFPageReader.from_dict(data) == pickle.loads(pickle.dumps(reader)) == reader


def test_in_simple_directory_reader(pdf, reader, tmp_path):
    make_pdf(pdf.with_name("more.pdf"), "blue plums")
    pdf.with_name("broken.pdf").write_bytes(b"no pdf")
    pages = SimpleDirectoryReader(pdf.parent, file_extractor={".pdf": reader}).load_data()
    assert [page.text for page in pages] == ["red apples", "", "green pears", "blue plums"]
    assert {"file_size", "creation_date"} <= pages[0].metadata.keys()
    assert all(str(tmp_path) not in page.get_content(mode) for page in pages for mode in ("embed", "llm"))
    assert pages[1].get_content(MetadataMode.EMBED) == "page_label: 2"
    assert all(Path(page.image_path).is_file() for page in pages)


@pytest.mark.parametrize("inline", [False, True])
def test_a_page_is_an_image_node_once_it_is_stored(pdf, tmp_path, inline):
    pages = PDFPageReader(image_folder=tmp_path / "p", inline_images=inline, workers=0).load_data(pdf)
    docstore = SimpleDocumentStore()
    docstore.add_documents(pages)
    docstore = SimpleDocumentStore.from_dict(json.loads(json.dumps(docstore.to_dict())))
    for page in pages:
        payload = json.loads(json.dumps(node_to_metadata_dict(page)))
        for node in (docstore.get_node(page.id_), metadata_dict_to_node(payload), page.as_node()):
            assert type(node) is ImageNode
            assert (node.id_, node.text, node.metadata) == (page.id_, page.text, page.metadata)
            assert (node.image, node.image_path, node.image_mimetype) == (page.image, page.image_path, "image/png")
            assert node.excluded_llm_metadata_keys == page.excluded_llm_metadata_keys
    assert (len(json.dumps(payload)) < 4000) is not inline


def test_a_page_is_restored_and_copied_as_it_was(pdf, reader):
    for page in reader.load_data(pdf):
        for copy in (PageDocument.from_dict(page.to_dict()), pickle.loads(pickle.dumps(page)), page.model_copy()):
            assert copy == page
            assert isinstance(copy, ImageDocument)
    Path(page.image_path).unlink()
    assert PageDocument.from_dict(page.to_dict()) == page  # the file is not asked for


def test_a_node_parser_keeps_the_image(pdf, reader):
    pages = reader.load_data(pdf)
    nodes = SentenceSplitter().get_nodes_from_documents(pages)
    assert [(node.text, node.image_path) for node in nodes] == [(page.text, page.image_path) for page in pages]


@pytest.mark.parametrize("build", ["documents", "parsed documents", "nodes"])
def test_every_page_survives_the_building_of_an_index(pdf, reader, build, capsys):
    pages = reader.load_data(pdf)
    embed_model = NemotronEmbedding(FakeEmbedder())
    if build == "nodes":
        index = VectorStoreIndex(pages, embed_model=embed_model)
    else:
        steps = [embed_model] if build == "documents" else None
        index = VectorStoreIndex.from_documents(pages, transformations=steps, embed_model=embed_model)
    found = index.as_retriever(similarity_top_k=9).retrieve("red apples")
    assert sorted(item.node.image_path for item in found) == sorted(page.image_path for page in pages)
    assert {type(item.node) for item in found} == {ImageNode}
    assert capsys.readouterr().out == ""  # LlamaIndex prints what it skips


def test_the_pipelines_cache_tells_pages_apart_by_their_images(tmp_path, reader):
    document = pymupdf.open()
    for color in ((1, 0, 0), (0, 0, 1)):
        page = document.new_page(width=100, height=100)
        page.draw_rect(page.rect, fill=color)
    pages = []
    for number, name in enumerate(("red", "blue")):
        one = pymupdf.open()
        one.insert_pdf(document, from_page=number, to_page=number)
        one.save(tmp_path / f"{name}.pdf")
        pages += PDFPageReader(image_folder=tmp_path, workers=0).load_data(tmp_path / f"{name}.pdf")
    for page in pages:
        page.metadata["file_path"] = page.metadata["file_name"] = "same.pdf"
        page.metadata["page_image_path"] = page.image_path = "same.png"
    pipeline = IngestionPipeline(transformations=[_Numbers()])
    assert [pipeline.run(nodes=[page])[0].embedding for page in pages] == [[1.0], [2.0]]
