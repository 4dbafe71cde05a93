"""NemotronRerank by itself: what it scores, returns, reports, refuses and leaves alone."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, MediaResource, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode

from llama_index.embeddings.nemotron_rag import PageNode
from llama_index.postprocessor.nemotron_rag_rerank import KeepPageText, NemotronRerank
from nemotron_rag.errors import ImageError, InputError, NemotronRagError, NonFiniteError, UnknownModelError
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.llama_index import FORMS, RedReranker, b64, debug_manager, image_nodes, listening, png_file

ASK = "revenue"


def scored(*nodes, score=0.5):
    return [NodeWithScore(node=node, score=score) for node in nodes]


def texts(*values):
    return scored(*[TextNode(text=value) for value in values])


class WordsOnly(FakeReranker):
    query_modalities = ("text",)


class Constant(FakeReranker):
    def __init__(self, *scores):
        super().__init__()
        self.scores = scores

    def score(self, query, passages):
        return np.array(self.scores, dtype=np.float32)


def test_class():
    assert BaseNodePostprocessor in NemotronRerank.__mro__
    assert NemotronRerank.class_name() == "NemotronRerank"
    assert isinstance(NemotronRerank(FakeReranker()), BaseNodePostprocessor)


@pytest.mark.parametrize("form", FORMS)
def test_image_and_text_of_every_form_are_scored_together(form, tmp_path):
    reranker = NemotronRerank(RedReranker())
    node = image_nodes(tmp_path, text="the revenue")[form]
    both, only_image = (image_nodes(tmp_path, text=text)[form] for text in ("the revenue", ""))
    results = reranker.postprocess_nodes(scored(node, TextNode(text="revenue"), only_image, both), query_str=ASK)
    assert [round(item.score, 1) for item in results] == [11.0, 11.0, 10.0, 1.0]
    assert [item.node_id for item in results[2:]] == [results[2].node_id, only_image.node_id]
    assert all(type(item.score) is float for item in results)


@pytest.mark.parametrize(("top_n", "expected"), [(None, 7), (0, 0), (3, 3), (100, 7)])
def test_top_n(top_n, expected):
    assert (
        len(NemotronRerank(FakeReranker(), top_n=top_n).postprocess_nodes(texts(*"abcdefg"), query_str="a")) == expected
    )


def test_default_top_n():
    assert len(NemotronRerank(FakeReranker()).postprocess_nodes(texts(*"abcdefg"), query_str="a")) == 5


def test_all_nodes_are_scored_in_one_call():
    model = RedReranker()
    nodes = scored(*[ImageNode(image=b64(red)) for red in (20, 250, 100, 200, 60)])
    results = NemotronRerank(model, top_n=None).postprocess_nodes(nodes, query_str="red")
    places = {item.node_id: i for i, item in enumerate(nodes)}
    assert [places[item.node_id] for item in results] == [1, 3, 2, 4, 0]
    assert model.calls == [5]


def test_equal_scores_keep_the_order_and_none_scores_are_no_problem():
    nodes = [*scored(TextNode(text="a"), score=None), *texts("b", "c")]
    results = NemotronRerank(Constant(-1, -1, -1)).postprocess_nodes(nodes, query_str="x")
    assert [item.node_id for item in results] == [item.node_id for item in nodes]


def test_threshold_and_transform():
    nodes = texts("low", "high", "middle")
    raw = NemotronRerank(Constant(-300, 4, -1), score_threshold=-2.0).postprocess_nodes(nodes, query_str="x")
    assert [item.score for item in raw] == [4.0, -1.0]
    model = Constant(-300, 4, -1)
    share = NemotronRerank(model, score_transform="sigmoid", score_threshold=0.3).postprocess_nodes(
        nodes, query_str="x"
    )
    assert [item.score for item in share] == [pytest.approx(1 / (1 + np.exp(-4)))]
    doubled = NemotronRerank(model, score_transform=lambda logit: 2 * logit, score_threshold=-2.0)
    assert [item.score for item in doubled.postprocess_nodes(nodes, query_str="x")] == [8.0, -2.0]
    every = NemotronRerank(Constant(-3000, 0, 3000), score_transform="sigmoid").postprocess_nodes(nodes, query_str="x")
    assert [item.score for item in every] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("settings", [{}, {"keep_retrieval_score": True}, {"on_image_error": "text"}])
def test_nothing_of_the_callers_changes(settings, tmp_path):
    nodes = scored(*image_nodes(tmp_path, text="revenue").values(), TextNode(text="a", metadata={"page": 1}))
    if "on_image_error" in settings:
        nodes += scored(ImageNode(image_path="/gone.png", text="a"))
    before = copy.deepcopy(nodes)
    identities = [id(item.node) for item in nodes]
    results = NemotronRerank(RedReranker(), top_n=None, **settings).postprocess_nodes(nodes, query_str=ASK)
    for item in results:
        item.score = -99.0
    assert nodes == before
    assert [id(item.node) for item in nodes] == identities
    assert [item.node.metadata for item in nodes] == [item.node.metadata for item in before]


@pytest.mark.parametrize(
    "node",
    [
        TextNode(text="revenue"),
        ImageNode(text="revenue", image=b64()),
        Node(text_resource=MediaResource(text="revenue")),
    ],
)
def test_the_retrieval_score_is_kept_out_of_every_prompt(node):
    reranker = NemotronRerank(RedReranker(), keep_retrieval_score=True)
    (first,) = reranker.postprocess_nodes(scored(node, score=0.25), query_str=ASK)
    (second,) = reranker.postprocess_nodes([first], query_str=ASK)
    for item in (first, second):
        assert item.node.metadata["retrieval_score"] == 0.25
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert "retrieval_score" not in item.node.get_content(mode)
            assert "retrieval_score" not in str(item.node.get_content_blocks(mode))
        assert item.node.excluded_llm_metadata_keys == ["retrieval_score"]
    assert "retrieval_score" not in node.metadata


def test_text_reaches_the_llm_beside_the_image():
    nodes = scored(ImageNode(text="revenue", image=b64()))
    (page,) = NemotronRerank(RedReranker()).postprocess_nodes(nodes, query_str=ASK)
    assert type(page.node) is PageNode
    (plain,) = NemotronRerank(RedReranker(), text_for_llm=False).postprocess_nodes(nodes, query_str=ASK)
    assert plain.node is nodes[0].node
    (kept,) = KeepPageText().postprocess_nodes(nodes)
    assert (type(kept.node), kept.score) == (PageNode, 0.5)


def test_missing_images_by_policy(caplog):
    gone = ImageNode(text="revenue", image_path="/gone/page.png")
    nodes = scored(TextNode(text="a"), gone, ImageNode(image=b64()))
    with pytest.raises(ImageError, match=f"node 1 .{gone.node_id}.*gone/page.png.*on_image_error="):
        NemotronRerank(RedReranker(), on_image_error="raise").postprocess_nodes(nodes, query_str=ASK)
    skipped = NemotronRerank(RedReranker(), on_image_error="skip").postprocess_nodes(nodes, query_str=ASK)
    assert [round(item.score) for item in skipped] == [1, 0]
    for settings in ({}, {"on_image_error": "text"}):
        read = NemotronRerank(RedReranker(), **settings).postprocess_nodes(nodes, query_str=ASK)
        order = [(item.node_id == gone.node_id, round(item.score)) for item in read]
        assert order == [(True, 10), (False, 1), (False, 0)]
        assert [block.text for block in read[0].node.get_content_blocks()] == ["revenue"]
    assert "/gone/page.png" in caplog.text


def test_all_images_missing_is_an_empty_result():
    model = RedReranker()
    nodes = scored(ImageNode(image_path="/gone.png"))
    assert NemotronRerank(model, on_image_error="skip").postprocess_nodes(nodes, query_str=ASK) == []


async def test_nodes_without_anything_to_score_come_last_without_a_score():
    empty, gone = ImageNode(metadata={"page": 1}), ImageNode(image_path="/gone.png")
    nodes = scored(empty, TextNode(text="revenue"), gone, TextNode(text="a"))
    expected = [(nodes[1].node_id, 10.0), (nodes[3].node_id, 0.0), (empty.node_id, None), (gone.node_id, None)]
    reranker = NemotronRerank(RedReranker())
    for results in (
        reranker.postprocess_nodes(nodes, query_str=ASK),
        await reranker.apostprocess_nodes(nodes, query_str=ASK),
    ):
        assert [(item.node_id, item.score) for item in results] == expected
    skipped = NemotronRerank(RedReranker(), on_unscored="skip").postprocess_nodes(nodes, query_str=ASK)
    assert [item.score for item in skipped] == [10.0, 0.0]
    above = NemotronRerank(RedReranker(), score_threshold=0.0).postprocess_nodes(nodes, query_str=ASK)
    assert [item.score for item in above] == [10.0, 0.0]
    with pytest.raises(InputError, match=f"neither text nor image in node 0 .{empty.node_id}"):
        NemotronRerank(RedReranker(), on_unscored="raise").postprocess_nodes(nodes, query_str=ASK)


def test_access_settings_reach_the_images(tmp_path):
    nodes = scored(ImageNode(image_path=str(png_file(tmp_path))))
    with pytest.raises(ImageError, match="outside the allowed folders"):
        NemotronRerank(RedReranker(), image_roots=["/data"], on_image_error="raise").postprocess_nodes(
            nodes, query_str=ASK
        )


def test_queries():
    reranker = NemotronRerank(FakeReranker())
    with pytest.raises(ValueError, match="Missing query bundle"):
        reranker.postprocess_nodes(texts("a"))
    with pytest.raises(ValueError, match="Cannot specify both"):
        reranker.postprocess_nodes(texts("a"), QueryBundle("a"), query_str="a")
    reader = NemotronRerank(WordsOnly())
    with pytest.raises(InputError, match="empty query_str with image_path='/a.png'.*text queries"):
        reader.postprocess_nodes(texts("a"), QueryBundle("", image_path="/a.png"))
    assert len(reader.postprocess_nodes(texts("a"), QueryBundle("a", image_path="/a.png"))) == 1


@pytest.mark.parametrize("use_async", [False, True])
def test_an_image_in_the_query_is_read_by_models_that_read_it(tmp_path, use_async):
    reranker = NemotronRerank(FakeReranker())
    wanted, other = png_file(tmp_path, 10), png_file(tmp_path, 200)
    nodes = scored(ImageNode(image_path=str(other), text="a"), ImageNode(image_path=str(wanted), text="b"))

    def ranked(query):
        if use_async:
            return asyncio.run(reranker.apostprocess_nodes(nodes, query_bundle=query))
        return reranker.postprocess_nodes(nodes, query_bundle=query)

    assert ranked(QueryBundle("", image_path=str(wanted)))[0].node.text == "b"
    assert [item.score for item in ranked(QueryBundle("a", image_path=str(wanted)))] == [0.0, 0.0]  # half of each
    with pytest.raises(ImageError, match=r"gone\.png"):
        ranked(QueryBundle("a", image_path="/gone.png"))


async def test_async_queries():
    with pytest.raises(ValueError, match="Missing query bundle"):
        await NemotronRerank(FakeReranker()).apostprocess_nodes(texts("a"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers(bad, caplog):
    nodes = texts("a", "b")
    results = NemotronRerank(Constant(bad, 1)).postprocess_nodes(nodes, query_str="x")
    assert [(item.node_id, item.score) for item in results] == [(nodes[1].node_id, 1.0), (nodes[0].node_id, None)]
    assert f"not finite for node 0 ({nodes[0].node_id})" in caplog.text
    skipped = NemotronRerank(Constant(bad, 1), on_unscored="skip").postprocess_nodes(nodes, query_str="x")
    assert [item.score for item in skipped] == [1.0]
    with pytest.raises(NonFiniteError, match=r"not finite for node 0 .* another dtype"):
        NemotronRerank(Constant(bad, 1), on_unscored="raise").postprocess_nodes(nodes, query_str="x")


def test_too_few_scores():
    with pytest.raises(NemotronRagError, match="wanted 2 scores"):
        NemotronRerank(Constant(1)).postprocess_nodes(texts("a", "b"), query_str="x")


# Events


def _run(reranker, nodes, query, use_async):
    if use_async:
        return asyncio.run(reranker.apostprocess_nodes(nodes, query_str=query))
    return reranker.postprocess_nodes(nodes, query_str=query)


@pytest.mark.parametrize("use_async", [False, True])
def test_events_come_in_pairs_and_carry_no_images(use_async, tmp_path):
    manager, debug = debug_manager()
    reranker = NemotronRerank(RedReranker(), top_n=None, callback_manager=manager)
    nodes = scored(*image_nodes(tmp_path).values())
    with listening() as listener:
        _run(reranker, nodes, ASK, use_async)
    (start,), (end,) = listener.named("ReRankStartEvent"), listener.named("ReRankEndEvent")
    assert (start.top_n, start.model_name, str(start.query)) == (len(nodes), "red-reranker", ASK)
    assert len(start.nodes) == len(end.nodes) == len(nodes)
    assert {item.score for item in start.nodes} == {0.5}
    assert start.span_id is not None
    assert start.span_id.startswith("NemotronRerank._apost" if use_async else "NemotronRerank._post")
    for event in (start, end):
        assert b64()[20:60] not in json.dumps(event.model_dump(), default=str) + repr(event)
    ((begun, done),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert begun.payload[EventPayload.TOP_K] == len(nodes)
    assert len(done.payload[EventPayload.NODES]) == len(nodes)
    assert b64()[20:60] not in repr(begun.payload) + repr(done.payload)


@pytest.mark.parametrize("use_async", [False, True])
def test_events_come_in_pairs_for_nothing_and_for_errors(use_async):
    manager, debug = debug_manager()
    with listening() as listener:
        assert _run(NemotronRerank(FakeReranker(), callback_manager=manager), [], "x", use_async) == []
        broken = scored(ImageNode(image_path="/gone.png"))
        with pytest.raises(ImageError):
            _run(
                NemotronRerank(FakeReranker(), callback_manager=manager, on_image_error="raise"), broken, "x", use_async
            )
        with pytest.raises(ValueError, match="Missing query"):
            _run(NemotronRerank(FakeReranker(), callback_manager=manager), texts("a"), None, use_async)
    names = [name for name in listener.names() if name.startswith(("ReRank", "Exception"))]
    assert names == ["ReRankStartEvent", "ReRankEndEvent", "ReRankStartEvent", "ExceptionEvent", "ReRankEndEvent"]
    assert [event.nodes for event in listener.named("ReRankEndEvent")] == [[], []]
    assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 2


def test_nothing_to_rank_loads_no_model():
    assert NemotronRerank("llama-nemotron-rerank-vl-1b-v2").postprocess_nodes([], query_str="x") == []


def test_async_has_its_own_span():
    assert hasattr(NemotronRerank._apostprocess_nodes, DISPATCHER_SPAN_DECORATED_ATTR)
    assert "_apostprocess_nodes" in vars(NemotronRerank)


# Settings and serialisation


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_m": 3},
        {"top_n": -1},
        {"on_image_error": "ignore"},
        {"on_unscored": "first"},
        {"score_transform": "tanh"},
        {"score_threshold": float("nan")},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NemotronRerank(FakeReranker(), **wrong)


def test_wrong_models():
    with pytest.raises(UnknownModelError, match="no model named 'no-such-model'"):
        NemotronRerank("no-such-model")
    with pytest.raises(InputError, match="wanted reranker"):
        NemotronRerank("llama-nemotron-embed-vl-1b-v2")
    with pytest.raises(InputError, match="loaded reranker or multivector_embedder, got a embedder, FakeEmbedder"):
        NemotronRerank(FakeEmbedder())
    with pytest.raises(InputError, match="device came with a loaded model"):
        NemotronRerank(FakeReranker(), device="cpu")
    with pytest.raises(InputError, match="no use for dimensions"):
        NemotronRerank("llama-nemotron-rerank-vl-1b-v2", dimensions=512)


def test_what_a_loaded_model_would_not_follow_is_frozen():
    reranker = NemotronRerank(FakeReranker())
    for name in ("model", "device", "max_input_tiles"):
        with pytest.raises(ValueError, match="frozen"):
            setattr(reranker, name, "x")
    with pytest.raises(ValueError, match="top_n"):
        reranker.top_n = -1
    reranker.top_n = 1
    reranker.callback_manager = debug_manager()[0]  # as query engines do
    assert len(reranker.postprocess_nodes(texts("a", "b"), query_str="a")) == 1


SETTINGS = {
    "top_n": 3,
    "device": "cpu",
    "max_input_tiles": 2,
    "max_length": {"text": 100},
    "keep_retrieval_score": True,
    "score_threshold": 0.1,
    "score_transform": "sigmoid",
    "on_image_error": "text",
    "on_unscored": "skip",
    "modality": "image",
    "image_roots": [Path("/data")],
    "image_hosts": ["pages.example"],
    "image_keys": ["image"],
    "metadata_mode": MetadataMode.LLM,
}


@pytest.mark.parametrize(
    "through",
    [
        lambda r: NemotronRerank.from_dict(r.to_dict()),
        lambda r: NemotronRerank.from_dict(json.loads(json.dumps(r.to_dict()))),
        lambda r: NemotronRerank.from_json(r.to_json()),
        lambda r: pickle.loads(pickle.dumps(r)),
        copy.deepcopy,
        copy.copy,
    ],
)
def test_round_trips(through, reference, caplog):
    original = NemotronRerank(reference / "rerank_vl_open_1", **SETTINGS)
    original.postprocess_nodes(texts("a"), query_str="x")  # its weights are loaded
    restored = through(original)
    assert restored.to_dict() == original.to_dict()
    nodes = scored(TextNode(text="revenue"), ImageNode(image=b64()), ImageNode(text="a", image_path="/data/gone.png"))
    expected = original.postprocess_nodes(nodes, query_str="revenue")
    assert restored.postprocess_nodes(nodes, query_str="revenue") == expected
    assert "unpickleable" not in caplog.text.lower()


def test_no_weights_in_what_is_stored(reference):
    reranker = NemotronRerank(str(reference / "rerank_vl_open_1"))
    reranker.postprocess_nodes(texts("a"), query_str="x")
    assert len(pickle.dumps(reranker)) < 10_000
    assert reranker.to_dict()["model"].endswith("rerank_vl_open_1")


def test_copies_share_a_model_that_was_given():
    model = RedReranker()
    copied = copy.deepcopy(NemotronRerank(model))
    copied.postprocess_nodes(texts("a"), query_str="x")
    assert model.calls == [1]


def test_a_given_model_is_named_when_stored():
    stored = NemotronRerank(RedReranker(), top_n=2).to_dict()
    assert NemotronRerank.from_dict(stored).to_dict() == stored
    assert NemotronRerank.from_dict(stored, model=RedReranker()).postprocess_nodes(texts("a"), query_str="a")
    with pytest.raises(UnknownModelError, match="red-reranker"):
        NemotronRerank.from_dict(stored).postprocess_nodes(texts("a"), query_str="a")


def test_close_frees_what_was_loaded_here_only(reference):
    given = RedReranker()
    NemotronRerank(given).close()
    assert given.score("a", []).shape == (0,)
    reranker = NemotronRerank(reference / "rerank_vl_open_1")
    first = reranker.postprocess_nodes(texts("a"), query_str="x")
    reranker.close()
    assert reranker.postprocess_nodes(texts("a"), query_str="x")[0].score == first[0].score
