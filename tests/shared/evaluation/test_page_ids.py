"""Which page a retriever returned: whatever type it is of, and however files are named."""

from types import SimpleNamespace

import pytest

from nemotron_rag.errors import InputError
from nemotron_rag.evaluation import Dataset, JudgedQuery
from nemotron_rag.evaluation.page_ids import PageIds
from nemotron_rag.evaluation.retrievers import as_find
from nemotron_rag.types import Hit, Page


def of_files(*pages):
    return Dataset(name="d", queries=(JudgedQuery(id="q", text="q", judgements=dict.fromkeys(pages, 1)),))


def of_corpus(*ids):
    corpus = SimpleNamespace(ids=lambda: ids)
    return Dataset(name="d", queries=(JudgedQuery(id="q", text="q", judgements={ids[0]: 1}),), corpus=corpus)


def document(**metadata):
    return SimpleNamespace(page_content="text", metadata=metadata, id=None)


PAGE = Page("text", id="1", source="/data/a.pdf", number=3)


@pytest.mark.parametrize("found", [
    PAGE,
    Hit(PAGE, score=1, retrieval_score=1, rank=1),
    document(source="/data/a.pdf", page_number=3),
    document(source="/data/a.pdf", page_number="3"),
    document(source="a.pdf", page=2),  # LangChain's loaders count from 0
    document(source="/data/a.pdf", page=2, page_label="iii"),
    document(file_name="a.pdf", page_label="3"),  # LlamaIndex's reader
    SimpleNamespace(node=document(file_path="/data/a.pdf", page_label="3"), score=0.5),
    document(source="C:\\data\\a.pdf", page_number=3),
    ("reports/a.pdf", 3),
    "reports/a.pdf#page=3",
])  # fmt: skip
def test_pages_of_files(found):
    assert PageIds(of_files("a.pdf#page=3")).of(found) == "a.pdf#page=3"


@pytest.mark.parametrize(("judged", "source", "expected"), [
    ("sub/a.pdf#page=1", "/data/sub/a.pdf", "sub/a.pdf#page=1"),
    ("sub/a.pdf#page=1", "a.pdf", "sub/a.pdf#page=1"),  # the retriever knows the name alone
    ("sub/a.pdf#page=1", "/data/other/a.pdf", "/data/other/a.pdf#page=1"),
    ("a.pdf#page=1", "/data/ba.pdf", "/data/ba.pdf#page=1"),
    ("é.pdf#page=1", "e\u0301.pdf", "é.pdf#page=1"),
])  # fmt: skip
def test_names_match_by_whole_parts_of_the_path(judged, source, expected):
    assert PageIds(of_files(judged)).of((source, 1)) == expected


def test_two_files_are_never_taken_for_one():
    ids = PageIds(of_files("a.pdf#page=1"))
    ids.of(("one/a.pdf", 1))
    ids.of(("one/a.pdf", 2))
    with pytest.raises(InputError, match="'a.pdf' is both 'one/a.pdf' and 'other/a.pdf'; write more of its path"):
        ids.of(("other/a.pdf", 1))
    with pytest.raises(InputError, match=r"'a.pdf' may be one/a.pdf or two/a.pdf"):
        PageIds(of_files("one/a.pdf#page=1", "two/a.pdf#page=1")).of(("a.pdf", 1))


@pytest.mark.parametrize("found", [
    document(source="a.pdf"), document(page_number=3), document(source="a.pdf", page_number=0), "a.pdf", None, 3,
    ("a.pdf", True), ("a.pdf", "x"), document(source="a.pdf", page_label="iii"), (1, 2, 3), document(source=7, page=1),
])  # fmt: skip
def test_what_has_no_page_is_refused(found):
    with pytest.raises(InputError, match="it cannot be known which page a retriever returned") as error:
        PageIds(of_files("a.pdf#page=3")).of(found)
    assert "\n" not in str(error.value)


def test_a_function_names_pages_in_any_other_form():
    ids = PageIds(of_files("a.pdf#page=3"), key=lambda found: (found["doc"], found["p"] + 1))
    assert ids.of({"doc": "a.pdf", "p": 2}) == "a.pdf#page=3"


@pytest.mark.parametrize("found", [
    Page(id="7"), "7", 7, document(corpus_id=7), document(page_id="7"),
    SimpleNamespace(metadata={}, id="7"), SimpleNamespace(metadata={"_id": "unknown"}, node_id="7"),
])  # fmt: skip
def test_pages_with_ids(found):
    assert PageIds(of_corpus("7", "8")).of(found) == "7"


def test_pages_with_ids_that_are_not_there():
    with pytest.raises(InputError, match="none of the data set's ids"):
        PageIds(of_corpus("7")).of(document(source="a.pdf", page_number=1))


@pytest.mark.parametrize("retriever", [3, "starter-embed-vl", None, SimpleNamespace(as_retriever=lambda: 0), dict])
def test_what_cannot_be_asked_is_refused(retriever):
    with pytest.raises(InputError, match="a retriever must have invoke or retrieve"):
        as_find(retriever, k=3)


@pytest.mark.parametrize("answer", ["an answer", {"answer": "x"}, 5, None])
def test_a_chain_is_no_retriever(answer):
    with pytest.raises(InputError, match="must return a list of pages"):
        as_find(SimpleNamespace(invoke=lambda query: answer), k=3)("q")
