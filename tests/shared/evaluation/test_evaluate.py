"""Whole evaluations with fakes: what is compared, kept and resumed, and that nothing is silent."""

import json
import shutil

import pytest

from nemotron_rag.errors import InputError
from nemotron_rag.evaluation import evaluate, read_dataset, write_evaluation
from nemotron_rag.evaluation.metrics import measure
from nemotron_rag.index import PageIndex
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.datasets import beir, vidore_v1, vidore_v3
from support.pages import CountingEmbedder, make_pdf

ROWS = [
    {"question": "red apples", "file": "fruit.pdf", "page": 1, "language": "english"},
    {"question": "ripe pears", "file": "fruit.pdf", "page": 2, "language": "english"},
    {"question": "blaue Wale", "file": "sea.pdf", "page": 1, "language": "german"},
]


@pytest.fixture(scope="module")
def pdfs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pdfs")
    make_pdf(folder / "fruit.pdf", "red apples grow", "ripe pears fall", "plums are blue")
    make_pdf(folder / "sub" / "sea.pdf", "whales sing", "crabs walk")
    return folder


def run(*arguments, **options):
    return evaluate(*arguments, progress=False, **options)


def ranker(ranking):
    """A retriever that finds the same pages for every query."""
    return lambda query: ranking


def test_the_metrics_of_a_known_ranking():
    found = run(ROWS, retrievers={"r": ranker([("fruit.pdf", 2), ("fruit.pdf", 1), ("x/sea.pdf", 2)])}, k=(1, 2))
    system = found["r"]
    assert [answer.pages for answer in system.answers] == [("fruit.pdf#page=2", "fruit.pdf#page=1")] * 3
    assert {name: round(interval.mean, 3) for name, interval in system.intervals.items()} == {
        "ndcg@1": 0.333, "ndcg@2": 0.544, "recall@1": 0.333, "recall@2": 0.667,
        "hit@1": 0.333, "hit@2": 0.667, "mrr": 0.5, "map": 0.5,
    }  # fmt: skip
    assert found.main == "ndcg@2"
    assert [(group.value, group.queries) for group in found.groups] == [("english", 2), ("german", 1)]
    assert found.groups[1].means["r"]["recall@2"] == 0


def test_every_model_modality_mode_and_reranker(pdfs):
    found = run(
        ROWS,
        pages=pdfs,
        embedders=[FakeEmbedder(), FakeMultiVectorEmbedder()],
        rerankers=FakeReranker(),
        modalities=["text", "image"],
        modes=["dense", "multi", "hybrid"],
    )
    names = [system.name for system in found.systems]
    assert len(names) == len(set(names)) == 2 * 2 * 2 + 2 * 2 * 3
    assert "fake-embedder, text, hybrid, then fake-reranker" in names
    assert found.notes == ("fake-embedder is left out in mode 'multi': it gives one vector a page",)
    assert found["fake-embedder, text, dense"].intervals["hit@1"].mean > 0.6
    assert found["fake-embedder, image, dense"].intervals["hit@1"].mean < 0.5  # the fake does not read
    assert found["fake-embedder, image, hybrid"].intervals["hit@1"].mean > 0.6  # words are looked for in any case
    costs = found["fake-multivector-embedder, text, dense"].costs
    assert costs.vector_bytes_per_page == 64 * 4 * 13 / 5  # 13 words on 5 pages
    assert costs.vector_bytes_per_query == 64 * 4 * 2
    assert min(costs.seconds_per_page, costs.seconds_per_query, costs.stored_bytes_per_page) > 0


def test_scores_of_the_pages_that_were_wanted(pdfs):
    found = run(ROWS, pages=pdfs, embedders=FakeEmbedder(), rerankers=FakeReranker(), modes=["dense", "hybrid"], k=1)
    dense = {answer.query: answer for answer in found["fake-embedder, dense"].answers}
    (wanted,) = dense["blaue Wale"].wanted
    assert wanted.page == "sea.pdf#page=1"
    assert -1 <= wanted.score < dense["blaue Wale"].scores[0]
    assert wanted.text == "whales sing"
    hybrid = {answer.query: answer for answer in found["fake-embedder, hybrid"].answers}
    assert hybrid["blaue Wale"].wanted[0].score is None  # a fusion score tells a rank alone


