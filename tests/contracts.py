"""What every implementation of a protocol must do; subclass with an ``embedder`` or ``reranker`` fixture.

A model that reads no pictures sets ``passages`` to texts.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nemotron_rag.errors import ClosedError
from nemotron_rag.protocols import Embedder, MultiVectorEmbedder, Reranker
from nemotron_rag.types import Passage

TEXTS = ["Tornadoes form in thunderstorms.", "Bread needs flour, water and salt.", "", "x", "Tornado " * 40]


def picture(seed: int = 0, size: tuple[int, int] = (90, 120)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((10 + seed, 20, 60, 70 + seed), fill=(200, 30 * seed % 255, 10))
    return image


def mixed_passages() -> list[Passage]:
    return [
        *[Passage(text) for text in TEXTS],
        Passage(image=picture(1)),
        Passage("caption", picture(2)),
        Passage(image=picture(3, (40, 300))),
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
