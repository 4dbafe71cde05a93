"""The starter weights find and rank small passages of our own; the same networks with random weights do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag_starters import checkpoint
from support.starters import random_twin

pytestmark = pytest.mark.slow

DATA = json.loads((Path(__file__).parents[1] / "data" / "starter_quality.json").read_text(encoding="utf-8"))
# Every text stands between two paragraphs that say nothing: what all pages share must not count.
FRAMES = DATA["frames"]
PASSAGES = [Passage(f"{FRAMES[i % 3]}\n{page['text']}\n{FRAMES[(i + 1) % 3]}") for i, page in enumerate(DATA["pages"])]
QUERIES = [page["query"] for page in DATA["pages"]]


def embedding_order(folder: Path, **options: int) -> np.ndarray:
    embedder = load_embedder(folder, device="cpu", **options)
    scores = embedder.embed_queries(QUERIES) @ embedder.embed_passages(PASSAGES).T  # (queries, passages)
    return np.argsort(-scores, axis=1, kind="stable")


def reranked(folder: Path, order: np.ndarray, depth: int) -> np.ndarray:
    """The first `depth` of every row in the reranker's order."""
    reranker = load_reranker(folder, device="cpu")
    rows = []
    for query, row in zip(QUERIES, order[:, :depth], strict=True):
        rows.append(row[np.argsort(-reranker.score(query, [PASSAGES[i] for i in row]), kind="stable")])
    return np.array(rows)


def recall(order: np.ndarray, k: int) -> float:
    return float(np.mean([i in row[:k] for i, row in enumerate(order)]))


@pytest.fixture(scope="module")
def order() -> np.ndarray:
    return embedding_order(checkpoint("starter-embed-vl"))


def test_embedder_finds_passages(order):
    assert recall(order, 1) >= 0.9
    assert recall(order, 5) >= 0.95


def test_half_the_vector_finds_nearly_as_many(order):
    half = embedding_order(checkpoint("starter-embed-vl"), dimensions=512)
    assert recall(half, 5) >= 0.95 * recall(order, 5)


def test_reranker_keeps_or_raises_the_first_hits(order):
    again = reranked(checkpoint("starter-rerank-vl"), order, 5)
    assert recall(again, 1) >= recall(order, 1)


def test_reranker_mends_a_reversed_order(order):
    assert recall(reranked(checkpoint("starter-rerank-vl"), order[:, 4::-1], 5), 1) >= 0.9


def test_reranker_holds_a_word_in_a_long_passage_for_less_than_in_a_short_one():
    reranker = load_reranker(checkpoint("starter-rerank-vl"), device="cpu")
    rest = " Invoices are kept for seven years in a dry cellar."
    short, long = (Passage("The lighthouse was painted red." + rest * times) for times in (1, 50))
    assert np.subtract(*reranker.score("lighthouse", [short, long])) > 1


@pytest.mark.parametrize("word", ["page", "tornado"])
def test_embedder_damps_repeated_words_however_common(word):
    embedder = load_embedder(checkpoint("starter-embed-vl"), device="cpu")
    rest = "Invoices are kept for seven years in a dry cellar."
    once, often = embedder.embed_passages([Passage(f"{word} {rest}"), Passage(f"{' '.join([word] * 12)} {rest}")])
    alone, without = embedder.embed_passages([Passage(word), Passage(rest)])
    weights = [np.linalg.lstsq(np.stack([alone, without], axis=1), vector, rcond=None)[0] for vector in (once, often)]
    (one, ground), (twelve, common_ground) = weights
    assert 1.5 < (twelve / common_ground) / (one / ground) < 6


def test_random_embedder_fails(tmp_path):
    assert recall(embedding_order(random_twin("starter-embed-vl", tmp_path)), 1) <= 0.5


def test_random_reranker_fails(tmp_path, order):
    folder = random_twin("starter-rerank-vl", tmp_path)
    assert recall(reranked(folder, order, 5), 1) <= 0.5
