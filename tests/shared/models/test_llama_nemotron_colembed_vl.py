"""ColEmbed 3B against golden vectors of the published reference implementation, number by number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from nemotron_rag import Passage, load_embedder, load_multivector_embedder
from nemotron_rag.errors import InputError
from support.contracts import MultiVectorEmbedderContract, make_image

CASE = Path(__file__).parents[2] / "data" / "reference" / "colembed_llama_open_1"
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}  # stated by the case's meta.json
CALLS = {call["name"]: call for call in json.loads((CASE / "inputs.json").read_text())["calls"]}
EXPECTED = {
    name.removesuffix(".pil"): tensor.numpy() for name, tensor in load_file(CASE / "expected.safetensors").items()
}


@pytest.fixture(scope="module")
def model():
    return load_multivector_embedder(CASE, device="cpu")


def _embed(model, call):
    if call["kind"] == "queries":
        return model.embed_queries(call["texts"])
    images = [CASE / "images" / name if name else None for name in call["images"]]
    return model.embed_passages([Passage(text, image) for text, image in zip(call["texts"], images, strict=True)])


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_token_vectors_equal_the_reference(model, call):
    found = _embed(model, call)
    padded, mask = (EXPECTED[f"{call['name']}.{what}"] for what in ("token_embeddings", "attention_mask"))
    assert len(found) == len(padded)
    for rows, expected, real in zip(found, padded, mask, strict=True):
        np.testing.assert_allclose(rows, expected[real == 1], **TOLERANCE)


@pytest.mark.parametrize("documents", ["docs_image", "docs_double", "docs_text"])
def test_maxsim_equals_the_reference(model, documents):
    expected = EXPECTED[f"maxsim.queries--{documents}"]
    queries, passages = _embed(model, CALLS["queries"]), _embed(model, CALLS[documents])
    np.testing.assert_allclose(model.score(queries, passages), expected, **TOLERANCE)


def test_exact_scores_do_not_depend_on_the_list(model):
    """The rows of zeros that the reference pads with win over similarities that are all negative, as here."""
    queries, passages = _embed(model, CALLS["queries"]), _embed(model, CALLS["docs_image"])
    alone = np.concatenate([model.score(queries, [rows], exact=True) for rows in passages], axis=1)
    together = model.score(queries, passages, exact=True)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    padded = model.score(queries, passages)
    assert (together <= padded + 1e-5).all()
    assert (padded - together).max() > 0.05


class TestLlamaNemotronColEmbedVL(MultiVectorEmbedderContract):
    @pytest.fixture
    def embedder(self):
        return load_multivector_embedder(CASE, device="cpu")


def test_tiles_are_the_checkpoints_own_and_can_be_set(model):
    assert model.identity["max_input_tiles"] == 8
    page = Passage(image=make_image(size=(128, 256)))  # two by four tiles of 64 pixels and 4 tokens
    (rows,) = model.embed_passages([page])
    (fewer,) = load_multivector_embedder(CASE, device="cpu", max_input_tiles=2).embed_passages([page])
    assert len(rows) - len(fewer) == 4 * (9 - 3)


def test_pooling_tells_it_from_the_embedder():
    with pytest.raises(InputError, match="kind multivector_embedder, wanted embedder; load it with load_multi"):
        load_embedder(CASE)


def test_dimensions_do_not_match(model):
    with pytest.raises(InputError, match="passage 0 has dim 3, query 0 has 64"):
        model.score(model.embed_queries(["a"]), [np.ones((1, 3), np.float32)])
