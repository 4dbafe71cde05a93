"""The published compressor suite: over NemotronRerank, and over CrossEncoderReranker to show where that differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
import requests
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_nvidia_ai_endpoints import NVIDIARerank

from langchain_nemotron_rag import NemotronRerank
from langchain_nemotron_rag.testing import CompressorStandardTests
from nemotron_rag import CATALOG, Passage
from nemotron_rag.testing import FakeReranker
from support.langchain import ScriptedReranker

STARTER = "starter-rerank-vl"


class TestNemotronRerank(CompressorStandardTests):
    reads_images = True

    def make(self, **fields: Any) -> NemotronRerank:
        return NemotronRerank(model=FakeReranker(), **fields)

    def make_scoring(self, scores: Sequence[float]) -> NemotronRerank:
        return NemotronRerank(model=ScriptedReranker(scores))


class TestNemotronRerankWithAnotherKey(TestNemotronRerank):
    score_key = "score"

    def make(self, **fields: Any) -> NemotronRerank:
        return super().make(score_key="score", **fields)


@pytest.mark.skipif(STARTER not in {spec.id for spec in CATALOG}, reason=f"{STARTER} is not in the catalog yet")
class TestStarter(CompressorStandardTests):
    reads_images = True

    def make(self, **fields: Any) -> NemotronRerank:
        return NemotronRerank(model=STARTER, device="cpu", **fields)


class _Words(BaseCrossEncoder):
    """A cross-encoder with the scores of our fake."""

    def __init__(self, scores: Sequence[float] | None = None) -> None:
        self.scores = scores

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        if self.scores is not None:
            return list(self.scores)
        return [float(FakeReranker().score(query, [Passage(text)])[0]) for query, text in text_pairs]


class _AskedAboutNothing(_Words):
    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        assert text_pairs, "the model was asked about an empty list"
        return super().score(text_pairs)


class TestCrossEncoderReranker(CompressorStandardTests):
    """langchain-classic's own; should a departure be repaired there, this fails and tells us."""

    departures: ClassVar[Mapping[str, str]] = {
        "test_scores_are_floats_and_descend": "writes no score",
        "test_an_older_score_is_replaced": "writes no score",
        "test_inputs_are_not_changed": "returns the caller's own documents",
        "test_no_documents_do_not_ask_the_model": "calls the model with an empty list",
        "test_top_n_none_returns_all": "top_n=None is refused",
        "test_negative_top_n_is_refused": "top_n=-1 drops the last document",
        "test_a_score_that_is_no_number_is_never_first": "sorts by scores that may be NaN or infinite",
        "test_has_a_run_of_its_own_in_traces": "invisible in traces",
        "test_an_error_ends_its_run": "invisible in traces",
    }

    def make(self, **fields: Any) -> CrossEncoderReranker:
        return CrossEncoderReranker(model=_Words(), **fields)

    def make_scoring(self, scores: Sequence[float]) -> CrossEncoderReranker:
        return CrossEncoderReranker(model=_AskedAboutNothing(scores), top_n=10)


class TestNVIDIARerank(CompressorStandardTests):
    """NVIDIA's own, for its hosted models; its server is a function here that scores as our fake does."""

    reads_images = True
    departures: ClassVar[Mapping[str, str]] = {
        "test_unknown_fields_are_refused": "a misspelt field is ignored",
        "test_top_n_none_returns_all": "top_n=None is refused",
        "test_a_score_that_is_no_number_is_never_first": "passes on whatever the server says",
        "test_has_a_run_of_its_own_in_traces": "invisible in traces",
        "test_an_error_ends_its_run": "invisible in traces",
        "test_images_stay_out_of_traces": "invisible in traces",
    }

    @pytest.mark.skip(reason="its async calls go through aiohttp, which the stand-in server does not answer")
    def test_async_equals_sync(self): ...

    @pytest.mark.skip(reason="its async calls go through aiohttp, which the stand-in server does not answer")
    def test_concurrent_calls_equal_serial_ones(self): ...

    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch):
        self._scripted: Sequence[float] | None = None

        def send(_session, request, **_options):
            body = json.loads(request.body)
            passages = [Passage(passage.get("text", ""), passage.get("image")) for passage in body["passages"]]
            scores = self._scripted or FakeReranker().score(body["query"]["text"], passages).tolist()
            ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
            answer = requests.Response()
            answer.status_code, answer.request, answer.url = 200, request, request.url
            rankings = [{"index": index, "logit": score} for index, score in ranked]
            answer._content = json.dumps({"rankings": rankings}).encode()
            return answer

        monkeypatch.setattr(requests.Session, "send", send)

    def make(self, **fields: Any) -> NVIDIARerank:
        return NVIDIARerank(
            model="nvidia/llama-nemotron-rerank-vl-1b-v2", base_url="http://nim.invalid/v1", api_key="none", **fields
        )

    def make_scoring(self, scores: Sequence[float]) -> NVIDIARerank:
        self._scripted = list(scores)
        return self.make(top_n=10)


def test_a_subclass_that_says_nothing_is_told_what_to_do():
    class TestForgetful(CompressorStandardTests):
        pass

    with pytest.raises(NotImplementedError, match=r"TestForgetful must say how .* override make\(\)"):
        TestForgetful().make()


def test_departures_must_name_tests():
    with pytest.raises(TypeError, match="tests that do not exist: test_typo"):
        type("TestTypo", (CompressorStandardTests,), {"departures": {"test_typo": "because"}})
