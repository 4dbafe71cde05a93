"""NemotronPageRetriever: over indexes of ours and collections of LlamaIndex, and inside query engines."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.callbacks import CBEventType
from llama_index.core.instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever
from llama_index.core.schema import ImageDocument, ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from index_helpers import add, make_pdf, text_page
from llama_index.embeddings.nemotron_rag import NemotronEmbedding, NemotronPageEmbedder
from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank
from llama_index.readers.nemotron_rag import PDFPageReader
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, NodeCollection
from llama_pages import SeeingLLM, b64, debug_manager, listening, png_file
from nemotron_rag.errors import ClosedError, ImageError, IndexMismatchError, InputError, StoreError
from nemotron_rag.images import load_image
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from nemotron_rag.types import Page
from qdrant_server import Server

TEXTS = ("red apples", "green apples and pears", "", "blue whales")


@pytest.fixture(scope="module")
def pdf(tmp_path_factory):
    return make_pdf(tmp_path_factory.mktemp("docs") / "nature.pdf", *TEXTS)


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
    reader = PDFPageReader(image_folder=tmp_path / "pictures", ocr="never", dpi=72, workers=0)
    return reader.load_data(pdf, extra_info={"year": 2024, "tags": ["a", "b"], "note": "über Äpfel"})


@pytest.fixture
def collection(store, client, embedding, pages):
    """The same pages, written by LlamaIndex."""
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(pages, storage_context=context, transformations=[embedding], embed_model=embedding)
    return NodeCollection(client=client, collection="docs", embedder=embedding)


def texts(nodes):
    return [item.node.text for item in nodes]


def same(found, expected):
    """Equal nodes in equal order; sums of floats may differ in their last bit."""
    assert [item.node.to_dict() for item in found] == [item.node.to_dict() for item in expected]
    assert [item.score for item in found] == pytest.approx([item.score for item in expected])


def ask(**fields):
    return QueryBundle(**{"query_str": "", **fields})


# ---- an index of ours -------------------------------------------------------------------------------------------


def test_class():
    assert issubclass(NemotronPageRetriever, BaseRetriever)


def test_importing_it_loads_no_torch():
    code = "import sys, llama_index.retrievers.nemotron_rag; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_pages_come_back_as_image_nodes_with_text_picture_and_metadata(retriever, index, pdf, folder):
    found = retriever.retrieve("red apples")
    assert len(found) == 4
    hits = index.search("red apples")
    assert [item.node_id for item in found] == [hit.page.id for hit in hits]
    assert [item.score for item in found] == pytest.approx([hit.score for hit in hits])
    assert all(type(item.score) is float for item in found)
    node = found[0].node
    assert isinstance(node, ImageNode)
    assert node.class_name() == "ImageNode"
    assert node.text == "red apples"
    assert Path(node.image_path).is_relative_to(folder / "images")
    assert Path(node.image_path).is_absolute()
    assert load_image(node.image_path).size == index.search("red apples", k=1)[0].page.image.size
    assert (
        node.metadata.items()
        >= {
            "page_label": "1",
            "page_number": 1,
            "file_name": "nature.pdf",
            "file_path": str(pdf),
            "total_pages": 4,
            "page_image_path": node.image_path,
            "year": 2024,
        }.items()
    )
    assert "page_count" not in node.metadata
    json.dumps(node.to_dict())


def test_nodes_are_those_of_the_reader(retriever, pages):
    read = {page.id_: page for page in pages}
    for item in retriever.retrieve("apples"):
        page = read[item.node_id]
        assert item.node.text == page.text
        assert item.node.excluded_llm_metadata_keys == page.excluded_llm_metadata_keys
        assert item.node.excluded_embed_metadata_keys == page.excluded_embed_metadata_keys
        ours = set(page.metadata) - {"page_image_path", "page_image_sha256", "tags", "note"}
        assert {key: item.node.metadata[key] for key in ours} == {key: page.metadata[key] for key in ours}


def test_prompts_show_label_and_file_name_but_no_path(retriever):
    node = retriever.retrieve("red apples")[0].node
    assert node.get_content(MetadataMode.LLM) == "page_label: 1\nfile_name: nature.pdf\nyear: 2024\n\nred apples"
    assert node.get_content(MetadataMode.EMBED) == "year: 2024\n\nred apples"


@pytest.mark.parametrize("form", [str, Path])
def test_an_index_by_its_folder_is_opened_by_the_first_search(folder, form, monkeypatch):
    opened = []

    class Spy(PageIndex):
        def __init__(self, *args, **options):
            opened.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr("llama_index.retrievers.nemotron_rag._sources.PageIndex", Spy)
    with NemotronPageRetriever(form(folder), embedder=FakeEmbedder()) as one:
        assert opened == []
        first = one.retrieve("blue whales")
        with NemotronPageRetriever(form(folder), embedder=FakeEmbedder()) as other:  # they share a client
            assert [item.node for item in other.retrieve("blue whales")] == [item.node for item in first]
    assert len(opened) == 2
    assert texts(first)[0] == "blue whales"
    with PageIndex(folder) as index:  # all closed
        assert index.count() == 4


def test_it_can_be_used_again_after_closing(folder):
    retriever = NemotronPageRetriever(folder, embedder=FakeEmbedder())
    before = retriever.retrieve("blue whales")
    retriever.close()
    same(retriever.retrieve("blue whales"), before)
    retriever.close()


def test_an_open_index_stays_open(retriever, index):
    retriever.close()
    assert index.count() == 4
    index.close()
    with pytest.raises(ClosedError):
        retriever.retrieve("apples")


def test_options_of_an_index_by_location_are_passed_on(tmp_path, pdf):
    options = {"collection": "shelf", "images": tmp_path / "elsewhere"}
    with PageIndex(tmp_path / "i", embedder=FakeEmbedder(), dpi=72, **options) as index:
        add(index, pdf, ocr="never")
    with NemotronPageRetriever(tmp_path / "i", embedder=FakeEmbedder(), **options) as retriever:
        node = retriever.retrieve("apples")[0].node
        assert Path(node.image_path).is_relative_to(tmp_path / "elsewhere")
    with (
        NemotronPageRetriever(tmp_path / "i", embedder=FakeEmbedder(dimensions=8), collection="shelf") as retriever,
        pytest.raises(IndexMismatchError, match="dimensions"),
    ):
        retriever.retrieve("apples")


# ---- questions --------------------------------------------------------------------------------------------------


def test_a_picture_finds_the_page_that_shows_it(index, tmp_path):
    retriever = NemotronPageRetriever(index, similarity_top_k=2)
    page = index.search("blue whales", k=1)[0].page
    page.image.save(tmp_path / "question.png")
    found = retriever.retrieve(ask(image_path=str(tmp_path / "question.png")))
    assert found[0].node_id == page.id
    assert len(found) == 2
    assert [item.score for item in found] == pytest.approx([hit.score for hit in index.search_image(page.image, k=2)])


def test_words_and_a_picture_are_joined_by_their_ranks(retriever, index, tmp_path):
    whale = index.search("blue whales", k=1)[0].page
    whale.image.save(tmp_path / "question.png")
    found = retriever.retrieve(ask(query_str="red apples", image_path=str(tmp_path / "question.png")))
    by_words = [hit.page.id for hit in index.search("red apples")]
    by_picture = [hit.page.id for hit in index.search_image(whale.image)]
    expected = {i: 1 / (61 + by_words.index(i)) + 1 / (61 + by_picture.index(i)) for i in by_words}
    assert {item.node_id: item.score for item in found} == pytest.approx(expected)
    assert [item.score for item in found] == sorted(expected.values(), reverse=True)
    assert {by_words[0], by_picture[0]} <= {item.node_id for item in found[:3]}


def test_other_wordings_of_a_question_are_searched_too(index):
    retriever = NemotronPageRetriever(index, similarity_top_k=3)
    found = retriever.retrieve(ask(query_str="?", custom_embedding_strs=["red apples", "blue whales"]))
    assert {"red apples", "blue whales"} <= set(texts(found))


def test_the_question_is_left_as_it_was(retriever):
    question = ask(query_str="red apples", embedding=[1.0, 2.0])  # of another model
    before = question.to_dict()
    retriever.retrieve(question)
    assert question.to_dict() == before


@pytest.mark.parametrize("question", ["", "  ", ask(), ask(custom_embedding_strs=[""])])
async def test_a_question_must_hold_something(retriever, question):
    with pytest.raises(InputError, match="got neither"):
        retriever.retrieve(question)
    with pytest.raises(InputError, match="got neither"):
        await retriever.aretrieve(question)


def test_a_picture_that_cannot_be_read_is_an_error(retriever, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        retriever.retrieve(ask(image_path=str(tmp_path / "gone.png")))
    with pytest.raises(ImageError, match="never fetched"):
        retriever.retrieve(ask(image_path="http://example.invalid/a.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"similarity_top_k": 0}, "similarity_top_k must be a whole number from 1 on, got 0"),
        ({"top_n": "3"}, "top_n must be a whole number from 1 on, got '3'"),
        ({"embedder": FakeEmbedder()}, "embedder belong to an index by location"),
        ({"index": 7}, "wanted index as a folder"),
    ],
)
def test_arguments_are_checked(index, arguments, message):
    with pytest.raises(InputError, match=message):
        NemotronPageRetriever(**{"index": index, **arguments})


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(InputError, match="no index folder"):
        NemotronPageRetriever(tmp_path / "nothing", embedder=FakeEmbedder()).retrieve("apples")
    assert not (tmp_path / "nothing").exists()


def test_a_collection_has_settings_of_its_own(collection, client):
    with pytest.raises(InputError, match="inline_images belong to an index"):
        NemotronPageRetriever(collection, inline_images=True)
    with pytest.raises(InputError, match="either a location or a client"):
        NodeCollection(collection="docs", embedder=FakeEmbedder())


# ---- filters: the same words for an index and a collection ------------------------------------------------------


def one(key, value, operator="=="):
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


def some(condition, *filters):
    return MetadataFilters(filters=list(filters), condition=FilterCondition(condition))


ALL = [1, 2, 3, 4]
FILTERS = [
    ({"page_number": 2}, [2]),
    ({"page_number": [1, 4], "year": 2024}, [1, 4]),
    ({"page_number": {"gte": 2, "lt": 4}}, [2, 3]),
    ({"year": 2023}, []),
    ({"nothing": None}, ALL),
    ({"text_source": "none"}, [3]),
    (one("page_number", 2), [2]),
    (one("width", 120.0), ALL),
    (one("page_number", 2, "!="), [1, 3, 4]),
    (one("nothing", 2, "!="), ALL),
    (one("page_number", 2, ">"), [3, 4]),
    (one("page_number", 2, ">="), [2, 3, 4]),
    (one("page_number", 2, "<"), [1]),
    (one("page_number", 2, "<="), [1, 2]),
    (one("page_number", [1, 3], "in"), [1, 3]),
    (one("page_number", [1, 3], "nin"), [2, 4]),
    (one("text_source", "none,ocr", "in"), [3]),
    (one("tags", "a", "contains"), ALL),
    (one("tags", ["b", "z"], "any"), ALL),
    (one("tags", ["a", "b"], "all"), ALL),
    (one("tags", ["a", "z"], "all"), []),
    (one("note", "Äpfel", "text_match"), ALL),
    (one("note", "Birnen", "text_match_insensitive"), []),
    (one("nothing", None, "is_empty"), ALL),
    (one("year", None, "is_empty"), []),
    (some("or", *one("page_number", 1).filters, *one("page_number", 4).filters), [1, 4]),
    (some("not", *one("page_number", 1).filters, *one("page_number", 4).filters), [2, 3]),
    (some("and", one("year", 2024), some("or", one("page_number", 1), one("page_number", 3))), [1, 3]),
    (some("and"), ALL),
]


def numbers(nodes):
    return sorted(item.node.metadata["page_number"] for item in nodes)


@pytest.mark.parametrize(("filters", "expected"), FILTERS)
def test_filters_of_a_collection(collection, filters, expected):
    assert numbers(NemotronPageRetriever(collection, filters=filters).retrieve("apples")) == expected


@pytest.fixture(scope="module")
def tagged_index(pdf):
    with PageIndex(embedder=FakeEmbedder(), images=None, dpi=72) as index:
        add(index, pdf, ocr="never", metadata={"year": 2024, "tags": ["a", "b"], "note": "über Äpfel"})
        yield index


@pytest.mark.parametrize(("filters", "expected"), FILTERS)
def test_filters_of_an_index(tagged_index, filters, expected):
    assert numbers(NemotronPageRetriever(tagged_index, filters=filters).retrieve("apples")) == expected


def test_filters_name_an_indexes_fields_as_nodes_do(retriever, pdf):
    for filters, count in [
        (one("file_path", str(pdf)), 4),
        ({"file_path": "other.pdf"}, 0),
        ({"total_pages": 4}, 4),
        (models.Filter(must=[models.FieldCondition(key="number", match=models.MatchValue(value=2))]), 1),
    ]:
        retriever.filters = filters
        assert len(retriever.retrieve("apples")) == count
    retriever.filters = one("file_name", "nature.pdf")
    with pytest.raises(InputError, match="does not store file_name; filter on file_path"):
        retriever.retrieve("apples")


def test_qdrants_own_filters_of_a_collection(collection):
    wanted = models.Filter(must=[models.FieldCondition(key="page_number", match=models.MatchValue(value=2))])
    assert numbers(NemotronPageRetriever(collection, filters=wanted).retrieve("apples")) == [2]


@pytest.mark.parametrize("filters", [one("note", 3, "text_match"), one("note", "x", ">"), [("year", 2024)]])
def test_filters_that_cannot_be_translated(collection, index, filters):
    for source in (collection, index):
        with pytest.raises(InputError, match="filter"):
            NemotronPageRetriever(source, filters=filters).retrieve("apples")


# ---- reranking --------------------------------------------------------------------------------------------------


class Seeing(FakeReranker):
    """Likes pages whose text is short, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def score(self, query, passages):
        self.seen += passages
        return super().score(query, passages) * 0 - [float(len(passage.text)) for passage in passages]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_reranker_sees_picture_and_text(index, wrapped):
    model = Seeing()
    reranker = NemotronRerank(model, top_n=3) if wrapped else model
    retriever = NemotronPageRetriever(index, reranker=reranker, similarity_top_k=4, top_n=2)
    found = retriever.retrieve("red apples")
    assert texts(found) == ["", "red apples"]
    assert [item.score for item in found] == [0.0, -len("year: 2024\n\nred apples")]
    assert sorted(passage.modality for passage in model.seen) == ["image"] + ["image_text"] * 3
    assert all("page_label" not in passage.text for passage in model.seen)
    if wrapped:
        retriever.top_n = None
        assert len(retriever.retrieve("red apples")) == 3


