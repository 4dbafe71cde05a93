"""Clients that people have, unmodified, against a server of ours on this machine; and how it stops."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cohere
import httpx
import numpy as np
import openai
import pytest
from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings, NVIDIARerank
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.nvidia import NVIDIAEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.postprocessor.nvidia_rerank import NVIDIARerank as LlamaIndexRerank
from PIL import Image

from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag.documents.images import encode_image, to_data_uri
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.serve.served import Served, ServeSettings
from support.serving import fakes, serving

pytestmark = [pytest.mark.enable_socket, pytest.mark.slow]

KEY = "t0psecret"
TEXTS = ["blue whales", "red apples", "a red house"]


@pytest.fixture(scope="module")
def models():
    return load_embedder("starter-embed-vl", device="cpu"), load_reranker("starter-rerank-vl", device="cpu")


@pytest.fixture(scope="module")
def url(models):
    embedder, reranker = models
    served = Served(embedder=LazyModel(embedder, "embedder"), reranker=LazyModel(reranker, "reranker"))
    with serving(served, ServeSettings(api_key=KEY)) as found:
        yield found


def test_openai(url, models):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        assert [model.id for model in client.models.list()] == ["starter-embed-vl", "starter-rerank-vl"]
        passages = client.embeddings.create(model="starter-embed-vl-passage", input=TEXTS)
        queries = client.embeddings.create(
            model="starter-embed-vl", input="red", extra_body={"input_type": "query"}, encoding_format="float"
        )
        with pytest.raises(openai.UnprocessableEntityError, match="input_type must be 'query' or 'passage'"):
            client.embeddings.create(model="starter-embed-vl", input=TEXTS)
    rows = np.array([row.embedding for row in passages.data])
    np.testing.assert_allclose(rows, models[0].embed_passages([Passage(text) for text in TEXTS]), atol=1e-6)
    np.testing.assert_allclose(queries.data[0].embedding, models[0].embed_queries(["red"])[0], atol=1e-6)


def test_cohere(url, models):
    client = cohere.ClientV2(api_key=KEY, base_url=url)
    found = client.rerank(model="starter-rerank-vl", query="red apples", documents=TEXTS, top_n=2)
    logits = models[1].score("red apples", [Passage(text) for text in TEXTS])
    order = np.argsort(-logits, kind="stable")[:2]
    assert [row.index for row in found.results] == order.tolist()
    expected = 1 / (1 + np.exp(-logits[order]))
    np.testing.assert_allclose([row.relevance_score for row in found.results], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that client leaves sockets open
def test_nvidia_of_langchain(url, models):
    page = Image.new("RGB", (64, 80), "white")
    uri = str(to_data_uri(encode_image(page, "png"), "png"))
    reranker = NVIDIARerank(base_url=f"{url}/v1", model="starter-rerank-vl", api_key=KEY, top_n=3)
    documents = [Document(text) for text in TEXTS]
    found = reranker.compress_documents(documents, "red apples")
    logits = models[1].score("red apples", [Passage(text) for text in TEXTS])
    assert [document.page_content for document in found] == [TEXTS[i] for i in np.argsort(-logits, kind="stable")]
    np.testing.assert_allclose(
        [document.metadata["relevance_score"] for document in found], sorted(logits, reverse=True), atol=1e-6
    )
    embeddings = NVIDIAEmbeddings(base_url=f"{url}/v1", model="starter-embed-vl", api_key=KEY)
    np.testing.assert_allclose(embeddings.embed_query("red"), models[0].embed_queries(["red"])[0], atol=1e-6)
    rows = models[0].embed_passages([Passage(TEXTS[0]), Passage(image=page)])
    np.testing.assert_allclose(embeddings.embed_documents([TEXTS[0], uri]), rows, atol=1e-6)
    del reranker, embeddings
    gc.collect()  # here, where the warnings of their sockets are expected, and not in some later test


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that client leaves sockets open
def test_nvidia_of_llama_index(url, models):
    options = {"base_url": f"{url}/v1", "api_key": KEY}
    passages = NVIDIAEmbedding(model="starter-embed-vl", **options)
    rows = models[0].embed_passages([Passage(text) for text in TEXTS])
    np.testing.assert_allclose(passages.get_text_embedding_batch(TEXTS), rows, atol=1e-6)
    queries = NVIDIAEmbedding(model="starter-embed-vl-query", **options)  # it calls queries passages
    np.testing.assert_allclose(queries.get_query_embedding("red"), models[0].embed_queries(["red"])[0], atol=1e-6)
    reranker = LlamaIndexRerank(model="starter-rerank-vl", top_n=3, **options)
    found = reranker.postprocess_nodes([NodeWithScore(node=TextNode(text=text)) for text in TEXTS], query_str="red")
    logits = models[1].score("red", [Passage(text) for text in TEXTS])
    assert [node.text for node in found] == [TEXTS[i] for i in np.argsort(-logits, kind="stable")]
    np.testing.assert_allclose([node.score for node in found], sorted(logits, reverse=True), atol=1e-6)
    del passages, queries, reranker
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that client leaves sockets open
def test_openai_like_of_llama_index(url, models):
    options = {"api_base": f"{url}/v1", "api_key": KEY}
    passages = OpenAILikeEmbedding(model_name="starter-embed-vl-passage", **options)
    rows = models[0].embed_passages([Passage(text) for text in TEXTS])
    np.testing.assert_allclose(passages.get_text_embedding_batch(TEXTS), rows, atol=1e-6)
    queries = OpenAILikeEmbedding(model_name="starter-embed-vl-query", **options)
    np.testing.assert_allclose(queries.get_query_embedding("red"), models[0].embed_queries(["red"])[0], atol=1e-6)
    del passages, queries
    gc.collect()


@pytest.mark.filterwarnings("ignore")  # it has many of its own
@pytest.mark.parametrize(
    ("provider", "path", "is_logit"),
    [
        ("cohere", "", False),
        ("jina_ai", "/v1/rerank", False),
        ("hosted_vllm", "", False),
        ("nvidia_nim", "", True),
        ("nvidia_nim/ranking", "", True),
    ],
)
def test_litellm(url, models, monkeypatch, provider, path, is_logit):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm", reason="no litellm: it is large, and only tried where it is installed")
    asked = {"query": "red apples", "documents": TEXTS, "top_n": 3, "api_base": f"{url}{path}", "api_key": KEY}
    found = litellm.rerank(model=f"{provider}/starter-rerank-vl", **asked)
    logits = np.sort(models[1].score("red apples", [Passage(text) for text in TEXTS]))[::-1]
    expected = logits if is_logit else 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose([row["relevance_score"] for row in found.results], expected, atol=1e-6)


def test_many_clients_at_once_get_what_one_would(url, models):
    queries = [f"query number {n} about whales" for n in range(64)]
    expected = models[0].embed_queries(queries)
    headers = {"Authorization": f"Bearer {KEY}"}

    def ask(query):
        body = {"input": query, "input_type": "query"}
        answer = httpx.post(f"{url}/v1/embeddings", json=body, headers=headers, timeout=60)
        return answer.raise_for_status().json()["data"][0]["embedding"]

    with ThreadPoolExecutor(64) as pool:
        rows = list(pool.map(ask, queries))
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read the memory of a process from")
def test_memory_is_flat_with_many_clients_at_once(url):
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:

        def ask(number: int) -> int:
            if number % 2:
                body = {"input": f"query {number}", "input_type": "query"}
                return client.post("/v1/embeddings", json=body).status_code
            return client.post("/rerank", json={"query": f"query {number}", "documents": TEXTS}).status_code

        resident = []
        with ThreadPoolExecutor(64) as pool:
            for _ in range(4):
                assert set(pool.map(ask, range(64))) == {200}
                resident.append(
                    int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
                )
    assert resident[-1] - resident[0] < 32 << 20, resident


def test_sigterm_answers_what_is_under_way():
    """The command, in a process of its own."""
    code = (
        "import sys, time; from nemotron_rag.testing import FakeReranker; import nemotron_rag.models.load as load;"
        "import nemotron_rag.models.lazy as lazy; score = FakeReranker.score;"
        "FakeReranker.score = lambda *a: (print('scoring', flush=True), time.sleep(1), score(*a))[-1];"
        "lazy.load_model = lambda *a, **o: FakeReranker(); FakeReranker.name = 'starter-rerank-vl';"
        "from nemotron_rag.cli import main; sys.exit(main(['serve', '--reranker', 'starter-rerank-vl', '--port', '0']))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_open_environment()) as process:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        answers = []
        body = {"query": "red apples", "documents": TEXTS}
        asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/rerank", json=body, timeout=30)))
        asking.start()
        assert process.stdout.readline().strip() == "scoring"
        process.send_signal(signal.SIGTERM)
        asking.join(30)
        assert answers[0].status_code == 200
        assert answers[0].json()["results"][0]["index"] == 1
        assert process.wait(30) in (0, -signal.SIGTERM)


def test_a_server_that_others_can_reach_needs_a_key(capsys, monkeypatch):
    from nemotron_rag.cli import main

    monkeypatch.delenv("NEMOTRON_RAG_API_KEY", raising=False)
    assert main(["serve", "--reranker", "starter-rerank-vl", "--host", "0.0.0.0"]) == 1
    assert "set NEMOTRON_RAG_API_KEY" in capsys.readouterr().err
    assert main(["serve"]) == 1
    assert "nothing to serve" in capsys.readouterr().err


def test_the_server_is_described():
    with serving(fakes()) as url, urllib.request.urlopen(f"{url}/openapi.json") as answer:
        text = answer.read().decode()
    for path in ("/v1/embeddings", "/v1/rerank", "/v1/ranking"):
        assert path in text


def _open_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "NEMOTRON_RAG_API_KEY"}
