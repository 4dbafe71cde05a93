"""NemotronRerank: fields, policies, results and images. Arithmetic on fakes, images on a small real checkpoint."""

from __future__ import annotations

import copy
import logging
import math
import uuid

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.documents.base import Blob
from pydantic import ValidationError

from langchain_nemotron_rag import NemotronPageRetriever, NemotronRerank
from nemotron_rag import LoadOptions, PageIndex, Passage, load_reranker
from nemotron_rag.errors import ImageError, InputError, NonFiniteError, UnknownModelError
from nemotron_rag.stores.page_images import PageImages, StoredImage
from nemotron_rag.testing import FakeEmbedder, FakeReranker
from support.adapters import PAGES
from support.contracts import make_image
from support.langchain import OpeningReranker, ScriptedReranker, data_uri, png

QUERY = "Where do tornadoes form?"


def scripted(scores, **fields) -> NemotronRerank:
    return NemotronRerank(model=ScriptedReranker(scores), **fields)


def opening(scores, **fields) -> NemotronRerank:
    return NemotronRerank(model=OpeningReranker(scores), **fields)


def documents(count) -> list[Document]:
    return [Document(f"text {number}", id=str(number)) for number in range(count)]


def ids(found) -> list[str]:
    return [document.id for document in found]


def test_scores_are_the_models_raw_logits(rerank, reference):
    texts = ["Tornadoes form in thunderstorms.", "Bread needs flour.", "x"]
    logits = load_reranker(reference / "rerank_vl_open_1", device="cpu").score(QUERY, [Passage(t) for t in texts])
    found = rerank.compress_documents([Document(text) for text in texts], QUERY)
    assert [d.page_content for d in found] == [texts[i] for i in np.argsort(-logits)]
    assert [d.metadata["relevance_score"] for d in found] == sorted(map(float, logits), reverse=True)
    assert not all(0 <= logit <= 1 for logit in logits), "the test cannot tell logits from probabilities"


@pytest.mark.parametrize(
    "form",
    [
        data_uri,
        png,
        lambda image: image,
        np.asarray,
        lambda image: Blob.from_data(png(image), mime_type="image/png"),
        lambda image: {"type": "image", "base64": data_uri(image).split(",")[1], "mime_type": "image/png"},
        lambda image: {"type": "image", "url": data_uri(image)},
        lambda image: {"type": "image_url", "image_url": {"url": data_uri(image)}},
        lambda image: {"type": "image_url", "image_url": data_uri(image)},
    ],
)
def test_every_form_of_an_image_is_the_same_image(rerank, form):
    image = make_image(2)
    (wanted,) = rerank.load().score(QUERY, [Passage("caption", image)])
    (blank,) = rerank.load().score(QUERY, [Passage("caption")])
    (found,) = rerank.compress_documents([Document("caption", metadata={"image": form(image)})], QUERY)
    assert found.metadata["relevance_score"] == pytest.approx(float(wanted), abs=1e-5)
    assert abs(wanted - blank) > 1e-3


def test_paths_only_below_the_roots(rerank, tmp_path):
    make_image(2).save(tmp_path / "page.png")
    wanted = float(rerank.load().score(QUERY, [Passage(image=make_image(2))])[0])
    for reference in (str(tmp_path / "page.png"), Blob.from_path(tmp_path / "page.png")):
        document = Document("", metadata={"image": reference, "source": "report.pdf"})
        strict = rerank.model_copy(update={"on_image_error": "raise"})
        with pytest.raises(ImageError, match=r"document 0 \(report.pdf\): .*outside the allowed folders"):
            strict.compress_documents([document], QUERY)
        opened = strict.model_copy(update={"image_roots": (tmp_path,)})
        (found,) = opened.compress_documents([document], QUERY)
        assert found.metadata["relevance_score"] == pytest.approx(wanted, abs=1e-5)


def test_urls_only_on_the_hosts(rerank):
    document = Document("", metadata={"image": "https://example.org/page.png"})
    with pytest.raises(ImageError, match="not on an allowed host"):
        rerank.model_copy(update={"on_image_error": "raise"}).compress_documents([document], QUERY)


def test_text_image_and_both_are_ranked_together(rerank):
    mixed = [
        Document("caption", id="text"),
        Document("", id="image", metadata={"image": data_uri(make_image(1))}),
        Document("caption", id="both", metadata={"image": data_uri(make_image(1))}),
    ]
    passages = [Passage("caption"), Passage(image=make_image(1)), Passage("caption", make_image(1))]
    wanted = dict(zip(["text", "image", "both"], rerank.load().score(QUERY, passages).tolist(), strict=True))
    found = rerank.compress_documents(mixed, QUERY)
    assert {d.id: d.metadata["relevance_score"] for d in found} == pytest.approx(wanted, abs=1e-5)