def test_only_what_was_retrieved_is_reranked(index):
    model = Seeing()
    found = NemotronPageRetriever(index, reranker=model, similarity_top_k=2).retrieve("blue whales")
    assert len(found) == len(model.seen) == 2
    assert "blue whales" in texts(found)


def test_a_reranker_may_be_named(index, reference):
    retriever = NemotronPageRetriever(index, reranker=reference / "rerank_vl_open_1", top_n=2)
    assert retriever.reranker.model.endswith("rerank_vl_open_1")
    assert len(retriever.retrieve("red apples")) == 2
    retriever.close()


def test_an_open_indexes_own_reranker_ranks(folder):
    with PageIndex(folder, embedder=FakeEmbedder(), reranker=Seeing()) as index:
        assert texts(NemotronPageRetriever(index, top_n=1).retrieve("red apples")) == [""]


async def test_a_picture_alone_is_not_reranked(index, tmp_path):
    model = Seeing()
    retriever = NemotronPageRetriever(index, reranker=model, top_n=3)
    question = ask(image_path=str(png_file(tmp_path)))
    assert len(retriever.retrieve(question)) == len(await retriever.aretrieve(question)) == 3
    assert model.seen == []
    question.query_str = "red apples"
    assert len(retriever.retrieve(question)) == 3
    assert len(model.seen) == 4


