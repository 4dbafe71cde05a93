"""The remote classes meet the protocols' contracts over our own server, and give what the models there give."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nemotron_rag import Page, PageIndex, Passage, load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.errors import IndexMismatchError, InputError
from nemotron_rag.models.lazy import LazyModel, lazy_reranker
from nemotron_rag.serve.served import Served, ServeSettings
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakePageStore, FakeReranker
from support.contracts import (
    EmbedderContract,
    MultiVectorEmbedderContract,
    RerankerContract,
    make_image,
    mixed_passages,
)
from support.forking import in_child, needs_fork
from support.serving import fakes, serving

pytestmark = pytest.mark.enable_socket
KEY = "t0psecret"


@pytest.fixture(scope="module")
def url():
    with serving(fakes(), ServeSettings(api_key=KEY)) as found:
        yield found


@pytest.fixture(scope="module")
def tokens_url():
    served = Served(embedder=LazyModel(FakeMultiVectorEmbedder(), "embedder", "multivector_embedder"))
    with serving(served) as found:
        yield found


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("NEMOTRON_RAG_API_KEY", KEY)


class TestRemoteEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self, url):
        embedder = load_embedder("fake-embedder", base_url=url, endpoint={"batch_size": 3})
        yield embedder
        embedder.close()

    def test_equals_the_model_at_the_server(self, embedder):
        here, passages = FakeEmbedder(), mixed_passages()
        np.testing.assert_allclose(embedder.embed_passages(passages), here.embed_passages(passages), atol=1e-6)
        queries = ["red", Passage("red", make_image()), "data:image/png;base64,AAAA", "a data:image/png;base64,AAAA"]
        np.testing.assert_allclose(embedder.embed_queries(queries), here.embed_queries(queries), atol=1e-6)
        texts = [Passage(query) for query in queries if isinstance(query, str)]
        np.testing.assert_allclose(embedder.embed_passages(texts), here.embed_passages(texts), atol=1e-6)


class TestRemoteMultiVectorEmbedder(MultiVectorEmbedderContract):
    @pytest.fixture
    def embedder(self, tokens_url):
        embedder = load_multivector_embedder(tokens_url)
        yield embedder
        embedder.close()

    def test_equals_the_model_at_the_server(self, embedder):
        here, passages = FakeMultiVectorEmbedder(), mixed_passages()
        self.assert_equal(embedder.embed_passages(passages), here.embed_passages(passages))


class TestRemoteReranker(RerankerContract):
    @pytest.fixture
    def reranker(self, url):
        reranker = load_reranker(f"{url}/v1", model="fake-reranker", endpoint={"batch_bytes": 2000})
        yield reranker
        reranker.close()

    def test_equals_the_model_at_the_server(self, reranker):
        passages = [*mixed_passages(), Passage("data:image/png;base64,AAAA form"), Passage("x data:image/png;form")]
        for query in (self.query, "data:image/png;base64,AAAA", "", Passage("form", make_image(1))):
            expected = FakeReranker().score(query, passages)
            np.testing.assert_allclose(reranker.score(query, passages), expected, atol=1e-6)


@pytest.fixture(scope="module")
def starters_url():
    served = Served(
        embedder=LazyModel("starter-embed-vl", "embedder", device="cpu"),
        reranker=LazyModel("starter-rerank-vl", "reranker", device="cpu"),
    )
    with serving(served, ServeSettings(api_key=KEY)) as found:
        yield found


@pytest.mark.slow
def test_starters_give_here_what_they_give_there(starters_url, tmp_path):
    images = [make_image(1), make_image(2).convert("L"), make_image(3, (300, 90)).convert("RGBA")]
    make_image(4).save(tmp_path / "a.jpg", quality=80)
    make_image(5).save(tmp_path / "b.webp")
    passages = [Passage("x"), *map(Passage, ("caption",) * 3, images), Passage(image=tmp_path / "a.jpg")]
    passages += [Passage(image=(tmp_path / "b.webp").read_bytes())]
    here = load_embedder("starter-embed-vl", device="cpu"), load_reranker("starter-rerank-vl", device="cpu")
    there = [load(name, base_url=starters_url) for load, name in _LOADED]
    np.testing.assert_allclose(there[0].embed_passages(passages), here[0].embed_passages(passages), atol=1e-6)
    np.testing.assert_allclose(there[0].embed_queries(["red"]), here[0].embed_queries(["red"]), atol=1e-6)
    np.testing.assert_allclose(there[1].score("red", passages), here[1].score("red", passages), atol=1e-5)
    assert there[0].identity == {**here[0].identity, "dialect": "nemotron-rag"}


_LOADED = ((load_embedder, "starter-embed-vl"), (load_reranker, "starter-rerank-vl"))


@pytest.mark.slow
def test_an_index_belongs_to_the_model_wherever_it_runs(starters_url):
    store = FakePageStore()
    pages = [Page(id="a", text="red apples", image=make_image()), Page(id="w", text="blue whales")]
    with PageIndex(store=store, embedder="starter-embed-vl", images=None, device="cpu") as index:
        index.add(pages[:1], progress=False)
        here = [(hit.page.id, hit.score) for hit in index.search("red", k=1)]
    options = {"base_url": starters_url, "reranker": "starter-rerank-vl"}
    with PageIndex(store=_reopened(store), embedder="starter-embed-vl", images=None, **options) as index:
        assert index.add(pages, progress=False).added == 1
        assert [(hit.page.id, pytest.approx(hit.score)) for hit in index.search("red", k=1, rerank=False)] == here
        assert index.search("blue whales", k=1)[0].page.id == "w"
    with PageIndex(store=_reopened(store), images=None, device="cpu") as index:
        assert index.search("blue whales", k=1)[0].page.id == "w"


def _reopened(store: FakePageStore) -> FakePageStore:
    store._closed = False
    return store


def test_an_index_of_one_server_is_searched_through_another(url):
    store = FakePageStore()
    with PageIndex(store=store, embedder=url, images=None) as index:
        index.add([Page(id="a", text="red apples"), Page(id="w", text="blue whales")], progress=False)
        assert index.search("whales", k=1)[0].page.id == "w"
    with serving(fakes()) as other, PageIndex(store=_reopened(store), base_url=other, images=None) as index:
        assert index.search("apples", k=1)[0].page.id == "a"
        assert store.read_record()["identity"]["dialect"] == "nemotron-rag"
        assert other not in str(store.read_record())


def test_an_index_belongs_to_the_model_of_a_folder_whose_path_the_server_keeps(tmp_path):
    folder, other = str(tmp_path / "v1" / "onnx"), str(tmp_path / "v2" / "onnx")
    store = FakePageStore()
    with PageIndex(store=store, embedder=FakeEmbedder(name=folder), images=None) as index:
        index.add([Page(id="a", text="red apples")], progress=False)
    with serving(Served(embedder={"tuned": LazyModel(FakeEmbedder(name=folder), "embedder")})) as there:
        assert str(tmp_path) not in str(load_embedder(there).identity)
        with PageIndex(store=_reopened(store), embedder="tuned", base_url=there, images=None) as index:
            assert index.search("apples", k=1)[0].page.id == "a"
    with (
        serving(Served(embedder={"tuned": LazyModel(FakeEmbedder(name=other), "embedder")})) as there,
        PageIndex(store=_reopened(store), embedder="tuned", base_url=there, images=None) as index,
        pytest.raises(IndexMismatchError, match="model='onnx-.*model='onnx-"),
    ):
        index.search("apples")


def test_another_model_at_the_server_is_refused(url):
    store = FakePageStore()
    with PageIndex(store=store, embedder=FakeEmbedder(dimensions=64, name="other"), images=None) as index:
        index.add([Page(id="a", text="red apples")], progress=False)
    with (
        PageIndex(store=_reopened(store), embedder="fake-embedder", base_url=url, images=None) as index,
        pytest.raises(IndexMismatchError, match="model='other'.*model='fake-embedder'"),
    ):
        index.search("red")


def test_a_reranker_may_be_elsewhere_than_the_embedder(url):
    pages = [Page(id="a", text="red apples"), Page(id="w", text="blue whales")]
    with PageIndex(
        embedder=FakeEmbedder(), reranker="fake-reranker", reranker_options={"base_url": url}, images=None
    ) as index:
        index.add(pages, progress=False)
        assert index.search("blue whales", k=1)[0].score == pytest.approx(5)
    with pytest.raises(InputError, match="base_url came with a loaded model"):
        PageIndex(embedder=FakeEmbedder(), base_url=url)


def test_many_threads_and_loops_share_one_model(url):
    embedder = load_embedder("fake-embedder", base_url=url)
    queries = [f"query number {n}" for n in range(64)]
    expected = FakeEmbedder().embed_queries(queries)

    async def ask(query):
        return (await embedder.aembed_queries([query]))[0]

    with ThreadPoolExecutor(64) as pool:
        rows = list(pool.map(lambda query: asyncio.run(ask(query)), queries))
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    embedder.close()


def test_copies_and_pickles_carry_settings_and_no_key(url):
    endpoint = {"api_key": KEY, "timeout": 7.0}
    lazy = lazy_reranker("fake-reranker", base_url=url, endpoint=endpoint)
    for given in (lazy, lazy.get()):
        data = pickle.dumps(given)
        assert KEY.encode() not in data
        assert KEY not in repr(given)
        again = pickle.loads(data)
        assert (again.get() if given is lazy else again).score("a", [Passage("a")])[0] == pytest.approx(5)
    assert lazy.get()._endpoint.timeout == 7.0


@needs_fork
def test_a_forked_child_asks_for_itself(url):
    embedder = load_embedder("fake-embedder", base_url=url)
    expected = embedder.embed_queries(["red"])
    np.testing.assert_allclose(in_child(lambda: embedder.embed_queries(["red"])), expected, atol=1e-6)
    np.testing.assert_allclose(embedder.embed_queries(["red"]), expected, atol=1e-6)
    embedder.close()
