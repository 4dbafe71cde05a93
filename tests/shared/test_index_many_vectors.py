"""An index over a late-interaction model: adding, the three modes, settings that last, pages that do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from qdrant_client import QdrantClient

from nemotron_rag.errors import IndexMismatchError, InputError, StoreError
from nemotron_rag.index import PageIndex
from nemotron_rag.index.record import IndexRecord
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.late_interaction.token_vectors import TokenVectors
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.pages import add, text_page
from support.qdrant_server import Server

TEXTS = ["red apples", "green apples and pears", "blue whales", "red whales and red apples in winter"]


class Many(FakeMultiVectorEmbedder):
    """Long vectors, of which Qdrant takes few."""

    def __init__(self, **options) -> None:
        super().__init__(dimensions=64, **options)
        self.embedded = 0

    def embed_passages(self, passages):
        self.embedded += len(passages)
        return super().embed_passages(passages)


def fill(index: PageIndex):
    return add(index, [text_page(n, text, source="ab"[n % 2]) for n, text in enumerate(TEXTS, 1)])


def stored_tokens(index: PageIndex, name: str) -> np.ndarray:
    from nemotron_rag.types import page_uuid

    (point,) = index._state.store._qdrant.client.retrieve("pages", [page_uuid(name)], with_vectors=["tokens"])
    return np.array(point.vector["tokens"], dtype=np.float32)


@pytest.fixture(params=["memory", "folder", "server"])
def index(request, tmp_path):
    places = {"memory": {}, "folder": {"location": tmp_path}, "server": {"client": Server().client(), "images": None}}
    with PageIndex(embedder=Many(), **places[request.param]) as opened:
        fill(opened)
        yield opened


def test_pages_are_found_by_maxsim(index):
    hits = index.search("red apples", k=3)
    assert [hit.page.number for hit in hits][:2] in ([1, 4], [4, 1])
    assert hits[0].score == hits[0].retrieval_score == pytest.approx(2, abs=1e-2)
    embedder = Many()
    exact = maxsim(embedder.embed_queries(["blue apples"]), embedder.embed_passages([text_page(1, t) for t in TEXTS]))
    hits = index.search("blue apples")
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(exact[0])[::-1], atol=1e-2)
    assert [hit.page.number for hit in index.search("blue apples", mode="multi")] == [hit.page.number for hit in hits]


async def test_all_modes_sync_and_async(index):
    for options in ({}, {"mode": "dense"}, {"mode": "multi", "prefetch": 4}, {"mode": "hybrid", "prefetch": 4}):
        found = index.search("blue whales", k=2, **options)
        assert found[0].page.number == 3
        again = await index.asearch("blue whales", k=2, **options)
        assert [(hit.page.id, hit.score) for hit in again] == [(hit.page.id, hit.score) for hit in found]
    assert index.search("blue whales", mode="dense")[0].score == pytest.approx(1)  # a cosine
    assert index.search("blue whales", mode="hybrid")[0].score == 1  # first in both orders


def test_reranking_and_filters(index):
    hits = index.search("red apples", rerank=FakeReranker(), k=2, filter={"source": "b"})
    assert {hit.page.number for hit in hits} == {1, 3}
    assert (hits[0].page.number, hits[0].score) == (1, 5.0)
    assert hits[0].retrieval_score == pytest.approx(2, abs=1e-2)


def test_words_find_what_the_vectors_miss():
    texts = [*(f"filler{n} text" for n in range(60)), "an invoice about ZX-81 tubes"]
    with PageIndex(embedder=Many()) as index:
        add(index, [text_page(n, text) for n, text in enumerate(texts, 1)])
        index._state.embedder().embed_queries = lambda queries: Many().embed_queries(["filler3 text"])
        assert 61 not in [hit.page.number for hit in index.search("zx 81", k=3)]
        assert 61 in [hit.page.number for hit in index.search("zx 81", k=3, mode="hybrid")]


async def test_an_image_finds_its_page(tmp_path):
    images = [Image.new("RGB", (4, n), "red") for n in range(1, 5)]
    with PageIndex(tmp_path, embedder=Many()) as index:
        add(index, [text_page(n, text, image=images[n - 1]) for n, text in enumerate(TEXTS, 1)])
        assert index.search_image(images[2])[0].page.number == 3
        assert (await index.asearch_image(images[2], k=1))[0].page.number == 3


# ---- modes that an index does not have --------------------------------------------------------------------------


def test_an_index_of_one_vector_a_page_has_no_multi():
    with PageIndex(embedder=FakeEmbedder()) as index:
        for opened in (False, True):
            with pytest.raises(InputError, match="needs token vectors, this index has one vector a page"):
                index.search("red", mode="multi")
            with pytest.raises(InputError, match="prefetch= is for searches by token vectors"):
                index.search("red", prefetch=20)
            if not opened:
                fill(index)
        with pytest.raises(InputError, match="means nothing to it|for late-interaction models"):
            PageIndex(embedder=FakeEmbedder(), token_vectors=TokenVectors())


@pytest.mark.parametrize("wrong", [{"prefetch": 5}, {"prefetch": "9"}, {"mode": "dense", "prefetch": 50}])
def test_a_prefetch_that_makes_no_sense_is_refused(index, wrong):
    with pytest.raises(InputError, match="prefetch"):
        index.search("red", k=10, **wrong)


# ---- settings ---------------------------------------------------------------------------------------------------


def test_settings_are_recorded_and_used_when_opened_again(tmp_path):
    wanted = TokenVectors(max_rows=2, storage="float32")
    with PageIndex(tmp_path, embedder=Many(), token_vectors=wanted) as index:
        fill(index)
        assert stored_tokens(index, "p4").shape == (2, 64)
    with PageIndex(tmp_path, embedder=Many()) as index:
        add(index, [text_page(9, "many words of a page that came later")])
        assert stored_tokens(index, "p9").shape == (2, 64)
        record = index._state.store.read_record()
    assert record["token_vectors"] == {"pooling": "hierarchical", "max_rows": 2, "storage": "float32"}
    assert json.dumps(record)
    PageIndex(tmp_path, embedder=Many(), token_vectors=TokenVectors(pooling="hierarchical")).close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (TokenVectors(max_rows=3), "written with max_rows=2, but max_rows=3 was given"),
        (TokenVectors(pooling="grid", max_rows=2), "written with pooling='hierarchical', but pooling='grid' was given"),
        (TokenVectors(storage="float32"), "written with storage='float16', but storage='float32' was given"),
    ],
)
def test_other_settings_are_refused_in_one_line(tmp_path, given, message):
    with PageIndex(tmp_path, embedder=Many(), token_vectors=TokenVectors(max_rows=2)) as index:
        fill(index)
    with pytest.raises(IndexMismatchError, match=message) as caught:
        PageIndex(tmp_path, embedder=Many(), token_vectors=given)
    assert "\n" not in str(caught.value)


def test_models_of_one_and_of_many_vectors_are_not_confused(tmp_path):
    client = QdrantClient(":memory:")
    with PageIndex(client=client, images=None, embedder=Many()) as index:
        fill(index)
    with pytest.raises(IndexMismatchError, match="model='fake-multivector-embedder'"):
        PageIndex(client=client, images=None, embedder=FakeEmbedder())


def test_an_index_of_one_vector_a_page_keeps_its_record(tmp_path):
    with PageIndex(tmp_path, embedder=FakeEmbedder()) as index:
        fill(index)
        record = index._state.store.read_record()
    del record["token_vectors"]  # as written before there were many
    assert IndexRecord.from_json(record, where="here").tokens is None
    with pytest.raises(InputError, match="has one vector a page, so token_vectors= means nothing to it"):
        PageIndex(tmp_path, token_vectors=TokenVectors())


def test_a_record_with_unknown_settings_is_refused(tmp_path):
    with PageIndex(tmp_path, embedder=Many()) as index:
        fill(index)
        record = index._state.store.read_record()
    for harm in ({"pooling": "mean"}, {"new": 1}):
        with pytest.raises(StoreError, match="damaged record"):
            IndexRecord.from_json({**record, "token_vectors": harm}, where="here")


# ---- what does not fit ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pages_of_the_largest_models_fit_without_a_choice():
    class Large(FakeMultiVectorEmbedder):
        def embed_passages(self, passages):
            return [np.eye(300, self.dimensions, dtype=np.float32) for _ in passages]

    with PageIndex(embedder=Large(dimensions=4096)) as index:
        report = add(index, [text_page(1, "a page")])
        assert (report.added, report.failures) == (1, ())
        assert stored_tokens(index, "p1").shape == (255, 4096)


def test_a_page_that_may_not_be_pooled_costs_only_itself():
    with PageIndex(embedder=Many(), token_vectors=TokenVectors(pooling="none", max_rows=4)) as index:
        report = fill(index)
        assert report.added == 3
        (failure,) = report.failures
        assert failure.number == 4
        assert failure.reason.startswith("the page has 6 vectors of 64 dimensions, at most 4 can be stored; pool them")


def test_impossible_settings_stop_before_anything_is_written():
    for settings, message in (
        (TokenVectors(max_rows=20_000), "give max_rows=16383 or less"),
        (TokenVectors(storage="binary"), "Qdrant in memory or in its local mode stores float16 or float32, not binary"),
    ):
        embedder = Many()
        with PageIndex(embedder=embedder, token_vectors=settings) as index:
            with pytest.raises(InputError, match=message):
                fill(index)
            assert not index._state.store.exists()
            assert embedder.embedded == 0


def test_grid_pooling_asks_the_model_where_its_vectors_stand(tmp_path):
    with PageIndex(tmp_path, embedder=Many(), token_vectors=TokenVectors(pooling="grid")) as index:
        add(index, [text_page(1, "red apples", image=Image.new("RGB", (40, 60), "white"))])
        places = index._state.embedder().locate_passages([text_page(1, "red apples", image=Image.new("RGB", (40, 60)))])
        placed = int((~np.isnan(places[0][:, 0])).sum())
        assert len(stored_tokens(index, "p1")) <= 2 + 2 * placed
        assert index.search("red apples")[0].score == pytest.approx(2, abs=1e-2)


def test_not_a_number_is_a_failure_of_its_page():
    class Broken(Many):
        def embed_passages(self, passages):
            return [
                rows * (np.nan if "whales" in p.text else 1)
                for rows, p in zip(super().embed_passages(passages), passages, strict=True)
            ]

    with PageIndex(embedder=Broken()) as index:
        report = fill(index)
        assert (report.added, len(report.failures)) == (2, 2)
        assert "NaN" in report.failures[0].reason


# ---- models by name ---------------------------------------------------------------------------------------------


def test_a_name_of_a_multivector_model_loads_it(tmp_path, monkeypatch):
    asked = []

    def load(name, *kinds, **options):
        asked.append((name, options))
        return Many(name=name)

    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", load)
    name = "nemotron-colembed-vl-4b-v2"
    with PageIndex(tmp_path, embedder=name, device="cpu", token_vectors=TokenVectors(max_rows=3)) as index:
        fill(index)
    assert asked == [(name, {"device": "cpu"})]


@pytest.mark.parametrize("checkpoint", ["colembed_llama_open_1", "colembed_qwen3vl_open_1"])
def test_a_real_model_writes_and_is_loaded_again_from_the_record(tmp_path, reference, checkpoint):
    pages = [text_page(n, text, image=Image.new("RGB", (90, 120), text.split()[0])) for n, text in enumerate(TEXTS, 1)]
    limits = {"max_input_tiles": 2} if "llama" in checkpoint else {}
    with PageIndex(tmp_path, embedder=reference / checkpoint, device="cpu", **limits) as index:
        assert add(index, pages).added == 4
        found = index.search("red apples")
    with PageIndex(tmp_path, device="cpu") as index:
        again = index.search("red apples")
        assert [(hit.page.id, round(hit.score, 3)) for hit in again] == [
            (hit.page.id, round(hit.score, 3)) for hit in found
        ]
        embedder = index._state.embedder()
        exact = embedder.score(embedder.embed_queries(["red apples"]), embedder.embed_passages(pages))
        np.testing.assert_allclose([hit.score for hit in found], np.sort(exact[0])[::-1], rtol=2e-3)
