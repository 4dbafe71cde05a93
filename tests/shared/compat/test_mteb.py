"""mteb's own ``evaluate`` over our models gives the numbers that our metrics give."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from nemotron_rag import Page, PageIndex, Passage, cli, load_embedder, load_reranker
from nemotron_rag.compat import mteb as ours
from nemotron_rag.compat.mteb import MtebEncoder, MtebReranker, run_task
from nemotron_rag.documents.pdf import read_pdf
from nemotron_rag.errors import InputError, MissingExtraError
from nemotron_rag.evaluation.metrics import measure
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    mteb = pytest.importorskip("mteb")
    datasets = pytest.importorskip("datasets")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PDFS = sorted((Path(__file__).parents[3] / "cookbook" / "pdfs").glob("*.pdf"))
METRICS = {"ndcg_at_5": "ndcg@5", "ndcg_at_10": "ndcg@10", "recall_at_5": "recall@5", "mrr_at_10": "mrr@10"}


@pytest.fixture(scope="module")
def pages():
    found = [page for pdf in PDFS[:1] for page in read_pdf(pdf, max_pixels=60_000) if len(page.text.split()) > 60]
    return found[:6]


@pytest.fixture(scope="module")
def queries(pages):
    """By id the seven words in the middle of a page, and which page that is; two for each page."""
    asked = {}
    for number, page in enumerate(pages):
        words = page.text.split()
        for part, place in enumerate((len(words) // 3, len(words) // 2)):
            asked[f"q{number}-{part}"] = (" ".join(words[place : place + 7]), page.id)
    return asked


@pytest.fixture
def task(pages, queries):
    """A task of visual retrieval in memory."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class PagesInMemory(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="PagesInMemory",
            description="Pages of three PDFs.",
            reference=None,
            dataset={"path": "memory", "revision": "1"},
            type="DocumentUnderstanding",
            category="t2it",
            modalities=["text", "image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_5",
            date=("2026-01-01", "2026-01-02"),
            domains=["Non-fiction"],
            task_subtypes=["Image Text Retrieval"],
            license="not specified",
            annotations_creators="derived",
            dialect=[],
            sample_creation="found",
            bibtex_citation="",
        )

        def load_data(self, **kwargs):
            corpus = {
                "id": [page.id for page in pages],
                "image": [page.image for page in pages],
                "text": [page.text for page in pages],
            }
            features = datasets.Features(
                {"id": datasets.Value("string"), "image": datasets.Image(), "text": datasets.Value("string")}
            )
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": datasets.Dataset.from_dict(corpus, features=features),
                        "queries": datasets.Dataset.from_dict(
                            {"id": [*queries], "text": [text for text, _ in queries.values()]}
                        ),
                        "relevant_docs": {key: {page: 1} for key, (_, page) in queries.items()},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return PagesInMemory()


def found_by(index, queries, **options):
    """Metrics of our index over the same queries, with our definitions."""
    run = {key: [hit.page.id for hit in index.search(text, k=10, **options)] for key, (text, _) in queries.items()}
    judged = {key: {page: 1} for key, (_, page) in queries.items()}
    return {name: np.mean([*values.values()]) for name, values in measure(run, judged, [*METRICS.values()]).items()}


def written(path):
    (scores,) = json.loads(path.read_text(encoding="utf-8"))["scores"]["test"]
    return {name: scores[theirs] for theirs, name in METRICS.items()}


