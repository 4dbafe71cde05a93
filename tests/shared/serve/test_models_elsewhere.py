"""``nemotron-rag serve`` in front of another server, which has the models."""

from __future__ import annotations

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

from nemotron_rag import Page, PageIndex, Passage
from nemotron_rag.cli import main
from nemotron_rag.errors import IndexMismatchError
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.serve.served import Served, ServeSettings
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.scripted import Reply, scripted
from support.serving import fakes, serving

pytestmark = pytest.mark.enable_socket
OURS, THEIRS = "key-of-our-clients", "key-for-their-server"
TEXTS = ["blue whales", "red apples", "a red house"]
ASKED = {"Authorization": f"Bearer {OURS}"}


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("NEMOTRON_RAG_API_KEY", OURS)
    monkeypatch.setenv("NEMOTRON_RAG_MODELS_API_KEY", THEIRS)


@pytest.fixture(scope="module")
def url():
    with serving(fakes(), ServeSettings(api_key=THEIRS)) as found:
        yield found


@pytest.fixture
def location(url, tmp_path):
    endpoint = {"api_key": THEIRS}
    with PageIndex(tmp_path / "index", embedder="fake-embedder", base_url=url, endpoint=endpoint) as index:
        pages = [Page(id=f"p{n}", source="a.pdf", number=n, text=text) for n, text in enumerate(TEXTS, 1)]
        index.add(pages, progress=False)
    return str(tmp_path / "index")


@pytest.fixture
def serve(monkeypatch):
    """Runs the command up to where it would wait for requests, and asks its application instead."""

    def run(*arguments, ask):
        answers = []
        monkeypatch.setattr(
            uvicorn.Server, "run", lambda self, sockets: answers.append(ask(TestClient(self.config.app)))
        )
        assert main(["serve", "--port", "0", *arguments]) == 0
        return answers[0]

    return run


def search(client):
    answer = client.post("/v1/search", json={"query": "red apples", "k": 3}, headers=ASKED)
    return [(hit["page_number"], hit["score"]) for hit in answer.raise_for_status().json()["hits"]]


def test_an_index_is_searched_with_models_elsewhere(serve, url, location):
    found = serve(location, "--base-url", url, "--reranker", "fake-reranker", ask=search)
    here = FakeReranker().rank("red apples", [Passage(text) for text in TEXTS])
    assert found == [(each.index + 1, pytest.approx(each.score, abs=1e-6)) for each in here]


def test_models_elsewhere_are_offered_as_if_they_were_here(serve, url):
    def ask(client):
        body = {"model": "text", "input": TEXTS, "input_type": "passage"}
        rows = client.post("/v1/embeddings", json=body, headers=ASKED).raise_for_status().json()["data"]
        body = {"query": {"text": "red apples"}, "passages": [{"text": text} for text in TEXTS]}
        logits = client.post("/v1/ranking", json=body, headers=ASKED).raise_for_status().json()["rankings"]
        return [row["embedding"] for row in rows], {row["index"]: row["logit"] for row in logits}

    named = ("--embedder", "text=fake-embedder", "--reranker", "fake-reranker")
    rows, logits = serve("--base-url", url, *named, ask=ask)
    passages = [Passage(text) for text in TEXTS]
    np.testing.assert_allclose(rows, FakeEmbedder().embed_passages(passages), atol=1e-6)
    scores = FakeReranker().score("red apples", passages)
    np.testing.assert_allclose([logits[n] for n in range(3)], scores, atol=1e-6)


def test_rerankers_may_be_at_a_server_of_their_own(serve, url, location):
    served = Served(reranker=LazyModel(FakeReranker(), "reranker"))
    with serving(served, ServeSettings(api_key=THEIRS)) as other:
        options = ("--base-url", url, "--reranker", "fake-reranker", "--reranker-base-url", other)
        assert serve(location, *options, ask=search)[0] == (2, pytest.approx(5.0))


def test_the_key_of_our_clients_goes_to_nobody(monkeypatch, capsys):
    monkeypatch.delenv("NEMOTRON_RAG_MODELS_API_KEY")
    with scripted(lambda asked: Reply({"error": "who are you?"}, 401)) as (url, asked):
        assert main(["serve", "--base-url", url, "--embedder", "m", "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert "who are you?; set NEMOTRON_RAG_MODELS_API_KEY" in said
    assert [request.headers.get("authorization") for request in asked] == [None]
    assert OURS not in said


def test_a_server_is_asked_for_where_the_models_name_is_known_there_alone(location):
    with PageIndex(location) as index, pytest.raises(IndexMismatchError) as raised:
        index.search("red apples")
    assert "was written by fake-embedder, which a server had; give base_url= of one that has it" in str(raised.value)
