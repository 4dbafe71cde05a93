"""NemotronPageRetriever answers as `PageIndex.search` does: hits, scores, options, refusals, and cached images."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from PIL import Image

from llama_index.postprocessor.nemotron_rag_rerank import NemotronRerank
from llama_index.retrievers.nemotron_rag import NemotronPageRetriever, NodeCollection
from nemotron_rag.errors import ImageError, InputError, UnknownModelError
from nemotron_rag.index import PageIndex
from nemotron_rag.models.endpoints import REMOTE_OPTIONS
from nemotron_rag.models.load import LoadOptions
from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.llama_index import ask, make_image, png_file
from support.pages import add, text_page

PAGES = [
    text_page(1, "red apples", image=make_image(10), metadata={"year": 2024}),
    text_page(2, "apples, apples and red pears", image=make_image(60)),
    text_page(3, "", image=make_image(110)),
    text_page(4, "blue whales sing of red apples in the sea"),
    text_page(5, ""),  # neither text nor image
    text_page(6, "  \n", image=make_image(200)),
]


class Picky(FakeReranker):
    """Tells short texts and dark images; cannot judge whales."""

    name = "picky"

    def score(self, query, passages):
        scores = [
            math.nan
            if "whales" in passage.text
            else -len(passage.text) - (0 if passage.image is None else np.asarray(passage.image.open()).mean() / 99)
            for passage in passages
        ]
        return np.array(scores, dtype=np.float32)


@pytest.fixture
def place(tmp_path):
    with PageIndex(tmp_path / "i", embedder=FakeEmbedder()) as index:
        add(index, PAGES)
    return tmp_path / "i"


@pytest.fixture
def index(place):
    with PageIndex(place, embedder=FakeEmbedder(), reranker=Picky()) as opened:
        yield opened


def nodes_of(found):
    return [(item.node_id, item.score) for item in found]


def hits_of(hits):
    return [(hit.page.id, None if math.isinf(hit.score) else pytest.approx(hit.score)) for hit in hits]


CASES = [
    ({}, {"k": 10, "candidates": 10}),  # its own reranker
    ({"reranker": False}, {"k": 10, "rerank": False}),
    ({"reranker": False, "top_n": 2}, {"k": 2, "rerank": False}),
    ({"similarity_top_k": 4}, {"k": 4, "candidates": 4}),
    ({"similarity_top_k": 5, "top_n": 2}, {"k": 2, "candidates": 5}),
    ({"reranker": FakeReranker(), "top_n": 3}, {"k": 3, "candidates": 10, "rerank": FakeReranker()}),
    (
        {"mode": "hybrid", "filters": {"page_number": [1, 2, 4]}},
        {"mode": "hybrid", "filter": {"page_number": [1, 2, 4]}},
    ),
]


@pytest.mark.parametrize(("ours", "its"), CASES)
async def test_hits_and_scores_are_those_of_the_index(index, place, ours, its):
    expected = hits_of(index.search("red apples", **its))
    assert expected
    retriever = NemotronPageRetriever(index, **ours)
    assert nodes_of(retriever.retrieve("red apples")) == expected
    assert nodes_of(await retriever.aretrieve("red apples")) == expected
    by_place = {"reranker": Picky(), **ours}
    with NemotronPageRetriever(place, embedder=FakeEmbedder(), **by_place) as named:  # the folder is open in `index`
        assert nodes_of(named.retrieve("red apples")) == expected


def test_a_named_reranker_is_loaded_as_the_index_would(place, reference):
    name, options = reference / "rerank_vl_open_1", {"dtype": "bfloat16"}
    with PageIndex(place, embedder=FakeEmbedder(), reranker_options=options) as index:
        expected = hits_of(index.search("red apples", k=6, rerank=name))
        assert nodes_of(NemotronPageRetriever(index, reranker=name).retrieve("red apples")) == expected
    with NemotronPageRetriever(place, embedder=FakeEmbedder(), reranker=name, reranker_options=options) as retriever:
        assert nodes_of(retriever.retrieve("red apples")) == expected
    with NemotronPageRetriever(place, embedder=FakeEmbedder(), reranker=name) as retriever:
        assert nodes_of(retriever.retrieve("red apples")) != expected  # of float32


async def test_queries_that_are_joined_are_reranked_by_the_words(index, tmp_path):
    query = ask(query_str="red apples", image_path=str(png_file(tmp_path, 110)))
    expected = dict(hits_of(index.search("red apples", k=6)))
    for found in (
        NemotronPageRetriever(index).retrieve(query),
        await NemotronPageRetriever(index).aretrieve(query),
    ):
        assert [item.node_id for item in found][:4] == list(expected)[:4]
        assert dict(nodes_of(found)) == expected


# ---- how many -----------------------------------------------------------------------------------------------------


@pytest.fixture
def many():
    with PageIndex(embedder=FakeEmbedder(), images=None) as index:
        add(index, [text_page(n, f"apples {n}") for n in range(1, 16)])
        yield index


def counts(index, *, top_n, reranker, k=10):
    return len(NemotronPageRetriever(index, similarity_top_k=k, top_n=top_n, reranker=reranker).retrieve("apples"))


def test_the_retrievers_top_n_counts_unless_the_reranker_has_its_own(many):
    assert counts(many, top_n=8, reranker=NemotronRerank(FakeReranker())) == 8
    assert counts(many, top_n=None, reranker=NemotronRerank(FakeReranker())) == 10
    assert counts(many, top_n=None, reranker=NemotronRerank(FakeReranker(), top_n=5)) == 5
    assert counts(many, top_n=3, reranker=NemotronRerank(FakeReranker(), top_n=5)) == 3
    assert counts(many, top_n=8, reranker=FakeReranker()) == 8
    assert counts(many, top_n=None, reranker=FakeReranker(), k=12) == 12
    given = NemotronRerank(FakeReranker())
    counts(many, top_n=8, reranker=given)
    assert given.top_n == 5  # the caller's stays


def test_a_smaller_number_that_would_win_is_an_error(many):
    with pytest.raises(InputError, match="top_n must be at most the reranker's own top_n=3, got 8"):
        counts(many, top_n=8, reranker=NemotronRerank(FakeReranker(), top_n=3))
    with pytest.raises(InputError, match="top_n must be at most similarity_top_k=10, got 11"):
        counts(many, top_n=11, reranker=None)


# ---- what is refused, and when --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"embedder": "no-such-model"}, UnknownModelError, "no model named 'no-such-model'"),
        ({"embedder": "starter-rerank-vl"}, InputError, "kind reranker"),
        ({"embedder": FakeReranker()}, InputError, "FakeReranker"),
        ({"reranker": "no-such-model"}, UnknownModelError, "no model named 'no-such-model'"),
        ({"reranker": "starter-embed-vl"}, InputError, "kind embedder"),
        ({"reranker": FakeEmbedder()}, InputError, "FakeEmbedder"),
        ({"embedder": "starter-embed-vl", "device": "tpu"}, InputError, "device must be"),
        ({"embedder": "starter-embed-vl", "dimensions": 3}, InputError, "dimensions"),
        ({"embedder": FakeEmbedder(), "use_thumbnail": True}, InputError, "use_thumbnail came with a loaded model"),
        ({"reranker": "starter-rerank-vl", "reranker_options": {"dtype": "int8"}}, InputError, "dtype must be"),
        (
            {"embeder": FakeEmbedder()},
            InputError,
            "has no argument embeder; give one of: embedder",
        ),
        ({"similarity_top_k": 0}, InputError, "similarity_top_k must be a positive integer"),
    ],
)
def test_wrong_arguments_are_refused_when_it_is_made_and_leave_nothing(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        NemotronPageRetriever(tmp_path / "new", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_reranker_of_an_open_index_is_checked_too(index):
    with pytest.raises(InputError, match="FakeEmbedder"):
        NemotronPageRetriever(index, reranker=FakeEmbedder())
    with pytest.raises(UnknownModelError):
        NemotronPageRetriever(index, reranker="no-such-model")


def test_there_must_be_an_index(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "empty"):
        with pytest.raises(InputError, match=f"there is no index: .*{name}"):
            NemotronPageRetriever(tmp_path / name, embedder=FakeEmbedder()).retrieve("apples")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_images_of_a_server_must_be_named():
    retriever = NemotronPageRetriever("http://localhost:1", embedder=FakeEmbedder())
    with pytest.raises(InputError, match="images cannot lie beside .*give images= a folder or URL"):
        retriever.retrieve("apples")


_ALWAYS = {"device": "cpu", "dtype": "float32", "revision": "abc", "dimensions": 2048, "max_length": {"text": 100}}
_OPTIONS = {
    "llama-nemotron-embed-vl-1b-v2": _ALWAYS | {"max_input_tiles": 2, "use_thumbnail": False, "compile": True},
    "Qwen3-VL-Embedding-2B": _ALWAYS | {"max_image_tokens": 640, "instruction": "Find it."},
}


def test_options_of_these_models_are_all():
    assert {name for options in _OPTIONS.values() for name in options} == set(LoadOptions.__annotations__) - set(
        REMOTE_OPTIONS
    )


@pytest.mark.parametrize(("model", "options"), _OPTIONS.items())
def test_every_option_of_an_index_reaches_its_embedder(place, monkeypatch, model, options):
    seen = []
    monkeypatch.setattr("nemotron_rag.models.lazy.load_model", lambda *_, **options: seen.append(options) or _Fake())

    class _Fake(FakeEmbedder):
        name = model

    monkeypatch.setattr("nemotron_rag.index.record.IndexRecord.check_name", lambda *_, **__: None)
    monkeypatch.setattr("nemotron_rag.index.record.IndexRecord.check_options", lambda *_: None)
    monkeypatch.setattr("nemotron_rag.index.record.IndexRecord.load_options", lambda *_: {})
    monkeypatch.setattr("nemotron_rag.index.record.IndexRecord.check_embedder", lambda *_: None)
    with NemotronPageRetriever(place, embedder=model, **options) as retriever:
        assert retriever.retrieve("red apples")
    assert seen == [options]


def test_what_they_show_of_themselves(index, place, collection):
    assert repr(NemotronPageRetriever(place, top_n=3)) == (
        f"NemotronPageRetriever('{place}', similarity_top_k=10, top_n=3)"
    )
    assert repr(NemotronPageRetriever(index)).startswith("NemotronPageRetriever(PageIndex(collection 'pages' at ")
    assert repr(collection) == "NodeCollection(collection 'docs' at :memory:, embedder='fake-embedder')"
    assert "NodeCollection(" in repr(NemotronPageRetriever(collection))
    assert isinstance(collection, NodeCollection)


# ---- images are opened when something needs their pixels -------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """Every decoding of an image."""
    found = []
    load = Image.open

    def watched(*args, **options):
        found.append(args[0])
        return load(*args, **options)

    monkeypatch.setattr("PIL.Image.open", watched)
    return found


@pytest.mark.parametrize("inline", [False, True])
async def test_a_found_page_is_not_decoded(index, opened, inline):
    retriever = NemotronPageRetriever(index, reranker=False, inline_images=inline)
    found = [*retriever.retrieve("red apples"), *await retriever.aretrieve("red apples")]
    assert sum(bool(item.node.image or item.node.image_path) for item in found if hasattr(item.node, "image")) == 8
    assert opened == []


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("given", ["own", "NemotronRerank"])
def test_cached_vision_features_are_found_again(place, reference, opened, given, inline):
    name = reference / "rerank_vl_open_1"
    options = {"device": "cpu", "max_input_tiles": 1}
    ranker = NemotronRerank(name, **options)
    own = name if given == "own" else None
    with PageIndex(place, embedder=FakeEmbedder(), reranker=own, reranker_options=options if own else None) as index:
        retriever = NemotronPageRetriever(index, reranker=None if own else ranker, inline_images=inline)
        retriever.retrieve("red apples")
        opened.clear()
        found = retriever.retrieve("blue whales")
        assert opened == []
        if own:  # a NemotronRerank reads metadata too
            assert dict(nodes_of(found)) == dict(hits_of(index.search("blue whales")))
        again = ranker.postprocess_nodes(copy.deepcopy(found), query_str="red pears")
        assert len(again) == 5
        assert opened == []
        moved = ranker.postprocess_nodes(pickle.loads(pickle.dumps(found)), query_str="red pears")
        assert nodes_of(moved) == [(node_id, pytest.approx(score, abs=1e-5)) for node_id, score in nodes_of(again)]


def test_a_node_that_shows_another_image_now_is_opened(place, reference, opened, tmp_path):
    ranker = NemotronRerank(reference / "rerank_vl_open_1", device="cpu", max_input_tiles=1)
    with PageIndex(place, embedder=FakeEmbedder()) as index:
        found = NemotronPageRetriever(index, filters={"page_number": 1}, reranker=ranker).retrieve("red apples")
    node = found[0].node
    assert isinstance(node.stored_image, StoredImage)
    assert "pixel_hash" not in str(node.to_dict())
    opened.clear()
    node.image_path = str(png_file(tmp_path, 77))
    assert node.stored_image is None
    (other,) = ranker.postprocess_nodes([NodeWithScore(node=node)], query_str="red apples")
    assert len(opened) == 1
    assert other.score != found[0].score
    with pytest.raises(ImageError, match="outside the allowed folders"):
        NemotronRerank(FakeReranker(), image_roots=["/data"], on_image_error="raise").postprocess_nodes(
            [NodeWithScore(node=node)], query_str="a"
        )


def test_only_the_pages_that_are_returned_are_read(tmp_path, monkeypatch):
    reads = []
    read = StoredImage.read_bytes
    monkeypatch.setattr(StoredImage, "read_bytes", lambda image: reads.append(str(image)) or read(image))
    with PageIndex(tmp_path / "i", embedder=FakeEmbedder(), images="memory://far-away") as index:
        add(index, [text_page(n, f"apples {n}", image=make_image(n)) for n in range(1, 8)])
        reads.clear()
        found = NemotronPageRetriever(index, top_n=2).retrieve("apples 3")
        assert len(reads) == len(found) == 2
        assert all(item.node.image and item.node.image_mimetype == "image/png" for item in found)


@pytest.mark.parametrize("inline", [False, True])
def test_a_key_that_is_planted_in_the_index_opens_nothing(index, caplog, tmp_path, monkeypatch, inline):
    planted = StoredImage(str(tmp_path), png_file(tmp_path).name, size=(40, 60), pixel_hash="ab")
    monkeypatch.setattr("nemotron_rag.index.state.IndexState.image_of", lambda *_: planted)
    ranker = NemotronRerank(FakeReranker(), image_roots=[tmp_path])
    found = NemotronPageRetriever(index, reranker=ranker, inline_images=inline).retrieve("red apples")
    assert {type(item.node) for item in found} == {TextNode}
    assert "does not belong to an index" in caplog.text
