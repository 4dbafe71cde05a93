"""The demo finds its pages with the starter weights, images and text together, and not with random ones.

The random weights get one tile a page instead of six, to save time: they read as little in either. They find by vectors
and rank alone: some of the queries share their words with the page, which helps the search whatever the weights are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron_rag import load_embedder, load_reranker
from nemotron_rag.cli import demonstration as demo
from nemotron_rag_starters import checkpoint
from support.starters import random_twin

pytestmark = pytest.mark.slow


@pytest.fixture
def ranks(monkeypatch, tmp_path):
    """Runs the whole demo with other checkpoints; tells at which rank each query's page was found."""

    def run(embedder: Path, reranker: Path, *, tiles: int) -> list[int | None]:
        options = {"device": "cpu", "max_input_tiles": tiles}
        monkeypatch.setattr(demo, "load_embedder", lambda _: load_embedder(embedder, **options))
        monkeypatch.setattr(demo, "load_reranker", lambda _: load_reranker(reranker, **options))
        result = demo.run_demo(demo.find_pdfs(), out=tmp_path / "out", progress=False)
        assert result.added.added == 47
        assert result.added.failures == ()
        return [answer.rank for answer in result.answers]

    return run


@pytest.mark.timeout(600)
def test_the_starter_weights_put_every_page_first(ranks):
    assert ranks(checkpoint("starter-embed-vl"), checkpoint("starter-rerank-vl"), tiles=6) == [1, 1, 1, 1, 1]


def test_random_weights_do_not_pass(ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_MODE", "dense")
    monkeypatch.setattr(demo, "_FUSE", False)
    embedder, reranker = random_twin("starter-embed-vl", tmp_path), random_twin("starter-rerank-vl", tmp_path)
    found = ranks(embedder, reranker, tiles=1)
    assert found.count(1) <= 1
