"""Spans of the core, as an exporter of OpenTelemetry's SDK gets them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image

from nemotron_rag import Page, PageIndex, Passage, _tracing, load_embedder, load_reranker
from nemotron_rag.errors import InputError, NemotronRagError
from nemotron_rag.late_interaction.reranker import as_reranker
from nemotron_rag.ranking import RankingPolicy, arank, rank
from nemotron_rag.testing import FakeMultiVectorEmbedder, FakePageStore, FakeReranker

SECRET = "the merger of apples"


@pytest.fixture
def exporter(monkeypatch):
    found, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.delenv(_tracing.CONTENT_VARIABLE, raising=False)
    return found


@pytest.fixture(scope="module")
def models():
    return load_embedder("starter-embed-vl", device="cpu"), load_reranker("starter-rerank-vl", device="cpu")


@pytest.fixture
def index(models, tmp_path):
    with PageIndex(store=FakePageStore(), embedder=models[0], reranker=models[1], images=tmp_path) as found:
        yield found


PAGES = [
    Page(id="1", text="red apples", image=Image.new("RGB", (64, 64), "red")),
    Page(id="2", text="blue whales"),
]


def named(exporter) -> dict:
    return {span.name: span for span in exporter.get_finished_spans()}


def everything(exporter) -> str:
    return "".join(span.to_json() for span in exporter.get_finished_spans())


def test_a_search_is_a_retrieval_with_its_embedding_and_rerank(index, exporter):
    index.add(PAGES, progress=False)
    exporter.clear()
    index.search(SECRET, k=2)
    spans = named(exporter)
    assert set(spans) == {"retrieval fake store", "embeddings starter-embed-vl", "rerank starter-rerank-vl"}
    retrieval = spans["retrieval fake store"]
    assert dict(retrieval.attributes) == {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.provider.name": "nemotron_rag",
        "gen_ai.data_source.id": "fake store",
        "gen_ai.retrieval.top_k": 2,
        "gen_ai.usage.input_tokens": retrieval.attributes["gen_ai.usage.input_tokens"],
    }
    embedding = dict(spans["embeddings starter-embed-vl"].attributes)
    tokens = embedding.pop("gen_ai.usage.input_tokens")
    assert embedding == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "nemotron_rag",
        "gen_ai.request.model": "starter-embed-vl",
        "gen_ai.embeddings.dimension.count": index._state.embedder().dimensions,
        "nemotron_rag.inputs": 1,
        "nemotron_rag.input_type": "query",
    }
    rerank = dict(spans["rerank starter-rerank-vl"].attributes)
    assert rerank["gen_ai.rerank.candidate.count"] == 2
    total = retrieval.attributes["gen_ai.usage.input_tokens"]
    assert total == tokens + rerank["gen_ai.usage.input_tokens"]
    for name in ("embeddings starter-embed-vl", "rerank starter-rerank-vl"):
        assert spans[name].parent.span_id == retrieval.context.span_id
        assert spans[name].kind is trace.SpanKind.INTERNAL
    assert SECRET not in everything(exporter)
    assert "apples" not in everything(exporter)


async def test_async_and_threads_keep_the_span_around_them(index, exporter):
    tracer = trace.get_tracer("test")
    with tracer.start_as_current_span("outside") as outside:
        await index.aadd(PAGES, progress=False)
        await asyncio.gather(*(index.asearch(f"apples {n}", k=1) for n in range(3)))
        with ThreadPoolExecutor(1) as pool:
            await asyncio.wrap_future(pool.submit(copy_context().run, index.search, "apples"))
    spans = exporter.get_finished_spans()
    assert {span.context.trace_id for span in spans} == {outside.get_span_context().trace_id}
    assert sum(span.name == "retrieval fake store" for span in spans) == 4
    parents = {span.context.span_id for span in spans if span.name.startswith("retrieval")}
    searching = [span for span in spans if span.attributes.get("nemotron_rag.input_type") == "query"]
    assert len(searching) == 4
    assert {span.parent.span_id for span in searching} == parents
    adding = [span for span in spans if span.attributes.get("nemotron_rag.input_type") == "passage"]
    assert sum(span.attributes["nemotron_rag.inputs"] for span in adding) == 2


def test_contents_are_shown_only_where_they_are_asked_for(index, exporter, monkeypatch):
    index.add(PAGES, progress=False)
    monkeypatch.setenv(_tracing.CONTENT_VARIABLE, "SPAN_ONLY")
    hits = index.search(SECRET, k=2)
    spans = named(exporter)
    attributes = spans["retrieval fake store"].attributes
    assert attributes["gen_ai.retrieval.query.text"] == SECRET
    assert json.loads(attributes["gen_ai.retrieval.documents"]) == [
        {"id": hit.page.id, "score": pytest.approx(hit.score)} for hit in hits
    ]
    scores = spans["rerank starter-rerank-vl"].attributes["gen_ai.rerank.scores"]
    assert sorted(scores, reverse=True) == pytest.approx([hit.score for hit in hits])


@pytest.mark.parametrize("shown", [False, True])
def test_errors_are_recorded_without_what_a_user_wrote(models, exporter, monkeypatch, shown):
    if shown:
        monkeypatch.setenv(_tracing.CONTENT_VARIABLE, "true")
    with pytest.raises(InputError):
        models[0].embed_passages([Passage("a"), SECRET])
    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "InputError"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert bool(span.events) is shown
    assert ("passage 1" in everything(exporter)) is shown


async def test_every_reranker_has_one_span_each_time(exporter):
    passages = [Passage("red apples"), Passage("whales")]
    policy = RankingPolicy(top_n=1)
    rank(FakeReranker(), "red apples", passages, policy=policy)
    await arank(FakeReranker(), "red apples", passages, policy=policy)
    rank(as_reranker(FakeMultiVectorEmbedder()), "red apples", passages, policy=policy)
    as_reranker(FakeMultiVectorEmbedder()).score(query="red apples", passages=passages)
    spans = exporter.get_finished_spans()
    assert [span.name.split()[0] for span in spans] == ["rerank"] * 4
    assert [span.attributes.get("gen_ai.rerank.top_n") for span in spans] == [1, 1, 1, None]


def test_a_wrong_call_fails_as_it_does_without_spans(models, exporter):
    with pytest.raises(TypeError, match="passages"):
        models[1].score("red")
    with pytest.raises(TypeError):
        models[0].embed_queries()


@pytest.mark.enable_socket
def test_a_model_at_a_server_is_a_client_of_it(exporter):
    from nemotron_rag.remote.embedders import RemoteEmbedder

    model = RemoteEmbedder("m", base_url="http://127.0.0.1:9/v1", endpoint={"timeout": 0.2, "patience": 0})
    with pytest.raises(NemotronRagError):
        model.embed_queries(["apples"])
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("embeddings m", trace.SpanKind.CLIENT)
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ("127.0.0.1", 9)


def test_a_program_without_opentelemetry_does_not_get_it():
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from nemotron_rag import PageIndex, Page; from nemotron_rag.testing import *\n"
        "models = {'embedder': FakeEmbedder(), 'reranker': FakeReranker()}\n"
        "with PageIndex(store=FakePageStore(), **models, images=None) as index:\n"
        "    index.add([Page(id='1', text='red apples')], progress=False)\n"
        "    print(len(index.search('red apples')))\n"
        "print(sum(name.startswith('opentelemetry.') for name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["1", "0"]