def test_nothing_is_computed_twice(pdfs, tmp_path):
    embedder = CountingEmbedder()
    first = run(ROWS, pages=pdfs, embedders=embedder, to=tmp_path)
    again = run(ROWS, pages=pdfs, embedders=embedder, to=tmp_path)
    assert embedder.embedded == 5
    assert again["fake-embedder"].answers == first["fake-embedder"].answers
    assert again["fake-embedder"].costs == first["fake-embedder"].costs
    more = run(ROWS, pages=pdfs, embedders=embedder, modes=[None, "hybrid"], rerankers=FakeReranker(), to=tmp_path)
    assert embedder.embedded == 5  # the index is the same
    assert more["fake-embedder"].answers == first["fake-embedder"].answers


def test_a_run_that_was_killed_goes_on(pdfs, tmp_path):
    class Stops(FakeReranker):
        asked = 0

        def score(self, query, passages):
            Stops.asked += 1
            if Stops.asked == 4:  # one to warm up, two queries
                raise KeyboardInterrupt
            return super().score(query, passages)

    options = {"pages": pdfs, "embedders": FakeEmbedder(), "to": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        run(ROWS, rerankers=Stops(), **options)
    (log,) = (path for path in (tmp_path / "answers").iterdir() if "reranker" in path.name)
    assert len(log.read_text().splitlines()) == 1 + 2
    with log.open("a") as file:
        file.write('{"query": "blaue W')  # a line that was being written
    found = run(ROWS, rerankers=FakeReranker(), **options)
    whole = run(ROWS, pages=pdfs, embedders=FakeEmbedder(), rerankers=FakeReranker())
    name = "fake-embedder, then fake-reranker"
    assert [answer.pages for answer in found[name].answers] == [answer.pages for answer in whole[name].answers]
    assert len(log.read_text().splitlines()) == 1 + 3


def test_other_documents_queries_or_models_are_another_run(tmp_path):
    folder = tmp_path / "pdfs"
    make_pdf(folder / "fruit.pdf", "plums", "pears", "figs")
    make_pdf(folder / "sea.pdf", "whales")
    options = {"pages": folder, "to": tmp_path / "out"}
    first = run(ROWS, embedders=FakeEmbedder(), **options)
    make_pdf(folder / "fruit.pdf", "red apples", "ripe pears", "figs")
    changed = run(ROWS, embedders=FakeEmbedder(), **options)
    assert first["fake-embedder"].intervals["mrr"].mean < changed["fake-embedder"].intervals["mrr"].mean
    other = run(ROWS, embedders=FakeEmbedder(dimensions=3), **options)
    assert other["fake-embedder"].answers != changed["fake-embedder"].answers
    assert len(run(ROWS[:2], embedders=FakeEmbedder(), **options)["fake-embedder"].answers) == 2


def test_a_damaged_log_is_named(pdfs, tmp_path):
    run(ROWS, pages=pdfs, embedders=FakeEmbedder(), to=tmp_path)
    (log,) = (tmp_path / "answers").iterdir()
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b'{"query": 1}\n' + lines[2])
    with pytest.raises(InputError, match="line 2, is not of this program; delete the file"):
        run(ROWS, pages=pdfs, embedders=FakeEmbedder(), to=tmp_path)


def test_indexes_that_there_are(pdfs, tmp_path):
    with PageIndex(tmp_path / "mine", embedder=FakeEmbedder(), reranker=FakeReranker()) as index:
        index.add(pdfs, progress=False)
        found = run(ROWS, indexes={"mine": index}, modes=["dense", "hybrid"], retrievers={"as it is": index})
        assert [system.name for system in found.systems] == ["mine, dense", "mine, hybrid", "as it is"]
        assert found["as it is"].intervals["hit@1"].mean > 0.5
        with pytest.raises(InputError, match="mine has none of the judged files, such as 'other.pdf'"):
            run([{"question": "q", "file": "other.pdf", "page": 1}], indexes={"mine": index})


