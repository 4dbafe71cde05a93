"""mteb's own ``evaluate`` over our models gives the numbers that our command ``evaluate`` gives."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from nemotron_rag import cli, load_embedder
from nemotron_rag.compat import mteb as ours
from nemotron_rag.compat.mteb import MtebEncoder, MtebReranker, run_task
from nemotron_rag.documents.images import encode_image
from nemotron_rag.documents.pdf import read_pdf
from nemotron_rag.errors import InputError, MissingExtraError
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.datasets import write_parquet

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
METRICS = {
    "ndcg_at_5": "ndcg@5",
    "ndcg_at_10": "ndcg@10",
    "recall_at_5": "recall@5",
    "hit_rate_at_5": "hit@5",
    "mrr_at_10": "mrr",
    "map_at_10": "map",
}


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


@pytest.fixture
def folder(pages, queries, tmp_path):
    """The same pages and queries as a data set of page images, for our own command."""
    made = tmp_path / "pages-in-memory"
    corpus = [
        {"corpus-id": page.id, "image": {"bytes": encode_image(page.image, "png"), "path": None}, "text": page.text}
        for page in pages
    ]
    write_parquet(made / "corpus" / "test-00000-of-00001.parquet", corpus)
    asked = [{"query-id": key, "query": text} for key, (text, _) in queries.items()]
    write_parquet(made / "queries" / "test-00000-of-00001.parquet", asked)
    judged = [{"query-id": key, "corpus-id": page, "score": 1} for key, (_, page) in queries.items()]
    write_parquet(made / "qrels" / "test-00000-of-00001.parquet", judged)
    return made


def ours_of(capsys, *arguments):
    """The metrics of each system that ``nemotron-rag evaluate`` finds, under mteb's names."""
    capsys.readouterr()
    line = ["evaluate", *map(str, arguments), "--device", "cpu", "--max-tiles", "1", "-k", "5", "-k", "10", "--json"]
    assert cli.main(line) == 0
    systems = json.loads(capsys.readouterr().out)["systems"]
    return [{name: each["metrics"][name]["mean"] for name in METRICS.values()} for each in systems]


def written(path):
    (scores,) = json.loads(path.read_text(encoding="utf-8"))["scores"]["test"]
    return {name: scores[theirs] for theirs, name in METRICS.items()}


@pytest.mark.parametrize("modality", ["image_text", "image"])
def test_numbers_are_those_of_our_command(task, folder, tmp_path, modality, monkeypatch, capsys):
    """The command runs a task, which mteb knows by its name, and writes mteb's result file."""
    monkeypatch.setattr(mteb, "get_task", {"PagesInMemory": task}.__getitem__)
    line = ["mteb", "PagesInMemory", "--embedder", "starter-embed-vl", "--device", "cpu", "--max-tiles", "1", "--json"]
    assert cli.main([*line, "--modality", modality, "--to", str(tmp_path)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    (wanted,) = ours_of(capsys, folder, "--embedder", "starter-embed-vl", "--mode", "dense", "--modality", modality,
                        "--to", tmp_path / "ours")  # fmt: skip
    assert written(Path(found["path"])) == pytest.approx(wanted, abs=1e-5)
    assert found["score"] == pytest.approx(wanted["ndcg@5"], abs=1e-5)
    assert (found["task"], found["model"]) == ("PagesInMemory", "nemotron-rag/starter-embed-vl")
    assert wanted["ndcg@5"] > 0
    assert (tmp_path / "results") in Path(found["path"]).parents


def test_reranking_and_late_interaction(task, folder, tmp_path, capsys):
    encoder = MtebEncoder("starter-colembed", device="cpu", max_input_tiles=1)
    reranker = MtebReranker("starter-rerank-vl", device="cpu", max_input_tiles=1)
    found = run_task(task, encoder, reranker=reranker, candidates=10, to=tmp_path)
    wanted = ours_of(capsys, folder, "--embedder", "starter-colembed", "--reranker", "starter-rerank-vl",
                     "--candidates", 10, "--to", tmp_path / "ours")  # fmt: skip
    for score, metrics in zip(found, wanted, strict=True):
        assert written(score.path) == pytest.approx(metrics, abs=1e-5)
        assert metrics["ndcg@5"] > 0
    assert [score.model for score in found] == ["nemotron-rag/starter-colembed", "nemotron-rag/starter-rerank-vl"]


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
