"""PDFs that change: pages are replaced and deleted, and only those that changed are embedded again."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core import SimpleDirectoryReader, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, ImageDocument, ImageNode, MediaResource, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index.embeddings.nemotron_rag import NemotronEmbedding, NemotronPageEmbedder
from llama_index.readers.nemotron_rag import PDFPageReader
from nemotron_rag.testing import FakeEmbedder
from support.llama_index import b64, png, uri
from support.pages import make_pdf

UPSERTS = (DocstoreStrategy.UPSERTS, DocstoreStrategy.UPSERTS_AND_DELETE)


class CountingEmbedder(FakeEmbedder):
    """Notes the texts that it embeds."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def embed_passages(self, passages):
        self.seen += [passage.text for passage in passages]
        return super().embed_passages(passages)


class Stored:
    """A store, and what is in it."""

    def __init__(self, kind):
        self.client = QdrantClient(":memory:") if kind == "qdrant" else None
        self.store = (
            QdrantVectorStore("p", client=self.client, index_doc_id=False) if self.client else SimpleVectorStore()
        )

    @property
    def texts(self):
        if self.client is None:
            return None
        points, _ = self.client.scroll("p", limit=100)
        return sorted(
            QdrantVectorStore.parse_to_query_result(self.store, points).nodes[i].text for i in range(len(points))
        )

    @property
    def count(self):
        return len(self.store.data.embedding_dict) if self.client is None else self.client.count("p").count


@pytest.fixture(params=["qdrant", "simple"])
def stored(request):
    found = Stored(request.param)
    yield found
    if found.client:
        found.client.close()


@pytest.fixture
def model():
    return CountingEmbedder()


@pytest.fixture(params=["embedding", "page embedder"])
def step(request, model):
    embedding = NemotronEmbedding(model)
    return embedding if request.param == "embedding" else NemotronPageEmbedder(embed_model=embedding)


