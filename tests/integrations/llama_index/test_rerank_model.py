"""NemotronRerank over real (tiny, random) weights: async, threads, and the loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode

from llama_index.embeddings.nemotron_rag import NemotronEmbedding
from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank
from nemotron_rag import Passage, load_reranker
from nemotron_rag.documents import access
from nemotron_rag.testing import FakeEmbedder
from support.llama_index import FORMS, RedReranker, b64, image_nodes, make_image

QUERIES = [f"How did revenue number {i} grow?" for i in range(6)]


@pytest.fixture(scope="module")
def reranker(reference):
    return NemotronRerank(reference / "rerank_vl_open_1", top_n=None)


def nodes():
    some = [TextNode(text="Revenue rose."), ImageNode(image=b64()), ImageNode(text="A chart.", image=b64(90))]
    return [NodeWithScore(node=node, score=0.5) for node in some]


def shape(results, given):
    places = {item.node_id: i for i, item in enumerate(given)}
    return {places[item.node_id]: pytest.approx(item.score, abs=1e-5) for item in results}


def test_scores_are_the_models_own(reranker, reference):
    given = nodes()
    results = {item.node_id: item.score for item in reranker.postprocess_nodes(given, query_str=QUERIES[0])}
    passages = [Passage("Revenue rose."), Passage(image=make_image()), Passage("A chart.", make_image(90))]
    expected = load_reranker(reference / "rerank_vl_open_1").score(QUERIES[0], passages)
    assert [results[item.node_id] for item in given] == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(set(results.values())) == 3


def test_every_form_scores_the_same(reranker, tmp_path):
    given = [NodeWithScore(node=node) for node in image_nodes(tmp_path, text="A chart.").values()]
    results = reranker.postprocess_nodes(given, query_str=QUERIES[0])
    assert len(results) == len(FORMS)
    assert max(item.score for item in results) - min(item.score for item in results) < 1e-5


async def test_async_and_concurrent_equal_serial(reranker):
    given = nodes()
    serial = [shape(reranker.postprocess_nodes(given, query_str=query), given) for query in QUERIES]
    together = await asyncio.gather(*[reranker.apostprocess_nodes(given, query_str=q) for q in QUERIES])
    assert [{k: v.expected for k, v in shape(r, given).items()} for r in together] == serial


def test_threads_equal_serial(reranker):
    given = nodes()
    serial = [shape(reranker.postprocess_nodes(given, query_str=query), given) for query in QUERIES]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda q: reranker.postprocess_nodes(given, query_str=q), QUERIES))
    assert [{k: v.expected for k, v in shape(r, given).items()} for r in results] == serial


async def test_the_loop_stays_responsive():
    class Slow(RedReranker):
        async def ascore(self, query, passages):
            return await asyncio.to_thread(self.score, query, passages)

    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await NemotronRerank(Slow(seconds=0.3)).apostprocess_nodes(nodes(), query_str="a")
    ticking.cancel()
    assert ticks >= 10


async def test_reading_images_does_not_block_the_loop(monkeypatch):
    class Threaded(RedReranker):
        async def ascore(self, query, passages):
            return await asyncio.to_thread(self.score, query, passages)

    threads = []
    load = access.load_image

    def watched(source, **options):
        threads.append(threading.current_thread())
        return load(source, **options)

    monkeypatch.setattr(access, "load_image", watched)
    await NemotronRerank(Threaded()).apostprocess_nodes(nodes(), query_str="a")
    await NemotronEmbedding(FakeEmbedder()).acall([item.node for item in nodes()])
    assert threads
    assert threading.main_thread() not in threads


async def test_a_cancelled_call_leaves_the_model_usable(reranker):
    given = nodes()
    task = asyncio.create_task(reranker.apostprocess_nodes(given * 20, query_str=QUERIES[0]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await reranker.apostprocess_nodes(given, query_str=QUERIES[0])) == 3


@pytest.mark.slow
def test_importing_and_constructing_loads_no_torch():
    code = (
        "import sys; from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank; "
        "from llama_index.embeddings.nemotron_rag import NemotronEmbedding, NemotronPageEmbedder; "
        "NemotronRerank(); NemotronPageEmbedder(embed_model=NemotronEmbedding()); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