# ---- pictures ---------------------------------------------------------------------------------------------------


def test_a_lost_picture_costs_only_itself(index, caplog):
    path = Path(index.search("red apples", k=1)[0].image_path)
    path.unlink()
    retriever = NemotronPageRetriever(index, reranker=Seeing())
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        found = {item.node.text: item.node for item in retriever.retrieve("red apples")}
    assert len(found) == 4
    assert type(found["red apples"]) is TextNode
    assert "comes without its picture" in caplog.text


def test_inline_images(index):
    node = NemotronPageRetriever(index, inline_images=True).retrieve("red apples")[0].node
    assert (node.image_path, node.image_mimetype) == (None, "image/png")
    shown = index.search("red apples", k=1)[0].page.image
    assert load_image(base64.b64decode(node.image)).tobytes() == shown.tobytes()
    assert "page_image_path" not in node.metadata


def test_pictures_that_are_no_files_come_inline(pdf):
    with PageIndex(embedder=FakeEmbedder(), dpi=72) as index:  # in memory
        add(index, pdf, ocr="never")
        assert all(item.node.image for item in NemotronPageRetriever(index).retrieve("apples"))


def test_an_index_without_pictures_gives_texts():
    with PageIndex(embedder=FakeEmbedder(), images=None) as index:
        add(index, [text_page(1, "red apples", source="a/b.pdf"), Page(id="x", number=2, text="whales")])
        found = NemotronPageRetriever(index).retrieve("apples")
        assert [type(item.node) for item in found] == [TextNode, TextNode]
        assert found[0].node.metadata == {
            "page_label": "1",
            "page_number": 1,
            "file_name": "b.pdf",
            "file_path": "a/b.pdf",
        }


