"""The VL families meet the protocols' contracts, on small real checkpoints."""

from __future__ import annotations

import pytest

from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag.errors import ImageError, InputError, TokenLimitError
from support.contracts import EmbedderContract, RerankerContract, make_image


class TestLlamaNemotronEmbedVL(EmbedderContract):
    @pytest.fixture
    def embedder(self, reference):
        return load_embedder(reference / "embed_vl_open_1", device="cpu")

    def test_dimensions_are_the_first_ones_normalised_again(self, embedder, reference):
        short = load_embedder(reference / "embed_vl_open_1", device="cpu", dimensions=16).embed_queries(["a b c"])[0]
        full = embedder.embed_queries(["a b c"])[0][:16]
        assert short == pytest.approx(full / (full @ full) ** 0.5, abs=1e-6)

    def test_bad_inputs_name_their_index(self, embedder, tmp_path):
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no image")
        with pytest.raises(ImageError, match="passage 1: .*broken.png"):
            embedder.embed_passages([Passage("a"), Passage(image=broken)])
        with pytest.raises(InputError, match="passage 1 must be a nemotron_rag.Passage, got str"):
            embedder.embed_passages([Passage("a"), "b"])
        with pytest.raises(InputError, match="query 0 must be a str, got int"):
            embedder.embed_queries([1])
        with pytest.raises(InputError, match="single string"):
            embedder.embed_queries("abc")

    def test_a_text_is_never_a_path(self, embedder, tmp_path):
        path = tmp_path / "image.png"
        make_image().save(path)
        as_text = embedder.embed_passages([Passage(str(path))])
        as_image = embedder.embed_passages([Passage(image=str(path))])
        assert abs(as_text - as_image).max() > 1e-3


class TestLlamaNemotronRerankVL(RerankerContract):
    @pytest.fixture
    def reranker(self, reference):
        return load_reranker(reference / "rerank_vl_open_1", device="cpu")

    def test_negative_top_n(self, reranker):
        with pytest.raises(InputError, match="top_n must be a non-negative integer or None, got -1"):
            reranker.rank("a", [Passage("b")], top_n=-1)


def test_lengths_follow_the_modality_and_can_be_set(reference):
    folder = reference / "embed_vl_open_1"
    identity = load_embedder(folder, device="cpu").identity
    assert identity["max_length_image"] == 2048
    assert identity["max_length_text"] == 8192
    assert identity["max_length_image_text"] == 10240
    assert identity["max_length_query"] == 512
    image = Passage(image=make_image())
    with pytest.raises(TokenLimitError, match="passage 0 needs"):
        load_embedder(folder, device="cpu", max_length=10).embed_passages([image])
    text_only = load_embedder(folder, device="cpu", max_length={"text": 10})
    assert text_only.embed_passages([image]).shape == (1, 64)
    long, longer = "word " * 50, "word " * 60
    rows = text_only.embed_passages([Passage(long), Passage(longer)])
    assert abs(rows[0] - rows[1]).max() < 1e-6
    with pytest.raises(InputError, match="no key 'images'"):
        load_embedder(folder, device="cpu", max_length={"images": 10})


def test_default_image_length_grows_with_the_tiles(reference):
    folder = reference / "embed_vl_open_2"  # tiles of 256 tokens
    embedder = load_embedder(folder, device="cpu", max_input_tiles=12)
    assert embedder.identity["max_length_image"] == 13 * 256 + 256
    assert embedder.embed_passages([Passage(image=make_image(size=(300, 400)))]).shape == (1, 48)