def test_a_placeholder_is_not_read(rerank):
    page = {"image": data_uri(make_image(1))}
    alone = rerank.compress_documents([Document("", metadata=page)], QUERY)
    labelled = rerank.compress_documents(
        [Document("[page image] tornadoes.pdf p.1", metadata=page | {"text_is_placeholder": True})], QUERY
    )
    assert labelled[0].metadata["relevance_score"] == alone[0].metadata["relevance_score"]
    assert labelled[0].page_content == "[page image] tornadoes.pdf p.1"


def test_another_image_key(rerank):
    document = Document("a", metadata={"scan": data_uri(make_image(1)), "image": "the model must not look here"})
    other = rerank.model_copy(update={"image_key": "scan"})
    wanted = float(rerank.load().score(QUERY, [Passage("a", make_image(1))])[0])
    assert other.compress_documents([document], QUERY)[0].metadata["relevance_score"] == pytest.approx(wanted, abs=1e-5)


def test_threshold_and_top_n():
    scores = [0.5, -1.0, 2.0, 1.0]
    assert ids(scripted(scores, score_threshold=0.5).compress_documents(documents(4), "q")) == ["2", "3", "0"]
    assert ids(scripted(scores, score_threshold=0.5, top_n=1).compress_documents(documents(4), "q")) == ["2"]
    assert ids(scripted(scores, score_threshold=9).compress_documents(documents(4), "q")) == []
    assert ids(scripted([0.0] * 9).compress_documents(documents(9), "q")) == list("01234"), "top_n is 5 by default"
    assert ids(scripted([0.0] * 9, top_n=None).compress_documents(documents(9), "q")) == list("012345678")


def test_sigmoid_is_stable_and_does_not_tie():
    logits = [40.0, 30.0, 0.0, -800.0, 41.0]
    found = scripted(logits, score_transform="sigmoid").compress_documents(documents(5), "q")
    assert ids(found) == ["4", "0", "1", "2", "3"], "the order follows the logits, though three sigmoids are near 1"
    scores = [d.metadata["relevance_score"] for d in found]
    assert scores[3:] == [0.5, 0.0]
    assert scores[2] == pytest.approx(1 - math.exp(-30), abs=1e-15)
    assert scores[2] < scores[1], "single precision would tie"


def test_threshold_is_of_the_reported_score():
    found = scripted([1.0, -1.0], score_transform="sigmoid", score_threshold=0.5).compress_documents(documents(2), "q")
    assert ids(found) == ["0"]
    doubled = scripted([1.0, -1.0], score_transform=lambda logit: 2 * logit, score_threshold=2.0)
    (only,) = doubled.compress_documents(documents(2), "q")
    assert only.metadata["relevance_score"] == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_documents_without_a_finite_score(bad):
    scores = [1.0, bad, 2.0]
    last = scripted(scores).compress_documents(documents(3), "q")
    assert ids(last) == ["2", "0", "1"]
    assert "relevance_score" not in last[2].metadata
    assert ids(scripted(scores, on_unscored="skip").compress_documents(documents(3), "q")) == ["2", "0"]
    assert ids(scripted(scores, score_threshold=-9).compress_documents(documents(3), "q")) == ["2", "0"]
    with pytest.raises(NonFiniteError, match="not finite for document 1;"):
        scripted(scores, on_unscored="raise").compress_documents(documents(3), "q")


def test_documents_with_neither_text_nor_image():
    empty = [Document("a", id="0"), Document(" \n", id="1"), Document("", id="2", metadata={"image": None})]
    model = ScriptedReranker([1.0])
    assert ids(NemotronRerank(model=model).compress_documents(empty, "q")) == ["0", "1", "2"]
    assert model.asked == [["a"]], "the model is not asked about nothing"
    assert ids(scripted([1.0], on_unscored="skip").compress_documents(empty, "q")) == ["0"]
    with pytest.raises(InputError, match="neither text nor image in document 1, document 2;"):
        scripted([1.0], on_unscored="raise").compress_documents(empty, "q")
    assert ids(scripted([]).compress_documents(empty[1:], "q")) == ["1", "2"]


def test_broken_images(caplog):
    broken = [
        Document("a", id="0", metadata={"image": "data:image/png;base64,AAAA"}),
        Document("", id="1", metadata={"image": b"no image"}),
        Document("c", id="2"),
    ]
    with pytest.raises(ImageError, match="document 0: "):
        opening([1.0, 2.0, 3.0], on_image_error="raise").compress_documents(broken, "q")
    rerank = opening([1.0, 2.0])
    with caplog.at_level(logging.WARNING, "nemotron_rag"):
        kept = rerank.compress_documents(broken, "q")
    assert ids(kept) == ["2", "0", "1"], "what has no text either comes last"
    assert rerank.model.asked == [["a", "c"]]
    assert "document 0: " in caplog.text
    assert "ranked by its text alone" in caplog.text
    assert ids(opening([1.0], on_image_error="skip").compress_documents(broken, "q")) == ["2"]


