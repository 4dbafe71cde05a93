"""Nemotron 3 and 3.5 against golden vectors of the published reference implementation, number by number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag.errors import InputError, TokenLimitError
from nemotron_rag.models._base.resize import resize_image
from nemotron_rag.models._mistral.config import MistralConfig, TextConfig, VisionConfig
from nemotron_rag.models._mistral.model import Limits, load_mistral_model
from nemotron_rag.models._mistral.network import MistralStack
from nemotron_rag.models._mistral.pixels import blend_on_white, fitted_size, patchify
from nemotron_rag.models._mistral.rope import Rope
from nemotron_rag.models.catalog import find
from support.contracts import EmbedderContract, RerankerContract, make_image

DATA = Path(__file__).parents[2] / "data" / "reference"
EMBED, EMBED_2, RERANK, RERANK_2, TEXT = (
    DATA / f"{name}_open_{n}"
    for name, n in (
        ("nemotron35_embed", 1),
        ("nemotron35_embed", 2),
        ("nemotron35_rerank", 1),
        ("nemotron35_rerank", 2),
        ("nemotron3_embed_text", 1),
    )
)
VECTORS = {"atol": 2e-5, "rtol": 1e-4}  # stated by the cases' meta.json
LOGITS = {"atol": 3e-5, "rtol": 1e-4}
TEXT_ONLY = [Passage("Tornadoes form in thunderstorms."), Passage(""), Passage("x"), Passage("Tornado " * 40)]


def _calls(*folders: Path) -> list:
    calls = [(folder, call) for folder in folders for call in json.loads((folder / "inputs.json").read_text())["calls"]]
    return [pytest.param(folder, call, id=f"{folder.name}-{call['name']}") for folder, call in calls]


def _expected(folder: Path, name: str) -> np.ndarray:
    tensors = load_file(folder / "expected.safetensors")
    return tensors[f"{name}.pil" if f"{name}.pil" in tensors else name].numpy()


def _passages(folder: Path, call: dict) -> list[Passage]:
    if "pairs" in call:
        rows = [pair[1:] for pair in call["pairs"]]
    else:
        rows = list(zip(call["texts"], call.get("images", [""] * len(call["texts"])), strict=True))
    return [Passage(text, folder / "images" / image if image else None) for text, image in rows]


def _embed(embedder, folder: Path, call: dict) -> np.ndarray:
    if call["kind"] == "queries":
        return embedder.embed_queries(call["texts"])
    return embedder.embed_passages(_passages(folder, call))


def _options(folder: Path, call: dict) -> dict:
    """The length of a call, for every modality."""
    keys = ["text"] if folder == TEXT else ["text", "image", "image_text"]
    keys += [] if "pairs" in call else ["query"]
    return {"max_length": dict.fromkeys(keys, call["max_length"])} if "max_length" in call else {}


EMBED_CALLS = [param for param in _calls(EMBED, EMBED_2, TEXT) if not param.values[1].get("edge")]
RERANK_CALLS = _calls(RERANK, RERANK_2)


@pytest.mark.parametrize(("folder", "call"), EMBED_CALLS)
def test_embeddings_equal_the_reference(folder, call):
    for dimensions in (None, 8, 32):
        what = f"matryoshka_{dimensions}" if dimensions else "embeddings_l2"
        if dimensions and folder != EMBED:
            continue
        embedder = load_embedder(folder, device="cpu", dimensions=dimensions, **_options(folder, call))
        found = _embed(embedder, folder, call)
        np.testing.assert_allclose(found, _expected(folder, f"{call['name']}.{what}"), **VECTORS)


@pytest.mark.parametrize(("folder", "call"), RERANK_CALLS)
def test_logits_equal_the_reference(folder, call):
    reranker = load_reranker(folder, device="cpu", **_options(folder, call))
    passages = zip(call["pairs"], _passages(folder, call), strict=True)
    found = np.concatenate([reranker.score(pair[0], [passage]) for pair, passage in passages])
    np.testing.assert_allclose(found, _expected(folder, f"{call['name']}.logits").reshape(-1), **LOGITS)


@pytest.mark.parametrize(("folder", "call"), EMBED_CALLS + RERANK_CALLS)
def test_token_ids_equal_the_reference(folder, call):
    model = load_mistral_model(folder, device="cpu", dtype=None, is_reranker="pairs" in call)
    lengths = dict.fromkeys(("text", "image", "image_text"), call.get("max_length", 999))
    ids, mask = (_expected(folder, f"{call['name']}.{what}") for what in ("input_ids", "attention_mask"))
    for row, passage in enumerate(_passages(folder, call)):
        if "pairs" in call:
            found = model.encode_pair(call["pairs"][row][0], passage, Limits(lengths), index=row)
        elif call["kind"] == "queries":
            found = model.encode_query(passage.text, max_length=lengths["text"], index=row)
        else:
            found = model.encode_passage(passage, Limits(lengths), index=row)
        assert found.ids == ids[row][mask[row] == 1].tolist()


def test_pixels_equal_the_reference():
    settings = load_mistral_model(EMBED, device="cpu", dtype=None).config.pixels
    calls = {param.values[1]["name"]: param.values[1] for param in EMBED_CALLS if param.values[0] == EMBED}
    (name,) = calls["doc_one"]["images"]
    image = blend_on_white(Image.open(EMBED / "images" / name))
    size = fitted_size(*image.size, settings)
    found = patchify(torch.from_numpy(np.array(resize_image(image, size))), settings)
    expected = torch.from_numpy(_expected(EMBED, "doc_one.pixel_values"))[0]  # (3, height, width)
    assert expected.shape[1:] == size[::-1]
    side, merge = settings.patch_size, settings.merge_size
    cut = expected.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(2)  # (rows, columns, ...)
    rows, columns = cut.shape[:2]
    grouped = cut.view(rows // merge, merge, columns // merge, merge, -1).transpose(1, 2).reshape(rows * columns, -1)
    np.testing.assert_allclose(found, grouped, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_the_reference(dtype):
    """The cases' `spread` puts bfloat16 runs within 2 % of the largest value, min_cosine 0.9998."""
    embedder = load_embedder(EMBED, device="cpu", dtype=dtype)
    for name in ("docs_both", "docs_text"):
        call = next(param.values[1] for param in EMBED_CALLS if param.values[1]["name"] == name)
        found = _embed(embedder, EMBED, call)
        assert (found * _expected(EMBED, f"{name}.embeddings_l2")).sum(axis=1).min() > 0.9995


