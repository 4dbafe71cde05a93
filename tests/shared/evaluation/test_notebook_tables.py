"""Tables of an evaluation for notebooks."""

from __future__ import annotations

import doctest

from nemotron_rag.evaluation import evaluate, notebook, show_metrics, show_ranks

QUERIES = [
    {"query": "<b>apples</b>", "file": "a.pdf", "page": 1, "category": "text"},
    {"query": "pears", "file": "a.pdf", "page": 2, "category": "chart"},
]


def found():
    first = [("a.pdf", 1), ("a.pdf", 3)]
    return evaluate(
        QUERIES,
        retrievers={"one": lambda query: first, "two": lambda query: [*first, ("a.pdf", 2)]},
        k=3,
        progress=False,
    )


def test_examples_of_the_docstrings():
    assert doctest.testmod(notebook).failed == 0


def test_ranks_by_query():
    shown = show_ranks(found())
    assert repr(shown).splitlines() == [
        "query | category | one | two",
        "<b>apples</b> | text | 1 | 1",
        "pears | chart | not found | 3",
    ]
    assert "&lt;b&gt;apples&lt;/b&gt;" in shown.html
    assert shown.html.count("<b>not found</b>") == 1


def test_figures_by_system():
    header, one, two = repr(show_metrics(found())).splitlines()
    assert header == "system | NDCG@3 | against one | MRR | a query"
    assert one.startswith("one | 0.50 (")
    assert one.split(" | ")[2:4] == ["", "0.50"]
    assert two.split(" | ")[2].startswith("+0.25 (")
