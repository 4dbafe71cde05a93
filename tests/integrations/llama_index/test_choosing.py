"""Which nodes of LlamaIndex's own stores are returned: min_score, per_document, diversity, neighbours."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import models

from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, NodeCollection, PageRetrieverTool
from nemotron_rag import Page, PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.llama_index import png_file

TEXTS = {
    ("a.pdf", 1): "red apples",
    ("a.pdf", 2): "red apples again",
    ("a.pdf", 3): "green pears",
    ("a.pdf", 4): "blue whales",
    ("b.pdf", 1): "red apples elsewhere",
    ("b.pdf", 2): "notes",
}
CHOICES = [
    {"min_score": 0.5},
    {"per_document": 1, "top_n": 2},
    {"diversity": 0.7, "top_n": 3},
    {"neighbours": 1, "top_n": 2},
    {"per_document": 2, "diversity": 0.5, "neighbours": 1, "min_score": 0.0, "top_n": 3},
]


@pytest.fixture
def nodes(embedding):
    found = []
    for n, ((file, number), text) in enumerate(TEXTS.items()):
        metadata = {"file_path": file, "page_number": number, "year": 2020 + n % 2}
        node = TextNode(id_=str(UUID(int=n)), text=text, metadata=metadata)
        node.excluded_embed_metadata_keys = [*metadata]  # a page of an index is embedded by its text alone
        found.append(node)
    return embedding(found)


@pytest.fixture
def collection(client, store, embedding, nodes):
    store.add(nodes)
    return NodeCollection(client=client, collection="docs", embedder=embedding)


@pytest.fixture
def theirs(nodes, embedding):
    return VectorStoreIndex(nodes, embed_model=embedding)


@pytest.fixture
def index():
    with PageIndex(embedder=FakeEmbedder(), images=None) as opened:
        pages = [
            Page(id=f"{file}{number}", text=text, source=file, number=number, metadata={"year": 2020 + n % 2})
            for n, ((file, number), text) in enumerate(TEXTS.items())
        ]
        opened.add(pages, progress=False)
        yield opened


def places(found) -> list[tuple]:
    result = []
    for item in found:
        near = item.node.metadata.get("neighbour_of")
        score = None if item.score is None else pytest.approx(item.score, abs=1e-5)
        result.append((item.node.metadata["file_path"], item.node.metadata["page_number"], near is None, score))
    return result


@pytest.mark.parametrize("reranker", [None, FakeReranker()], ids=["plain", "reranked"])
@pytest.mark.parametrize("chosen", CHOICES, ids=str)
async def test_a_collection_chooses_as_an_index_does(index, collection, chosen, reranker):
    options = {"similarity_top_k": 6, "reranker": reranker or False, **chosen}
    wanted = places(NemotronPageRetriever(index, **options).retrieve("red apples"))
    retriever = NemotronPageRetriever(collection, **options)
    found = retriever.retrieve("red apples")
    assert places(found) == wanted
    assert places(await retriever.aretrieve("red apples")) == wanted
    assert wanted != places(NemotronPageRetriever(index, reranker=options["reranker"]).retrieve("red apples"))
    assert all(item.node.embedding is None for item in found)


def test_neighbours_are_marked_and_meet_the_filters(collection):
    for filters in ({"year": 2020}, MetadataFilters(filters=[MetadataFilter(key="year", value=2020)])):
        retriever = NemotronPageRetriever(collection, neighbours=2, similarity_top_k=1, filters=filters)
        found, near = retriever.retrieve("red apples")
        assert (near.node.metadata["page_number"], near.score) == (3, None)
        assert near.node.metadata["neighbour_of"] == found.node.node_id
        assert "neighbour_of" not in near.node.get_content("llm")
    retriever.filters = models.Filter()
    with pytest.raises(InputError, match="which can be joined with others, got Filter"):
        retriever.retrieve("red apples")


def test_neighbours_of_chunks_are_the_chunks_of_the_pages_around(client, embedding):
    chunks = [(1, 0, "one"), (2, 90, "two end"), (2, 0, "two start"), (3, 0, "red apples"), (3, 50, "red pears")]
    nodes = [
        TextNode(text=text, start_char_idx=start, metadata={"file_name": "x.pdf", "page_label": str(page)})
        for page, start, text in chunks
    ]
    QdrantVectorStore("chunks", client=client, index_doc_id=False).add(embedding(nodes))
    collection = NodeCollection(client=client, collection="chunks", embedder=embedding)
    found = NemotronPageRetriever(collection, similarity_top_k=1, neighbours=1).retrieve("red apples")
    assert [item.node.text for item in found] == ["red apples", "two start", "two end"]
    for label in ("9" * 5000, "iv", "0", "٣", "-1"):
        odd = TextNode(text="odd", metadata={"file_name": "x.pdf", "page_label": label, "page_number": 10**30})
        QdrantVectorStore("odd", client=client, index_doc_id=False).add(embedding([odd]))
    odd = NodeCollection(client=client, collection="odd", embedder=embedding)
    assert len(NemotronPageRetriever(odd, neighbours=1).retrieve("odd")) == 5
    one = NemotronPageRetriever(collection, similarity_top_k=5, per_document=1).retrieve("red apples")
    assert [item.node.text for item in one] == ["red apples"]


def test_more_is_asked_for_until_enough_documents_are_found(theirs, collection):
    for source in (theirs, collection):
        retriever = NemotronPageRetriever(source, similarity_top_k=2, per_document=1)
        found = places(retriever.retrieve("red apples again"))
        assert [file for file, *_ in found] == ["a.pdf", "b.pdf"]
        assert places(asyncio.run(retriever.aretrieve("red apples again"))) == found


class Counting(BaseRetriever):
    calls = 0

    def __init__(self, inner, scores=True):
        super().__init__()
        self._inner, self._scores = inner, scores

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        type(self).calls += 1
        found = self._inner.retrieve(query_bundle)
        return found if self._scores else [NodeWithScore(node=item.node) for item in found]


def test_a_retriever_of_theirs_is_asked_once(theirs):
    Counting.calls = 0
    retriever = NemotronPageRetriever(
        Counting(theirs.as_retriever(similarity_top_k=6)), similarity_top_k=3, per_document=1, min_score=0.1
    )
    assert [file for file, *_ in places(retriever.retrieve("red apples"))] == ["a.pdf", "b.pdf"]
    assert Counting.calls == 1
    least = NemotronPageRetriever(theirs, min_score=0.5).retrieve("red apples")
    assert 0 < len(least) < len(TEXTS)
    assert min(item.score for item in least) >= 0.5
    with pytest.raises(InputError, match="min_score needs scores, and Counting gives nodes without"):
        NemotronPageRetriever(Counting(theirs.as_retriever(), scores=False), min_score=0.1).retrieve("red")


def test_what_a_source_cannot_do_is_refused_by_name(theirs, collection):
    for source in (theirs, theirs.as_retriever()):
        with pytest.raises(InputError, match=r"diversity needs the vectors of nodes.*NodeCollection"):
            NemotronPageRetriever(source, diversity=0.5)
        with pytest.raises(InputError, match=r"neighbours are found by file and page.*NodeCollection"):
            NemotronPageRetriever(source, neighbours=1)
    for wrong in ({"min_score": "x"}, {"per_document": 0}, {"diversity": 2}, {"neighbours": -1}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} must be"):
            NemotronPageRetriever(collection, **wrong)


def test_nodes_without_a_file_are_not_limited_and_that_is_said(embedding, caplog):
    index = VectorStoreIndex([TextNode(text="red"), TextNode(text="red apples")], embed_model=embedding)
    assert len(NemotronPageRetriever(index, per_document=1).retrieve("red")) == 2
    assert "per_document limits nothing: no node that VectorStoreIndex gave has file_path, source" in caplog.text


def test_words_and_an_image_choose_together(collection, tmp_path):
    query = QueryBundle("red apples", image_path=str(png_file(tmp_path)))
    found = NemotronPageRetriever(collection, per_document=1, diversity=0.3).retrieve(query)
    assert {file for file, *_ in places(found)} == {"a.pdf", "b.pdf"}


# ---- agents


@pytest.mark.parametrize("source", ["index", "collection"])
async def test_a_model_narrows_a_search_within_the_retrievers_own_filters(source, request):
    retriever = NemotronPageRetriever(request.getfixturevalue(source))
    keys = {"file_path": "Name of a file.", "year": "Year of the report.", "page_number": "Number of a page."}
    tool = PageRetrieverTool.from_defaults(retriever, name="reports", filter_keys=keys)
    arguments = tool.metadata.get_parameters_dict()
    assert arguments["properties"]["file_path"]["description"] == "Name of a file."
    assert arguments["required"] == ["input"]

    async def pages(**given):
        outputs = [tool.call(input="apples", **given), await tool.acall(input="apples", **given)]
        found = [sorted(place[:2] for place in places(output.raw_output)) for output in outputs]
        assert found[0] == found[1]
        return found[0]

    assert len(await pages()) == len(TEXTS)
    assert await pages(file_path="b") == [("b.pdf", 1), ("b.pdf", 2)]
    assert await pages(file_path="", year=None, page_number=3) == [("a.pdf", 3)]
    assert tool.call(input="apples", year=2020).raw_input == {"input": "apples", "year": 2020}
    own = MetadataFilters(filters=[MetadataFilter(key="file_path", value="b.pdf")])
    for retriever.filters in ({"file_path": "b.pdf"}, own):
        assert await pages() == [("b.pdf", 1), ("b.pdf", 2)]
        assert await pages(file_path="a.pdf") == []
        assert await pages(page_number=2) == [("b.pdf", 2)]
    for given in ({"not": "b.pdf"}, ["a.pdf"]):
        with pytest.raises(InputError, match="file_path must be a text"):
            tool.call(input="apples", file_path=given)
    assert retriever.filters == own
    retriever.filters = models.Filter()
    with pytest.raises(InputError, match="got Filter"):
        PageRetrieverTool.from_defaults(retriever, filter_keys=keys)


def test_filter_keys_that_cannot_be_are_refused(theirs, collection, index):
    for retriever, match in (
        (theirs.as_retriever(), "need a NemotronPageRetriever, got VectorIndexRetriever"),
        (NemotronPageRetriever(theirs), "VectorStoreIndex takes no filters besides its own"),
    ):
        with pytest.raises(InputError, match=match):
            PageRetrieverTool.from_defaults(retriever, filter_keys={"year": "y"})
    for key in ("input", "a b", "_x"):
        with pytest.raises(InputError, match="must be names other than input"):
            PageRetrieverTool.from_defaults(NemotronPageRetriever(collection), filter_keys={key: "y"})
    with pytest.raises(InputError, match="an index does not store page_image_path"):
        PageRetrieverTool.from_defaults(NemotronPageRetriever(index), filter_keys={"page_image_path": "y"})
