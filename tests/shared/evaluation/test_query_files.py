"""Queries about files: what is read, what is refused, and that what is written is read again."""

import json

import pytest

from nemotron_rag.errors import InputError
from nemotron_rag.evaluation import JudgedQuery, file_page, read_query_file, write_query_file
from nemotron_rag.evaluation.query_files import queries_of_rows


def written(tmp_path, text, name="queries.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(tmp_path, text, name="queries.csv"):
    return read_query_file(written(tmp_path, text, name))


def test_the_three_columns(tmp_path):
    data = read(tmp_path, 'question,file,page\nHow many?,a.pdf,3\n"Of which, and why?",b.pdf,"1-2,7"\n')
    assert [query.text for query in data.queries] == ["How many?", "Of which, and why?"]
    assert dict(data.queries[0].judgements) == {"a.pdf#page=3": 1}
    assert [*data.queries[1].judgements] == ["b.pdf#page=1", "b.pdf#page=2", "b.pdf#page=7"]
    assert data.files == {"a.pdf", "b.pdf"}


@pytest.mark.parametrize("text", [
    "Question;File;Page\nq;a.pdf;3,4\n",  # a spreadsheet in most of Europe
    "\ufeffquery,file,pages\r\nq,a.pdf,3;4\r\n",  # with a byte order mark and Windows line ends
    "question,file,page\nq,.\\a.pdf,3.0\n\nq,a.pdf,4\n",  # a data frame's numbers, an empty line, two rows
])  # fmt: skip
def test_what_programs_make_of_a_csv(tmp_path, text):
    (query,) = read(tmp_path, text).queries
    assert dict(query.judgements) == {"a.pdf#page=3": 1, "a.pdf#page=4": 1}


def test_json_lines_with_lists_and_kinds(tmp_path):
    row = {"id": "q7", "query": "q", "file": "a.pdf", "pages": [3, 5], "kind": "table", "answer": "42"}
    data = read(tmp_path, json.dumps(row), "queries.jsonl")
    assert data.queries[0] == JudgedQuery(
        id="q7", text="q", judgements={"a.pdf#page=3": 1, "a.pdf#page=5": 1}, groups={"category": ("table",)}
    )
    assert data.notes == ("columns not used: answer",)


def test_grades_languages_and_queries_without_an_answer(tmp_path):
    data = read(
        tmp_path,
        "question,file,page,relevance,language\nq,a.pdf,1,2,french\nq,a.pdf,2,0,french\nnobody knows,a.pdf,1,0,\n",
    )
    assert dict(data.queries[0].judgements) == {"a.pdf#page=1": 2, "a.pdf#page=2": 0}
    assert data.queries[0].groups == {"language": ("french",)}
    assert data.notes == ("1 of 2 queries have no text or no relevant page and are left out",)


@pytest.mark.parametrize(("text", "message"), [
    ("question,file\nq,a.pdf\n", "row 1: page is missing"),
    ("question,file,page\nq,a.pdf,0\n", "row 1: page must be numbers from 1"),
    ("question,file,page\nq,a.pdf,1-\n", "page must be numbers from 1"),
    ("question,file,page\nq,a.pdf,1-99999999999\n", "page must be numbers from 1"),
    ("question,file,page\nq,a.pdf,two\n", "page must be numbers from 1"),
    ("question,file,page,relevance\nq,a.pdf,1,very\n", "relevance must be a whole number"),
    ("question,file,page,relevance\nq,a.pdf,1,0.5\n", "relevance must be a whole number"),
    ("question,file,page,relevance\nq,a.pdf,1,nan\n", "relevance must be a whole number"),
    ("question,file,page,id\none,a.pdf,1,x\nother,a.pdf,1,x\n", "row 2: id 'x' is of another question"),
    ("question,file,page\na, b,a.pdf,1\n", "put texts with commas in quotes"),
    ("question,file,page\n", "has no query with a relevant page"),
    ("", "has no query"),
    (b"question,file,page\n\xff\xfe,a.pdf,1\n", "cannot be read"),
])  # fmt: skip
def test_what_cannot_be_used_is_named_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_name_of_a_file_opens_nothing(tmp_path):
    data = read(tmp_path, "question,file,page\nq,../../../etc/passwd,1\nr,//host/share/a.pdf,1\n")
    assert "../../../etc/passwd" in data.files


def test_lines_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nemotron_rag.evaluation.tables._MAX_LINE", 100)
    with pytest.raises(InputError, match="line of more than"):
        read(tmp_path, "question,file,page\n" + "q" * 200)


def test_what_is_written_is_read_again(tmp_path):
    queries = [
        JudgedQuery(
            id='a "b", c\nd',
            text='Wie viel? "10 %", sagt er',
            judgements={file_page("ordner/ä.pdf", 3): 2, file_page("b.pdf", 1): 0},
            groups={"language": ("german",), "category": ("table", "numerical")},
        ),
        JudgedQuery(id="2", text="=SUM(A1)", judgements={file_page("b.pdf", 9): 1}),
    ]
    path = tmp_path / "new" / "queries.csv"
    assert write_query_file(path, queries) == 3
    assert path.read_text(encoding="utf-8").splitlines()[0] == "id,question,file,page,relevance,language,category"
    assert list(read_query_file(path).queries) == queries


def test_rows_in_memory():
    data = queries_of_rows([{"question": "q", "file": "a.pdf", "page": 2}])
    assert [*data.queries[0].judgements] == ["a.pdf#page=2"]
    with pytest.raises(InputError, match="queries, row 1: file is missing"):
        queries_of_rows([{"question": "q", "page": 2}])


def test_only_some_groups(tmp_path):
    data = read(tmp_path, "question,file,page,language\nq,a.pdf,1,french\nr,a.pdf,1,english\n")
    assert [query.text for query in data.only(language=["english"]).queries] == ["r"]
    with pytest.raises(InputError, match="no query of language 'german'; there are: english, french"):
        data.only(language=["german"])
