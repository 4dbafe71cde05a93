"""The Qwen-VL families against golden vectors of the published reference implementations, number by number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nemotron_rag import Passage, load_multivector_embedder, load_reranker
from nemotron_rag.errors import CheckpointError, ImageError, InputError, TokenLimitError
from nemotron_rag.models._qwen.model import load_qwen_model
from nemotron_rag.models.nemotron_colembed_qwen3_vl import passage_prompt, query_prompt
from nemotron_rag.runtime.features import vision_features
from support.contracts import MultiVectorEmbedderContract, RerankerContract, make_image

DATA = Path(__file__).parents[2] / "data" / "reference"
TOLERANCE = {"atol": 3e-5, "rtol": 1e-4}  # stated by the cases' meta.json
COLEMBED, JINA, MONO = "colembed_qwen3vl_open_1", "jina_m0_open_1", "monoqwen2vl_open_1"
JINA_BIAS = 2.65


def _calls(*cases: str) -> list:
    calls = [(case, call) for case in cases for call in json.loads((DATA / case / "inputs.json").read_text())["calls"]]
    return [pytest.param(case, call, id=f"{case}-{call['name']}") for case, call in calls]


def _expected(case: str, name: str) -> np.ndarray:
    tensors = load_file(DATA / case / "expected.safetensors")
    return tensors[f"{name}.pil" if f"{name}.pil" in tensors else name].numpy()


def _image(case: str, name: str) -> Passage:
    return Passage(image=DATA / case / "images" / name)


def _sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


COLEMBED_CALLS = _calls(COLEMBED, "colembed_qwen3vl_open_2")
JINA_CALLS = _calls(JINA, "jina_m0_open_2")


def _embed(model, case: str, call: dict) -> list[np.ndarray]:
    if "images" not in call:
        return model.embed_queries(call["texts"])
    pages = [(text, DATA / case / "images" / name) for text, name in zip(call["texts"], call["images"], strict=True)]
    return model.embed_passages([Passage(text, image) for text, image in pages])


@pytest.mark.parametrize(("case", "call"), COLEMBED_CALLS)
def test_token_vectors_equal_the_reference(case, call):
    found = _embed(load_multivector_embedder(DATA / case, device="cpu"), case, call)
    padded, mask = (_expected(case, f"{call['name']}.{what}") for what in ("token_embeddings", "attention_mask"))
    for rows, expected, real in zip(found, padded, mask, strict=True):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected[real == 1], **TOLERANCE)


@pytest.mark.parametrize("case", [COLEMBED, "colembed_qwen3vl_open_2"])
def test_maxsim_equals_the_reference(case):
    model = load_multivector_embedder(DATA / case, device="cpu")
    calls = {param.values[1]["name"]: param.values[1] for param in COLEMBED_CALLS if param.values[0] == case}
    queries, pages = (_embed(model, case, calls[name]) for name in ("queries", "docs_image"))
    expected = _expected(case, "maxsim.queries--docs_image")
    np.testing.assert_allclose(model.score(queries, pages), expected, **TOLERANCE)


@pytest.mark.parametrize(("case", "call"), COLEMBED_CALLS)
def test_token_ids_and_positions_equal_the_reference(case, call):
    model = load_qwen_model(DATA / case, generation=3, pooling="colbert", device="cpu", dtype=None)
    ids, mask = (_expected(case, f"{call['name']}.{what}") for what in ("input_ids", "attention_mask"))
    positions = _expected(case, f"{call['name']}.position_ids")  # (3, sequences, tokens)
    for i, text in enumerate(call["texts"]):
        parts = query_prompt("query:", text)
        if "images" in call:
            parts = passage_prompt("passage:", text, model.image(_image(case, call["images"][i]), index=i))
        found = model.prepare(parts, max_length=9999, index=i)
        assert found.ids == ids[i][mask[i] == 1].tolist()
        assert found.positions.tolist() == positions[:, i, mask[i] == 1].tolist()


@pytest.mark.parametrize(("case", "call"), JINA_CALLS)
def test_jina_logits_equal_the_reference(case, call):
    """An image as query is none of the protocol's business, but the network takes it: two images in one prompt."""
    reranker = load_reranker(DATA / case, device="cpu")
    as_image = call.get("doc_type") == "image"
    expected = _expected(case, f"{call['name']}.logits")
    if call.get("query_type") == "image":
        model = load_qwen_model(DATA / case, generation=2, pooling="last", device="cpu", dtype=None)

        def prepare(pair, index):
            query = model.image(_image(case, pair[0]), index=index)
            document = model.image(_image(case, pair[1]), index=index) if as_image else pair[1]
            parts = ["**Document**:\n", document, "\n**Query**:\n", query]
            if not as_image:
                parts[:3] = ["".join(parts[:3])]  # neighbouring texts are one for the tokenizer
            return model.prepare(parts, ending=(100,), max_length=9999, index=index)

        found = reranker._logits(model.run(call["pairs"], prepare))
    else:
        passages = [_image(case, document) if as_image else Passage(document) for _, document in call["pairs"]]
        rows = zip(call["pairs"], passages, strict=True)
        found = np.concatenate([reranker.score(query, [passage]) for (query, _), passage in rows])
    np.testing.assert_allclose(found + JINA_BIAS, expected, **TOLERANCE)
    np.testing.assert_allclose(_sigmoid(found), _expected(case, f"{call['name']}.scores"), **TOLERANCE)