class TestNemotron35Embed(EmbedderContract):
    @pytest.fixture
    def embedder(self):
        return load_embedder(EMBED, device="cpu")


class TestNemotron35EmbedWithAStartToken(EmbedderContract):
    @pytest.fixture
    def embedder(self):
        return load_embedder(EMBED_2, device="cpu")


class TestNemotron35Rerank(RerankerContract):
    tolerance = 1e-3  # a temperature of 0.02 makes logits of this case large

    @pytest.fixture
    def reranker(self):
        return load_reranker(RERANK, device="cpu")


class TestNemotron3Embed(EmbedderContract):
    passages = TEXT_ONLY

    @pytest.fixture
    def embedder(self):
        return load_embedder(TEXT, device="cpu")

    def test_an_image_is_never_ignored_where_it_is_all_there_is(self, embedder):
        with pytest.raises(InputError, match="passage 1 is an image without text, and .* reads text only"):
            embedder.embed_passages([Passage("a"), Passage(image=make_image())])

    def test_options_for_images_are_refused(self):
        with pytest.raises(InputError, match="max_length has no key 'image'"):
            load_embedder(TEXT, device="cpu", max_length={"image": 10})
        with pytest.raises(InputError, match="has no use for max_input_tiles; leave it out"):
            load_embedder(EMBED, device="cpu", max_input_tiles=4)


def test_an_image_is_never_cut():
    """The reference refuses as well."""
    page = Passage(image=EMBED / "images" / "page_a.png")
    with pytest.raises(TokenLimitError, match="passage 0 needs 39 tokens for its image, max_length allows 20; raise"):
        load_embedder(EMBED, device="cpu", max_length=20).embed_passages([page])
    assert load_embedder(EMBED, device="cpu", max_length=39).embed_passages([page]).shape == (1, 64)


@pytest.mark.parametrize("name", ["tiny_a.png", "hair_a.png"])
def test_images_that_the_reference_fails_on_are_read(name):
    """A single image token as all images of a call, and a side that shrinks to nothing."""
    embedder = load_embedder(EMBED, device="cpu")
    alone = embedder.embed_passages([Passage(image=EMBED / "images" / name)])
    others = embedder.embed_passages([Passage(image=make_image()), Passage(image=EMBED / "images" / name)])
    np.testing.assert_allclose(alone[0], others[1], atol=1e-6)


def test_the_longest_input_is_the_checkpoints():
    identity = load_embedder(EMBED, device="cpu").identity
    assert [identity[f"max_length_{key}"] for key in ("query", "text", "image", "image_text")] == [512] * 4
    assert load_reranker(RERANK_2, device="cpu").identity["max_length_image_text"] == 400  # of its tokenizer
    rows = load_embedder(EMBED, device="cpu").embed_passages([Passage("word " * 600), Passage("word " * 700)])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_the_network_has_the_catalogs_number_of_weights():
    """At the published shape of the 8B models: Ministral 3 8B, and the tower and projector of its configuration."""
    rope = Rope(head_dim=128, theta=1e6)
    text = TextConfig(131_072, 4096, 14_336, 34, 32, 8, 128, "silu", 1e-5, rope)
    vision = VisionConfig(1024, 4096, 24, 16, "silu", 14, 1e4, 2, "gelu", projector_bias=False)
    for name, tower, head in [("3-embed-8b", None, 0), ("3.5-embed-8b", vision, 0), ("3.5-rerank-8b", vision, 4096)]:
        config = MistralConfig(text, tower, None, 10 if tower else None, "avg", 32_768, 1.0)
        with torch.device("meta"):
            stack = MistralStack(config)
        assert sum(weight.numel() for weight in stack.parameters()) + head == find(f"nemotron-{name}").parameters