# ---- collections of LlamaIndex ----------------------------------------------------------------------------------


def test_the_payload_holds_no_picture(collection, client, pages):
    records, _ = client.scroll("docs", limit=9)
    assert len(records) == 4  # the one without text is there
    assert all(record.payload["_node_type"] == "ImageNode" for record in records)
    assert max(len(json.dumps(record.payload)) for record in records) < 5000


def test_a_collection_gives_back_what_was_stored(collection, pages):
    read = {page.id_: page for page in pages}
    found = NemotronPageRetriever(collection).retrieve("red apples")
    assert texts(found)[0] == "red apples"
    assert len(found) == 4
    for item in found:
        page = read[item.node_id]
        assert isinstance(item.node, ImageNode)
        assert (item.node.text, item.node.image_path, item.node.metadata) == (page.text, page.image_path, page.metadata)
        assert type(item.score) is float


def test_llama_indexs_own_retriever_finds_the_same(collection, store, embedding):
    theirs = VectorStoreIndex.from_vector_store(store, embed_model=embedding).as_retriever(similarity_top_k=4)
    ours = NemotronPageRetriever(collection)
    same(theirs.retrieve("red apples"), ours.retrieve("red apples"))


def test_picture_questions_to_a_collection(collection, pages):
    found = NemotronPageRetriever(collection).retrieve(ask(image_path=pages[2].image_path))
    assert found[0].node_id == pages[2].id_
    assert found[0].score == pytest.approx(1.0, abs=1e-5)  # that page is its picture alone


