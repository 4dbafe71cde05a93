"""Models of sentence-transformers in the place of ours: the package on tiny random checkpoints, and look-alikes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nemotron_rag import Page, PageIndex, Passage
from nemotron_rag.errors import ClosedError, ImageError, IndexMismatchError, InputError, NonFiniteError
from nemotron_rag.models.adopted import AdoptedEmbedder, AdoptedReranker, adopt, foreign_kind
from nemotron_rag.models.lazy import LazyModel, lazy_embedder, lazy_reranker
from nemotron_rag.testing import FakeEmbedder
from support.contracts import TEXTS, EmbedderContract, MultiVectorEmbedderContract, RerankerContract, make_image
from support.tiny import Encodes, Predicts, save_bert

BOTH = ("text", "image", ("image", "text"))
WORDS = [Passage(text) for text in TEXTS]


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("embed"))


@pytest.fixture(scope="module")
def rerank_folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("rerank"), labels=1)


@pytest.fixture(scope="module")
def sentence(theirs, folder):
    return theirs.SentenceTransformer(folder, device="cpu", prompts={"query": "q ", "document": "p "})


@pytest.fixture(scope="module")
def cross(theirs, rerank_folder):
    return theirs.CrossEncoder(rerank_folder, device="cpu")


@pytest.fixture(scope="module")
def multi(theirs, folder):
    return theirs.MultiVectorEncoder(folder, device="cpu")


class TestSentenceTransformer(EmbedderContract):
    passages = WORDS

    @pytest.fixture
    def embedder(self, sentence):
        return adopt(sentence)


class TestMultiVectorEncoder(MultiVectorEmbedderContract):
    passages = WORDS

    @pytest.fixture
    def embedder(self, multi):
        return adopt(multi)


class TestCrossEncoder(RerankerContract):
    passages = WORDS

    @pytest.fixture
    def reranker(self, cross):
        return adopt(cross)


def test_numbers_are_those_of_the_package(sentence, cross, multi):
    queries = adopt(sentence).embed_queries(["tornado"])
    np.testing.assert_allclose(queries, sentence.encode_query(["tornado"], normalize_embeddings=True), atol=1e-6)
    passages = adopt(sentence).embed_passages([Passage("tornado")])
    np.testing.assert_allclose(passages, sentence.encode_document(["tornado"], normalize_embeddings=True), atol=1e-6)
    assert np.abs(queries - passages).max() > 1e-3  # each has its own prompt
    pairs = [("storm", "a"), ("storm", "b c d")]
    logits = adopt(cross).score("storm", [Passage(text) for _, text in pairs])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), cross.predict(pairs), atol=1e-6)
    model, texts = adopt(multi), ["storm", "a b"]
    scores = model.score(model.embed_queries(texts), model.embed_passages([Passage(text) for text in texts]))
    wanted = multi.similarity(multi.encode_query(texts), multi.encode_document(texts))
    np.testing.assert_allclose(scores, wanted.cpu().numpy(), atol=1e-5)


def test_what_decides_the_vectors_is_in_the_identity(theirs, folder, sentence, tmp_path):
    import torch

    def identity(path=folder, **options):
        return dict(adopt(theirs.SentenceTransformer(path, device="cpu", **options)).identity)

    plain = identity()
    assert identity(model_kwargs={"dtype": torch.bfloat16}) == plain
    assert identity(save_bert(tmp_path / "moved")) == plain
    others = [
        identity(save_bert(tmp_path / "other", seed=1)),
        identity(truncate_dim=8),
        identity(prompts={"query": "q "}),
        identity(prompts={"document": "p "}),
    ]
    modules = list(sentence.children())
    pooled = theirs.SentenceTransformer(modules=[modules[0], type(modules[1])(16, pooling_mode="cls")], device="cpu")
    shorter = theirs.SentenceTransformer(folder, device="cpu")
    shorter.max_seq_length = 8
    seen = [plain, *others, dict(adopt(pooled).identity), dict(adopt(shorter).identity)]
    assert len({str(one) for one in seen}) == len(seen)
    assert adopt(theirs.SentenceTransformer(folder, device="cpu", truncate_dim=8)).dimensions == 8


def test_an_index_keeps_to_the_model_that_wrote_it(theirs, sentence, cross, folder, tmp_path):
    pages = [Page(text, id=f"p{n}", source="a.pdf", number=n) for n, text in enumerate(["storm", "bread", "sea"], 1)]
    with PageIndex(tmp_path / "index", embedder=sentence, reranker=cross) as index:
        assert index.add(pages).added == 3
        hits = index.search("storm", k=2, score_transform="sigmoid")
        texts = [page.text for page in pages]
        best = sorted(cross.predict([("storm", text) for text in texts]), reverse=True)[:2]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-6)
    with PageIndex(tmp_path / "index", embedder=sentence) as index:
        assert len(index.search("storm", k=3)) == 3
    other = theirs.SentenceTransformer(save_bert(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(IndexMismatchError, match="weights"):
        PageIndex(tmp_path / "index", embedder=other)
    with (
        PageIndex(tmp_path / "index") as index,
        pytest.raises(IndexMismatchError, match=r"written by .* \(sentence-transformers\), which cannot be loaded"),
    ):
        index.search("storm")


def test_token_vectors_are_indexed(multi):
    with PageIndex(embedder=multi) as index:
        index.add([Page("storm at sea", id="p1", source="a.pdf")])
        assert index.search("storm", k=1)[0].page.id == "p1"


def test_they_are_given_where_ours_are(sentence, cross, multi):
    assert lazy_embedder(sentence).name.endswith("(sentence-transformers)")
    assert lazy_reranker(cross).get().rank("a", [Passage("b")])[0].index == 0
    assert lazy_reranker(multi).get().score("a", [Passage("b")]).shape == (1,)
    with pytest.raises(InputError, match="wanted a catalog id, a local folder or a loaded reranker, got a embedder"):
        LazyModel(sentence, "reranker")
    with pytest.raises(InputError, match="device came with a loaded model"):
        lazy_embedder(sentence, device="cpu")


def test_others_come_back_as_they_are():
    ours = FakeEmbedder()
    assert adopt(ours) is ours
    assert adopt("a name") == "a name"
    assert foreign_kind(Encodes) is None  # the class is no model


def test_one_with_several_labels_is_refused(theirs, tmp_path):
    cross = theirs.CrossEncoder(save_bert(tmp_path / "labels", labels=3), device="cpu")
    with pytest.raises(InputError, match="has 3 labels, wanted a model that gives one score"):
        adopt(cross)


def test_sparse_vectors_are_refused():
    class Sparse(Encodes):
        def sparsity(self, rows):
            return rows

    with pytest.raises(InputError, match="Sparse computes sparse vectors, wanted dense ones"):
        PageIndex(embedder=Sparse())


class TestInputs:
    def test_images_go_to_a_model_that_reads_them(self):
        model, image = Encodes(BOTH), make_image()
        adopt(model).embed_passages([Passage("a"), Passage(image=image), Passage("b", image), Passage()])
        assert [sorted(given) for given in model.given] == [["text"], ["image"], ["image", "text"], ["text"]]
        assert list(model.given[2]) == ["image", "text"]
        assert isinstance(model.given[1]["image"], Image.Image)
        assert adopt(model).query_modalities == ("text", "image", "image_text")
        adopt(model).embed_queries([Passage("b", image)])

    def test_one_that_reads_either_gets_the_image(self):
        model = Encodes(("text", "image"))
        adopt(model).embed_passages([Passage("b", make_image())])
        assert list(model.given[0]) == ["image"]

    def test_one_that_reads_words_says_so(self):
        model = adopt(Encodes())
        model.embed_passages([Passage("words", make_image())])
        with pytest.raises(InputError, match="passage 1 is an image without text, and Encodes .* reads text only"):
            model.embed_passages([Passage("a"), Passage(image=make_image())])
        with pytest.raises(InputError, match="query 0 has an image, and Encodes .* reads queries as words alone"):
            model.embed_queries([Passage(image=make_image())])

    @pytest.mark.parametrize("text", ["http://10.0.0.1/secret.png", "data:image/png;base64,AAAA", __file__ + ".png"])
    def test_a_text_is_never_an_address(self, text):
        embedder, reranker = Encodes(BOTH), Predicts(BOTH)
        adopt(embedder).embed_passages([Passage(text)])
        adopt(embedder).embed_queries([text])
        adopt(reranker).score(text, [Passage(text)])
        assert embedder.given == [{"text": text}] * 2
        assert reranker.given == [({"text": text}, {"text": text})]

    def test_nor_to_a_reader_of_words_that_makes_chat_messages(self):
        """Its package looks at each half of a pair of texts for the address of an image, whatever the model reads."""
        reranker = Predicts()
        formatter = SimpleNamespace(message_format="structured")
        reranker.modalities = ["text", "message"]
        reranker.children = lambda: [SimpleNamespace(input_formatter=formatter)]
        adopt(reranker).score("a", [Passage("http://10.0.0.1/secret.png")])
        formatter.message_format = "flat"  # whose texts stay as they are
        adopt(reranker).score("a", [Passage("b")])
        assert reranker.given == [({"text": "a"}, {"text": "http://10.0.0.1/secret.png"}), ("a", "b")]

    def test_an_unreadable_image_is_named(self):
        with pytest.raises(ImageError, match="passage 1: ") as caught:
            adopt(Encodes(BOTH)).embed_passages([Passage("a"), Passage(image=b"nothing")])
        assert caught.value.index == 1
        with pytest.raises(ImageError, match="query 0: "):
            adopt(Encodes(BOTH)).embed_queries([Passage(image=b"nothing")])
        with pytest.raises(ImageError, match="query: ") as caught:
            adopt(Predicts(BOTH)).score(Passage(image=b"nothing"), [Passage("a")])
        assert caught.value.index is None

    def test_few_are_decoded_at_once(self, monkeypatch):
        monkeypatch.setattr("nemotron_rag.documents.held.HELD_PIXELS", 90 * 120)
        model = Encodes(BOTH)
        assert len(adopt(model).embed_passages([Passage(image=make_image(n)) for n in range(3)])) == 3
        assert len(model.options) == 3


def test_what_a_model_computes_is_checked():
    class Odd(Encodes):
        def __init__(self, rows):
            super().__init__()
            self.rows = rows

        def _rows(self, inputs, options):
            return self.rows

    with pytest.raises(NonFiniteError, match="the model's output for passage 1 is not finite"):
        adopt(Odd(np.array([[1.0], [np.nan]]))).embed_passages([Passage("a"), Passage("b")])
    with pytest.raises(InputError, match=r"computed 1 rows for 2 inputs; see to its encode\(\)"):
        adopt(Odd(np.ones((1, 4)))).embed_passages([Passage("a"), Passage("b")])
    assert adopt(Odd(np.zeros((1, 4)))).embed_passages([Passage("a")]).tolist() == [[0.0] * 4]


def test_dimensions_that_are_not_stated_are_found():
    assert adopt(Encodes(dimensions=None)).dimensions == 4


def test_options():
    model = Encodes()
    embedder = AdoptedEmbedder(model, name="mine", batch_size=3)
    embedder.embed_queries(["a"])
    assert (embedder.name, model.options[0]["batch_size"]) == ("mine", 3)
    for adopted in (AdoptedEmbedder, AdoptedReranker):
        with pytest.raises(InputError, match="batch_size must be a positive integer, got 0"):
            adopted(Predicts() if adopted is AdoptedReranker else model, batch_size=0)
    embedder.close()
    with pytest.raises(ClosedError, match="mine was closed"):
        embedder.embed_passages([])
