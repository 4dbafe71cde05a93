"""A server that computes something else than the model is noticed, and what it does is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nemotron_rag import Passage
from nemotron_rag.cli import main
from nemotron_rag.errors import InputError
from nemotron_rag.models import catalog
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.models.load import load_row
from nemotron_rag.serve.served import Served
from nemotron_rag.verification import variants
from nemotron_rag.verification.cards import CARDS
from nemotron_rag.verification.endpoint import verify_endpoint
from nemotron_rag.verification.variants import loaded, variants_of
from support.scripted import Reply, scripted
from support.serving import serving

pytestmark = [pytest.mark.enable_socket, pytest.mark.slow]
DATA = Path(__file__).parents[2] / "data" / "reference"
EMBEDDER, RERANKER = "llama-nemotron-embed-vl-1b-v2", "llama-nemotron-rerank-vl-1b-v2"
FOLDERS = {EMBEDDER: DATA / "embed_vl_open_1", RERANKER: DATA / "rerank_vl_open_1"}  # tiny, of random numbers
CARD = "llama-nemotron-rerank-vl-1b-v2"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Of the ways to cut images, which take the time."""
    monkeypatch.setattr(variants, "_TILES", (2, 4))


class Wrapped:
    """A model with some of its methods replaced."""

    def __init__(self, model, **methods):
        self._model = model
        self.__dict__.update(methods)

    def __getattr__(self, name):
        return getattr(self._model, name)


class _Embedder(Wrapped):
    kind = "embedder"

    async def aembed_queries(self, queries):
        return self.embed_queries(queries)

    async def aembed_passages(self, passages):
        return self.embed_passages(passages)


class _Reranker(Wrapped):
    kind = "reranker"

    async def ascore(self, query, passages):
        return self.score(query, passages)


def report_of(name, model):
    kind = catalog.find(name).kind
    with serving(Served(**{kind: LazyModel(model, kind)})) as url:
        return verify_endpoint(name, base_url=url, weights=FOLDERS[name], device="cpu", dtype="float32", tolerance=1e-3)


def row(name, **options):
    return load_row(catalog.find(name), folder=FOLDERS[name], device="cpu", **options)


def without_images(passages):
    return [Passage(passage.text) for passage in passages]


@pytest.fixture(scope="module")
def embedder():
    return row(EMBEDDER)


@pytest.fixture(scope="module")
def reranker():
    return row(RERANKER)


def test_a_server_that_is_right_passes(capsys):
    with serving(Served(reranker=LazyModel("starter-rerank-vl", "reranker", device="cpu"))) as url:
        assert main(["verify", "starter-rerank-vl", "--endpoint", url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["against"], found["passed"], found["cause"]) == ("local", True, None)
    assert [each["example"] for each in found["results"]] == ["text", "image", "image and text"]
    assert max(each["difference"] for each in found["results"]) < 1e-4


def test_a_sigmoid_in_the_place_of_logits(reranker):
    def score(query, passages):
        return (1 / (1 + np.exp(-reranker.score(query, passages)))).astype(np.float32)

    report = report_of(RERANKER, _Reranker(reranker, score=score))
    assert not report.passed
    assert "answers with probabilities where its format has logits" in report.cause


def test_images_that_are_not_read(embedder, reranker):
    def score(query, passages):
        return reranker.score(query, without_images(passages))

    def embed_passages(passages):
        return embedder.embed_passages(without_images(passages))

    for name, model in (
        (RERANKER, _Reranker(reranker, score=score)),
        (EMBEDDER, _Embedder(embedder, embed_passages=embed_passages)),
    ):
        assert "images are not read" in report_of(name, model).cause


def test_queries_that_are_embedded_as_passages(embedder):
    def embed_queries(queries):
        return embedder.embed_passages([Passage(query) for query in queries])

    report = report_of(EMBEDDER, _Embedder(embedder, embed_queries=embed_queries))
    assert report.cause.startswith("queries are embedded as passages")


def test_images_that_are_cut_otherwise():
    report = report_of(RERANKER, row(RERANKER, max_input_tiles=2))
    assert [each.passed for each in report.results] == [True, False, False]
    assert "max_input_tiles=2" in report.cause


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (RERANKER, "the prompt is not the model's"),
        (RERANKER, "attention is causal"),
        (EMBEDDER, "texts come without their prefixes"),
        (EMBEDDER, "attention is causal"),
    ],
)
def test_prompts_and_attention(name, words):
    spec = catalog.find(name)
    variant = next(each for each in variants_of(spec) if words in each.cause)
    with loaded(spec, FOLDERS[name], variant, device="cpu") as model:
        report = report_of(name, model)
    assert not report.passed
    assert report.cause == variant.cause


def test_other_weights_have_no_known_cause(reranker):
    def score(query, passages):
        return reranker.score(query, passages)[::-1].copy()

    report = report_of(RERANKER, _Reranker(reranker, score=score))
    assert report.cause.startswith("none of the known ones")


def card_server(change):
    (example, *_) = CARDS[CARD]

    def answer(asked):
        if asked.method == "GET":
            return Reply({"data": [{"id": f"nvidia/{CARD}"}]} if asked.path == "/v1/models" else {"version": "2"})
        texts = [passage.get("text") for passage in asked.body["passages"]]
        logits = [change(example.scores[0][example.texts.index(text)]) for text in texts]
        return Reply({"rankings": [{"index": n, "logit": logit} for n, logit in enumerate(logits)]})

    return answer


def test_without_weights_the_card_is_what_there_is(capsys):
    with scripted(card_server(lambda logit: logit + 0.01)) as (url, _):
        assert main(["verify", CARD, "--endpoint", f"{url}/v1"]) == 0
    said = capsys.readouterr().out
    assert "text: as the model's card" in said
    assert "image: not verified" in said
    with scripted(card_server(lambda logit: 1 / (1 + np.exp(-logit)))) as (url, _):
        assert main(["verify", CARD, "--endpoint", f"{url}/v1"]) == 1
    assert "likely cause: it answers with probabilities" in capsys.readouterr().out


def test_what_cannot_be_verified_is_said(capsys):
    with (
        scripted(lambda asked: Reply({"data": [{"id": "nvidia/nemotron-3-embed-1b", "embedding": [1.0]}]})) as (url, _),
        pytest.raises(InputError, match="its weights are not here .* give --weights"),
    ):
        verify_endpoint("nemotron-3-embed-1b", base_url=url, dialect="nim")
    assert main(["verify", CARD, "--dialect", "nim"]) == 2
    assert main(["verify", CARD, "--endpoint", "http://localhost:1", "--max-tiles", "2"]) == 2
    assert "--max-tiles is up to the server" in capsys.readouterr().err