def test_named_vectors(client, embedding, pages):
    dense = models.VectorParams(size=64, distance=models.Distance.COSINE)
    many = models.VectorParams(
        size=4,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    client.create_collection("named", {"text-dense": dense, "tokens": many})
    QdrantVectorStore("named", client=client).add(NemotronPageEmbedder(embed_model=embedding)(pages))
    named = NodeCollection(client=client, collection="named", embedder=embedding)
    assert texts(NemotronPageRetriever(named, similarity_top_k=1).retrieve("red apples")) == ["red apples"]
    client.create_collection("two", {"one": dense, "other": dense})
    two = NodeCollection(client=client, collection="two", embedder=embedding)
    with pytest.raises(InputError, match=r"\['one', 'other'\]; pass vector_name="):
        NemotronPageRetriever(two).retrieve("red apples")
    chosen = NodeCollection(client=client, collection="two", embedder=embedding, vector_name="one")
    assert NemotronPageRetriever(chosen).retrieve("red apples") == []


def test_nodes_of_other_forms(client, embedding, store, tmp_path):
    path = str(png_file(tmp_path))
    nodes = [
        TextNode(text="only text"),
        ImageNode(text="inline", image=b64()),
        ImageDocument(text="a document", image_path=path),  # LlamaIndex would give back its text alone
        ImageNode(text="gone", image_path=str(tmp_path / "gone.png")),
        ImageNode(image_path=str(tmp_path / "gone.png"), metadata={"page": 1}),
    ]
    store.add(NemotronPageEmbedder(embed_model=embedding, on_missing_image="text")(nodes))
    collection = NodeCollection(client=client, collection="docs", embedder=embedding)
    retriever = NemotronPageRetriever(collection, reranker=FakeReranker())
    found = {item.node_id: item.node for item in retriever.retrieve("anything")}
    shown = [found[node.id_] for node in nodes]
    assert [type(node).class_name() for node in shown] == ["TextNode"] + ["ImageNode"] * 4
    assert [node.text for node in shown] == [node.text for node in nodes]
    assert shown[1].image == b64()
    assert [node.image_path for node in shown[2:]] == [path, None, None]
    for node in shown:
        node.get_content_blocks(MetadataMode.LLM)  # what an LLM is shown; LlamaIndex raises for lost pictures


def test_what_llama_index_did_not_write_is_refused(client, embedding, index):
    client.create_collection("raw", models.VectorParams(size=64, distance=models.Distance.COSINE))
    client.upsert("raw", [models.PointStruct(id=1, vector=[0.1] * 64, payload={"text": "x"})])
    raw = NodeCollection(client=client, collection="raw", embedder=embedding)
    with pytest.raises(StoreError, match="point 1 of collection 'raw' at :memory: is no node of LlamaIndex"):
        NemotronPageRetriever(raw).retrieve("apples")
    gone = NodeCollection(client=client, collection="gone", embedder=embedding)
    with pytest.raises(StoreError, match="gone"):
        NemotronPageRetriever(gone).retrieve("apples")


def test_another_embedder_is_refused(collection, client):
    other = NodeCollection(client=client, collection="docs", embedder=FakeEmbedder(dimensions=8))
    with pytest.raises(IndexMismatchError, match="vectors of 64 numbers, fake-embedder gives 8"):
        NemotronPageRetriever(other).retrieve("apples")


def test_a_collection_in_a_folder(tmp_path, pages, embedding):
    client = QdrantClient(path=str(tmp_path / "store"))
    QdrantVectorStore("docs", client=client, index_doc_id=False).add(embedding(pages))
    client.close()
    collection = NodeCollection(tmp_path / "store", collection="docs", embedder=embedding)
    with NemotronPageRetriever(collection) as retriever:
        assert texts(retriever.retrieve("blue whales"))[0] == "blue whales"
    QdrantClient(path=str(tmp_path / "store")).close()  # nobody holds it any more
    with pytest.raises(ClosedError):
        retriever.retrieve("blue whales")


async def test_a_server(tmp_path, pdf, embedding, pages):
    server = Server()
    with PageIndex(client=server.client(), images=tmp_path / "images", embedder=FakeEmbedder(), dpi=72) as index:
        add(index, pdf, ocr="never")
        retriever = NemotronPageRetriever(index, filters={"page_number": [1, 4]}, reranker=FakeReranker())
        assert texts(retriever.retrieve("blue whales")) == ["blue whales", "red apples"]
        same(await retriever.aretrieve("blue whales"), retriever.retrieve("blue whales"))


# ---- async, threads, events -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["index", "folder", "collection"])
@pytest.mark.parametrize("reranking", [False, True])
async def test_async_answers_as_sync_and_concurrent_as_serial(kind, reranking, request):
    source = request.getfixturevalue(kind)
    options = {"embedder": FakeEmbedder()} if kind == "folder" else {}
    with NemotronPageRetriever(source, reranker=FakeReranker() if reranking else None, **options) as retriever:
        questions = [f"{text} {n}" for n, text in enumerate(TEXTS * 4)]
        together = await asyncio.gather(*[retriever.aretrieve(question) for question in questions])
        in_threads = await asyncio.gather(*[asyncio.to_thread(retriever.retrieve, question) for question in questions])
        for question, one, other in zip(questions, together, in_threads, strict=True):
            serial = retriever.retrieve(question)
            same(one, serial)
            same(other, serial)


class SlowEmbedder(FakeEmbedder):
    async def aembed_queries(self, queries):
        await asyncio.sleep(0.1)
        return self.embed_queries(queries)


class SlowReranker(FakeReranker):
    async def ascore(self, query, passages):
        await asyncio.sleep(0.1)
        return self.score(query, passages)


async def test_the_event_loop_keeps_ticking(folder, tmp_path):
    gaps, last = [0.0], time.perf_counter()

    async def tick():
        nonlocal last
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    with NemotronPageRetriever(folder, embedder=SlowEmbedder(), reranker=SlowReranker()) as retriever:
        await retriever.aretrieve("warm up")
        last = time.perf_counter()
        ticking = asyncio.create_task(tick())
        found = await retriever.aretrieve(ask(query_str="red apples", image_path=str(png_file(tmp_path))))
        ticking.cancel()
    assert len(found) == 4
    assert len(gaps) > 10
    assert max(gaps) < 0.1


async def test_events_come_in_pairs_and_hold_no_picture(index, collection):
    for source in (index, collection):
        manager, handler = debug_manager()
        retriever = NemotronPageRetriever(source, reranker=FakeReranker(), callback_manager=manager)
        with listening() as listener:
            retriever.retrieve("red apples")
            await retriever.aretrieve("red apples")
        wanted = ("RetrievalStartEvent", "ReRankStartEvent", "ReRankEndEvent", "RetrievalEndEvent")
        assert [event.class_name() for event in listener.named(*wanted)] == list(wanted) * 2
        assert max(len(event.model_dump_json()) for event in listener.named(*wanted)) < 20_000
        for kind in (CBEventType.RETRIEVE, CBEventType.RERANKING):
            assert len(handler.get_event_pairs(kind)) == 2


def test_the_async_way_has_a_span_of_its_own():
    assert getattr(NemotronPageRetriever._aretrieve, DISPATCHER_SPAN_DECORATED_ATTR, False)
    assert getattr(NemotronPageRetriever._retrieve, DISPATCHER_SPAN_DECORATED_ATTR, False)


# ---- real models ------------------------------------------------------------------------------------------------


async def test_real_checkpoints_end_to_end(tmp_path, pdf, reference):
    folder = tmp_path / "real"
    with PageIndex(folder, embedder=reference / "embed_vl_open_1", max_input_tiles=1, device="cpu") as index:
        add(index, pdf, pages=[1, 4], ocr="never")
        expected = [hit.page.id for hit in index.search("red apples")]
    with NemotronPageRetriever(folder, device="cpu") as retriever:  # the embedder is in the record
        assert [item.node_id for item in retriever.retrieve("red apples")] == expected
        page = retriever.retrieve("red apples")[0].node
        assert len(await retriever.aretrieve(ask(query_str="x", image_path=page.image_path))) == 2
    ranker = NemotronRerank(reference / "rerank_vl_open_1", device="cpu", max_input_tiles=1)
    with NemotronPageRetriever(folder, device="cpu", reranker=ranker, top_n=1) as retriever:
        found = retriever.retrieve("red apples")
    assert len(found) == 1
    assert await ranker.apostprocess_nodes([NodeWithScore(node=found[0].node)], query_str="red apples") == found
    ranker.close()


# ---- query engines ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["index", "collection"])
def two(request):
    """A retriever of the two pages about apples."""
    source = request.getfixturevalue(request.param)
    return NemotronPageRetriever(source, reranker=FakeReranker(), top_n=2)


def check(response, llm):
    assert texts(response.source_nodes) == ["red apples", "green apples and pears"]
    assert len(llm.blocks(ImageBlock)) == 2
    assert all(block.resolve_image().read()[:4] == b"\x89PNG" for block in llm.blocks(ImageBlock))
    assert "red apples" in llm.text()
    assert "green apples and pears" in llm.text()
    assert "file_name: nature.pdf" in llm.text()
    assert "whales" not in llm.text()
    assert "/" not in llm.text().replace("n/a", "")


@pytest.mark.parametrize("streaming", [False, True])
async def test_query_engine(two, streaming):
    llm = SeeingLLM()
    engine = RetrieverQueryEngine.from_args(two, llm=llm, multimodal=True, streaming=streaming)
    response = engine.query("red apples")
    assert ("".join(response.response_gen) if streaming else str(response)) == "It rose."
    check(response, llm)


@pytest.mark.parametrize("streaming", [False, True])
async def test_query_engine_async(two, streaming):
    llm = SeeingLLM()
    engine = RetrieverQueryEngine.from_args(two, llm=llm, multimodal=True, streaming=streaming)
    response = await engine.aquery("red apples")
    answer = "".join([token async for token in response.async_response_gen()]) if streaming else str(response)
    assert answer == "It rose."
    check(response, llm)


async def test_query_engine_with_a_picture_in_the_question(index, tmp_path):
    llm = SeeingLLM()
    page = index.search("blue whales", k=1)[0].page
    page.image.save(tmp_path / "question.png")
    retriever = NemotronPageRetriever(index, similarity_top_k=1)
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, multimodal=True)
    question = ask(image_path=str(tmp_path / "question.png"))
    for response in (engine.query(question), await engine.aquery(question)):
        assert texts(response.source_nodes) == ["blue whales"]
    assert len(llm.blocks(ImageBlock)) == 2


@pytest.mark.parametrize("use_async", [False, True])
def test_citations(two, use_async, index):
    llm = SeeingLLM()
    engine = CitationQueryEngine(retriever=two, llm=llm, multimodal=True)
    response = asyncio.run(engine.aquery("red apples")) if use_async else engine.query("red apples")
    assert len(response.source_nodes) == 4  # LlamaIndex cites a page's text and its picture apart
    assert len(llm.blocks(ImageBlock)) == 2
    assert "Source 4:" in llm.text()
    assert "green apples and pears" in llm.text()


@pytest.mark.parametrize("use_async", [False, True])
def test_fusion(index, use_async):
    llm = SeeingLLM()
    retrievers = [NemotronPageRetriever(index, similarity_top_k=k, reranker=FakeReranker()) for k in (2, 4)]
    fused = QueryFusionRetriever(
        retrievers, llm=llm, num_queries=1, similarity_top_k=2, mode="reciprocal_rerank", use_async=False
    )
    engine = RetrieverQueryEngine.from_args(fused, llm=llm, multimodal=True)
    check(asyncio.run(engine.aquery("red apples")) if use_async else engine.query("red apples"), llm)
