"""The shipped fakes meet the same contracts as the real models."""

from __future__ import annotations

import doctest

import pytest

from nemotron_rag import testing
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.contracts import EmbedderContract, MultiVectorEmbedderContract, RerankerContract


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


def test_examples():
    failed, tried = doctest.testmod(testing)
    assert (failed, tried > 5) == (0, True)