@pytest.fixture
def reader(tmp_path):
    return PDFPageReader(image_folder=tmp_path / "images", ocr="never", dpi=40, workers=0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pdfs").mkdir()
    make_pdf(tmp_path / "pdfs" / "a.pdf", "red apples", "green pears", "")
    make_pdf(tmp_path / "pdfs" / "b.pdf", "blue whales")
    return tmp_path / "pdfs"


def _directory(folder, reader, **options):
    return SimpleDirectoryReader(folder, file_extractor={".pdf": reader}, **options)


@pytest.mark.parametrize("strategy", UPSERTS)
@pytest.mark.parametrize("filename_as_id", [False, True])
@pytest.mark.parametrize("use_async", [False, True])
def test_a_changed_file(strategy, filename_as_id, use_async, folder, reader, step, model, stored):
    if use_async and stored.client:
        pytest.skip("an embedded Qdrant has no async client for LlamaIndex")
    pipeline = IngestionPipeline(
        transformations=[step],
        vector_store=stored.store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
        disable_cache=True,
    )

    def run():
        model.seen.clear()
        documents = _directory(folder, reader, filename_as_id=filename_as_id).load_data()
        done = asyncio.run(pipeline.arun(documents=documents)) if use_async else pipeline.run(documents=documents)
        return len(done)

    assert (run(), stored.count) == (4, 4)
    assert (run(), model.seen) == (0, [])
    make_pdf(folder / "a.pdf", "red apples", "yellow pears", "")
    assert (run(), model.seen, stored.count) == (1, ["yellow pears"], 4)
    make_pdf(folder / "a.pdf", "red apples", "yellow pears", "", "new plums")
    assert (run(), model.seen, stored.count) == (1, ["new plums"], 5)
    make_pdf(folder / "a.pdf", "red apples")
    (folder / "b.pdf").unlink()
    assert run() == 0
    assert stored.count == (1 if strategy == DocstoreStrategy.UPSERTS_AND_DELETE else 5)
    if strategy == DocstoreStrategy.UPSERTS_AND_DELETE and stored.client:
        assert stored.texts == ["red apples"]


def _index(pages, step, stored):
    context = StorageContext.from_defaults(vector_store=stored.store)
    embedding = step if isinstance(step, NemotronEmbedding) else step.embed_model
    return VectorStoreIndex.from_documents(
        pages, storage_context=context, transformations=[step], embed_model=embedding
    )


def test_an_index_deletes_and_refreshes_pages(folder, reader, step, model, stored):
    pages = reader.load_data(folder / "a.pdf")
    index = _index(pages, step, stored)
    assert stored.count == 3
    index.delete_ref_doc(pages[0].id_, delete_from_docstore=True)
    assert stored.count == 2
    index.insert(pages[0])
    assert stored.count == 3
    make_pdf(folder / "a.pdf", "red apples", "yellow pears", "")
    model.seen.clear()
    if not stored.client:  # in a store that keeps texts, LlamaIndex does not keep the hashes of what it inserted
        assert index.refresh_ref_docs(reader.load_data(folder / "a.pdf")) == [False, True, False]
        assert model.seen == ["yellow pears"]
        assert len(index.ref_doc_info) == 3
    else:
        index.update_ref_doc(reader.load_data(folder / "a.pdf")[1])
        assert stored.texts == ["", "red apples", "yellow pears"]
    assert stored.count == 3


def test_pages_that_an_index_took_for_nodes_are_deleted_and_replaced(folder, reader, model, stored):
    pages, embedding = reader.load_data(folder / "a.pdf"), NemotronEmbedding(model)
    context = StorageContext.from_defaults(vector_store=stored.store)
    index = VectorStoreIndex(nodes=pages, storage_context=context, embed_model=embedding)
    assert stored.count == 3
    index.delete_ref_doc(pages[0].id_, delete_from_docstore=True)
    assert stored.count == 2
    index.insert_nodes(pages[:1])
    assert stored.count == 3
    make_pdf(folder / "a.pdf", "red apples", "yellow pears", "")
    changed = reader.load_data(folder / "a.pdf")
    index.update_ref_doc(changed[1])
    assert stored.count == 3
    if stored.client:
        assert stored.texts == ["", "red apples", "yellow pears"]
    else:
        assert sorted(node.text for node in index.docstore.docs.values()) == ["", "red apples", "yellow pears"]
        assert index.ref_doc_info.keys() == {page.id_ for page in pages}
        assert index.refresh_ref_docs(changed) == [False, False, False]


def test_an_index_that_is_opened_again_deletes_pages(folder, reader, step, stored):
    pages = reader.load_data(folder / "a.pdf")
    _index(pages, step, stored)
    embedding = step if isinstance(step, NemotronEmbedding) else step.embed_model
    if stored.client:
        again = VectorStoreIndex.from_vector_store(stored.store, embed_model=embedding)
        again.delete_ref_doc(pages[1].id_)
        assert stored.texts == ["", "red apples"]


def test_equal_files_do_not_take_over_each_others_pages(folder, reader, step, stored):
    (folder / "copy.pdf").write_bytes((folder / "a.pdf").read_bytes())
    _index(_directory(folder, reader).load_data(), step, stored)
    assert stored.count == 7


def test_a_node_parser_in_front_keeps_the_page_as_the_source(folder, reader, step, stored):
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(), step],
        vector_store=stored.store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    pipeline.run(documents=reader.load_data(folder / "a.pdf"))
    make_pdf(folder / "a.pdf", "red apples", "yellow pears")
    pipeline.run(documents=reader.load_data(folder / "a.pdf"))
    assert stored.count == 2


def test_what_is_of_the_file_does_not_change_a_page(folder, reader):
    page = reader.load_data(folder / "a.pdf")[0]
    changed = page.model_copy(deep=True)
    changed.metadata |= {"modified": "2030-01-01", "file_size": 7, "last_accessed_date": "x", "total_pages": 9}
    assert changed.hash == page.hash
    for key, value in (("page_image_sha256", "0"), ("note", "new"), ("page_number", 2)):
        other = page.model_copy(deep=True)
        other.metadata[key] = value
        assert other.hash != page.hash
    inline = PDFPageReader(inline_images=True, ocr="never", dpi=40, workers=0).load_data(folder / "a.pdf")[0]
    assert inline.hash == page.hash


@pytest.mark.parametrize(
    "document",
    [
        Document(text="a", metadata={"x": 1}, excluded_llm_metadata_keys=["x"]),
        ImageDocument(text="a", image=b64()),
        Document(text="a", image_resource=MediaResource(data=png())),
        ImageDocument(text="a", image=uri()),
    ],
)
def test_every_document_becomes_a_node_with_a_source(document, step):
    before = document.to_dict()
    (node,) = step([document])
    assert document.to_dict() == before
    assert document.embedding is None
    assert type(node) is (ImageNode if document.image_resource else TextNode)
    assert (node.text, node.metadata, node.ref_doc_id) == ("a", document.metadata, document.id_)
    assert node.excluded_llm_metadata_keys == document.excluded_llm_metadata_keys
    assert node.embedding
    assert node.node_id == step([document])[0].node_id != document.id_
    if isinstance(node, ImageNode):
        assert node.resolve_image().read() == png()