def test_monoqwen_scores_equal_the_reference():
    reranker = load_reranker(DATA / MONO, device="cpu")
    (call,) = json.loads((DATA / MONO / "inputs.json").read_text())["calls"]
    found = np.concatenate([reranker.score(pair["query"], [_image(MONO, pair["image"])]) for pair in call["pairs"]])
    false, true = _expected(MONO, "false_true_logits").T
    np.testing.assert_allclose(found, true - false, **TOLERANCE)
    np.testing.assert_allclose(_sigmoid(found), _expected(MONO, "p_true"), **TOLERANCE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_the_reference(dtype):
    """The cases' `spread` puts bfloat16 runs within 2 % of the largest value, min_cosine 0.9998."""
    call = next(param.values[1] for param in COLEMBED_CALLS if param.values[1]["name"] == "docs_both")
    found = _embed(load_multivector_embedder(DATA / COLEMBED, device="cpu", dtype=dtype), COLEMBED, call)
    padded, mask = (_expected(COLEMBED, f"docs_both.{what}") for what in ("token_embeddings", "attention_mask"))
    for rows, expected, real in zip(found, padded, mask, strict=True):
        assert (rows * expected[real == 1]).sum(axis=1).min() > 0.9995


class TestNemotronColEmbedQwen3VL(MultiVectorEmbedderContract):
    @pytest.fixture
    def embedder(self):
        return load_multivector_embedder(DATA / COLEMBED, device="cpu")


class TestJinaRerankerM0(RerankerContract):
    @pytest.fixture
    def reranker(self):
        return load_reranker(DATA / JINA, device="cpu")

    def test_an_image_is_read_without_the_text_beside_it(self, reranker):
        both, alone = reranker.score("a", [Passage("caption", make_image()), Passage(image=make_image())])
        assert both == pytest.approx(alone, abs=1e-5)


class TestMonoQwen2VL(RerankerContract):
    passages = (
        Passage(image=make_image(1)),
        Passage("caption", make_image(2)),
        Passage(image=make_image(3, (40, 300))),
    )

    @pytest.fixture
    def reranker(self):
        return load_reranker(DATA / MONO, device="cpu")

    def test_equal_scores_keep_the_order(self, reranker):
        same = [Passage(image=make_image())] * 4
        assert [hit.index for hit in reranker.rank(self.query, same)] == [0, 1, 2, 3]

    def test_a_text_is_refused(self, reranker):
        with pytest.raises(InputError, match="passage 1 has no image, .* reads images only; give a page image"):
            reranker.score("a", [Passage(image=make_image()), Passage("text")])


def test_lengths(reference):
    page = Passage(image=make_image())
    with pytest.raises(TokenLimitError, match="passage 0 needs at least 1. tokens, max_length leaves it -"):
        load_multivector_embedder(DATA / COLEMBED, device="cpu", max_length=110).embed_passages([page])
    long, longer = Passage("word " * 60), Passage("word " * 70)
    short = load_multivector_embedder(DATA / COLEMBED, device="cpu", max_length={"text": 20, "query": 10})
    assert [rows.shape for rows in short.embed_passages([long, longer])] == [(20, 64), (20, 64)]
    assert short.embed_queries(["word " * 60])[0].shape == (10, 64)
    with pytest.raises(InputError, match="no key 'images'"):
        load_multivector_embedder(DATA / COLEMBED, device="cpu", max_length={"images": 10})
    with pytest.raises(InputError, match="has no use for max_input_tiles"):
        load_reranker(DATA / JINA, device="cpu", max_input_tiles=4)


@pytest.mark.parametrize(("case", "side"), [(COLEMBED, 32), (JINA, 28), (MONO, 28)])
def test_large_images_are_shrunk_to_the_tokens_asked_for(case, side):
    load = load_multivector_embedder if case == COLEMBED else load_reranker
    counts = []
    for most in (None, 12):
        model = load(DATA / case, device="cpu", max_image_tokens=most)
        page = Passage(image=make_image(size=(900, 1200)))
        prepare = (
            model._prepare_passage if case == COLEMBED else lambda m, p, i, model=model: model._prepare(m, "a", p, i)
        )
        item = prepare(model._model, page, 0)
        counts.append(item.images[0].tokens)
        small = prepare(model._model, Passage(image=make_image(size=(2 * side, 2 * side))), 0)
        assert small.images[0].tokens == 4
        assert model.identity.get("max_image_tokens") == (None if case == JINA else most)
    assert 4 < counts[1] <= 12 < counts[0]


def test_an_image_leaves_less_room_for_text_as_published():
    """4096 in all, less the image's tokens once more, less 100."""
    full = load_multivector_embedder(DATA / COLEMBED, device="cpu")
    page = Image.new("RGB", (160, 128))  # 20 image tokens
    (cut,) = full.embed_passages([Passage("word " * 4000, page)])
    assert len(cut) == 4096 - 20 - 100


def test_a_long_jina_document_leaves_room_for_the_query():
    reranker = load_reranker(DATA / JINA, device="cpu", max_length={"text": 1200})
    document = "word " * 2000
    scores = reranker.score("tornadoes", [Passage(document)])
    assert reranker.score("bread", [Passage(document)]) != pytest.approx(scores, abs=1e-6)
    assert reranker.score("tornadoes", [Passage(document + "more")]) == pytest.approx(scores, abs=1e-6)


def test_a_long_monoqwen_query_is_cut_before_the_ending():
    reranker = load_reranker(DATA / MONO, device="cpu", max_length=150)
    page = [Passage(image=make_image())]
    assert reranker.score("word " * 200, page) == pytest.approx(reranker.score("word " * 300, page), abs=1e-6)


def _copy(case: str, folder: Path, *, rename=lambda name: name, edit=lambda config: None, extra=None) -> Path:
    shutil.copytree(DATA / case, folder, ignore=shutil.ignore_patterns("images", "expected.safetensors"))
    weights = load_file(DATA / case / "model.safetensors")
    save_file({rename(name): tensor for name, tensor in weights.items()} | (extra or {}), folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_newer_weight_names_are_understood(tmp_path):
    def newer(name: str) -> str:
        if name.startswith("visual."):
            return f"model.{name}"
        return name.replace("model.", "model.language_model.") if name.startswith("model.") else name

    renamed = load_reranker(_copy(JINA, tmp_path / "new", rename=newer), device="cpu")
    pairs = ("a", [Passage("text"), Passage(image=make_image())])
    assert renamed.score(*pairs) == pytest.approx(load_reranker(DATA / JINA, device="cpu").score(*pairs), abs=1e-6)


def test_rope_parameters_are_the_newer_spelling(tmp_path):
    def newer(config: dict) -> None:
        text = config["text_config"]
        text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}

    respelled = load_multivector_embedder(_copy(COLEMBED, tmp_path / "new", edit=newer), device="cpu")
    found, wanted = (
        model.embed_passages([Passage(image=make_image())])[0]
        for model in (respelled, load_multivector_embedder(DATA / COLEMBED, device="cpu"))
    )
    assert found == pytest.approx(wanted, abs=1e-6)


def test_the_image_processor_may_stand_in_the_processors_file(tmp_path):
    """Transformers 5 writes one file where there were two."""
    folder = _copy(COLEMBED, tmp_path / "new")
    image_processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="cannot read preprocessor_config.json"):
        load_multivector_embedder(folder, device="cpu")
    processor = json.loads((folder / "processor_config.json").read_text()) | {"image_processor": image_processor}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    found, wanted = (
        load_multivector_embedder(place, device="cpu").embed_passages([Passage(image=make_image())])[0]
        for place in (folder, DATA / COLEMBED)
    )
    assert found == pytest.approx(wanted, abs=1e-6)
    (folder / "processor_config.json").write_text(
        json.dumps(processor | {"image_processor": image_processor | {"resample": 2}})
    )
    with pytest.raises(CheckpointError, match="has resample=2, only 3 is implemented"):
        load_multivector_embedder(folder, device="cpu", dtype="bfloat16")


