"""Our models as a pipeline of vidore-benchmark."""

from __future__ import annotations

import importlib
import sys
import types
from abc import ABC, abstractmethod

import pytest

from nemotron_rag.compat import vidore_benchmark as ours
from nemotron_rag.errors import InputError
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.contracts import make_image

IDS, TEXTS = ["p1", "p2", "p3"], ["red apples", "blue whales", "apples"]
IMAGES = [make_image(n) for n in range(3)]


@pytest.mark.parametrize("embedder", [FakeEmbedder(dimensions=256), FakeMultiVectorEmbedder()])
def test_the_best_pages_of_each_query(embedder):
    pipeline = ours.NemotronPipeline(embedder, modality="text", top_k=2)
    pipeline.index(corpus_ids=IDS, corpus_images=IMAGES, corpus_texts=TEXTS, dataset_name="vidore/any")
    run, infos = pipeline.search(query_ids=["q1", "q2"], queries=["red apples", "blue whales"])
    assert list(run["q1"]) == ["p1", "p3"]
    assert next(iter(run["q2"])) == "p2"
    assert infos["embedder"] == embedder.name


def test_a_reranker_reads_the_candidates():
    options = {"modality": "text", "top_k": 1, "candidates": 2}
    pipeline = ours.NemotronPipeline(FakeEmbedder(dimensions=256), FakeReranker(), **options)
    pipeline.index(IDS, IMAGES, TEXTS)
    run, infos = pipeline.search(["q"], ["apples"])
    assert run["q"] == {next(key for key in IDS if key in run["q"]): 5}
    assert infos["reranker"] == "fake-reranker"


def test_what_is_read_of_a_page():
    def best(modality):
        pipeline = ours.NemotronPipeline(FakeMultiVectorEmbedder(), modality=modality)
        pipeline.index(IDS, IMAGES, TEXTS)
        return pipeline.search(["q"], ["red apples"])[0]["q"]["p1"]

    assert best("text") == pytest.approx(2, abs=1e-5) == best("image_text")
    assert best("image") < 1


def test_nothing_and_nonsense():
    pipeline = ours.NemotronPipeline(FakeEmbedder())
    assert pipeline.search(["q"], ["a"])[0] == {"q": {}}
    with pytest.raises(InputError, match="pages need an id, an image and a text each, got 1, 0 and 1"):
        pipeline.index(["p"], [], ["a"])
    with pytest.raises(InputError, match="top_k must be a positive integer, got 0"):
        ours.NemotronPipeline(FakeEmbedder(), top_k=0)


def test_it_is_a_subclass_where_the_package_is_installed(monkeypatch):
    """With the base class as it stands in the package: abstract, and compared with `issubclass`."""

    class BasePipeline(ABC):
        @abstractmethod
        def search(self, query_ids, queries):
            """Find."""

    for name in ("vidore_benchmark", "vidore_benchmark.pipeline_evaluation"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    base = types.ModuleType("base_pipeline")
    base.BasePipeline = BasePipeline
    monkeypatch.setitem(sys.modules, "vidore_benchmark.pipeline_evaluation.base_pipeline", base)
    spec = importlib.util.spec_from_file_location("custom_pipeline", ours.__file__)  # as its command line does
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert issubclass(module.NemotronPipeline, BasePipeline)
    assert module.NemotronPipeline(FakeEmbedder()).search([], [])[0] == {}
