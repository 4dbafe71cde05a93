"""Many users at once: the event loop stays responsive, results equal serial ones, cancelled calls do no work."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from langchain_core.documents import Document

from langchain_nemotron_rag import NemotronEmbeddings, NemotronRerank
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.runtime import worker
from support.contracts import make_image
from support.event_loop import stays_free
from support.langchain import OneAtATime, data_uri

BATCH_SECONDS = 0.1
QUERIES = [f"Where do tornadoes form in {year}?" for year in range(2000, 2016)]
DOCUMENTS = [
    Document("Tornadoes form in thunderstorms." * 3, id="text"),
    Document("caption", id="both", metadata={"image": data_uri(make_image(1, (400, 500)))}),
    Document("", id="image", metadata={"image": data_uri(make_image(2, (500, 400)))}),
]


class Device:
    """Makes batches take a while, as on a busy device, and tells how many were computed at once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.inside = self.most_inside = self.batches = 0
        self._lock = threading.Lock()

    def run(self, function):
        with self._lock:
            self.inside += 1
            self.batches += 1
            self.most_inside = max(self.most_inside, self.inside)
        time.sleep(self.seconds)
        try:
            return function()
        finally:
            with self._lock:
                self.inside -= 1


@pytest.fixture
def device(monkeypatch) -> Device:
    device, compute_batch = Device(), worker.compute_batch

    def run(*arguments, **options):
        return device.run(lambda: list(compute_batch(*arguments, **options)))

    monkeypatch.setattr(worker, "compute_batch", run)
    return device


async def test_sixteen_rerankings_at_once(rerank, device):
    serial = [rerank.compress_documents(DOCUMENTS, query) for query in QUERIES]
    device.seconds, device.batches = BATCH_SECONDS, 0
    together = await asyncio.gather(*(rerank.acompress_documents(DOCUMENTS, query) for query in QUERIES))
    for found, wanted in zip(together, serial, strict=True):
        assert [d.id for d in found] == [d.id for d in wanted]
        scores = [d.metadata["relevance_score"] for d in found]
        assert scores == pytest.approx([d.metadata["relevance_score"] for d in wanted], abs=1e-4)
    assert device.most_inside == 1, "the model computes one batch at a time"
    assert device.batches <= 8, "calls that wait together share a batch"


async def test_the_loop_waits_for_no_reranking(rerank, device):
    device.seconds = BATCH_SECONDS

    async def sixteen():
        await asyncio.gather(*(rerank.acompress_documents(DOCUMENTS, query) for query in QUERIES))

    await sixteen()
    assert await stays_free(sixteen, within=BATCH_SECONDS)


async def test_sixteen_embeddings_at_once(embeddings, device):
    serial = [embeddings.embed_query(query) for query in QUERIES]
    device.seconds, device.batches = BATCH_SECONDS, 0
    together = await asyncio.gather(*(embeddings.aembed_query(query) for query in QUERIES))
    assert together == [pytest.approx(wanted, abs=1e-5) for wanted in serial]
    assert device.most_inside == 1
    assert device.batches <= 8


async def test_the_loop_waits_for_no_embedding(embeddings, device):
    device.seconds = BATCH_SECONDS

    async def sixteen():
        await asyncio.gather(*(embeddings.aembed_query(query) for query in QUERIES))

    await sixteen()
    assert await stays_free(sixteen, within=BATCH_SECONDS)


async def test_the_models_own_coroutines_are_awaited():
    model = OneAtATime()
    rerank = NemotronRerank(model=model)
    await asyncio.gather(*(rerank.acompress_documents([Document("a")], query) for query in QUERIES))
    assert model.most_inside == 1
    assert sorted(model.finished) == QUERIES


async def test_cancelled_calls_that_wait_do_no_work():
    model = OneAtATime()
    rerank = NemotronRerank(model=model)
    calls = [asyncio.create_task(rerank.acompress_documents([Document("a")], query)) for query in QUERIES]
    while not model.inside:
        await asyncio.sleep(0.001)
    for call in calls[8:]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in done[8:])
    assert set(model.finished) <= set(QUERIES[:8])
    assert len(model.finished) == 8


async def test_images_are_opened_off_the_loop(rerank, embeddings, monkeypatch):
    threads, opening = [], ImageAccess.open

    def recording(self, source):
        threads.append(threading.current_thread())
        return opening(self, source)

    monkeypatch.setattr(ImageAccess, "open", recording)
    await rerank.acompress_documents(DOCUMENTS, "q")
    await embeddings.aembed_pages(DOCUMENTS)
    assert len(threads) >= 4
    assert threading.main_thread() not in threads


async def test_models_are_loaded_off_the_loop(reference, monkeypatch):
    threads = []

    def loading(*_, **__):
        threads.append(threading.current_thread())
        return OneAtATime()

    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", loading)
    await NemotronRerank().acompress_documents([Document("a")], "q")
    with pytest.raises(AttributeError):
        await NemotronEmbeddings().aembed_query("q")
    assert len(threads) == 2
    assert threading.main_thread() not in threads
