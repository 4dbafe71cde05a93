"""Our models in the call shapes of other packages: what is understood, and what is refused."""

from __future__ import annotations

import base64
import logging

import numpy as np
import pytest
import torch

from nemotron_rag import PageIndex, Passage
from nemotron_rag.compat.inputs import as_passages, image_of
from nemotron_rag.compat.loading import options_from
from nemotron_rag.compat.sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from nemotron_rag.compat.transformers import AutoModel, AutoModelForSequenceClassification, AutoProcessor
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.documents.images import encode_image, load_image
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.contracts import make_image

NONE = ImageAccess()


class TestOptions:
    def test_understood(self):
        given = {
            "device_map": "auto",
            "trust_remote_code": True,
            "model_kwargs": {"torch_dtype": torch.bfloat16, "attn_implementation": "flash_attention_2"},
            "processor_kwargs": {"max_input_tiles": 6, "p_max_length": 2048},
            "truncate_dim": 384,
            "revision": "abc",
            "cache_folder": None,
        }
        wanted = {"dtype": "bfloat16", "max_input_tiles": 6, "max_length": 2048, "dimensions": 384, "revision": "abc"}
        assert options_from(given) == wanted
        assert options_from({"device": 1}) == {"device": "cuda:1"}
        assert options_from({"device_map": {"": "cpu"}, "dtype": "auto"}) == {"device": "cpu"}
        assert options_from({"device": ["cuda:0", "cuda:1"]}) == {"device": "cuda:0,cuda:1"}

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("cache_folder", "/tmp/x", "HF_HOME"),
            ("token", "hf_secret", "token means nothing here; log in"),
            ("backend", "onnx", "backend='onnx' means nothing here; leave it out"),
            ("prompts", {"query": "q"}, "prompts are the model's own"),
            ("nonsense", 1, "nonsense=1 means nothing here"),
        ],
    )
    def test_refused(self, name, value, message):
        with pytest.raises(InputError, match=message) as caught:
            SentenceTransformer("starter-embed-vl", **{name: value})
        assert "hf_secret" not in str(caught.value)


class TestInputs:
    def test_forms(self):
        image = make_image()
        data = encode_image(image, "png")
        given = [
            "a",
            image,
            np.asarray(image),
            {"image": image, "text": "b"},
            {"image": [image]},
            Passage("c"),
            {"text": "d"},
        ]
        found = as_passages(given, access=NONE)
        assert [passage.text for passage in found] == ["a", "", "", "b", "", "c", "d"]
        assert [passage.image is not None for passage in found] == [False, True, True, True, True, False, False]
        encoded = {"base64": base64.b64encode(data).decode(), "bytes": data}
        for key, value in encoded.items():
            assert load_image(image_of({key: value}, access=NONE)).size == image.size
        assert image_of("", access=NONE) is image_of(None, access=NONE) is None

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"image": "x.png", "video": "y"}, "must have the keys text and image"),
            ({}, "must have the keys text and image"),
            ({"image": [1, 2]}, "input 0 has 2 images; a passage has one"),
            ({"text": 3}, "the text of input 0 must be a str, got int"),
            ({"image": {"file": "x"}}, "an image that is a dict needs one of"),
        ],
    )
    def test_refused(self, given, message):
        with pytest.raises(InputError, match=message):
            as_passages([given], access=NONE)

    def test_an_address_is_fetched_from_allowed_hosts_alone(self):
        model = SentenceTransformer(FakeEmbedder())
        with pytest.raises(ImageError, match=r"http://example.com/a.png"):
            model.encode_document([{"image": "http://example.com/a.png"}])

    def test_a_text_that_is_an_address_stays_a_text_and_is_named(self, caplog):
        with caplog.at_level(logging.WARNING, logger="nemotron_rag"):
            (passage,) = as_passages(["page_1.png"], access=NONE)
        assert (passage.text, passage.image) == ("page_1.png", None)
        assert "input 0, 'page_1.png', is read as a text; write {'image': ...} for an image" in caplog.text


class TestSentenceTransformer:
    def test_one_input_gives_one_row(self):
        model = SentenceTransformer(FakeEmbedder(dimensions=8))
        assert model.encode_query("a").shape == model.encode_document(make_image()).shape == (8,)
        assert model.encode_document({"text": "a", "image": make_image()}, convert_to_tensor=True).shape == (8,)
        assert model.encode([], prompt_name="query").shape == (0, 8)
        assert model.get_embedding_dimension() == 8

    def test_roles(self):
        model = SentenceTransformer("starter-embed-vl")
        query, passage = model.encode_query("storm"), model.encode_document("storm")
        assert np.allclose(model.encode("storm", prompt_name="query"), query, atol=1e-6)
        assert np.allclose(model.encode("storm"), passage, atol=1e-6)
        assert not np.allclose(query, passage, atol=1e-5)
        with pytest.raises(InputError, match="prompt_name must be 'query' or 'document', got 'sts'"):
            model.encode("a", prompt_name="sts")
        with pytest.raises(InputError, match="has the model's own prompts, got prompt='x: '"):
            model.encode("a", prompt="x: ")

    @pytest.mark.parametrize("option", [{"precision": "int8"}, {"output_value": "x"}, {"nonsense": 1}])
    def test_options_that_would_change_the_vectors_are_refused(self, option):
        with pytest.raises(InputError, match="means nothing to SentenceTransformer"):
            SentenceTransformer(FakeEmbedder()).encode_query("a", **option)

    def test_it_is_taken_where_its_model_is(self):
        ours = FakeEmbedder()
        with PageIndex(embedder=SentenceTransformer(ours), reranker=CrossEncoder(FakeReranker())) as index:
            assert index.search("a", k=1) == []

    def test_it_moves_like_a_module(self):
        model = SentenceTransformer("starter-embed-vl").eval().to("cpu").to(torch.float32)
        assert model.cpu().native.dimensions == 1024


