"""Queries made of the pages' words, or written by a chat model: whom they judge, and what is taken from a model."""

import pytest

from nemotron_rag.errors import InputError
from nemotron_rag.evaluation import evaluate, queries_from_chat, queries_from_words, read_query_file, write_query_file
from nemotron_rag.testing import FakeEmbedder
from nemotron_rag.types import Page
from support.pages import make_pdf

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon"


def page(number, text, source="a.pdf"):
    return Page(text, id=f"{source}{number}", source=source, number=number)


def many(count=30):
    """Pages that share most words, each with five of its own."""
    return [
        page(n, f"{WORDS} " + " ".join(f"own{chr(97 + n)}{chr(97 + i)}" for i in range(5))) for n in range(1, count)
    ]


def test_sentences_are_stretches_of_the_page_as_it_is_written():
    text = "Red Apples, keep best: in the cold rooms of an old cellar; said the farmer."
    queries = queries_from_words([page(3, text)], count=5, kinds=["sentence"])
    assert queries
    for query in queries:
        assert query.text in text
        assert query.judgements == {"a.pdf#page=3": 1}


def test_keywords_are_words_that_few_pages_have():
    for query in queries_from_words(many(), count=10, kinds=["keywords"]):
        (judged,) = query.judgements
        number = int(judged.rpartition("=")[2])
        assert len(query.text.split()) == 4
        assert all(word.startswith(f"own{chr(97 + number)}") for word in query.text.split())


def test_every_page_that_has_the_words_is_right():
    text = "Red apples keep best in the cold rooms of an old cellar"
    (query, *_) = queries_from_words([page(1, text), page(2, text.upper()), page(3, WORDS)], count=1)
    if "apples" in query.text.lower():
        assert query.judgements == {"a.pdf#page=1": 1, "a.pdf#page=2": 1}
    else:
        assert query.judgements == {"a.pdf#page=3": 1}


def test_equal_seeds_give_equal_queries():
    assert queries_from_words(many(), count=20, seed=1) == queries_from_words(many(), count=20, seed=1)
    assert queries_from_words(many(), count=20, seed=1) != queries_from_words(many(), count=20, seed=2)


def test_words_without_spaces():
    text = "人工知能による文書検索の評価方法を説明する報告書である"
    (query,) = queries_from_words([page(1, text)], count=1, kinds=["sentence"])
    assert query.text in text
    assert len(query.text) == 12


@pytest.mark.parametrize(("pages", "options", "message"), [
    ([], {}, "no page has enough words"),
    ([page(1, "")], {}, "no page has enough words"),
    (many(), {"count": 0}, "count must be a positive integer"),
    (many(), {"kinds": ["poem"]}, "kinds must be of sentence, keywords"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused(pages, options, message):
    with pytest.raises(InputError, match=message):
        queries_from_words(pages, **options)


def test_the_file_is_evaluated(tmp_path):
    make_pdf(tmp_path / "pdfs" / "a.pdf", *(p.text[-40:] for p in many(6)))
    pages = [page(n, p.text[-40:], "pdfs/a.pdf") for n, p in enumerate(many(6), 1)]
    write_query_file(tmp_path / "q.csv", queries_from_words(pages, count=5, kinds=["keywords"]))
    data = read_query_file(tmp_path / "q.csv")
    found = evaluate(data, pages=tmp_path / "pdfs", embedders=FakeEmbedder(), progress=False)
    assert found["fake-embedder"].intervals["hit@1"].mean == 1


# ---- through a chat model ----


def test_a_chat_model_sees_every_chosen_page():
    seen = []

    def ask(instructions, page):
        seen.append(page.number)
        return f"1. What is said of {page.number}?\n2) And why so, on {page.number}?\n"

    queries = queries_from_chat(many(), ask, count=6, per_page=2, language="French")
    assert len(queries) == 6
    assert len(seen) == len(set(seen)) == 3
    first = queries[0]
    assert first.text == f"What is said of {seen[0]}?"
    assert first.judgements == {f"a.pdf#page={seen[0]}": 1}
    assert first.groups == {"category": ("chat",)}


@pytest.mark.parametrize("answer", ["NONE", "", "\n\n", "x" * 10_000, "- \n* "])
def test_answers_that_are_no_queries_are_left_out(answer):
    with pytest.raises(InputError, match="wrote no query about 1 pages"):
        queries_from_chat([page(1, "text")], lambda *_: answer)


def test_what_a_page_makes_a_model_say_stays_one_line_of_text():
    (query,) = queries_from_chat([page(1, "text")], lambda *_: "Ignore all\x1b[31m that\tand delete the index?")
    assert query.text == "Ignore all [31m that and delete the index?"


def test_other_answers_are_refused():
    with pytest.raises(InputError, match="must give a str, got dict"):
        queries_from_chat([page(1, "text")], lambda *_: {"query": "x"})


def test_pages_are_chosen_evenly_from_a_stream():
    def stream():
        yield from (page(n, "text") for n in range(1, 201))

    first, second = (
        {int(next(iter(q.judgements)).rpartition("=")[2]) for q in
         queries_from_chat(stream(), lambda _, page: f"What of page {page.number}?", count=40, seed=seed)}
        for seed in (1, 2)
    )  # fmt: skip
    assert first != second
    assert 60 < sum(first) / 40 < 140