@pytest.mark.parametrize("modality", ["image_text", "image"])
def test_numbers_are_those_of_an_index(task, pages, queries, tmp_path, modality, monkeypatch, capsys):
    """The command runs a task, which mteb knows by its name, and writes mteb's result file."""
    monkeypatch.setattr(mteb, "get_task", {"PagesInMemory": task}.__getitem__)
    line = ["mteb", "PagesInMemory", "--embedder", "starter-embed-vl", "--device", "cpu", "--max-tiles", "1", "--json"]
    assert cli.main([*line, "--modality", modality, "--to", str(tmp_path)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    with PageIndex(embedder="starter-embed-vl", device="cpu", max_input_tiles=1) as index:
        index.add([page if modality == "image_text" else Page("", page.image, id=page.id) for page in pages])
        wanted = found_by(index, queries, mode="dense")
    assert written(Path(found["path"])) == pytest.approx(wanted, abs=1e-5)
    assert found["score"] == pytest.approx(wanted["ndcg@5"], abs=1e-5)
    assert (found["task"], found["model"]) == ("PagesInMemory", "nemotron-rag/starter-embed-vl")
    assert wanted["ndcg@5"] > 0
    assert (tmp_path / "results") in Path(found["path"]).parents


def test_reranking_and_late_interaction(task, pages, queries, tmp_path):
    encoder = MtebEncoder("starter-colembed", device="cpu", max_input_tiles=1)
    reranker = MtebReranker("starter-rerank-vl", device="cpu", max_input_tiles=1)
    first, second = run_task(task, encoder, reranker=reranker, candidates=5, to=tmp_path)
    embedder = encoder._lazy.get()
    rows = embedder.embed_passages([Passage(page.text, page.image) for page in pages])
    model, run, reranked = load_reranker("starter-rerank-vl", device="cpu", max_input_tiles=1), {}, {}
    for key, (text, _) in queries.items():
        order = np.argsort(-embedder.score(embedder.embed_queries([text]), rows)[0], kind="stable")
        run[key] = [pages[place].id for place in order]
        best = [pages[place] for place in order[:5]]
        ranked = model.rank(text, [Passage(page.text, page.image) for page in best])
        reranked[key] = [best[each.index].id for each in ranked]
    judged = {key: {page: 1} for key, (_, page) in queries.items()}
    for score, system in ((first, run), (second, reranked)):
        wanted = {
            name: np.mean([*values.values()]) for name, values in measure(system, judged, [*METRICS.values()]).items()
        }
        assert written(score.path) == pytest.approx(wanted, abs=1e-5)
    assert (first.model, second.model) == ("nemotron-rag/starter-colembed", "nemotron-rag/starter-rerank-vl")


def test_they_meet_its_protocols():
    from mteb.models import CrossEncoderProtocol, EncoderProtocol

    assert isinstance(MtebEncoder(FakeEmbedder()), EncoderProtocol)
    assert isinstance(MtebReranker(FakeReranker()), CrossEncoderProtocol)


def test_inputs():
    encoder = MtebEncoder(FakeEmbedder(dimensions=8))
    assert encoder.encode([]).shape == (0, 8)
    with pytest.raises(InputError, match="a batch of mteb must have texts or images, got audio"):
        encoder.encode([{"audio": [1]}])
    with pytest.raises(InputError, match="modality must be one of text, image, image_text; got 'video'"):
        MtebEncoder(FakeEmbedder(), modality="video")
    one = MtebEncoder(FakeMultiVectorEmbedder(dimensions=8))
    rows = one.encode([{"text": ["red apples", "blue"]}])
    assert one.similarity_pairwise(rows, rows).tolist() == pytest.approx([2, 1], abs=1e-5)
    reranker = MtebReranker(FakeReranker())
    scores = reranker.predict([{"text": ["a", "a"]}, {"text": ["b"]}], [{"text": ["a", "b"]}, {"text": ["b"]}])
    assert scores.tolist() == [5, -5, 5]


def test_settings_are_noted():
    meta = MtebEncoder("starter-embed-vl", device="cpu", modality="image", max_input_tiles=2).mteb_model_meta
    assert meta.experiment_kwargs == {"max_input_tiles": "2", "modality": "image"}
    assert meta.embed_dim == load_embedder("starter-embed-vl", device="cpu").dimensions
    assert meta.modalities == ["text", "image"]


def test_tasks_and_packages_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="mteb has no task 'NoSuchTask'"):
        run_task("NoSuchTask", MtebEncoder(FakeEmbedder()), to=tmp_path)

    def missing(name):
        raise ModuleNotFoundError(name="mteb")

    monkeypatch.setattr(ours.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"nemotron-rag\[mteb\]"):
        run_task("Any", MtebEncoder(FakeEmbedder()), to=tmp_path)
