"""A test suite for LangChain document compressors that rerank, yours as well as ours.

LangChain publishes standard tests for embeddings, stores and retrievers, but none for compressors. Needs pytest and
pytest-asyncio.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import inspect
import io
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.documents import BaseDocumentCompressor, Document
from PIL import Image
from pydantic import ValidationError

__all__ = ["CompressorStandardTests"]

QUERY = "red apples"
WORST_FIRST = ("blue whales", "green apples", "red apples")


class CompressorStandardTests:
    """What a chain may rely on in any reranking compressor. Subclass it and say how yours is made.

    The model must find "red apples" more relevant to the query "red apples" than "green apples", and that more than
    "blue whales". Where a compressor is meant to depart, say so in `departures`.

    Example:
        >>> from nemotron_rag.testing import FakeReranker
        >>> from langchain_nemotron_rag import NemotronRerank
        >>> class TestMine(CompressorStandardTests):
        ...     def make(self, **fields):
        ...         return NemotronRerank(model=FakeReranker(), **fields)
    """

    score_key = "relevance_score"
    """Where in the metadata the score is."""

    reads_images = False
    """Whether images in ``metadata["image"]`` (data URIs) are ranked."""

    tolerance = 1e-4
    """By how much scores may depend on what else was in the model's batch."""

    departures: ClassVar[Mapping[str, str]] = {}
    """Tests that your compressor is known to fail, and why; one that passes after all fails."""

    def __init_subclass__(cls) -> None:
        unknown = [name for name in cls.departures if not hasattr(cls, name)]
        if unknown:
            raise TypeError(f"departures of {cls.__name__} names tests that do not exist: {', '.join(unknown)}")

    @pytest.fixture(autouse=True)
    def _expect_departures(self, request: pytest.FixtureRequest) -> None:
        reason = self.departures.get(request.node.originalname)
        if reason:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    def make(self, **fields: Any) -> BaseDocumentCompressor:
        """Your compressor; `fields` may hold `top_n`."""
        raise NotImplementedError(f"{type(self).__name__} must say how the compressor is made: override make()")

    def make_scoring(self, scores: Sequence[float]) -> BaseDocumentCompressor:
        """Your compressor over a model that gives the documents these scores; skips what needs it if you have none."""
        pytest.skip("make_scoring() is not overridden")

    @pytest.fixture
    def compressor(self) -> BaseDocumentCompressor:
        """Your compressor, returning all documents."""
        return self.make(top_n=10)

    def test_parameters_have_the_names_that_callers_use(self, compressor: BaseDocumentCompressor) -> None:
        """`DocumentCompressorPipeline` looks for `callbacks`; others pass by position."""
        for method in (compressor.compress_documents, compressor.acompress_documents):
            assert list(inspect.signature(method).parameters)[:3] == ["documents", "query", "callbacks"]

    def test_unknown_fields_are_refused(self) -> None:
        """A misspelt setting must not be ignored."""
        with pytest.raises((ValidationError, TypeError)):
            self.make(no_such_field=1)

    def test_most_relevant_first(self, compressor: BaseDocumentCompressor) -> None:
        """Ranking is the point."""
        assert _texts(compressor.compress_documents(_documents(), QUERY)) == list(reversed(WORST_FIRST))

    def test_scores_are_floats_and_descend(self, compressor: BaseDocumentCompressor) -> None:
        """Each document carries its score, of JSON's type."""
        scores = self._scores(compressor.compress_documents(_documents(), QUERY))
        assert all(type(score) is float for score in scores)
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > scores[-1]

    def test_an_older_score_is_replaced(self, compressor: BaseDocumentCompressor) -> None:
        """Documents may have been reranked before."""
        stale = [Document(text, metadata={self.score_key: 123.0}) for text in WORST_FIRST]
        fresh = self._scores(compressor.compress_documents(_documents(), QUERY))
        assert self._scores(compressor.compress_documents(stale, QUERY)) == fresh

    def test_inputs_are_not_changed(self, compressor: BaseDocumentCompressor) -> None:
        """A retriever's cache may hold the same objects; nor does whoever changes a result change what went in."""
        documents = _documents()
        before = copy.deepcopy(documents)
        results = compressor.compress_documents(documents, QUERY)
        assert documents == before
        assert not {id(document.metadata) for document in results} & {id(document.metadata) for document in documents}

    def test_id_text_and_metadata_are_kept(self, compressor: BaseDocumentCompressor) -> None:
        """Stores and evaluation need the id; citations need the metadata."""
        by_id = {document.id: document for document in _documents()}
        for result in compressor.compress_documents(_documents(), QUERY):
            assert result.id in by_id
            original = by_id[result.id]
            assert result.page_content == original.page_content
            assert {key: result.metadata[key] for key in original.metadata} == original.metadata

    def test_no_documents_do_not_ask_the_model(self) -> None:
        """An empty list must not load a model or pay for a call."""
        assert list(self.make_scoring([]).compress_documents([], QUERY)) == []

    def test_any_sequence_is_taken(self, compressor: BaseDocumentCompressor) -> None:
        """The interface says `Sequence`, not `list`; and retrievers may find nothing."""
        assert len(compressor.compress_documents(tuple(_documents()), QUERY)) == len(WORST_FIRST)
        assert list(compressor.compress_documents([], QUERY)) == []

    def test_duplicates_are_kept(self, compressor: BaseDocumentCompressor) -> None:
        """Whoever wants them gone says so."""
        assert _texts(compressor.compress_documents([Document(QUERY), Document(QUERY)], QUERY)) == [QUERY, QUERY]

    def test_equal_scores_keep_the_order(self, compressor: BaseDocumentCompressor) -> None:
        """The first stage's order decides ties."""
        documents = [Document(QUERY, id=str(number)) for number in range(4)]
        assert [found.id for found in compressor.compress_documents(documents, QUERY)] == ["0", "1", "2", "3"]

    @pytest.mark.parametrize(("top_n", "returned"), [(0, 0), (1, 1), (2, 2), (100, 3)])
    def test_top_n(self, top_n: int, returned: int) -> None:
        """At most so many, the best ones."""
        results = _texts(self.make(top_n=top_n).compress_documents(_documents(), QUERY))
        assert results == list(reversed(WORST_FIRST))[:returned]

    def test_top_n_none_returns_all(self) -> None:
        """None means no limit."""
        assert len(self.make(top_n=None).compress_documents(_documents(), QUERY)) == len(WORST_FIRST)

    def test_negative_top_n_is_refused(self) -> None:
        """Not silently "all but the last"."""
        with pytest.raises(ValidationError):
            self.make(top_n=-1)

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_a_score_that_is_no_number_is_never_first(self, broken: float) -> None:
        """NaN compares false with everything and so upsets sorting."""
        documents = [Document("good"), Document("broken"), Document("best")]
        results = _texts(self.make_scoring([1.0, broken, 2.0]).compress_documents(documents, QUERY))
        assert [text for text in results if text != "broken"] == ["best", "good"]
        assert results[0] == "best"

    async def test_async_equals_sync(self, compressor: BaseDocumentCompressor) -> None:
        """Same order, same scores."""
        found = await compressor.acompress_documents(_documents(), QUERY)
        self._assert_same(found, compressor.compress_documents(_documents(), QUERY))

    async def test_concurrent_calls_equal_serial_ones(self, compressor: BaseDocumentCompressor) -> None:
        """A server ranks for many users at once."""
        queries = [QUERY, "green apples", "blue whales", "whales"] * 4
        together = await asyncio.gather(*(compressor.acompress_documents(_documents(), query) for query in queries))
        for query, found in zip(queries, together, strict=True):
            self._assert_same(found, compressor.compress_documents(_documents(), query))

    def test_copies_and_pickles(self, compressor: BaseDocumentCompressor) -> None:
        """Chains are copied, and sent to other processes."""
        expected = compressor.compress_documents(_documents(), QUERY)
        pickled = pickle.loads(pickle.dumps(compressor))  # noqa: S301  # made by ourselves
        for other in (pickled, copy.deepcopy(compressor), compressor.model_copy()):
            self._assert_same(other.compress_documents(_documents(), QUERY), expected)

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_has_a_run_of_its_own_in_traces(self, compressor: BaseDocumentCompressor, asynchronous: bool) -> None:
        """Below its caller's, in sync and async, and closed."""
        recorder = _Recorder()
        await _rank(compressor, _documents(), recorder, asynchronous)
        assert [entry["parent"] for entry in recorder.started] == [recorder.parent]
        assert len(recorder.ended) == 1

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_an_error_ends_its_run(self, compressor: BaseDocumentCompressor, asynchronous: bool) -> None:
        """A trace must show what failed."""
        recorder = _Recorder()
        broken: Any = [*_documents(), object()]
        with pytest.raises((AttributeError, TypeError, ValueError)):
            await _rank(compressor, broken, recorder, asynchronous)
        assert len(recorder.failed) == 1

    @pytest.fixture
    def image(self) -> str:
        """A data URI, for compressors that read images."""
        if not self.reads_images:
            pytest.skip("reads_images is False")
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

    def test_images_are_ranked(self, compressor: BaseDocumentCompressor, image: str) -> None:
        """An image beside a text, and an image alone."""
        images = [Document("", id="alone", metadata={"image": image}), Document(QUERY, id="text")]
        images.append(Document(QUERY, id="both", metadata={"image": image}))
        results = compressor.compress_documents(images, QUERY)
        assert sorted(str(found.id) for found in results) == ["alone", "both", "text"]
        assert all(math.isfinite(score) for score in self._scores(results))
        assert [found.metadata.get("image") is None for found in results].count(True) == 1

    async def test_images_stay_out_of_traces(self, compressor: BaseDocumentCompressor, image: str) -> None:
        """Megabytes of base64 in every trace are refused by tracing services."""
        recorder = _Recorder()
        await _rank(compressor, [Document(QUERY, metadata={"image": image})], recorder, asynchronous=False)
        assert recorder.started
        assert "base64" not in json.dumps([recorder.started, recorder.ended], default=str)

    def _assert_same(self, found: Sequence[Document], expected: Sequence[Document]) -> None:
        assert [document.id for document in found] == [document.id for document in expected]
        for one, other in zip(found, expected, strict=True):
            scores = [document.metadata.get(self.score_key, 0.0) for document in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=self.tolerance)

    def _scores(self, documents: Sequence[Document]) -> list[float]:
        return [document.metadata[self.score_key] for document in documents]


class _Recorder(BaseCallbackHandler):
    """What a tracer hears of chain runs."""

    def __init__(self) -> None:
        self.parent = uuid4()
        self.started: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self.failed: list[str] = []

    def on_chain_start(self, serialized: Any, inputs: Any, *, parent_run_id: Any = None, **kwargs: Any) -> None:
        self.started.append({"inputs": inputs, "parent": parent_run_id, "name": kwargs.get("name")})

    def on_chain_end(self, outputs: Any, **_: Any) -> None:
        self.ended.append(outputs)

    def on_chain_error(self, error: BaseException, **_: Any) -> None:
        self.failed.append(str(error))


async def _rank(
    compressor: BaseDocumentCompressor, documents: list[Document], recorder: _Recorder, asynchronous: bool
) -> None:
    manager = CallbackManager([recorder], parent_run_id=recorder.parent)
    if asynchronous:
        await compressor.acompress_documents(documents, QUERY, callbacks=manager)
    else:
        compressor.compress_documents(documents, QUERY, callbacks=manager)


def _documents() -> list[Document]:
    return [
        Document(text, id=f"id-{number}", metadata={"source": f"{number}.pdf", "nested": {"tags": [number]}})
        for number, text in enumerate(WORST_FIRST)
    ]


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]