@pytest.mark.parametrize("block", [{"type": "text", "text": "a"}, {"type": "image", "file_id": "f"}, {}, 7])
def test_what_is_no_image(block):
    with pytest.raises(ImageError, match="document 0: expected"):
        opening([1.0], on_image_error="raise").compress_documents([Document("a", metadata={"image": block})], "q")


def test_nothing_is_touched_or_copied_deeply():
    payload = {"deep": ["list"]}
    before = Document(
        "a", id="x", metadata={"image": data_uri(make_image()), "payload": payload, "relevance_score": 7.0}
    )
    snapshot = copy.deepcopy(before)
    (after,) = scripted([1.0]).compress_documents([before], "q")
    assert before == snapshot
    assert after.metadata is not before.metadata
    assert after.metadata["payload"] is payload
    assert after.metadata["image"] is before.metadata["image"]
    assert (after.id, after.metadata["relevance_score"]) == ("x", 1.0)


def test_provenance():
    given = [Document("a", metadata={"relevance_score": 0.25}), Document("b", metadata={"retrieval_score": 0.5})]
    b, a = scripted([1.0, 2.0], provenance=True).compress_documents(given, "q")
    assert b.metadata == {
        "relevance_score": 2.0,
        "retrieval_score": 0.5,
        "retrieval_rank": 2,
        "rerank_rank": 1,
        "rerank_model": "fake-reranker",
    }
    assert (a.metadata["retrieval_score"], a.metadata["retrieval_rank"], a.metadata["rerank_rank"]) == (0.25, 1, 2)
    (plain,) = scripted([1.0], score_key="score").compress_documents([Document("a")], "q")
    assert plain.metadata == {"score": 1.0}


async def test_rerank_gives_places(rerank):
    items = ["Bread needs flour.", Passage("caption", make_image(1)), Document("Tornadoes form in thunderstorms.")]
    logits = rerank.load().score(QUERY, [Passage(items[0]), items[1], Passage(items[2].page_content)])
    found = rerank.rerank(items, QUERY)
    assert [entry["index"] for entry in found] == np.argsort(-logits).tolist()
    assert [entry["relevance_score"] for entry in found] == pytest.approx(sorted(logits.tolist(), reverse=True))
    assert await rerank.arerank(items, QUERY) == found
    assert scripted([1.0], top_n=2).rerank(["", "a"], "q") == [
        {"index": 1, "relevance_score": 1.0},
        {"index": 0, "relevance_score": None},
    ]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"query": "q"}, "a str or a Passage, got dict"),
        (None, "a str or a Passage, got NoneType"),
        (data_uri(make_image()), "a text, got the data URI"),
    ],
)
async def test_queries_are_texts(query, said):
    model = ScriptedReranker([1.0])
    with pytest.raises(InputError, match=f"query must be {said}"):
        NemotronRerank(model=model).compress_documents(documents(1), query)
    with pytest.raises(InputError, match="query must be"):
        await NemotronRerank(model=model).acompress_documents(documents(1), query)
    assert model.asked == []


def test_items_are_documents():
    with pytest.raises(InputError, match="document 1 must be a Document, Passage or str, got int"):
        scripted([1.0]).compress_documents([Document("a"), 7], "q")


@pytest.mark.parametrize(
    "fields",
    [
        {"topn": 3},
        {"top_n": -1},
        {"score_threshold": math.nan},
        {"score_transform": "softmax"},
        {"on_image_error": "ignore"},
        {"on_unscored": "first"},
        {"score_key": ""},
    ],
)
def test_impossible_fields(fields):
    with pytest.raises(ValidationError):
        NemotronRerank(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "no-such-model"}, "no-such-model"),
        ({"model": "starter-embed-vl"}, "starter-embed-vl is of kind embedder, wanted reranker"),
        (
            {"model": FakeEmbedder()},
            "wanted .* loaded reranker or multivector_embedder, got a embedder, FakeEmbedder",
        ),
        ({"model": 7}, "wanted .* a loaded reranker or multivector_embedder, got int"),
        ({"model": object()}, "wanted .* a loaded reranker or multivector_embedder, got object"),
        ({"max_input_tiles": 0}, "max_input_tiles must be a positive integer, got 0"),
        ({"device": "gpu"}, "device must be .* got 'gpu'"),
        ({"dtype": "int8"}, "dtype must be one of .* got 'int8'"),
        ({"max_length": {"pages": 3}}, "max_length has no key 'pages'"),
        ({"model": "starter-rerank-vl", "revision": "main"}, "not on the model hub; leave it out"),
        ({"model": FakeReranker(), "device": "cpu", "max_length": 9}, "device, max_length came with a loaded model"),
    ],
)
def test_models_and_options_are_checked_when_it_is_made_and_when_one_is_assigned(fields, said):
    with pytest.raises((InputError, UnknownModelError), match=said):
        NemotronRerank(**fields)
    rerank = NemotronRerank(model=fields["model"] if len(fields) > 1 else "starter-rerank-vl")
    before = rerank.model_dump()
    name, value = list(fields.items())[-1]
    with pytest.raises((InputError, UnknownModelError), match=said.replace("device, max_length", "max_length")):
        setattr(rerank, name, value)
    assert rerank.model_dump() == before


