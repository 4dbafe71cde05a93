"""LangChain's structured queries as filters: a SelfQueryRetriever over the vector store, and over an index."""

from __future__ import annotations

import datetime

import pytest
from langchain_classic.retrievers import SelfQueryRetriever
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageVectorStore, NemotronTranslator
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder

BOOKS = [
    Document("red apples", metadata={"year": 2020, "kind": "fruit", "tags": ["red", "sweet"], "day": "2024-05-01"}),
    Document("green pears", metadata={"year": 2021.0, "kind": "fruit", "tags": [], "day": "2024-05-02T10:00:00"}),
    Document("blue whales", metadata={"year": 2024, "kind": "animal", "title": "A Book of Whales"}),
]


def is_(comparator, attribute, value):
    return Comparison(comparator=Comparator(comparator), attribute=attribute, value=value)


def join(operator, *arguments):
    return Operation(operator=Operator(operator), arguments=list(arguments))


@pytest.fixture(scope="module")
def store():
    made = NemotronPageVectorStore(NemotronEmbeddings(model=FakeEmbedder()))
    made.add_documents(BOOKS, ids=["a", "p", "w"])
    yield made
    made.close()


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (None, "apw"),
        (is_("eq", "kind", "fruit"), "ap"),
        (is_("eq", "year", 2021), "p"),
        (is_("ne", "year", 2021), "aw"),
        (is_("gt", "year", 2020), "pw"),
        (is_("gte", "year", 2021), "pw"),
        (is_("lt", "year", 2021), "a"),
        (is_("lte", "year", 2021.5), "ap"),
        (is_("in", "year", [2020, 2024]), "aw"),
        (is_("nin", "year", [2020, 2024]), "p"),
        (is_("in", "kind", "animal"), "w"),
        (is_("contain", "tags", "red"), "a"),
        (is_("contain", "title", "Book"), "w"),
        (is_("like", "title", "%Whale%"), "w"),
        (is_("like", "title", "A B%"), "w"),
        (is_("like", "title", "B%"), ""),
        (is_("eq", "day", {"date": "2024-05-02", "type": "date"}), "p"),
        (is_("gte", "day", {"datetime": "2024-05-01T12:00:00", "type": "datetime"}), "p"),
        (is_("lt", "day", {"date": "2024-05-02", "type": "date"}), "a"),
        (join("and", is_("eq", "kind", "fruit"), is_("gt", "year", 2020)), "p"),
        (join("or", is_("eq", "year", 2020), join("not", is_("eq", "kind", "fruit"))), "aw"),
        (join("not", is_("eq", "year", 2020), is_("eq", "year", 2024)), "p"),
    ],
)
def test_a_self_query_retriever_finds_what_the_filter_says(store, filter, expected):
    asked = StructuredQuery(query="whales", filter=filter)
    retriever = SelfQueryRetriever(
        query_constructor=RunnableLambda(lambda _: asked),
        vectorstore=store,
        structured_query_translator=NemotronTranslator(),
    )
    assert sorted(document.id for document in retriever.invoke("something about whales")) == sorted(expected)


def test_dates_are_dates():
    asked = StructuredQuery(query="", filter=is_("in", "day", [{"date": "2024-05-02", "type": "date"}]))
    assert NemotronTranslator().visit_structured_query(asked)[1] == {
        "filter": {"day": {"in": [datetime.date(2024, 5, 2)]}}
    }


@pytest.mark.parametrize("value", [{"date": "soon", "type": "date"}, {"datetime": "2024-13-01", "type": "datetime"}])
def test_what_is_no_date_is_refused(value):
    with pytest.raises(InputError, match="filter on 'day': .* is no ISO date"):
        NemotronTranslator().visit_comparison(is_("eq", "day", value))


def test_like_wants_a_text():
    with pytest.raises(InputError, match="filter on 'year': like wants a text, got int"):
        NemotronTranslator().visit_comparison(is_("like", "year", 3))
