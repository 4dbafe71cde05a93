"""Both adapters over a server: the scores of the model there, what people bring from NVIDIA's classes, and no key."""

from __future__ import annotations

import asyncio
import json
import pickle

import numpy as np
import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from langchain_nemotron_rag import NemotronEmbeddings, NemotronPageRetriever
from langchain_nemotron_rag import NemotronRerank as LangChainRerank
from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank as LlamaRerank
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever as LlamaRetriever
from nemotron_rag import Page, PageIndex
from nemotron_rag.errors import InputError
from nemotron_rag.serve.served import ServeSettings
from nemotron_rag.testing import FakeEmbedder
from support.serving import fakes, serving

pytestmark = pytest.mark.enable_socket
KEY = "t0psecret"
TEXTS = ["blue whales", "red apples", "a red house"]
HOSTED = {"api_key": KEY, "max_batch_size": 2, "truncate": "END", "timeout": 9.0}


@pytest.fixture(scope="module")
def url():
    with serving(fakes(), ServeSettings(api_key=KEY)) as found:
        yield f"{found}/v1"


def test_langchain_reranks_over_a_server(url):
    rerank = LangChainRerank(base_url=url, model="fake-reranker", top_n=2, **HOSTED)
    assert rerank.endpoint.batch_size == 2
    documents = [Document(text) for text in TEXTS]
    found = rerank.compress_documents(documents, "red apples")
    assert [(document.page_content, document.metadata["relevance_score"]) for document in found] == [
        ("red apples", 5.0),
        ("a red house", 0.0),
    ]
    assert asyncio.run(rerank.acompress_documents(documents, "red apples")) == found
    assert KEY not in repr(rerank) + str(rerank.model_dump()) + str(pickle.dumps(rerank))
    rerank.close()


def test_llama_index_reranks_over_a_server(url, monkeypatch):
    rerank = LlamaRerank("fake-reranker", base_url=url, top_n=1, **HOSTED)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    (best,) = rerank.postprocess_nodes(nodes, query_str="red apples")
    assert (best.text, best.score) == ("red apples", 5.0)
    stored = json.dumps(rerank.to_dict())
    assert KEY not in repr(rerank) + stored
    assert json.loads(stored)["endpoint"] == {"timeout": 9.0, "batch_size": 2}
    monkeypatch.setenv("NEMOTRON_RAG_API_KEY", KEY)
    again = LlamaRerank.from_dict(json.loads(stored))
    assert again.postprocess_nodes(nodes, query_str="red apples")[0].score == 5.0
    for each in (rerank, again):
        each.close()


def test_both_embed_over_a_server(url):
    expected = FakeEmbedder().embed_queries(["red"])[0]
    langchain = NemotronEmbeddings(model="fake-embedder", base_url=url, nvidia_api_key=KEY)
    llama = NemotronEmbedding("fake-embedder", base_url=url, endpoint={"api_key": KEY})
    for vector in (langchain.embed_query("red"), llama.get_query_embedding("red")):
        np.testing.assert_allclose(vector, expected, atol=1e-6)
    for each in (langchain, llama):
        each.close()


def test_retrievers_search_an_index_over_a_server(url, tmp_path, monkeypatch):
    monkeypatch.setenv("NEMOTRON_RAG_API_KEY", KEY)
    options = {"base_url": url, "endpoint": {"timeout": 9.0}}
    with PageIndex(tmp_path, embedder="fake-embedder", **options) as index:
        index.add([Page(id=f"p{n}", number=n + 1, text=text) for n, text in enumerate(TEXTS)], progress=False)
    retriever = NemotronPageRetriever(index=tmp_path, reranker="fake-reranker", k=1, **options)
    assert retriever.invoke("red apples")[0].metadata["relevance_score"] == 5.0
    retriever.close()
    with LlamaRetriever(tmp_path, reranker="fake-reranker", top_n=1, **options) as other:
        assert other.retrieve("red apples")[0].score == 5.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"truncate": "START"}, "truncate must be one of 'END', 'NONE', got 'START'"),
        ({"verify_ssl": False}, "always checks certificates"),
        ({"device": "cpu"}, "device= is up to the server"),
        ({"endpoint": {"api_kee": "x"}}, "endpoint= has no option 'api_kee'"),
        ({"dialect": "nimm"}, "dialect must be one of"),
    ],
)
def test_what_a_server_cannot_be_given_is_refused_when_the_object_is_made(given, words):
    for make in (LangChainRerank, LlamaRerank):
        with pytest.raises(InputError, match=words):
            make(model="fake-reranker", base_url="http://localhost:1/v1", **given)


def test_what_holds_in_the_place_of_other_arguments_is_said(caplog):
    LangChainRerank(model="m", base_url="http://localhost:1/v1", max_retries=3, usage_telemetry_enabled=True)
    assert "has no use for max_retries: endpoint={'patience': ...}" in caplog.text
    assert "nothing is reported to anybody" in caplog.text
