"""The demo finds its pages with the shipped weights, pictures and text together, and not with random ones.

One tile a page instead of six: the tower's work is the same for both, and six of them would take minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nemotron_rag import demo, load_embedder, load_reranker
from starter_support import SHIPPED, random_twin


@pytest.fixture
def ranks(monkeypatch, tmp_path):
    """Runs the whole demo with other checkpoints; tells at which rank each question's page was found."""

    def run(embedder: Path, reranker: Path) -> list[int | None]:
        monkeypatch.setattr(demo, "load_embedder", lambda _: load_embedder(embedder, device="cpu", max_input_tiles=1))
        monkeypatch.setattr(demo, "load_reranker", lambda _: load_reranker(reranker, device="cpu", max_input_tiles=1))
        result = demo.run_demo(demo.find_pdfs(), out=tmp_path / "out", progress=False)
        assert result.added.added == 47
        assert result.added.failures == ()
        return [answer.rank for answer in result.answers]

    return run


def test_the_shipped_weights_put_every_page_first(ranks):
    assert ranks(SHIPPED / "starter-embed-vl", SHIPPED / "starter-rerank-vl") == [1, 1, 1, 1, 1]


def test_random_weights_do_not_pass(ranks, tmp_path):
    found = ranks(random_twin("starter-embed-vl", tmp_path), random_twin("starter-rerank-vl", tmp_path))
    assert found.count(1) <= 1