def test_an_output_layer_of_its_own_is_used(tmp_path):
    def untie(config: dict) -> None:
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False

    embeddings = load_file(DATA / MONO / "model.safetensors")["model.embed_tokens.weight"]
    folder = _copy(MONO, tmp_path / "untied", edit=untie, extra={"lm_head.weight": -2 * embeddings})
    page = [Passage(image=make_image())]
    tied = load_reranker(DATA / MONO, device="cpu").score("a", page)
    assert load_reranker(folder, device="cpu").score("a", page) == pytest.approx(-2 * tied, abs=1e-5)


def test_the_output_layer_is_the_embedding_where_the_files_have_no_other(tmp_path):
    """Files saved by transformers 4.57 leave the field out although the layer is tied."""

    def forget(config: dict) -> None:
        del config["tie_word_embeddings"]
        del config["text_config"]["tie_word_embeddings"]

    page = [Passage(image=make_image())]
    forgetful = load_reranker(_copy(MONO, tmp_path / "forgot", edit=forget), device="cpu")
    tied = load_reranker(DATA / MONO, device="cpu")
    assert forgetful.score("a", page) == pytest.approx(tied.score("a", page), abs=1e-6)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda config: config.update(pooling="avg"), "has pooling='avg', only 'colbert' is implemented"),
        (lambda config: config["text_config"].update(use_sliding_window=True), "only False is implemented"),
        (lambda config: config["text_config"]["rope_scaling"].update(rope_type="yarn"), "rotary .* type 'yarn'"),
        (lambda config: config["text_config"]["rope_scaling"].update(mrope_section=[4, 2, 1]), "expected a sum of 8"),
        (lambda config: config.update(image_token_id=5), "has id 612 for <.image_pad.>, its config.json needs 5"),
        (lambda config: config.pop("vision_config"), "config.json of checkpoint .* cannot be used: KeyError"),
    ],
)
def test_what_is_not_implemented_raises(tmp_path, edit, message):
    with pytest.raises(CheckpointError, match=message):
        load_multivector_embedder(_copy(COLEMBED, tmp_path / "odd", edit=edit), device="cpu")


def test_a_broken_head_raises(tmp_path):
    folder = _copy(JINA, tmp_path / "odd", extra={"score.2.weight": torch.zeros(2, 64)})
    with pytest.raises(
        CheckpointError, match=r"score.2.weight .* has shape \(2, 64\), its config.json needs \(1, 64\)"
    ):
        load_reranker(folder, device="cpu")


def test_images_of_equal_bytes_and_other_shape_are_kept_apart():
    """A plain image has the same bytes whichever way it lies."""
    model = load_multivector_embedder(DATA / COLEMBED, device="cpu")
    lying, standing = (Passage(image=Image.new("RGB", size, "teal")) for size in ((160, 64), (64, 160)))
    vision_features.clear()
    first, second = model.embed_passages([lying, standing])
    vision_features.clear()
    assert second == pytest.approx(model.embed_passages([standing])[0], abs=1e-5)
    assert abs(first - second).max() > 1e-3


def test_a_strip_is_refused_by_its_index():
    model = load_multivector_embedder(DATA / COLEMBED, device="cpu")
    with pytest.raises(ImageError, match="passage 1: expected an image at most 200 times as long as wide, got 1000x4"):
        model.embed_passages([Passage("a"), Passage(image=Image.new("RGB", (1000, 4)))])