def test_every_option_is_a_field():
    options = {"device": "cpu", "dtype": "float32", "max_input_tiles": 2, "use_thumbnail": False, "max_length": 99}
    assert NemotronRerank(model="starter-rerank-vl", compile=False, revision=None, **options).use_thumbnail is False
    assert set(LoadOptions.__annotations__) - {"dimensions"} <= NemotronRerank.model_fields.keys()
    assert "dimensions" not in NemotronRerank.model_fields


def test_a_stored_image_is_decoded_only_if_its_vision_features_are_not_cached(rerank, monkeypatch):
    opened, opening = [], StoredImage.open
    monkeypatch.setattr(StoredImage, "open", lambda self: opened.append(self) or opening(self))
    image = PageImages("memory://langchain").write(str(uuid.uuid4()), make_image(3))
    pages = [Document("caption", metadata={"image": image})]
    (first,) = rerank.compress_documents(pages, QUERY)
    assert len(opened) == 1
    (second,) = rerank.compress_documents(pages, QUERY)
    assert len(opened) == 1
    assert first.metadata["image"] is image
    (wanted,) = rerank.load().score(QUERY, [Passage("caption", make_image(3))])
    for found in (first, second):
        assert found.metadata["relevance_score"] == pytest.approx(float(wanted), abs=1e-4)


def test_fields_are_checked_when_assigned_too():
    rerank = NemotronRerank()
    with pytest.raises(ValidationError):
        rerank.top_n = -1
    assert rerank.top_n == 5


def test_settings_do_not_change_a_loaded_model():
    loaded, named = NemotronRerank(model=FakeReranker()), NemotronRerank(device="cpu")
    with pytest.raises(InputError, match="device came with a loaded model"):
        loaded.device = "cpu"
    with pytest.raises(InputError, match="device came with a loaded model"):
        named.model = FakeReranker()
    assert loaded.device is None
    assert named.model == "llama-nemotron-rerank-vl-1b-v2"


async def test_an_image_as_the_query_for_models_that_read_it():
    query, documents = Passage("apples", image=make_image(1)), [Document("blue whales"), Document("red apples")]
    reading = NemotronRerank(model=FakeReranker())
    for found in (
        reading.compress_documents(documents, query),
        await reading.acompress_documents(documents, query),
    ):
        assert [document.page_content for document in found] == ["red apples", "blue whales"]
    assert reading.rerank(documents, query)[0]["index"] == (await reading.arerank(documents, query))[0]["index"] == 1
    words = NemotronRerank(model=WordsAlone())
    with pytest.raises(InputError, match="reads queries as words alone"):
        words.compress_documents(documents, query)
    assert len(words.compress_documents(documents, Passage("apples"))) == 2


class WordsAlone(FakeReranker):
    query_modalities = ("text",)


async def test_images_in_queries_stay_out_of_traces(runs):
    query = Passage(image=make_image(1))
    NemotronRerank(model=FakeReranker()).compress_documents([Document("a")], query, callbacks=[runs])
    assert runs.only("NemotronRerank")["inputs"]["query"] == "(an image)"


async def test_pages_found_by_an_image_are_reranked_by_it():
    with PageIndex(embedder=FakeEmbedder(), reranker=FakeReranker()) as index:
        index.add(PAGES, progress=False)
        for reranker in (None, FakeReranker(), NemotronRerank(model=FakeReranker())):
            retriever = NemotronPageRetriever(index=index, k=2, reranker=reranker)
            found = retriever.retrieve_by_image(PAGES[0].image, rerank=True)
            assert len(found) == 2
            assert found == await retriever.aretrieve_by_image(PAGES[0].image, rerank=True)
            assert all("relevance_score" in page.metadata for page in found)
        for reranker in (False, WordsAlone()):
            with pytest.raises(InputError, match="reads images in queries|words alone"):
                NemotronPageRetriever(index=index, reranker=reranker).retrieve_by_image(PAGES[0].image, rerank=True)
