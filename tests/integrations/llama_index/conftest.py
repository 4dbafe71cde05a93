"""One PDF of four pages, as an index of ours and as a collection of LlamaIndex."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.readers.nemotron_rag import PDFPageReader
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, NodeCollection
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
from support.llama_index import PAGE_TEXTS
from support.pages import add, make_pdf


@pytest.fixture(scope="module")
def pdf(tmp_path_factory):
    return make_pdf(tmp_path_factory.mktemp("docs") / "nature.pdf", *PAGE_TEXTS)


@pytest.fixture(scope="module")
def built(tmp_path_factory, pdf):
    folder = tmp_path_factory.mktemp("built")
    with PageIndex(folder, embedder=FakeEmbedder(), dpi=72) as index:
        add(index, pdf, ocr="never", metadata={"year": 2024})
    return folder


@pytest.fixture
def folder(tmp_path, built):
    """An index of ours."""
    return Path(shutil.copytree(built, tmp_path / "index"))


@pytest.fixture
def index(folder):
    with PageIndex(folder, embedder=FakeEmbedder()) as opened:
        yield opened


@pytest.fixture
def retriever(index):
    return NemotronPageRetriever(index)


@pytest.fixture
def client():
    opened = QdrantClient(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def embedding():
    return NemotronEmbedding(FakeEmbedder())


@pytest.fixture
def store(client):
    return QdrantVectorStore("docs", client=client, index_doc_id=False)  # an embedded Qdrant warns of such an index


@pytest.fixture
def pages(pdf, tmp_path):
    reader = PDFPageReader(image_folder=tmp_path / "images", ocr="never", dpi=72, workers=0)
    return reader.load_data(pdf, extra_info={"year": 2024, "tags": ["a", "b"], "note": "über Äpfel"})


@pytest.fixture
def collection(store, client, embedding, pages, tmp_path):
    """The same pages, written by LlamaIndex."""
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(pages, storage_context=context, transformations=[embedding], embed_model=embedding)
    roots = [tmp_path / "images"]
    return NodeCollection(client=client, collection="docs", embedder=embedding, image_roots=roots)
