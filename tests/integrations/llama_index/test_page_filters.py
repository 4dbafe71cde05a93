"""Filters of NemotronPageRetriever: the same words for an index of ours and a collection of LlamaIndex."""

from __future__ import annotations

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters
from qdrant_client import models

from llama_index.retrievers.nemotron_rag import NemotronPageRetriever
from nemotron_rag.errors import InputError
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import Page
from support.pages import add


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
    (one("page_label", "2"), [2]),
    (one("page_label", "2", "!="), [1, 3, 4]),
    (one("page_label", ["1", "4", "x"], "in"), [1, 4]),
    (some("or", one("page_label", "1"), one("page_label", "3")), [1, 3]),
    ({"$or": [{"page_label": "2"}, {"page_label": {"$in": ["4"]}}], "year": 2024}, [2, 4]),
    (one("file_name", "nature.pdf"), ALL),
    (one("file_name", "ture.pdf"), []),
    (one("file_name", "ture", "contains"), ALL),
    (one("file_name", "nature.pdf", "!="), []),
    ({"file_name": ["other.pdf", "nature.pdf"], "page_label": {"ne": "2"}}, [1, 3, 4]),
    ({"not": {"file_name": "other.pdf"}}, ALL),
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
        (one("source", str(pdf)), 4),
        ({"source": str(pdf), "page_number": 2}, 1),
        ({"source": "other.pdf"}, 0),
        ({"file_path": "other.pdf"}, 0),
        ({"total_pages": 4}, 4),
        (models.Filter(must=[models.FieldCondition(key="number", match=models.MatchValue(value=2))]), 1),
    ]:
        retriever.filters = filters
        assert len(retriever.retrieve("apples")) == count
    retriever.filters = one("page_image_path", "nature.png")
    with pytest.raises(InputError, match="does not store page_image_path; filter on source, page_number"):
        retriever.retrieve("apples")
    for wrong in ({"page_label": {"gt": "2"}}, {"file_name": {"text": "a"}}, {"file_name": None}, {"page_label": True}):
        retriever.filters = wrong
        with pytest.raises(InputError, match="filter on '(page_label|file_name)'"):
            retriever.retrieve("apples")
    retriever.filters = {"source": "a.pdf", "file_path": "b.pdf"}
    with pytest.raises(InputError, match="mean the same: source, file_path"):
        retriever.retrieve("apples")


def test_files_and_printed_labels_are_told_apart():
    with PageIndex(embedder=FakeEmbedder(), images=None) as index:
        places = {"a/1.pdf": "A-1", "b/1.pdf": "2", "b/11.pdf": None, "1.pdf/x.pdf": "iv"}
        for n, (source, label) in enumerate(places.items()):
            metadata = {} if label is None else {"label": label}
            add(index, [Page(id=f"p{n}", source=source, number=2, text="apples", metadata=metadata)])
        assert index.sources({"source": {"contains": "1.pdf"}}) == sorted(places)
        assert index.sources({"label": "2"}) == ["b/1.pdf"]
        for filters, expected in [
            ({"file_name": "1.pdf"}, ["a/1.pdf", "b/1.pdf"]),
            ({"file_name": {"prefix": "1"}}, ["a/1.pdf", "b/1.pdf", "b/11.pdf"]),
            ({"file_name": {"not_contains": "1"}}, ["1.pdf/x.pdf"]),
            ({"page_label": "2"}, ["b/1.pdf", "b/11.pdf"]),
            ({"page_label": "iv"}, ["1.pdf/x.pdf"]),
        ]:
            found = NemotronPageRetriever(index, filters=filters).retrieve("apples")
            assert sorted(node.metadata["file_path"] for node in found) == expected


def test_a_collection_finds_pages_by_the_same_words(collection, pdf):
    for filters, count in [({"source": str(pdf)}, 4), (one("file_path", str(pdf)), 4), ({"source": "other.pdf"}, 0)]:
        assert len(NemotronPageRetriever(collection, filters=filters).retrieve("apples")) == count


def test_qdrants_own_filters_of_a_collection(collection):
    wanted = models.Filter(must=[models.FieldCondition(key="page_number", match=models.MatchValue(value=2))])
    assert numbers(NemotronPageRetriever(collection, filters=wanted).retrieve("apples")) == [2]


@pytest.mark.parametrize("filters", [one("note", 3, "text_match"), one("note", "x", ">"), [("year", 2024)]])
def test_filters_that_cannot_be_translated(collection, index, filters):
    for source in (collection, index):
        with pytest.raises(InputError, match="filter"):
            NemotronPageRetriever(source, filters=filters).retrieve("apples")


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"page_number": 2}, [2]),
        ({"page_number": [1, 4], "year": 2024}, [1, 4]),
        ({"page_number": {"gte": 2, "$lt": 4}}, [2, 3]),
        ({"or": [{"page_number": 1}, {"page_number": {"gt": 3}}]}, [1, 4]),
        ({"$and": [{"year": 2024}, {"page_number": {"ne": 2}}]}, [1, 3, 4]),
        ({"not": {"page_number": 2}}, [1, 3, 4]),
        ({"nor": [{"page_number": 2}, {"page_number": 3}]}, [1, 4]),
        ({}, ALL),
    ],
)
@pytest.mark.parametrize("kind", ["simple", "qdrant"])
def test_plain_filters_over_an_index_of_llama_index(pages, embedding, store, kind, filters, found):
    if kind == "simple" and {"not", "nor"} & filters.keys():
        pytest.skip("LlamaIndex's own store knows no not")
    context = StorageContext.from_defaults(vector_store=store) if kind == "qdrant" else None
    index = VectorStoreIndex(nodes=pages, embed_model=embedding, storage_context=context)
    nodes = NemotronPageRetriever(index, filters=filters).retrieve("apples")
    assert numbers(nodes) == found


def test_filters_that_an_index_of_llama_index_cannot_have(pages, embedding):
    index = VectorStoreIndex(nodes=pages, embed_model=embedding)
    for filters, said in (({"year": {"prefix": "20"}}, "no operator 'prefix'"), (models.Filter(), "got Filter")):
        with pytest.raises(InputError, match=said):
            NemotronPageRetriever(index, filters=filters).retrieve("apples")