def test_late_interaction():
    model = MultiVectorEncoder(FakeMultiVectorEmbedder(dimensions=8))
    one, many = model.encode_query("red apples"), model.encode_document(["red apples", "blue"], convert_to_numpy=True)
    assert (one.shape, many[0].shape) == ((2, 8), (2, 8))
    assert model.similarity(one, many).shape == (1, 2)
    assert model.similarity([one], many)[0, 0] == pytest.approx(2, abs=1e-5)


class TestCrossEncoder:
    @pytest.fixture
    def model(self):
        return CrossEncoder(FakeReranker())

    def test_scores_are_raw_unless_activated(self, model):
        assert model.predict([("red apples", "red apples"), ("red apples", "whales"), ("b", "b")]).tolist() == [
            5,
            -5,
            5,
        ]
        assert model.predict(("a", "a")) == 5
        assert model.predict([]).shape == (0,)
        activated = model.predict([("a", "a")], activation_fn=torch.nn.Sigmoid(), convert_to_tensor=True)
        assert activated.tolist() == pytest.approx([1 / (1 + np.exp(-5))])
        sigmoid = CrossEncoder(FakeReranker(), activation_fn=torch.nn.Sigmoid())
        assert sigmoid.rank("a", ["b", "a"])[0] == {"corpus_id": 1, "score": pytest.approx(0.9933, abs=1e-3)}

    def test_rank(self, model):
        documents = ["b", "a b", "b"]
        assert [each["corpus_id"] for each in model.rank("b", documents)] == [0, 1, 2]
        assert model.rank("a", documents, top_k=1, return_documents=True) == [
            {"corpus_id": 1, "score": 5, "text": "a b"}
        ]
        assert model.rank("a", []) == []

    def test_what_is_no_pair(self, model):
        for wrong in (["a", "b", "c"], [("a", "b", "c")]):
            with pytest.raises(InputError, match="pair 0 must be a query and a passage"):
                model.predict(wrong)
        with pytest.raises(InputError, match="num_labels must be 1"):
            CrossEncoder(FakeReranker(), num_labels=2)


class TestTransformers:
    def test_settings_of_the_processor_hold_from_then_on(self):
        model = AutoModel.from_pretrained("starter-embed-vl", device_map="cpu")
        model.processor.p_max_length, model.processor.q_max_length = 64, 16
        model.encode_queries(["a"])
        lengths = {key: value for key, value in model.native.identity.items() if key.startswith("max_length")}
        assert set(lengths.values()) == {64, 16}
        model.processor.max_input_tiles = 2
        model.encode_queries(["a"])
        assert model.native.identity["max_input_tiles"] == 2

    def test_documents_that_do_not_belong_together(self):
        model = AutoModel.from_pretrained(FakeEmbedder())
        with pytest.raises(InputError, match="needs images=, texts= or both, got neither"):
            model.encode_documents()
        with pytest.raises(InputError, match="images and texts belong together, got 1 and 2"):
            model.encode_documents(images=[make_image()], texts=["a", "b"])
        assert model.get_scores(
            model.encode_queries(["a"]), model.encode_documents(texts=["a"])
        ).item() == pytest.approx(1)

    def test_settings_for_a_loaded_model_are_refused(self):
        model = AutoModel.from_pretrained(FakeEmbedder())
        model.processor.p_max_length = 8
        with pytest.raises(InputError, match="max_length came with a loaded model"):
            model.encode_queries(["a"])

    def test_pairs(self):
        processor = AutoProcessor.from_pretrained("any", trust_remote_code=True)
        model = AutoModelForSequenceClassification.from_pretrained(FakeReranker()).eval()
        features = [{"question": "a", "doc_text": "a", "doc_image": None}, {"question": "b", "doc_text": "c"}]
        batch = processor.process_queries_documents_crossencoder(features)
        assert model(**batch).logits.tolist() == [[5], [-5]]
        with pytest.raises(InputError, match="pair 0 must have question, doc_text and doc_image; got query"):
            processor.process_queries_documents_crossencoder([{"query": "a"}])
        with pytest.raises(InputError, match="got input_ids; take AutoProcessor from this module too"):
            model(input_ids=torch.zeros(1))
        with pytest.raises(InputError, match="nonsense=1 means nothing here"):
            AutoProcessor.from_pretrained("any", nonsense=1)
