"""After a fork a child works, or says in one line why not; it never hangs. And what ends while a model works, ends."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import numpy as np
import pymupdf
import pytest
import torch
from qdrant_client import QdrantClient

from nemotron_rag import Page, PageIndex, Passage, load_embedder, load_reranker
from nemotron_rag._forking import Lock, Threads
from nemotron_rag.documents.pdf import read_pdf
from nemotron_rag.errors import ForkError, StoreError
from nemotron_rag.models.lazy import lazy_embedder
from nemotron_rag.runtime import sharing
from nemotron_rag.runtime.features import FeatureCache
from nemotron_rag.stores.qdrant import Qdrant
from nemotron_rag.testing import FakeEmbedder
from support.contracts import make_image, mixed_passages
from support.forking import exit_code, in_child, needs_fork
from support.qdrant_server import Server

pytestmark = needs_fork


@pytest.fixture(scope="module")
def embedder(reference):
    return load_embedder(reference / "embed_vl_open_1", device="cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.randn(1000, 1000).relu().sum()  # this thread has a team now
    yield
    torch.set_num_threads(before)


def _held_elsewhere(lock, work):
    """What `work` returns while another thread holds the lock."""
    is_held, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(60)
    try:
        return work()
    finally:
        done.set()
        holder.join()


@pytest.mark.slow
def test_a_child_computes_what_its_parent_does(embedder, reference, two_threads):
    reranker = load_reranker(reference / "rerank_vl_open_1", device="cpu")
    passages = mixed_passages()
    wanted = embedder.embed_passages(passages), reranker.score("tornado", passages)

    def work():
        return (
            embedder.embed_passages(passages),
            reranker.score("tornado", passages),
            asyncio.run(embedder.aembed_passages(passages)),
            torch.randn(1000, 1000).relu().sum().item() > 0,  # the thread that forked, without its team
        )

    rows, scores, again, _ = in_child(work)
    np.testing.assert_allclose(rows, wanted[0], atol=1e-5)
    np.testing.assert_allclose(scores, wanted[1], atol=1e-4)
    np.testing.assert_allclose(again, wanted[0], atol=1e-5)
    np.testing.assert_allclose(embedder.embed_passages(passages), wanted[0], atol=1e-5)  # and the parent goes on


def test_a_child_of_a_child_computes_too(embedder):
    wanted = embedder.embed_queries(["tornado"])
    found = in_child(lambda: (embedder.embed_queries(["x"]), in_child(lambda: embedder.embed_queries(["tornado"])))[1])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_fork_while_the_model_computes(embedder):
    passages = [Passage("tornado " * 200)] * 24
    wanted = embedder.embed_passages(passages[:1])
    running = threading.Thread(target=embedder.embed_passages, args=(passages,))
    running.start()
    time.sleep(0.05)
    np.testing.assert_allclose(in_child(lambda: embedder.embed_passages(passages[:1])), wanted, atol=1e-5)
    running.join(60)
    assert not running.is_alive()


def test_a_child_loads_a_model_of_its_own(embedder, reference):
    folder = reference / "embed_vl_open_1"
    wanted = embedder.embed_queries(["tornado"])
    lazy = lazy_embedder(folder, device="cpu")
    loaded = in_child(lambda: load_embedder(folder, device="cpu", max_length=64).embed_queries(["tornado"]))
    np.testing.assert_allclose(loaded, wanted, atol=1e-5)
    np.testing.assert_allclose(in_child(lambda: lazy.get().embed_queries(["tornado"])), wanted, atol=1e-5)
    held = _held_elsewhere(lazy._lock, lambda: in_child(lambda: lazy.get().embed_queries(["tornado"])))
    np.testing.assert_allclose(held, wanted, atol=1e-5)
    again = _held_elsewhere(sharing._lock, lambda: in_child(lambda: load_embedder(folder, device="cpu").dimensions))
    assert again == embedder.dimensions


@pytest.mark.slow
def test_processes_for_other_devices_are_started_again(reference):
    with_two = load_embedder(reference / "embed_vl_open_1", device="cpu, cpu")
    passages = mixed_passages() * 4
    wanted = with_two.embed_passages(passages)

    def work():
        found = with_two.embed_passages(passages)
        (replica,) = with_two._model._replicas
        return found, replica._process.pid

    found, process = in_child(work)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    (replica,) = with_two._model._replicas
    assert process != replica._process.pid
    np.testing.assert_allclose(with_two.embed_passages(passages), wanted, atol=1e-5)
    with_two.close()


def test_a_model_on_a_gpu_says_to_load_after_the_fork(embedder, monkeypatch, reference):
    monkeypatch.setattr(embedder._model, "_device", torch.device("cuda:0"))
    for call in (
        lambda: embedder.embed_queries(["x"]),
        lambda: embedder.embed_passages([Passage(image=make_image())]),
        lambda: asyncio.run(embedder.aembed_queries(["x"])),
    ):
        with pytest.raises(ForkError, match=r"embed_vl_open_1 on cuda:0: .* load models after the fork only"):
            in_child(call)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", None])
def test_loading_onto_a_gpu_that_the_parent_uses_is_refused_in_the_child(device, monkeypatch, reference):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ForkError, match="on cuda: .* or start processes with 'spawn'"):
        in_child(lambda: load_embedder(reference / "embed_vl_open_1", device=device, max_length=32))
    assert in_child(lambda: load_embedder(reference / "embed_vl_open_1", device="cpu").dimensions) > 0


def test_locks_and_threads():
    lock, threads = Lock(), Threads(1, "test")
    assert threads.submit(lambda: 5).result(10) == 5

    def work():
        with lock:
            return list(threads.map(lambda x: x + 1, [1, 2]))

    assert _held_elsewhere(lock, lambda: in_child(work)) == [2, 3]
    with lock:
        assert in_child(work) == [2, 3]
    with lock:
        pass


def test_cached_vision_features_go_on(tmp_path):
    from nemotron_rag.runtime.feature_folder import FeatureFolder

    cache = FeatureCache(max_bytes=10_000, folder=FeatureFolder(tmp_path, max_bytes=1 << 20))
    cache.put(b"1", torch.ones(3))
    cache.flush()

    def work():
        cache.put(b"2", torch.ones(4))
        cache.flush()
        return cache.find(b"1").tolist(), cache.info().bytes

    assert _held_elsewhere(cache._lock, lambda: in_child(work)) == ([1.0] * 3, 28)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.slow
def test_a_fork_while_a_pdf_is_read(tmp_path):
    document = pymupdf.open()
    for number in range(12):
        document.new_page().insert_text((72, 72), f"page {number}")
    document.save(tmp_path / "a.pdf")
    pages = read_pdf(tmp_path / "a.pdf", workers=2)
    assert next(pages).text.strip() == "page 0"
    reading = threading.Thread(target=list, args=(pages,))
    reading.start()
    texts = in_child(lambda: [page.text.strip() for page in read_pdf(tmp_path / "a.pdf", pages="1-2", workers=2)])
    assert texts == ["page 0", "page 1"]
    reading.join(60)
    assert not reading.is_alive()


def test_an_index_in_a_folder_can_be_read_in_a_child_and_stays_the_parents(tmp_path):
    index = PageIndex(tmp_path / "index", embedder=FakeEmbedder())
    index.add([Page(id=f"p{n}", number=n, text=text) for n, text in enumerate(["red apples", "blue whales"], 1)])

    def work():
        found = [hit.page.text for hit in index.search("blue whales", k=1)]
        with PageIndex(tmp_path / "index", embedder=FakeEmbedder()) as another:
            found += [hit.page.text for hit in another.search("red apples", k=1)]
        errors = []
        for change in (lambda: index.add([Page(id="x", text="x")]), lambda: index.delete(ids=["p1"])):
            with pytest.raises(StoreError) as error:
                change()
            errors.append(str(error.value))
        index.close()
        return found, errors

    store = index._state.store
    found, errors = _held_elsewhere(store._qdrant._open().calling, lambda: in_child(work))
    assert found == ["blue whales", "red apples"]
    assert all("in use by another process, which alone may write" in error for error in errors)
    assert index.add([Page(id="y", text="green frogs")]).added == 1
    code, message = exit_code(_ADD.format(folder=str(tmp_path / "index")))
    assert code == 1
    assert "in use by another process" in message  # the child has not unlocked it
    assert index.count() == 3
    index.close()


_ADD = """
from nemotron_rag import Page, PageIndex
from nemotron_rag.testing import FakeEmbedder
PageIndex({folder!r}, embedder=FakeEmbedder()).add([Page(id="z", text="z")])
"""


def test_a_folder_of_the_local_mode_can_be_read_in_a_child(tmp_path):
    client = QdrantClient(path=str(tmp_path / "local"), force_disable_check_same_thread=True)
    qdrant = Qdrant(client=client)
    qdrant.call("create_collection", collection_name="a", vectors_config={})
    asked = {"collection_name": "a"}

    def work():
        with pytest.raises(StoreError, match="opened before this process was forked, and belongs to the other one"):
            qdrant.call("create_collection", collection_name="b", vectors_config={})
        return qdrant.call("count", **asked).count, qdrant.call("collection_exists", **asked)

    assert _held_elsewhere(qdrant._open().calling, lambda: in_child(work)) == (0, True)
    code, message = exit_code(f"import qdrant_client; qdrant_client.QdrantClient(path={str(tmp_path / 'local')!r})")
    assert code == 1
    assert "already accessed" in message  # the child has not unlocked it
    client.close()


def test_an_index_in_memory_is_copied():
    index = PageIndex(embedder=FakeEmbedder())
    index.add([Page(id="p", text="red apples")])
    assert in_child(lambda: (index.add([Page(id="q", text="blue")]).added, index.count())) == (1, 2)
    assert index.count() == 1


def test_a_server_is_connected_anew():
    client = Server().client()
    qdrant = Qdrant(client=client)
    named = Qdrant("http://127.0.0.1:1")
    before = qdrant.client, named.client
    ask = {"method": "collection_exists", "collection_name": "pages"}

    def work():
        assert qdrant.call(**ask) is asyncio.run(qdrant.acall(**ask)) is False
        return [now.client is then for now, then in zip((qdrant, named), before, strict=True)]

    assert in_child(work) == [False, False]
    assert qdrant.client is client


_WORK = """
import asyncio, sys, threading, _thread, os, signal
from nemotron_rag import Passage, load_embedder
embedder = load_embedder({folder!r}, device="cpu")
passages = [Passage("word " * 3000)] * {count}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "end", "wanted"),
    [
        (60, "sys.exit(3)", 3),
        (60, "", 0),
        (3000, "sys.exit(3)", 3),  # more than waits: the call blocks
        (60, "1 / 0", 1),
    ],
)
def test_a_program_that_stops_waiting_ends_with_its_own_exit_code(count, end, wanted, reference):
    program = _WORK.format(folder=str(reference / "embed_vl_open_1"), count=count)
    program += f"""
async def main():
    try:
        await asyncio.wait_for(embedder.aembed_passages(passages), 0.3)
    except TimeoutError:
        return
    raise SystemExit("it was computed: give more")
asyncio.run(main())
{end}
"""
    start = time.monotonic()
    code, message = exit_code(program)
    assert (code, "terminate called" in message) == (wanted, False), message
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_an_interrupted_program_ends_as_interrupted_programs_do(reference):
    # PyTorch imports tabulate at exit where it is installed, and Python 3.11 forgets an interrupt when anything is
    # evaluated after it: so it is imported before.
    program = "import contextlib\nwith contextlib.suppress(ImportError):\n    import tabulate\n"
    program += _WORK.format(folder=str(reference / "embed_vl_open_1"), count=300)
    program += """
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
embedder.embed_passages(passages)
"""
    code, message = exit_code(program)
    assert code in (-2, 130)
    assert message.strip().endswith("KeyboardInterrupt")


@pytest.mark.slow
def test_a_forked_child_that_stops_waiting_ends_with_its_own_exit_code(embedder):
    child = os.fork()
    if child == 0:
        threading.Thread(target=embedder.embed_passages, args=([Passage("word " * 3000)] * 60,), daemon=True).start()
        time.sleep(0.3)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
