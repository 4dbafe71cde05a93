"""What every implementation of a protocol must do; subclass with an ``embedder``, ``reranker`` or ``store`` fixture.

A model that reads no images sets ``passages`` to texts.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nemotron_rag.errors import ClosedError, InputError, StoreError
from nemotron_rag.late_interaction.maxsim import maxsim
from nemotron_rag.protocols import Embedder, MultiVectorEmbedder, Reranker, reads_image_queries
from nemotron_rag.stores.filters import matches, parse_filter
from nemotron_rag.types import Page, PageFile, Passage, StoredPage

TEXTS = ["Tornadoes form in thunderstorms.", "Bread needs flour, water and salt.", "", "x", "Tornado " * 40]


def make_image(seed: int = 0, size: tuple[int, int] = (90, 120)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((10 + seed, 20, 60, 70 + seed), fill=(200, 30 * seed % 255, 10))
    return image


def mixed_passages() -> list[Passage]:
    return [
        *[Passage(text) for text in TEXTS],
        Passage(image=make_image(1)),
        Passage("caption", make_image(2)),
        Passage(image=make_image(3, (40, 300))),
    ]


class EmbedderContract:
    """One vector a row, aligned, normalised, the same however it is asked for."""

    tolerance = 1e-5
    passages = mixed_passages()

    def test_meets_the_protocol(self, embedder):
        assert isinstance(embedder, Embedder)
        assert embedder.identity
        assert all(value is None or isinstance(value, str | int | bool) for value in embedder.identity.values())

    def test_shape_dtype_and_norm(self, embedder):
        for rows in (embedder.embed_passages(self.passages), embedder.embed_queries(TEXTS)):
            assert rows.dtype == np.float32
            assert rows.shape[1] == embedder.dimensions
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)

    def test_rows_belong_to_their_inputs(self, embedder):
        together = embedder.embed_passages(self.passages)
        alone = np.concatenate([embedder.embed_passages([passage]) for passage in self.passages])
        np.testing.assert_allclose(together, alone, atol=self.tolerance)
        backwards = embedder.embed_passages(self.passages[::-1])[::-1]
        np.testing.assert_allclose(together, backwards, atol=self.tolerance)

    def test_a_query_may_be_a_passage(self, embedder):
        plain, passage = embedder.embed_queries(["a b", Passage("a b")])
        np.testing.assert_allclose(plain, passage, atol=self.tolerance)
        picture = Passage("a b", make_image())
        if reads_image_queries(embedder):
            found = embedder.embed_queries(["a b", picture])
            np.testing.assert_allclose(found[0], plain, atol=self.tolerance)
            assert abs(found[1] - plain).max() > 1e-4
        else:
            with pytest.raises(
                InputError, match="query 1 has an image, and .* reads queries as words alone; give words"
            ):
                embedder.embed_queries(["a b", picture])

    def test_nothing_in_nothing_out(self, embedder):
        assert embedder.embed_passages([]).shape == (0, embedder.dimensions)
        assert embedder.embed_queries([]).shape == (0, embedder.dimensions)

    async def test_async_equals_sync(self, embedder):
        queries, passages = await asyncio.gather(
            embedder.aembed_queries(TEXTS), embedder.aembed_passages(self.passages)
        )
        np.testing.assert_allclose(queries, embedder.embed_queries(TEXTS), atol=self.tolerance)
        np.testing.assert_allclose(passages, embedder.embed_passages(self.passages), atol=self.tolerance)

    def test_threads_share_it(self, embedder):
        serial = [embedder.embed_queries([text]) for text in TEXTS]
        with ThreadPoolExecutor(8) as pool:
            threaded = list(pool.map(lambda text: embedder.embed_queries([text]), TEXTS))
        for one, other in zip(serial, threaded, strict=True):
            np.testing.assert_allclose(one, other, atol=self.tolerance)

    def test_closed(self, embedder):
        embedder.close()
        embedder.close()
        with pytest.raises(ClosedError, match="was closed"):
            embedder.embed_queries(["a"])


class MultiVectorEmbedderContract:
    """Ragged rows of normalised vectors, aligned, the same however they are asked for, and MaxSim over them."""

    tolerance = 1e-5
    passages = mixed_passages()

    def assert_equal(self, found, wanted):
        assert [rows.shape for rows in found] == [rows.shape for rows in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=self.tolerance)

    def test_meets_the_protocol(self, embedder):
        assert isinstance(embedder, MultiVectorEmbedder)
        assert embedder.identity
        assert all(value is None or isinstance(value, str | int | bool) for value in embedder.identity.values())

    def test_shape_dtype_and_norm(self, embedder):
        for inputs, found in [
            (self.passages, embedder.embed_passages(self.passages)),
            (TEXTS, embedder.embed_queries(TEXTS)),
        ]:
            assert len(found) == len(inputs)
            for rows in found:
                assert rows.dtype == np.float32
                assert rows.ndim == 2
                assert rows.shape[1] == embedder.dimensions
                np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
        assert len({len(rows) for rows in found}) > 1

    def test_rows_belong_to_their_inputs(self, embedder):
        together = embedder.embed_passages(self.passages)
        self.assert_equal(together, [embedder.embed_passages([passage])[0] for passage in self.passages])
        self.assert_equal(together, embedder.embed_passages(self.passages[::-1])[::-1])

    def test_a_query_may_be_a_passage(self, embedder):
        plain, passage = embedder.embed_queries(["a b", Passage("a b")])
        self.assert_equal([plain], [passage])
        if not reads_image_queries(embedder):
            with pytest.raises(
                InputError, match="query 0 has an image, and .* reads queries as words alone; give words"
            ):
                embedder.embed_queries([Passage("a b", make_image())])

    def test_score_is_the_sum_of_best_similarities(self, embedder):
        queries, passages = embedder.embed_queries(TEXTS), embedder.embed_passages(self.passages)
        scores = embedder.score(queries, passages)
        assert scores.dtype == np.float32
        best = [[(query @ passage.T).max(axis=1) for passage in passages] for query in queries]
        plain = np.array([[values.sum() for values in row] for row in best])
        clear = np.array([[values.min() >= 0 for values in row] for row in best])  # no token without any match
        assert clear.any()
        np.testing.assert_allclose(scores[clear], plain[clear], atol=1e-3)
        assert (scores >= plain - 1e-3).all()
        assert embedder.score(queries, []).shape == (len(TEXTS), 0)

    def test_nothing_in_nothing_out(self, embedder):
        assert embedder.embed_passages([]) == []
        assert embedder.embed_queries([]) == []

    async def test_async_equals_sync(self, embedder):
        queries, passages = await asyncio.gather(
            embedder.aembed_queries(TEXTS), embedder.aembed_passages(self.passages)
        )
        self.assert_equal(queries, embedder.embed_queries(TEXTS))
        self.assert_equal(passages, embedder.embed_passages(self.passages))

    def test_threads_share_it(self, embedder):
        serial = embedder.embed_queries(TEXTS)
        with ThreadPoolExecutor(8) as pool:
            self.assert_equal(list(pool.map(lambda text: embedder.embed_queries([text])[0], TEXTS)), serial)

    def test_closed(self, embedder):
        embedder.close()
        embedder.close()
        with pytest.raises(ClosedError, match="was closed"):
            embedder.embed_queries(["a"])


class RerankerContract:
    """One logit a passage, aligned, and an order that follows from it."""

    tolerance = 1e-5
    passages = mixed_passages()
    query = "Where do tornadoes form?"

    def test_meets_the_protocol(self, reranker):
        assert isinstance(reranker, Reranker)
        assert reranker.identity

    def test_rows_belong_to_their_inputs(self, reranker):
        passages = self.passages
        scores = reranker.score(self.query, passages)
        assert scores.dtype == np.float32
        assert scores.shape == (len(passages),)
        alone = np.concatenate([reranker.score(self.query, [passage]) for passage in passages])
        np.testing.assert_allclose(scores, alone, atol=self.tolerance)

    def test_rank_follows_the_scores(self, reranker):
        passages = self.passages
        scores = reranker.score(self.query, passages)
        ranked = reranker.rank(self.query, passages)
        assert [hit.score for hit in ranked] == sorted((float(s) for s in scores), reverse=True)
        assert sorted(hit.index for hit in ranked) == list(range(len(passages)))
        assert all(hit.passage is passages[hit.index] for hit in ranked)
        assert reranker.rank(self.query, passages, top_n=3) == ranked[:3]
        assert reranker.rank(self.query, passages, top_n=0) == []

    def test_a_query_may_be_a_passage(self, reranker):
        plain = reranker.score(self.query, self.passages)
        np.testing.assert_allclose(reranker.score(Passage(self.query), self.passages), plain, atol=self.tolerance)
        picture = Passage(image=make_image())
        if reads_image_queries(reranker):
            assert reranker.score(picture, self.passages).shape == plain.shape
            assert abs(reranker.score(picture, self.passages) - plain).max() > 1e-4
        else:
            with pytest.raises(InputError, match="query has an image, and .* reads queries as words alone; give words"):
                reranker.score(picture, self.passages)

    def test_equal_scores_keep_the_order(self, reranker):
        passages = [Passage("same")] * 4
        scores = reranker.score(self.query, passages)  # the last bit may depend on the place in the batch
        np.testing.assert_allclose(scores, scores[0], atol=self.tolerance)
        order = sorted(range(4), key=lambda i: -scores[i])
        assert [hit.index for hit in reranker.rank(self.query, passages)] == order

    def test_nothing_in_nothing_out(self, reranker):
        assert reranker.score(self.query, []).shape == (0,)
        assert reranker.rank(self.query, []) == []

    async def test_async_equals_sync(self, reranker):
        passages = self.passages
        scores, ranked = await asyncio.gather(
            reranker.ascore(self.query, passages), reranker.arank(self.query, passages, top_n=2)
        )
        np.testing.assert_allclose(scores, reranker.score(self.query, passages), atol=self.tolerance)
        assert [hit.index for hit in ranked] == [hit.index for hit in reranker.rank(self.query, passages, top_n=2)]

    def test_closed(self, reranker):
        reranker.close()
        reranker.close()
        with pytest.raises(ClosedError, match="was closed"):
            reranker.score("a", [Passage("b")])


def stored_page(page_id: str, *, content: str = "c", **fields) -> StoredPage:
    fields = {"source": "a.pdf", **fields}
    return StoredPage.of(Page(id=page_id, **fields), content_hash=content)


def without_text(stored: StoredPage) -> StoredPage:
    return dataclasses.replace(stored, page=dataclasses.replace(stored.page, text=""))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def ids(found) -> list[str]:
    return [stored.page.id for stored, _ in found]


METADATA = [
    {"year": 2020, "draft": True, "mixed": 1, "date": "2023-05-01", "tags": ["x", "y"], "many": [1, 2.5, "z"]},
    {"year": 2021, "draft": False, "mixed": "one", "weight": 0.5, "date": "2024-05-01T10:00:00Z", "tags": []},
    {"year": 2030, "author": {"name": "Ada", "born": {"year": 1815}}, "with space": "yes", "weight": 2, "tags": None},
    {"year": 2021.0, "draft": 1, "mixed": True, "date": "2024-05-01 11:30:00+01:00", "weight": "heavy", "Year": "2020"},
    {"year": "2020", "date": "soon", "author": "Ada", "tags": ["x"], "dates": ["2020-01-01", "2025-01-01"]},
]
FILTERS = [
    {"source": "a.pdf"},
    {"source": ["b.pdf", "c.pdf"]},
    {"source": None},
    {"page_number": [1, 3]},
    {"page_number": {"gte": 2}},
    {"number": {"gt": 1, "lt": 3}},
    {"page_number": 2, "number": 2},
    {"page_number": 2.0},
    {"page_number": True},
    {"id": "p2"},
    {"id": ["p2", "p9"]},
    {"content_hash": "h3"},
    {"year": 2021},
    {"year": 2021.0},
    {"year": {"gt": 2019, "lt": 2022}},
    {"year": {"gte": 2020.5}},
    {"year": "2020"},
    {"Year": "2020"},
    {"metadata.year": 2020},
    {"page_number": {"lte": 2}, "year": {"gte": 2021}},
    {"draft": True},
    {"draft": False},
    {"draft": 1},
    {"draft": None},
    {"draft": {"gte": 0}},
    {"weight": 0.5},
    {"weight": 2.0},
    {"weight": 2},
    {"weight": {"lte": 2}},
    {"mixed": [1, "one"]},
    {"mixed": [True, "one"]},
    {"mixed": 1},
    {"mixed": [None, 1]},
    {"mixed": [{"gte": 1}, "one"]},
    {"tags": "x"},
    {"tags": ["y", "q"]},
    {"tags": None},
    {"many": 2.5},
    {"many": {"gt": 2}},
    {"many": "z"},
    {"date": {"gte": "2024-01-01"}},
    {"date": {"lt": "2024-05-01T10:15:00Z"}},
    {"date": {"gt": "2024-05-01T12:15:00+02:00"}},
    {"date": {"gte": datetime.date(2024, 1, 1), "lte": datetime.datetime(2024, 5, 1, 10, tzinfo=datetime.UTC)}},
    {"date": {"gte": datetime.datetime(2024, 5, 1, 10, 30)}},
    {"date": {"gte": 2024}},
    {"dates": {"gt": "2021-01-01", "lt": "2026-01-01"}},
    {"date": "2023-05-01"},
    {"author.name": "Ada"},
    {"author.born.year": {"lt": 1900}},
    {"author": "Ada"},
    {"author.name": None},
    {"with space": "yes"},
    {"nothing": None},
    {"nothing": 1},
    {"page_number": []},
    {"page_number": [[1], [2, [3]]]},
    {"year": {"eq": 2021}},
    {"year": {"ne": 2021}},
    {"year": [2020, 2021.0, 2**53]},
    {"year": {"$gte": 2020, "$ne": 2020, "$lt": 2031}},
    {"mixed": {"$in": [1, "one"]}},
    {"mixed": {"$nin": [1, "one"]}},
    {"mixed": {"nin": []}},
    {"source": {"ne": "a.pdf"}},
    {"source": {"prefix": "a."}},
    {"source": {"contains": ".pdf"}},
    {"source": {"not": {"prefix": "a"}}},
    {"page_number": {"nin": [1, 2]}},
    {"page_number": {"not": {"gte": 3}}},
    {"tags": {"all": ["x", "y"]}},
    {"tags": {"contains": "x"}},
    {"tags": {"not_contains": "y"}},
    {"author": {"contains": "d"}},
    {"author": {"prefix": "A"}},
    {"author.name": {"text": "ada"}},
    {"weight": {"text": "HEAVY"}},
    {"weight": {"exists": True}},
    {"weight": {"exists": False}},
    {"with space": {"contains": "es"}},
    {"date": datetime.date(2023, 5, 1)},
    {"date": datetime.datetime(2024, 5, 1, 10)},
    {"or": [{"year": 2020}, {"page_number": 4}]},
    {"$or": [{"year": 2020, "page_number": 2}, {"$and": [{"draft": False}, {"weight": {"lt": 1}}]}]},
    {"not": {"year": 2020}},
    {"not": [{"year": 2020}, {"draft": None}]},
    {"$nor": [{"year": 2020}, {"page_number": {"gt": 3}}]},
    {"not": {"or": [{"nothing": 1}, {}]}},
    {"and": [{"page_number": {"gt": 1}}, {"not": {"tags": None}}], "year": {"gte": 2000}},
    {"metadata.not": 1},
    {},
    None,
]
NONSENSE = [
    {"year": {"above": 3}},
    {"year": {}},
    {"year": {"in": 2020}},
    {"or": []},
    {"not": 3},
    {"$where": 1},
    {"year": 2**70},
    {"year": float("nan")},
    {"title": {"prefix": ""}},
    {"year": {"gte": "not a date"}},
    {"year": {"gte": 1, "lt": "2020-01-01"}},
    {"year": {"gte": True}},
    {"year": {"gte": None}},
    {"year": object()},
    {"year": [object()]},
    {"year": b"x"},
    {"": 1},
    {'a"b': 1},
    {3: 1},
    ["year", 2020],
    "year",
]


class PageStoreContract:
    """Pages kept and found; the ``store`` fixture gives one that was just constructed over nothing."""

    dimensions = 8
    many = 1100  # pages, more than a request takes
    record = {"model": "m", "nested": {"pooling": None, "sizes": [1, 2.5, True]}}  # noqa: RUF012

    @pytest.fixture
    def made(self, store):
        store.create(dimensions=self.dimensions, record=self.record)
        return store

    @pytest.fixture
    def made_for_tokens(self, store):
        store.create(dimensions=self.dimensions, record=self.record, token_storage="float16")
        return store

    def rows(self, count: int, seed: int = 0) -> np.ndarray:
        return unit(np.random.default_rng(seed).standard_normal((count, self.dimensions)))

    def put(self, store, *pages: StoredPage, seed: int = 0) -> np.ndarray:
        rows = self.rows(len(pages), seed)
        store.put(pages, list(rows))
        return rows

    # ---- the index itself

    def test_nothing_is_there_at_first(self, store):
        assert (store.exists(), store.read_record()) == (False, None)
        assert str(store)
        assert store.image_root is None or isinstance(store.image_root, str)
        assert store.image_root == store.image_root
        uses = [
            *(store.count, store.sources, lambda: store.get(["p1"]), lambda: list(store.pages())),
            lambda: store.query(self.rows(1)[0], k=1),
            lambda: self.put(store, stored_page("p1")),
            lambda: store.attach(["p1"], source="b.pdf", metadata={}),
            lambda: store.remove(["p1"]),
        ]
        for use in uses:
            with pytest.raises(StoreError) as caught:
                use()
            assert "\n" not in str(caught.value)
        assert (store.exists(), store.read_record()) == (False, None)

    def test_the_record_comes_back_and_is_no_page(self, made):
        assert made.exists()
        assert made.read_record() == self.record
        made.read_record()["model"] = "other"
        assert made.read_record() == self.record
        assert (made.count(), made.sources(), list(made.pages())) == (0, [], [])
        assert made.query(self.rows(1)[0], k=5) == []

    def test_making_it_again_keeps_record_and_pages(self, made):
        self.put(made, stored_page("p1"))
        made.create(dimensions=self.dimensions, record={"model": "other"})
        assert (made.count(), made.read_record()) == (1, self.record)

    def test_other_vectors_are_refused(self, made):
        with pytest.raises(StoreError, match=f"other vectors than {self.dimensions + 1}-d"):
            made.create(dimensions=self.dimensions + 1, record=self.record)
        with pytest.raises(StoreError, match="other vectors"):
            made.create(dimensions=self.dimensions, record=self.record, token_storage="float16")

    def test_closed(self, made):
        self.put(made, stored_page("p1"))
        name = str(made)
        made.close()
        made.close()
        uses = [
            *(made.exists, made.read_record, made.count, made.sources, lambda: list(made.pages())),
            lambda: made.get(["p1"]),
            lambda: made.query(self.rows(1)[0], k=1),
            lambda: self.put(made, stored_page("p2")),
            lambda: made.attach(["p1"], source="b.pdf", metadata={}),
            lambda: made.remove(["p1"]),
            lambda: made.create(dimensions=self.dimensions, record=self.record),
            lambda: made.index_metadata("year", "integer"),
        ]
        for use in uses:
            with pytest.raises(ClosedError, match="was closed"):
                use()
        assert str(made) == name

    def test_closing_what_was_never_used(self, store):
        store.close()
        store.close()
        with pytest.raises(ClosedError, match="was closed"):
            store.exists()

    def test_metadata_keys_can_be_indexed(self, made):
        self.put(made, stored_page("p1", metadata={"year": 2020}))
        made.index_metadata("year", "integer")
        made.index_metadata("year", "integer")
        assert made.count({"year": 2020}) == 1
        with pytest.raises(InputError):
            made.index_metadata("", "integer")

    # ---- pages in and out

    def test_pages_come_back_as_they_were_put(self, made):
        metadata = {
            "year": 2020,
            "tags": ["x", None, 1.5],
            "nested": {"é": {"draft": True}},
            "none": None,
            "big": 2**40,
        }
        full = dataclasses.replace(
            stored_page("p1", number=3, text="tëxt", metadata=metadata, content="hash"),
            image_key="0b/x.png",
            image_size=(640, 480),
            image_hash="pixels",
        )
        bare = stored_page("2b8f1d5e-0d53-4f0e-9d1c-6a2d5a7f9b10", source="")
        before = copy.deepcopy([full, bare])
        rows = self.put(made, full, bare)
        assert [full, bare] == before
        (found, score), *_ = made.query(rows[0], k=2)
        assert found == full
        assert found.page.metadata == metadata
        assert (type(found.image_size), score) == (tuple, pytest.approx(1, abs=1e-5))
        got = made.get([full.page.id, "p9", bare.page.id])
        assert {page_id: without_text(stored) for page_id, stored in got.items()} == {
            full.page.id: without_text(full),
            bare.page.id: bare,
        }
        assert got[full.page.id].page.metadata == metadata
        assert made.sources() == ["a.pdf"]

    def test_nothing_in_nothing_out(self, made):
        made.put([], [])
        assert (made.get([]), made.attach([], source="a.pdf", metadata={}), made.remove([])) == ({}, 0, 0)
        assert made.count() == 0

    def test_not_one_array_for_each_page(self, made):
        with pytest.raises(InputError, match="2 pages need as many vectors or arrays of them, got 1"):
            made.put([stored_page("p1"), stored_page("p2")], list(self.rows(1)))
        assert made.count() == 0

    def test_many_pages(self, made):
        pages = [stored_page(f"p{n}", number=n + 1, source=f"{n % 7}.pdf", text="word " * 50) for n in range(self.many)]
        rows = self.put(made, *pages)
        assert made.count() == len(list(made.pages())) == self.many
        assert made.sources() == [f"{n}.pdf" for n in range(7)]
        assert len(made.get([page.page.id for page in pages])) == self.many
        assert ids(made.query(rows[177], k=1)) == ["p177"]
        assert made.remove([page.page.id for page in pages[10:]]) == self.many - 10
        assert made.count() == 10

    def test_a_text_that_is_not_unicode_is_no_reason_to_fail(self, made):
        (row,) = self.put(made, stored_page("p1", text="a\ud800b"))
        assert made.query(row, k=1)[0][0].page.text.startswith("a")

    def test_writes_are_safe_to_repeat(self, made):
        pages = [stored_page("p1", metadata={"year": 1}), stored_page("p2")]
        for _ in range(2):
            rows = self.put(made, *pages)
            assert made.attach(["p1"], source="b.pdf", metadata={"year": 2}) == 1
            assert (made.count(), made.count({"source": "b.pdf", "year": 2})) == (2, 1)
            assert ids(made.query(rows[1], k=1)) == ["p2"]
        assert made.remove(["p2"]) == 1
        assert made.remove(["p2"]) == 0
        assert made.count() == 1

    def test_the_same_content_keeps_other_sources_and_new_content_does_not(self, made):
        self.put(made, stored_page("p1", source="a.pdf"))
        self.put(made, stored_page("p1", source="b.pdf"))
        assert made.get(["p1"])["p1"].sources == ("a.pdf", "b.pdf")
        (row,) = self.put(made, stored_page("p1", source="b.pdf", content="new", text="new"), seed=5)
        assert made.sources() == ["b.pdf"]
        ((found, score),) = made.query(row, k=5)
        assert (found.page.text, score) == ("new", pytest.approx(1, abs=1e-5))

    # ---- sources

    def test_sources_are_attached(self, made):
        self.put(made, stored_page("p1", metadata={"year": 1, "title": "t"}), stored_page("p2"))
        assert made.attach(["p1", "p9"], source="b.pdf", metadata={"year": 2}) == 1
        stored = made.get(["p1"])["p1"]
        assert stored.files == (PageFile("a.pdf", {"year": 1, "title": "t"}), PageFile("b.pdf", {"year": 2}))
        assert (stored.page.source, stored.page.metadata) == ("a.pdf", {"year": 1, "title": "t"})
        assert made.attach(["p1"], source="a.pdf", metadata={}) == 1
        assert made.get(["p1"])["p1"] == stored
        assert made.sources() == ["a.pdf", "b.pdf"]
        assert made.attach(["p1"], source="a.pdf", metadata={"year": 3}) == 1
        assert made.get(["p1"])["p1"].files[0].metadata == {"year": 3, "title": "t"}

    def test_what_the_content_says_holds_for_every_file(self, made):
        page = Page(id="p1", source="b.pdf", metadata={"title": "t", "by": "content"})
        self.put(made, StoredPage.of(page, content_hash="c", metadata={"by": "bob"}))
        made.attach(["p1"], source="a.pdf", metadata={"year": 1})
        assert made.get(["p1"])["p1"].files == (
            PageFile("a.pdf", {"title": "t", "by": "content", "year": 1}),
            PageFile("b.pdf", {"title": "t", "by": "bob"}),
        )

    def test_a_filter_is_met_by_one_file_as_a_whole(self, made):
        self.put(made, stored_page("p1", source="a.pdf", metadata={"tenant": "ann", "draft": True}))
        made.attach(["p1"], source="b.pdf", metadata={"tenant": "bob", "year": 2020})
        for right in (
            *({"tenant": "ann"}, {"tenant": "bob"}, {"tenant": "ann", "draft": True}, {"draft": None}),
            *({"tenant": "bob", "year": {"gte": 2020}}, {"source": "b.pdf", "tenant": "bob"}, {"year": None}),
        ):
            assert (made.count(right), len(made.query(self.rows(1)[0], k=2, filter=right))) == (1, 1)
        for wrong in (
            *({"source": "a.pdf", "tenant": "bob"}, {"tenant": "ann", "year": 2020}, {"draft": True, "year": 2020}),
            *({"tenant": "bob", "year": None}, {"source": None}),
        ):
            assert (made.count(wrong), list(made.pages(wrong))) == (0, [])

    def test_putting_a_page_again_leaves_what_other_files_say(self, made):
        for source, who in (("a.pdf", "ann"), ("b.pdf", "bob"), ("a.pdf", "eve")):
            self.put(made, stored_page("p1", source=source, metadata={"tenant": who}))
        assert made.get(["p1"])["p1"].files == (
            PageFile("a.pdf", {"tenant": "eve"}),
            PageFile("b.pdf", {"tenant": "bob"}),
        )

    def test_pages_of_several_sources_only_lose_the_one(self, made):
        self.put(made, stored_page("p1"), stored_page("p2"))
        made.attach(["p1"], source="b.pdf", metadata={})
        removed: list[StoredPage] = []
        assert made.remove(["p1", "p2", "p9"], filter={"source": "a.pdf"}, after=removed.extend) == 1
        assert [stored.page.id for stored in removed] == ["p2"]
        left = made.get(["p1", "p2"])
        assert (left.keys(), left["p1"].sources, left["p1"].page.source) == ({"p1"}, ("b.pdf",), "b.pdf")
        assert made.remove(["p1"]) == 1
        assert (made.count(), made.sources()) == (0, [])

    def test_only_the_files_that_a_filter_matches_lose_their_pages(self, made):
        self.put(made, *[stored_page(f"p{n}", source="a.pdf", metadata={"tenant": "ann"}) for n in (1, 2, 3)])
        made.attach(["p1", "p2"], source="b.pdf", metadata={"tenant": "bob"})
        made.attach(["p2"], source="c.pdf", metadata={"tenant": "ann"})
        assert made.remove(["p1", "p2", "p3"], filter={"tenant": "ann", "source": ["a.pdf", "c.pdf"]}) == 1
        left = {name: stored.sources for name, stored in made.get(["p1", "p2", "p3"]).items()}
        assert left == {"p1": ("b.pdf",), "p2": ("b.pdf",)}
        assert made.remove(["p1"], filter={"tenant": "nobody"}) == 0
        with pytest.raises(InputError):
            made.remove(["p1"], filter=["tenant"])
        assert (made.count({"tenant": "ann"}), made.count({"tenant": "bob"})) == (0, 2)

    def test_pages_are_gone_before_after_is_called(self, made):
        self.put(made, stored_page("p1"))
        seen: list[int] = []
        assert made.remove(["p1"], after=lambda removed: seen.append(made.count())) == 1
        assert seen == [0]

    # ---- filters

    def test_filters(self, made):
        pages = [
            stored_page(f"p{n}", source=["a.pdf", "a.pdf", "b.pdf", "", "c.pdf"][n - 1], number=n, content=f"h{n}")
            for n in range(1, 6)
        ]
        pages = [
            dataclasses.replace(stored, page=dataclasses.replace(stored.page, metadata=more))
            for stored, more in zip(pages, METADATA, strict=True)
        ]
        self.put(made, *pages)
        for filter in FILTERS:
            conditions = parse_filter(filter)
            expected = {stored.page.id for stored in pages if matches(conditions, stored)}
            assert {stored.page.id for stored in made.pages(filter)} == expected, filter
            assert set(ids(made.query(self.rows(1)[0], k=9, filter=filter))) == expected, filter
            assert made.count(filter) == len(expected), filter

    def test_filters_that_make_no_sense_are_refused(self, made):
        self.put(made, stored_page("p1"))
        for filter in NONSENSE:
            for use in (
                lambda filter: made.count(filter),
                lambda filter: list(made.pages(filter)),
                lambda filter: made.query(self.rows(1)[0], k=1, filter=filter),
            ):
                with pytest.raises(InputError) as caught:
                    use(filter)
                assert "\n" not in str(caught.value)

    def test_a_tuple_of_filters_is_for_what_all_match(self, made):
        self.put(made, *[stored_page(f"p{n}", number=n, metadata={"year": 2020 + n}) for n in range(1, 5)])
        both = ({"page_number": {"gt": 1}}, {"year": {"lt": 2024}})
        assert {stored.page.id for stored in made.pages(both)} == {"p2", "p3"}
        assert made.count((*both, None)) == 2

    def test_texts_come_when_they_are_asked_for(self, made):
        self.put(made, stored_page("p1", text="apples"), stored_page("p2", number=2, text="pears"))
        assert sorted(stored.page.text for stored in made.pages(texts=True)) == ["apples", "pears"]
        (found,) = made.pages({"page_number": 2}, texts=True)
        assert (found.page.id, found.page.text) == ("p2", "pears")

    def test_vectors_come_back_with_their_direction(self, made):
        rows = self.put(made, stored_page("p1"), stored_page("p2", number=2))
        found = made.vectors(["p2", "p9", "p1"])
        assert found.keys() == {"p1", "p2"}
        assert {found[name].dtype for name in found} == {np.dtype(np.float32)}
        np.testing.assert_allclose([unit(found["p1"]), unit(found["p2"])], unit(rows), atol=1e-5)
        assert made.vectors([]) == {}

    # ---- queries

    def test_the_nearest_come_first_with_their_cosines(self, made):
        rows = np.random.default_rng(1).standard_normal((30, self.dimensions)).astype(np.float32)  # of any length
        made.put([stored_page(f"p{n}", number=n + 1) for n in range(30)], list(rows))
        query = self.rows(1, seed=2)[0] * 7
        cosines = unit(rows) @ unit(query)
        order = np.argsort(-cosines)
        for k in (1, 10, 30, 99):
            found = made.query(query, k=k)
            assert ids(found) == [f"p{n}" for n in order[:k]]
            np.testing.assert_allclose([score for _, score in found], cosines[order[:k]], atol=1e-5)
        for row in rows:
            assert -1 <= made.query(-row, k=30)[-1][1] < made.query(row, k=1)[0][1] <= 1

    def test_equal_pages_come_in_one_order(self, made):
        made.put([stored_page(f"p{n}", number=n + 1) for n in range(12)], [self.rows(1)[0]] * 12)
        order = ids(made.query(self.rows(1)[0], k=12))
        assert sorted(order) == sorted(f"p{n}" for n in range(12))
        assert [ids(made.query(self.rows(1)[0], k=12)) for _ in range(3)] == [order] * 3

    def test_words_count_besides_the_vectors(self, made):
        words = ["pump", "the valve leaks", "seal", "pipe", "flange", "the"]
        pages = [stored_page(f"p{n}", number=n + 1, text=text) for n, text in enumerate(words)]
        rows = self.put(made, *pages)
        plain = ids(made.query(rows[0], k=6))
        last = plain[-1]
        word = words[int(last[1:])].split()[-1]
        fused = made.query(rows[0], k=6, words=f"where is the {word.upper()}?")
        assert ids(fused).index(last) < plain.index(last)
        assert sorted(ids(fused)) == sorted(plain)
        assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)
        assert made.query(rows[0], k=6, words="?!") == made.query(rows[0], k=6)
        assert set(ids(made.query(rows[0], k=6, words="valve", filter={"page_number": [1, 2]}))) == {"p0", "p1"}
        assert len(made.query(rows[0], k=2, words="valve")) == 2

    def token_pages(self, store, count: int = 40) -> list[np.ndarray]:
        vectors = [self.rows(3 + n % 5, seed=n).astype(np.float16) for n in range(count)]
        store.put([stored_page(f"p{n}", number=n + 1, text=f"word{n}") for n in range(count)], vectors)
        return vectors

    def test_token_vectors_are_compared_by_maxsim(self, made_for_tokens):
        vectors = self.token_pages(made_for_tokens)
        query = unit(vectors[7][:3].astype(np.float32) + 0.2 * self.rows(3, seed=99))
        exact = maxsim([query], vectors)[0]
        order = np.argsort(-exact)
        found = made_for_tokens.query(query, k=10, prefetch=len(vectors))
        assert ids(found) == [f"p{n}" for n in order[:10]]
        np.testing.assert_allclose([score for _, score in found], exact[order[:10]], atol=5e-3)
        assert made_for_tokens.query(query, k=10) == found  # the default is more than so few pages
        assert len(made_for_tokens.query(query, k=9, prefetch=1)) == 9  # never fewer than k
        assert made_for_tokens.query(query, k=99)[:10] == found
        some = made_for_tokens.query(query, k=9, prefetch=9, filter={"page_number": [4, 8, 31]})
        assert sorted(stored.page.number for stored, _ in some) == [4, 8, 31]
        fused = ids(made_for_tokens.query(query, k=3, words="word33"))
        assert set(fused[:2]) == {f"p{order[0]}", "p33"}

    def test_one_vector_finds_pages_of_token_vectors_by_their_mean(self, made_for_tokens):
        vectors = self.token_pages(made_for_tokens)
        (found, score), *_ = made_for_tokens.query(unit(vectors[7].astype(np.float32).mean(0)), k=3)
        assert (found.page.id, score) == ("p7", pytest.approx(1, abs=1e-3))

    def test_the_vector_of_token_vectors_is_their_mean(self, made_for_tokens):
        vectors = self.token_pages(made_for_tokens, count=3)
        mean = unit(vectors[1].astype(np.float32).mean(0))
        np.testing.assert_allclose(unit(made_for_tokens.vectors(["p1"])["p1"]), mean, atol=1e-3)

    def test_token_vectors_of_no_page(self, made_for_tokens):
        assert made_for_tokens.query(self.rows(3), k=3) == []
        assert made_for_tokens.read_record() == self.record

    def test_pages_of_token_vectors_are_replaced_and_removed(self, made_for_tokens):
        vectors = self.token_pages(made_for_tokens)
        made_for_tokens.put([stored_page("p7", number=8)], [vectors[8]])
        query = vectors[8].astype(np.float32)
        assert set(ids(made_for_tokens.query(query, k=2))) == {"p7", "p8"}
        assert made_for_tokens.remove(["p8"]) == 1
        assert ids(made_for_tokens.query(query, k=1)) == ["p7"]
        assert made_for_tokens.count() == len(vectors) - 1

    # ---- threads

    def test_threads_share_it(self, made):
        def work(part: int) -> int:
            for n in range(10):
                self.put(made, stored_page(f"{part}-{n}", source=f"{part}.pdf"), seed=part)
                self.put(made, stored_page("shared", source=f"{part}.pdf"))
                assert made.query(self.rows(1)[0], k=3)
            return made.remove([f"{part}-0"])

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(work, range(6))) == [1] * 6
        assert made.count() == 6 * 9 + 1
        assert set(made.get(["shared"])["shared"].sources) == {f"{part}.pdf" for part in range(6)}
