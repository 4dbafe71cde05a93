"""Searching, deleting and opening an index; threads and event loops."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from qdrant_client import QdrantClient, models

from nemotron_rag.documents.images import load_image
from nemotron_rag.errors import (
    ClosedError,
    ImageError,
    IndexMismatchError,
    InputError,
    StoreError,
    UnknownModelError,
)
from nemotron_rag.index import PageIndex
from nemotron_rag.index.record import IndexRecord
from nemotron_rag.stores.page_images import PageImages
from nemotron_rag.stores.qdrant.layout import RECORD_ID
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from nemotron_rag.types import Page, Passage, page_uuid
from support.event_loop import stays_free
from support.pages import CountingEmbedder, add, text_page
from support.qdrant_server import Server

TEXTS = ["red apples", "green apples and pears", "blue whales", "red whales"]


def fill(index: PageIndex) -> None:
    pages = [
        text_page(n, text, source=f"{'ab'[n % 2]}.pdf", metadata={"year": 2020 + n}, image=Image.new("RGB", (4, n)))
        for n, text in enumerate(TEXTS, 1)
    ]
    add(index, pages)


@pytest.fixture
def index():
    with PageIndex(embedder=FakeEmbedder(), reranker=FakeReranker()) as opened:
        fill(opened)
        yield opened


# ---- searching --------------------------------------------------------------------------------------------------


def test_without_reranking_hits_come_by_similarity(index):
    hits = index.search("red apples", rerank=False, k=3)
    assert hits[0].page.text == "red apples"
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score == hit.retrieval_score for hit in hits)
    assert [hit.page.image.size for hit in hits[:1]] == [hits[0].page.image.open().size] == [(4, 1)]


def test_reranking_orders_anew_and_keeps_both_scores(index):
    class ByNumber(FakeReranker):
        """Likes high page numbers, and sees images."""

        def score(self, query, passages):
            assert all(passage.modality == "image_text" for passage in passages)
            return super().score(query, passages) * 0 + [float(page.number) for page in passages]

    first = {hit.page.id: hit.score for hit in index.search("red apples", rerank=False)}
    hits = index.search("red apples", rerank=ByNumber(), k=3)
    assert [(hit.page.number, hit.score, hit.rank) for hit in hits] == [(4, 4.0, 1), (3, 3.0, 2), (2, 2.0, 3)]
    assert all(hit.retrieval_score == pytest.approx(first[hit.page.id]) for hit in hits)
    assert index.search("red apples")[0].score == 5.0  # the index's own one
    assert index.search("red apples", rerank=True)[0].score == 5.0


def test_only_the_candidates_of_the_store_are_reranked(index):
    class Counting(FakeReranker):
        def score(self, query, passages):
            scored.append(len(passages))
            return super().score(query, passages)

    scored = []
    hits = index.search("whales", k=2, candidates=2, rerank=Counting())
    assert {hit.page.text for hit in hits} == {"blue whales", "red whales"}
    assert len(index.search("whales", k=1, rerank=Counting())) == 1
    assert len(index.search("whales", k=3, candidates=3, rerank=Counting())) == 3
    assert scored == [2, 4, 3]  # by default 20 candidates, of which there are four


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({"source": "a.pdf"}, {2, 4}),
        ({"page_number": [1, 2]}, {1, 2}),
        ({"number": [1, 2]}, {1, 2}),
        ({"year": {"gte": 2023}}, {3, 4}),
        ({"source": "b.pdf", "year": 2021}, {1}),
        (models.Filter(must_not=[models.FieldCondition(key="number", range=models.Range(lt=4))]), {4}),
        ({"year": 1999}, set()),
    ],
)
def test_filters_hold_in_all_methods(index, wanted, numbers):
    assert {hit.page.number for hit in index.search("apples", filter=wanted)} == numbers
    assert {hit.page.number for hit in index.search_image(Image.new("RGB", (4, 4)), filter=wanted)} == numbers
    assert index.count(wanted) == len(numbers)
    assert index.delete(filter=wanted) == len(numbers)
    assert index.count() == 4 - len(numbers)


def test_an_empty_index_gives_nothing_and_loads_nothing(monkeypatch):
    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", lambda *_, **__: pytest.fail("loaded"))
    with PageIndex(embedder="llama-nemotron-embed-vl-1b-v2") as index:
        assert index.search("anything") == index.search_image(b"never read") == index.sources() == []
        assert index.count() == index.delete("a.pdf") == 0


WRONG = [
    ({"k": 0}, "k must be a positive integer, got 0"),
    ({"k": "3"}, "k must be a positive integer, got '3'"),
    ({"k": True}, "k must be a positive integer, got True"),
    ({"k": None}, "k must be a positive integer, got None"),
    ({"candidates": 0}, "candidates must be a positive integer, got 0"),
    ({"k": 3, "candidates": 2}, "candidates must be at least k=3, got 2"),
    ({"candidates": 20, "rerank": False}, "there is no reranker"),
    ({"score_transform": "sigmoid", "rerank": False}, "there is no reranker"),
    ({"prefetch": 20}, "prefetch= is for searches by token vectors"),
    ({"rerank": 3}, "loaded reranker, got int"),
    ({"rerank": "starter-embed-vl"}, "of kind embedder, wanted reranker"),
    ({"filter": {"year": {}}}, "takes the operators"),
    ({"mode": "sparse"}, "mode must be one of dense, multi, hybrid; got 'sparse'"),
    ({"on_unscored": "first"}, "on_unscored must be one of raise, last, skip"),
    ({"score_threshold": float("nan")}, "score_threshold must be a finite number"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
async def test_wrong_arguments_raise(index, wrong, message):
    with pytest.raises(InputError, match=message):
        index.search("apples", **wrong)
    with pytest.raises(InputError, match=message):
        await index.asearch("apples", **wrong)


async def test_a_query_is_a_text(index):
    for wrong in (3, None, Image.new("RGB", (2, 2))):
        with pytest.raises(InputError, match="query must be a str"):
            index.search(wrong)
        with pytest.raises(InputError, match="query must be a str"):
            await index.asearch(wrong)


def test_without_a_reranker_of_its_own_an_index_does_not_rerank():
    with PageIndex(embedder=FakeEmbedder()) as index:
        fill(index)
        assert index.search("red apples", rerank=True) == index.search("red apples", rerank=False)


def test_a_threshold_keeps_what_reaches_it(index):
    assert [hit.score for hit in index.search("red apples", score_threshold=0)] == [5.0, 0.0, 0.0]
    hits = index.search("red apples", score_threshold=0.9, score_transform="sigmoid")
    assert [round(hit.score, 3) for hit in hits] == [0.993]
    plain = index.search("red apples", rerank=False)
    middle = plain[1].score
    assert index.search("red apples", rerank=False, score_threshold=middle) == plain[:2]


def test_pages_that_cannot_be_scored(index, caplog):
    class Choosy(FakeReranker):
        def score(self, query, passages):
            return super().score(query, passages) * [float("nan") if "red apples" in p.text else 1 for p in passages]

    add(index, [text_page(9, "", source="blank.pdf")])
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        hits = index.search("red apples", rerank=Choosy())
    assert [hit.score for hit in hits[-2:]] == [float("-inf")] * 2
    assert {hit.page.number for hit in hits[-2:]} == {1, 9}
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert "the score is not finite for page 1 of b.pdf" in caplog.text
    assert len(index.search("red apples", rerank=Choosy(), on_unscored="skip")) == 3
    with pytest.raises(InputError, match="neither text nor image in page 9 of blank.pdf"):
        index.search("red apples", rerank=Choosy(), on_unscored="raise")


def test_a_source_is_found_however_its_path_is_written(index):
    """As `delete` finds it: the index folds ``./`` and the like when it names a file."""
    every = index.count({"source": "a.pdf"})
    assert every
    for source in ("./a.pdf", "x/../a.pdf", Path("a.pdf"), Path("./x/../a.pdf"), ["./a.pdf"], {"eq": "./a.pdf"}):
        assert index.count({"source": source}) == len(index.search("apples", filter={"source": source})) == every
    assert index.count({"or": [{"source": {"in": [Path("./a.pdf")]}}, {"page_number": 99}]}) == every
    assert index.count({"source": {"prefix": "./a"}}) == every
    others = index.count({"source": {"ne": "./a.pdf"}})
    assert others == index.count({"source": {"nin": ["x/../a.pdf"]}}) == index.count() - every
    assert index.delete(filter={"source": "./a.pdf"}) == every


def test_an_index_that_is_not_there_is_said_once(tmp_path, caplog):
    with PageIndex(tmp_path / "typo", embedder=FakeEmbedder()) as index:
        with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
            assert index.search("apples") == index.search("pears") == []
        assert caplog.text.count("there is no index yet") == 1
        assert "typo" in caplog.text


def test_a_wrong_key_is_named_where_it_goes_unnoticed(index, caplog):
    """A negation finds everything, one of several alternatives nothing, and nobody sees that the key is misspelt."""
    for filter in ({"yaer": {"ne": 2021}}, {"or": [{"page_number": 1}, {"yaer": 2021}]}, {"not": {"yaer": 2021}}):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
            assert index.search("apples", filter=filter)
        assert "has the metadata key 'yaer'" in caplog.text
    caplog.clear()
    for filter in ({"year": {"ne": 1}}, {"draft": None}, {"draft": {"exists": False}}, {"not": {"source": "b.pdf"}}):
        assert index.search("apples", filter=filter)
    assert not caplog.records


def test_a_filter_key_that_no_page_has_is_named(index, caplog):
    with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
        assert index.search("apples", filter={"source": "a.pdf", "yaer": 2021}) == []
        assert index.count({"surce": "a.pdf"}) == 0
    assert "has the metadata key 'yaer'" in caplog.text
    assert "it has id, source, page_number, content_hash, year" in caplog.text
    assert "has the metadata key 'surce'" in caplog.text
    caplog.clear()
    assert index.search("apples", filter={"year": 1999}) == []
    assert caplog.text == ""


def test_hits_are_plain_values(index):
    hits = index.search("red apples")
    assert pickle.loads(pickle.dumps(hits)) == copy.deepcopy(hits) == hits
    restored = pickle.loads(pickle.dumps(hits[0]))
    assert restored.page.image == hits[0].page.image
    assert restored.page.image.open().tobytes() == hits[0].page.image.open().tobytes()
    assert len(repr(hits[0])) < 600


# ---- images ---------------------------------------------------------------------------------------------------


class Looking(FakeReranker):
    """Opens the images, and goes by the texts alone."""

    def score(self, query, passages):
        for passage in passages:
            if passage.image is not None:
                load_image(passage.image)
        return super().score(query, [replace(passage, image=None) for passage in passages])


class Opened(FakeReranker):
    """Opens no image."""

    def score(self, query, passages):
        return super().score(query, [replace(passage, image=None) for passage in passages])


@pytest.mark.parametrize("harm", ["missing", "broken"])
def test_a_lost_image_costs_only_itself(tmp_path, caplog, harm):
    with PageIndex(tmp_path, embedder=FakeEmbedder(), reranker=Opened()) as index:
        fill(index)
        path = tmp_path / "images" / "pages" / index._state.images.key(page_uuid("p1"))
        path.unlink() if harm == "missing" else path.write_bytes(b"\x89PNG and nothing more")
        with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
            hits = index.search("red apples")
        assert caplog.text == ""  # the reranker did not look
        assert (len(hits), hits[0].page.number) == (4, 1)
        with pytest.raises(ImageError, match=f"image {re.escape(str(path))}"):
            hits[0].page.image.open()
        assert all(hit.page.image.open().mode == "RGB" for hit in hits[1:])

        with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
            again = index.search("red apples", rerank=Looking())
        assert [(hit.page.number, hit.score) for hit in again] == [(hit.page.number, hit.score) for hit in hits]
        assert "page 1 of b.pdf: " in caplog.text
        assert "ranked by its text alone" in caplog.text
        assert len(index.search("red apples", rerank=Looking(), on_image_error="skip")) == 3
        with pytest.raises(ImageError, match="page 1 of b.pdf: "):
            index.search("red apples", rerank=Looking(), on_image_error="raise")


def test_keys_planted_in_the_collection_open_no_file(tmp_path, caplog):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (2, 2)).save(secret)
    client = QdrantClient(":memory:")
    with PageIndex(client=client, images=tmp_path / "images", embedder=FakeEmbedder()) as index:
        fill(index)
        for n, key in enumerate([str(secret), "../secret.png", secret.as_uri(), 7], 1):
            client.set_payload("pages", {"image": key}, points=[page_uuid(f"p{n}")])
        for hit in index.search("apples"):
            if hit.page.image is not None:  # a key that is no str is read as none
                with pytest.raises(ImageError, match="does not belong to an index; not opening it"):
                    hit.page.image.open()
                with pytest.raises(ImageError, match="does not belong to an index; not opening it"):
                    _ = hit.page.image.path
        assert index.delete(everything=True) == 4
    assert secret.exists()
    client.close()


def test_without_images_hits_carry_text_only(tmp_path):
    with PageIndex(tmp_path, embedder=FakeEmbedder(), images=None) as index:
        fill(index)
        hit = index.search("apples", k=1)[0]
        assert hit.page.image is None
    assert not (tmp_path / "images").exists()


def test_images_may_be_kept_elsewhere_and_in_another_format(tmp_path):
    images = PageImages(tmp_path / "elsewhere", image_format="webp")
    with PageIndex(embedder=FakeEmbedder(), images=images) as index:
        fill(index)
        hits = index.search("apples", k=4)
        assert [hit.page.image.open().mode for hit in hits] == ["RGB"] * 4
    written = sorted(map(str, (tmp_path / "elsewhere").rglob("*.webp")))
    assert sorted(str(hit.page.image.path) for hit in hits) == sorted(str(hit.page.image) for hit in hits) == written


def test_two_collections_in_one_folder_do_not_share_images(tmp_path):
    QdrantClient(path=str(tmp_path)).close()  # a folder of its local mode stays one
    for name in ("one", "two"):
        with PageIndex(tmp_path, collection=name, embedder=FakeEmbedder()) as index:
            fill(index)
    with PageIndex(tmp_path, collection="one") as index:
        assert index.count() == 4
    client = QdrantClient(path=str(tmp_path))
    for name, images in {"one": tmp_path / "images/one", "two": tmp_path / "images/two"}.items():
        with PageIndex(client=client, collection=name, images=images, embedder=FakeEmbedder()) as index:
            if name == "one":
                assert index.delete(everything=True) == 4
            else:
                assert index.search("apples", k=1)[0].page.image is not None
    client.close()


# ---- deleting ---------------------------------------------------------------------------------------------------


def test_deleting_by_source_id_and_filter(tmp_path):
    with PageIndex(tmp_path, embedder=FakeEmbedder()) as index:
        fill(index)
        assert index.delete("./x/../a.pdf") == 2
        assert index.delete(Path("a.pdf")) == 0
        assert index.delete(ids=["p1", "p1", "p9"]) == 1
        assert (index.count(), index.sources()) == (1, ["b.pdf"])
        assert len(list((tmp_path / "images").rglob("*.png"))) == 1
        for wrong in ({}, {"source": "a", "ids": ["p1"]}):
            with pytest.raises(InputError, match="exactly one"):
                index.delete(**wrong)


# ---- opening ----------------------------------------------------------------------------------------------------


def test_reopening_needs_no_embedding_and_finds_everything(tmp_path):
    with PageIndex(tmp_path, embedder=FakeEmbedder()) as index:
        fill(index)
    embedder = CountingEmbedder()
    with PageIndex(tmp_path, embedder=embedder) as index:
        assert index.search("blue whales", k=1)[0].page.number == 3
        assert embedder.embedded == 0


@pytest.mark.parametrize("other", [{"dimensions": 32}, {"name": "other", "dimensions": 32}])
def test_another_embedder_is_refused_naming_what_differs(tmp_path, other):
    with PageIndex(tmp_path, embedder=FakeEmbedder()) as index:
        fill(index)
    with pytest.raises(IndexMismatchError) as caught:
        PageIndex(tmp_path, embedder=FakeEmbedder(**other))
    message = str(caught.value)
    assert "dimensions=64" in message
    assert "dimensions=32" in message
    assert ("model='other'" in message) is ("name" in other)
    assert "\n" not in message
    PageIndex(tmp_path, embedder=FakeEmbedder()).close()  # the refused one let go of the folder


@pytest.mark.parametrize("setting", [{"dpi": 150}, {"max_pixels": 1000}])
def test_other_render_settings_are_refused_and_none_means_the_indexes(tmp_path, setting):
    with PageIndex(tmp_path, embedder=FakeEmbedder(), dpi=100, max_pixels=2000) as index:
        fill(index)
    with pytest.raises(IndexMismatchError, match=next(iter(setting))):
        PageIndex(tmp_path, embedder=FakeEmbedder(), **setting)
    with PageIndex(tmp_path, embedder=FakeEmbedder()) as index:
        assert index._state.render_settings() == {"dpi": 100, "max_pixels": 2000, "pdf_engine": "auto"}


def test_two_openers_of_a_new_index_agree_on_who_wrote_it():
    client = QdrantClient(":memory:")
    first = PageIndex(client=client, images=None, embedder=FakeEmbedder())
    second = PageIndex(client=client, images=None, embedder=FakeEmbedder(dimensions=32))
    fill(first)
    with pytest.raises(IndexMismatchError, match="dimensions"):
        fill(second)
    with pytest.raises(IndexMismatchError, match="dimensions"):
        second.search("apples")
    client.close()


def test_a_named_model_is_compared_without_loading_it(tmp_path, monkeypatch):
    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", lambda *_, **__: pytest.fail("loaded"))
    embedder = FakeEmbedder(name="llama-nemotron-embed-vl-1b-v2")
    with PageIndex(tmp_path, embedder=embedder) as index:
        fill(index)
    with PageIndex(tmp_path, collection="other", embedder=FakeEmbedder(name="llama-nemotron-rerank-vl-1b-v2")) as index:
        fill(index)
    with pytest.raises(IndexMismatchError, match="model="):
        PageIndex(tmp_path, collection="other", embedder="nvidia/llama-nemotron-embed-vl-1b-v2")
    with pytest.raises(IndexMismatchError, match="revision"):
        PageIndex(tmp_path, embedder="llama-nemotron-embed-vl-1b-v2")
    with pytest.raises(UnknownModelError):
        PageIndex(tmp_path, embedder="no-such-model")
    with pytest.raises(InputError, match="reranker"):
        PageIndex(tmp_path, embedder="llama-nemotron-rerank-vl-1b-v2")


def test_the_model_of_the_record_is_loaded_with_its_settings_and_closed(tmp_path, monkeypatch):
    class Tiled(FakeEmbedder):
        @property
        def identity(self):
            return {**super().identity, "max_input_tiles": 4, "max_length_image": 99, "use_thumbnail": True}

    with PageIndex(tmp_path, embedder=Tiled(name="mine")) as index:
        fill(index)
    asked = []

    def load(name, *_, **options):
        asked.append((name, options))
        return Tiled(name=name)

    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", load)
    monkeypatch.setattr("nemotron_rag.models.lazy.check_model", lambda *_, **__: "embedder")
    with PageIndex(tmp_path, device="cpu") as index:
        assert asked == []
        assert len(index.search("apples")) == len(index.search("whales")) == 4
        loaded = index._state.embedder()
    settings = {"dimensions": 64, "max_input_tiles": 4, "use_thumbnail": True, "max_length": {"image": 99}}
    assert asked == [("mine", {"device": "cpu", **settings})]
    with pytest.raises(ClosedError):
        loaded.embed_queries(["x"])


def test_a_real_checkpoint_is_opened_again_from_the_record_alone(tmp_path, monkeypatch, reference):
    monkeypatch.chdir(reference)
    with PageIndex(tmp_path, embedder="embed_vl_open_1", device="cpu", max_input_tiles=2) as index:
        fill(index)
    monkeypatch.chdir(tmp_path)
    with PageIndex(tmp_path, reranker=reference / "rerank_vl_open_1", device="cpu") as index:
        hits = index.search("red apples", k=3)
        assert len(hits) == 3
        assert all(hit.page.image is not None for hit in hits)
    with (
        PageIndex(tmp_path, embedder=reference / "embed_vl_open_2", device="cpu") as index,
        pytest.raises(IndexMismatchError, match="embed_vl_open_1"),
    ):
        index.search("red apples")
    with pytest.raises(IndexMismatchError, match="max_input_tiles=2"):
        PageIndex(tmp_path, embedder=reference / "embed_vl_open_1", max_input_tiles=6)


class WordsOnly(FakeEmbedder):
    query_modalities = ("text",)


class WordsOnlyReranker(FakeReranker):
    query_modalities = ("text",)


@pytest.mark.parametrize("use_async", [False, True])
def test_a_query_may_be_an_image(tmp_path, use_async):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    pages = [Page("apples", red, id="r", number=1), Page("whales", blue, id="b", number=2)]
    lonely = [replace(page, text="") for page in pages]

    def search(index, query, **options):
        return asyncio.run(index.asearch(query, **options)) if use_async else index.search(query, **options)

    with PageIndex(tmp_path / "a", embedder=FakeEmbedder(), reranker=FakeReranker()) as index:
        index.add(pages, progress=False)
        assert search(index, Passage(image=blue), k=1)[0].page.number == 2
        (both,) = search(index, Passage("apples", red), k=1, rerank=False)
        assert both.retrieval_score == pytest.approx(1.0, abs=1e-3)
        assert search(index, "apples", k=1, rerank=False)[0].retrieval_score < 0.9
        assert search(index, Passage("apples"), k=1) == search(index, "apples", k=1)
        assert search(index, Passage("whales", red), mode="hybrid", rerank=False)[0].page.number == 2
        with pytest.raises(InputError, match="fake-reranker reads queries as words alone; .*rerank=False"):
            search(index, Passage(image=red), rerank=WordsOnlyReranker())
        with pytest.raises(InputError, match="query must be a str, got bytes; for an image use search_image"):
            search(index, b"red")
    with PageIndex(tmp_path / "b", embedder=WordsOnly()) as index:
        index.add(lonely, progress=False)
        with pytest.raises(InputError, match="fake-embedder reads queries as words alone; .* search_image"):
            search(index, Passage(image=red))
        assert index.search_image(red, k=1)[0].page.number == 1  # embedded as a passage


def test_pages_do_not_depend_on_the_instruction_of_queries(tmp_path, reference):
    folder = reference / "qwen3vl_embed_open_1"
    with PageIndex(tmp_path, embedder=folder, device="cpu", instruction="Find the page", max_image_tokens=40) as index:
        fill(index)
        first = index.search("red apples", k=3)
    for options in ({}, {"embedder": folder}):
        with PageIndex(tmp_path, device="cpu", **options) as index:
            assert index.search("red apples", k=3)[0].score == pytest.approx(first[0].score, abs=1e-5)
    with PageIndex(tmp_path, embedder=folder, device="cpu", instruction="Say what this is") as index:
        assert index.search("red apples", k=3)[0].score != pytest.approx(first[0].score, abs=1e-4)
    with pytest.raises(IndexMismatchError, match="max_image_tokens=40"):
        PageIndex(tmp_path, embedder=folder, max_image_tokens=41)


def test_a_new_index_needs_an_embedder_and_a_server_a_place_for_images(tmp_path):
    with pytest.raises(InputError, match="embedder="):
        PageIndex(tmp_path)
    with pytest.raises(InputError, match="images="):
        PageIndex("http://localhost:1", embedder=FakeEmbedder())
    with pytest.raises(StoreError, match="check that the server runs"):
        PageIndex("http://localhost:1", embedder=FakeEmbedder(), images=None)


def test_a_reranker_is_no_embedder():
    with pytest.raises(InputError, match="loaded embedder or multivector_embedder, got a reranker, FakeReranker"):
        PageIndex(embedder=FakeReranker())


def test_a_record_of_a_later_version_is_refused(tmp_path):
    client = QdrantClient(":memory:")
    with PageIndex(client=client, images=None, embedder=FakeEmbedder()) as index:
        fill(index)
        client.set_payload("pages", {"nemotron_rag_index": {"format": 3}}, points=[RECORD_ID])
    with pytest.raises(StoreError, match="update nemotron-rag"):
        PageIndex(client=client, images=None)
    with pytest.raises(StoreError, match="damaged"):
        IndexRecord.from_json({"format": 1, "name": "x"}, where="here")
    client.close()


def test_a_closed_index_says_so_and_leaves_given_things_open():
    client, embedder = QdrantClient(":memory:"), FakeEmbedder()
    index = PageIndex(client=client, images=None, embedder=embedder)
    fill(index)
    index.close()
    index.close()
    for call in (
        lambda: index.search("x"),
        lambda: add(index, []),
        index.count,
        index.sources,
        lambda: index.delete("a"),
    ):
        with pytest.raises(ClosedError, match="open it again"):
            call()
    assert embedder.embed_queries(["x"]).shape == (1, 64)
    assert client.count("pages").count == 5  # four pages and the record
    client.close()


def test_the_whole_way_works_through_a_server(tmp_path):
    server = Server()
    with PageIndex(client=server.client(), images=tmp_path, embedder=FakeEmbedder()) as index:
        fill(index)
        assert index.search("blue whales", k=1, filter={"year": {"gte": 2021}})[0].page.image.size == (4, 3)
        assert index.delete("a.pdf") == 2
        assert index.sources() == ["b.pdf"]


# ---- threads and event loops ------------------------------------------------------------------------------------


class SlowEmbedder(FakeEmbedder):
    """Takes its time, and meets the protocol: its async methods do not block the loop."""

    def embed_queries(self, queries):
        time.sleep(0.2)
        return super().embed_queries(queries)

    def embed_passages(self, passages):
        time.sleep(0.2)
        return super().embed_passages(passages)

    async def aembed_queries(self, queries):
        return await asyncio.to_thread(self.embed_queries, queries)

    async def aembed_passages(self, passages):
        return await asyncio.to_thread(self.embed_passages, passages)


class SlowReranker(FakeReranker):
    async def ascore(self, query, passages):
        await asyncio.sleep(0.1)
        return self.score(query, passages)


@pytest.mark.slow
async def test_the_event_loop_keeps_ticking():
    async def use():
        with PageIndex(embedder=SlowEmbedder(), reranker=SlowReranker()) as index:
            report = await index.aadd([text_page(n, t) for n, t in enumerate(TEXTS)], progress=False)
            assert report.added == 4
            hits = await index.asearch("red apples", k=2)
            assert [hit.score for hit in hits] == [5.0, 0.0]
            assert [hit.rank for hit in hits] == [1, 2]
            assert len(await index.asearch("red apples", rerank=False, k=3)) == 3
            assert len(await index.asearch_image(Image.new("RGB", (2, 2)), k=2)) == 2
            assert await index.adelete(ids=["p0"]) == 1
            assert await index.acount() == 3

    assert await stays_free(use, within=0.15)


@pytest.mark.slow
async def test_a_loop_that_is_kept_waiting_is_noticed():
    class Blocking(SlowEmbedder):
        async def aembed_queries(self, queries):
            return self.embed_queries(queries)

    with PageIndex(embedder=Blocking()) as index:
        await index.aadd([text_page(n, t) for n, t in enumerate(TEXTS)], progress=False)
        assert not await stays_free(lambda: index.asearch("red apples"), within=0.15)


async def test_async_searches_answer_as_the_sync_ones(index):
    queries = [f"{text} {n}" for n, text in enumerate(TEXTS * 5)]
    together = await asyncio.gather(*[index.asearch(query) for query in queries])
    assert together == [index.search(query) for query in queries]
    with pytest.raises(ImageError):
        await index.asearch_image(b"no image")


def test_searches_and_adds_from_many_threads(tmp_path):
    with PageIndex(tmp_path, embedder=FakeEmbedder()) as index, ThreadPoolExecutor(8) as pool:
        fill(index)
        start = threading.Barrier(8)

        def work(part: int) -> int:
            start.wait()
            if part % 2:
                pages = [text_page(n, f"thread {part}", source=f"{part}") for n in range(part * 100, part * 100 + 30)]
                return add(index, pages).added
            return sum(index.search("blue whales", k=1)[0].page.number == 3 for _ in range(30))

        assert list(pool.map(work, range(8))) == [30] * 8
        assert index.count() == 4 + 4 * 30


class Blind(FakeEmbedder):
    """To whom every query looks the same."""

    def embed_queries(self, queries):
        return super().embed_queries(["nothing of this"] * len(queries))


async def test_hybrid_search_finds_words_that_the_vectors_miss():
    with PageIndex(embedder=Blind()) as index:
        fill(index)
        order = [hit.page.number for hit in index.search("anything")]
        assert order == [hit.page.number for hit in index.search("anything", mode="hybrid")]  # no word is known
        last = next(text for n, text in enumerate(TEXTS) if n == order[-1])
        hits = index.search(last, mode="hybrid")
        ranks = [hit.page.number for hit in hits]
        assert sorted(ranks) == sorted(order)
        assert ranks.index(order[-1]) < 3  # the vectors alone have it last
        assert all(hit.score == hit.retrieval_score > 0 for hit in hits)
        assert [hit.page.number for hit in await index.asearch(last, mode="hybrid")] == ranks


@pytest.mark.parametrize(
    "every",
    [
        *({}, {"and": [{}, {}]}, {"or": [{"year": 1}, {}]}, {"not": {"year": []}}, {"not": {"not": {}}}),
        *({"year": {"nin": []}}, {"year": {"all": []}}, models.Filter(), models.Filter(must=[])),
    ],
    ids=str,
)
def test_no_filter_that_every_page_meets_deletes(every):
    with PageIndex(embedder=FakeEmbedder()) as index:
        add(index, [text_page(1, "one", metadata={"year": 1})])
        with pytest.raises(InputError, match=r"every page meets .* delete\(everything=True\)"):
            index.delete(filter=every)
        for none in ({"year": []}, {"year": {"in": []}}, {"nor": [{}, {"year": 1}]}):
            assert index.delete(filter=none) == 0
        assert index.count() == 1
        with pytest.raises(InputError, match="exactly one"):
            index.delete(filter={"year": 1}, everything=True)
        assert index.delete(everything=True) == 1
