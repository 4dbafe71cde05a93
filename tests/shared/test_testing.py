"""The shipped fakes meet the same contracts as the real models."""

from __future__ import annotations

import pytest

from contracts import EmbedderContract, RerankerContract
from nemotron_rag.testing import FakeEmbedder, FakeReranker


class TestFakeEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self):
        return FakeEmbedder()


class TestFakeReranker(RerankerContract):
    @pytest.fixture
    def reranker(self):
        return FakeReranker()