def test_vidore_v3_by_language_and_category(tmp_path):
    data = read_dataset(vidore_v3(tmp_path / "v3"))
    found = run(data, embedders=FakeEmbedder(), modalities=["text"], to=tmp_path / "out")
    assert found["fake-embedder"].intervals["hit@1"].mean == 1
    judged = {query.id: query.judgements for query in data.queries}
    pages = {answer.query: answer.pages for answer in found["fake-embedder"].answers}
    assert found["fake-embedder"].values["ndcg@10"] == measure(pages, judged)["ndcg@10"]
    names = [(group.name, group.value, group.queries) for group in found.groups]
    assert names[:2] == [("language", "english", 2), ("language", "french", 2)]
    assert ("query_types", "numerical", 2) in names
    english = run(data.only(language=["english"]), embedders=FakeEmbedder(), modalities=["text"], to=tmp_path / "out")
    assert len(english["fake-embedder"].answers) == 2


@pytest.mark.parametrize("write", [beir, vidore_v1])
def test_other_published_layouts(write, tmp_path):
    found = run(write(tmp_path / "data"), embedders=FakeEmbedder(), k=2)
    assert 0 < found["fake-embedder"].intervals["recall@2"].mean <= 1


def test_equal_files_are_one_document(tmp_path):
    make_pdf(tmp_path / "a.pdf", "red apples")
    shutil.copy(tmp_path / "a.pdf", tmp_path / "copy.pdf")
    rows = [{"question": "red apples", "file": "copy.pdf", "page": 1}]
    found = run(rows, pages=tmp_path, embedders=FakeEmbedder(), k=1)
    assert found["fake-embedder"].intervals["hit@1"].mean == 1
    assert found.notes == (f"equal files count as one: copy.pdf = {(tmp_path / 'a.pdf').as_posix()}",)


def test_what_is_missing_or_unreadable_is_noted(tmp_path):
    make_pdf(tmp_path / "a.pdf", "red apples")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    rows = [{"question": "red apples", "file": file, "page": 1} for file in ("a.pdf", "broken.pdf", "gone.pdf")]
    found = run(rows, pages=tmp_path, embedders=FakeEmbedder())
    assert "judged files that are not there: gone.pdf" in found.notes
    assert any("could not be read and count as not found" in note for note in found["fake-embedder"].notes)
    with pytest.raises(InputError, match=r"none of the judged files is among the pages, such as 'gone.pdf'"):
        run([rows[2]], pages=tmp_path, embedders=FakeEmbedder())


def test_retrievers_that_return_few_or_strange_pages_are_noted():
    found = run(
        ROWS, retrievers={"few": ranker([("fruit.pdf", 1)]), "strange": ranker([(f"{i}.pdf", 1) for i in range(10)])}
    )
    assert found["few"].notes == ("few returned 1 pages at most, fewer than k=10: let it return more",)
    assert "no page that strange returned is of a judged document: it names '0.pdf#page=1'" in found["strange"].notes[0]


