"""The shipped fakes meet the same contracts as the real models."""

from __future__ import annotations

import pytest

from contracts import EmbedderContract, MultiVectorEmbedderContract, RerankerContract
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker


class TestFakeEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self):
        return FakeEmbedder()


class TestFakeMultiVectorEmbedder(MultiVectorEmbedderContract):
    @pytest.fixture
    def embedder(self):
        return FakeMultiVectorEmbedder()


class TestFakeReranker(RerankerContract):
    @pytest.fixture
    def reranker(self):
        return FakeReranker()