@pytest.mark.parametrize(("options", "message"), [
    ({}, "there is nothing to evaluate; give embedders="),
    ({"embedders": FakeEmbedder()}, "give pages="),
    ({"embedders": FakeEmbedder(), "pages": "nowhere"}, "there are no pages at 'nowhere'"),
    ({"embedders": "no-such-model", "pages": "tests"}, "no model named"),
    ({"embedders": FakeReranker(), "pages": "tests"}, "wanted a catalog id"),
    ({"retrievers": {"r": 3}}, "a retriever must have"),
    ({"retrievers": {"r": ranker([])}, "indexes": {"r": PageIndex(embedder=FakeEmbedder())}}, "two systems are called"),
    ({"retrievers": {"r": ranker([])}, "k": 0}, "k must be a positive integer"),
    ({"retrievers": {"r": ranker([])}, "k": ()}, "k must be one or several"),
    ({"retrievers": {"r": ranker([])}, "main": "bleu"}, "metric must be one of"),
    ({"retrievers": {"r": ranker([])}, "baseline": "x"}, "baseline must be one of the systems"),
    ({"indexes": {"i": "x"}, "modes": ["fast"]}, "mode must be one of dense, multi, hybrid; got 'fast'"),
    ({"indexes": {"i": "x"}, "candidates": 5}, "candidates must be at least the largest k, 10, got 5"),
])  # fmt: skip
def test_wrong_arguments_are_refused_before_any_work(options, message, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    rows = [{"question": "q", "file": "test_evaluate.pdf", "page": 1}]
    if options.get("pages") == "tests":
        options = {**options, "pages": "cookbook/pdfs"}
        rows = [{"question": "q", "file": "rki-amelag-de.pdf", "page": 1}]
    with pytest.raises(InputError.__mro__[1], match=message):
        run(rows, **options)


def test_differences_are_paired_with_the_baseline():
    systems = {"good": ranker([("fruit.pdf", 1), ("fruit.pdf", 2), ("sea.pdf", 1)]), "bad": ranker([("fruit.pdf", 3)])}
    found = run(ROWS, retrievers=systems, baseline="bad", k=3)
    assert found.differences["good"]["recall@3"].mean == 1
    assert found.differences["good"]["recall@3"].excludes_zero
    assert found.best.name == "good"


# ---- outputs ----


@pytest.fixture(scope="module")
def written(pdfs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    rows = [*ROWS, {"question": "<script>alert(1)</script> | x", "file": "sea.pdf", "page": 99, "category": "a|b"}]
    systems = [FakeEmbedder(), FakeMultiVectorEmbedder()]
    found = run(rows, pages=pdfs, embedders=systems, rerankers=FakeReranker(), to=folder)
    return found, write_evaluation(found, folder)


def test_the_page_shows_misses_with_images_and_ranks(written):
    found, files = written
    html = files.html.read_text(encoding="utf-8")
    misses = found.misses()
    assert misses
    assert html.count('class="hit found"') == html.count('class="hit wanted"') == len(misses)
    assert html.count("data:image/webp") >= 2 * len(misses) - 1  # there is no page 99
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "Where each system has it" in html


def test_late_interaction_shows_where_it_matches(written, tmp_path):
    found, _ = written
    from nemotron_rag.evaluation.page import render_evaluation

    html = render_evaluation(found, system="fake-multivector-embedder")
    assert "where the query matches" in html
    assert "1 more" not in html
    assert "more are in the JSON file" in render_evaluation(found, misses=0)


def test_json_has_every_query_and_is_plain(written):
    found, files = written
    data = json.loads(files.json.read_text())
    assert [system["name"] for system in data["systems"]] == [system.name for system in found.systems]
    assert len(data["systems"][0]["queries"]) == 4
    assert data["systems"][1]["minus_baseline"]["mrr"].keys() == {"mean", "low", "high"}


def test_markdown_is_a_table_whatever_names_hold(written):
    _, files = written
    lines = files.markdown.read_text().splitlines()
    table = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert table[0].startswith("| system | NDCG@10 | against fake-embedder |")
    assert "Hit@1" not in table[0]  # every query has one page: it is the recall
    assert len({line.count("|") for line in table[:5]}) == 1


def test_keys_of_servers_are_in_no_file(tmp_path):
    from nemotron_rag.evaluation.plan import lazy_models, model_settings

    endpoint = {"api_key": "top-secret"}
    (model,), _ = lazy_models(["some-model"], [], {"base_url": "https://host/v1", "endpoint": endpoint})
    assert "top-secret" not in json.dumps(model_settings(model))
