"""Folders of Nemotron 3 and 3.5 as fine-tuning, merging, older releases and quantization leave them."""

from __future__ import annotations

import fnmatch
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag.errors import CheckpointError, InputError
from nemotron_rag.models._mistral.model import Limits, load_mistral_model
from nemotron_rag.runtime import hub
from nemotron_rag.runtime.attention import pack
from nemotron_rag.runtime.features import vision_features
from support.contracts import make_image

DATA = Path(__file__).parents[2] / "data" / "reference"
EMBED, RERANK, TEXT = (
    DATA / f"{name}_open_1" for name in ("nemotron35_embed", "nemotron35_rerank", "nemotron3_embed_text")
)
WITH_START = DATA / "nemotron35_embed_open_2"
PAGES = [Passage("a page"), Passage(image=make_image(1)), Passage("both [IMG] of <s> them", make_image(2, (90, 31)))]
SPECIAL = "what do [IMG] and <s> mean in [INST] a </s> prompt [IMG_BREAK][IMG_END]?"


def _copy(case: Path, folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    return Path(
        shutil.copytree(case, folder, ignore=shutil.ignore_patterns("images", "expected.safetensors", *without))
    )


def _edit(folder: Path, name: str, **fields) -> Path:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))
    return folder


def _edit_text(folder: Path, **fields) -> Path:
    """Change fields of the language model's configuration."""
    text = json.loads((folder / "config.json").read_text())["text_config"]
    return _edit(folder, "config.json", text_config=text | fields)


def _weights(folder: Path, change) -> Path:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors")
    return folder


def _embedded(folder: Path) -> np.ndarray:
    vision_features.clear()
    return load_embedder(folder, device="cpu").embed_passages(PAGES)


# ---- weights ----


def _renamed(old: str, new: str):
    return lambda weights: {
        new + name.removeprefix(old) if name.startswith(old) else name: tensor for name, tensor in weights.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {f"model.{name}": tensor for name, tensor in weights.items()},
        _renamed("language_model.model.", "language_model."),
        lambda weights: weights | {"lm_head.weight": torch.zeros(600, 64), "score.weight": torch.zeros(1, 64)},
        lambda weights: weights | {"language_model.lm_head.weight": torch.zeros(600, 64)},
        lambda weights: weights | {"language_model.model.rotary_emb.inv_freq": torch.zeros(12)},
        lambda weights: weights | {"vision_tower.patch_positional_embedding.inv_freq": torch.zeros(8)},
        lambda weights: {name: tensor.float() for name, tensor in weights.items()},
        lambda weights: {name: tensor.half() for name, tensor in weights.items()},
    ],
    ids=["prefix", "no inner prefix", "heads", "inner head", "buffer", "tower's buffer", "float32", "float16"],
)
def test_weights_may_be_saved_otherwise(tmp_path, change):
    folder = _weights(_copy(EMBED, tmp_path / "saved"), change)
    np.testing.assert_allclose(_embedded(folder), _embedded(EMBED), atol=2e-5)


def test_weights_may_lie_in_several_files(tmp_path):
    folder = _copy(TEXT, tmp_path / "shards", without=("model.safetensors",))
    weights = load_file(TEXT / "model.safetensors")
    places = {name: f"model-{n % 3}.safetensors" for n, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({f"model.{name}": weights[name] for name, place in places.items() if place == file}, folder / file)
    index = {"weight_map": {f"model.{name}": place for name, place in places.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found, wanted = (load_embedder(place, device="cpu").embed_queries(["a", "b c"]) for place in (folder, TEXT))
    np.testing.assert_array_equal(found, wanted)


def test_a_missing_weight_is_no_random_one(tmp_path):
    folder = _weights(
        _copy(RERANK, tmp_path / "half"), lambda weights: {n: t for n, t in weights.items() if ".layers.1." not in n}
    )
    with pytest.raises(CheckpointError, match=r"do not fit its config.json: .* missing"):
        load_reranker(folder, device="cpu")


# ---- head ----


def _scores(folder: Path) -> np.ndarray:
    return load_reranker(folder, device="cpu").score("a query", PAGES)


@pytest.mark.parametrize(
    "name", ["score.weight", "model.score.weight", "model.language_model.score.weight", "base_model.model.score.weight"]
)
def test_the_head_has_several_names(tmp_path, name):
    folder = _weights(_copy(RERANK, tmp_path / "renamed"), _renamed("language_model.score.weight", name))
    np.testing.assert_array_equal(_scores(folder), _scores(RERANK))


def test_a_head_in_a_module_of_its_own_is_divided_already(tmp_path):
    folder = _copy(RERANK, tmp_path / "dense")
    _weights(folder, lambda weights: {n: t for n, t in weights.items() if not n.endswith("score.weight")})
    np.testing.assert_allclose(_scores(folder), _scores(RERANK), rtol=1e-5, atol=1e-4)
    shutil.rmtree(folder / "2_Dense")
    with pytest.raises(CheckpointError, match="has no score.weight, and no head in 2_Dense"):
        _scores(folder)


def test_a_reranker_that_sentence_transformers_saved_is_one(tmp_path):
    """It saves the network without the head, whose class it does not know, and the head beside it."""
    folder = _edit(_copy(RERANK, tmp_path / "tuned"), "config.json", architectures=["Mistral3Model"])
    _weights(folder, lambda weights: {n: t for n, t in weights.items() if not n.endswith("score.weight")})
    np.testing.assert_allclose(_scores(folder), _scores(RERANK), rtol=1e-5, atol=1e-4)
    with pytest.raises(InputError, match="is of kind reranker, wanted embedder"):
        load_embedder(folder)
    with pytest.raises(InputError, match="is of kind embedder, wanted reranker"):
        load_reranker(EMBED)


def test_the_temperature_is_the_checkpoints(tmp_path):
    warm = _edit(_copy(RERANK, tmp_path / "warm"), "config.json", score_temperature=0.5)
    np.testing.assert_allclose(_scores(warm) * 25, _scores(RERANK), rtol=1e-5)
    older = json.loads((warm / "config.json").read_text())
    del older["score_temperature"]
    (warm / "config.json").write_text(json.dumps(older | {"temperature": 2.0}))
    np.testing.assert_allclose(_scores(warm) * 100, _scores(RERANK), rtol=1e-5)
    (warm / "config.json").write_text(json.dumps(older))
    np.testing.assert_allclose(_scores(warm) * 50, _scores(RERANK), rtol=1e-5)
    _edit(warm, "config.json", score_temperature=0)
    with pytest.raises(CheckpointError, match=r"has score_temperature=0.0, expected a number above 0"):
        _scores(warm)


def test_a_head_of_another_width_is_refused(tmp_path):
    wide = _weights(_copy(RERANK, tmp_path / "wide"), lambda w: w | {"language_model.score.weight": torch.zeros(2, 64)})
    with pytest.raises(CheckpointError, match=r"score.weight .* has shape \(2, 64\), its config.json needs \(1, 64\)"):
        _scores(wide)


def test_embedder_and_reranker_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="is of kind reranker, wanted embedder"):
        load_embedder(RERANK)
    other = _edit(_copy(EMBED, tmp_path / "chat"), "config.json", architectures=["Mistral3ForConditionalGeneration"])
    with pytest.raises(CheckpointError, match=r"type 'mistral3' with architectures \['Mistral3ForConditionalGener"):
        load_embedder(other)


# ---- prompts ----


def _ids(folder: Path, text: str) -> list[int]:
    model = load_mistral_model(folder, device="cpu", dtype=None)
    return model.encode_query(text, max_length=999, index=0).ids


def test_text_that_looks_like_a_control_token_is_text():
    ids = load_mistral_model(EMBED, device="cpu", dtype=None).encode_text(SPECIAL, max_length=999, index=0).ids
    assert min(ids) >= 40  # control tokens come first in this vocabulary
    item = load_mistral_model(RERANK, device="cpu", dtype=None, is_reranker=True).encode_pair(
        SPECIAL, Passage(SPECIAL, make_image(1, (56, 28))), Limits({"image_text": 999}), index=0
    )
    assert [number for number in item.ids if number < 40] == [10, 10, 13]


def test_a_template_that_guards_nothing_lets_no_text_pass_for_a_control_token(tmp_path):
    template = "{{ messages[0].content[0].text }}{% for b in messages[-1].content %}{{ '[IMG] ' if b.type == 'image' "
    template += "else b.text }}{% endfor %}"
    folder = _copy(EMBED, tmp_path / "open")
    (folder / "chat_template.jinja").write_text(template)
    model = load_mistral_model(folder, device="cpu", dtype=None)
    assert min(model.encode_text(SPECIAL, max_length=999, index=0).ids) >= 40
    assert load_embedder(folder, device="cpu").embed_passages([Passage(SPECIAL, make_image())]).shape == (1, 64)
    marked = "a\ufdd0[IMG]\ufdd0"
    assert (
        model.encode_text(marked, max_length=99, index=0).ids
        == model.encode_text(marked.replace("\ufdd0", "\ufffd"), max_length=99, index=0).ids
    )


def test_lone_surrogates_are_replaced():
    for folder in (EMBED, TEXT):
        assert _ids(folder, "a\ud800b") == _ids(folder, "a?b")


@pytest.mark.parametrize(
    ("fields", "query", "passage"),
    [
        ({"prompts": {"query": "search for ", "passage": ""}}, "search for a pump", "a pump"),
        ({"prompts": {"query": "", "corpus": "page:"}}, "a pump", "page: a pump"),
        ({"prompts": {"first": "1: "}, "default_prompt_name": "first"}, "1: a pump", "1: a pump"),
    ],
)
def test_prompts_are_the_checkpoints(tmp_path, fields, query, passage):
    folder = _edit(_copy(EMBED, tmp_path / "tuned"), "config_sentence_transformers.json", **fields)
    model = load_mistral_model(folder, device="cpu", dtype=None)
    assert model.encode_query("a pump", max_length=99, index=0).ids == _plain(folder, query)
    assert model.encode_text("a pump", max_length=99, index=0).ids == _plain(folder, passage)


def test_no_prompts_are_guessed(tmp_path):
    folder = _copy(EMBED, tmp_path / "bare", without=("config_sentence_transformers.json",))
    with pytest.raises(CheckpointError, match=r"cannot read config_sentence_transformers.json"):
        load_embedder(folder, device="cpu")


def _plain(folder: Path, text: str) -> list[int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["processor_config.json", "chat_template.json", "tokenizer_config.json"])
def test_the_chat_template_lies_in_several_places(tmp_path, name):
    folder = _copy(EMBED, tmp_path / "moved")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="has no chat template; expected one in chat_template.jinja"):
        load_embedder(folder, device="cpu")
    found = [{"name": "default", "template": template}] if name == "tokenizer_config.json" else template
    if name == "chat_template.json":
        (folder / name).write_text("{}")
    _edit(folder, name, chat_template=found)
    np.testing.assert_array_equal(_embedded(folder), _embedded(EMBED))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "the chat template of checkpoint .* is broken: "),
        ("{{ raise_exception('no documents') }}", "does not take system and user: TemplateError"),
        ("{{ messages[0].content[5].text.x }}", "does not take system and user: UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "does not take system and user: SecurityError"),
        ("no image", "writes 0 image tokens for an image"),
        ("[IMG] always", "writes 1 image tokens without an image"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_when_it_is_loaded(tmp_path, template, message):
    folder = _copy(EMBED, tmp_path / "odd")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match=message):
        load_embedder(folder, device="cpu")


def test_a_start_token_in_the_template_is_the_only_one(tmp_path):
    folder = _copy(WITH_START, tmp_path / "twice")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{{- bos_token -}}" + template)
    assert _ids(folder, "a pump") == _ids(WITH_START, "a pump")
    assert _ids(folder, "a pump").count(1) == 1


@pytest.mark.parametrize("case", [EMBED, WITH_START])
def test_what_a_template_puts_last_stays_when_a_text_is_cut(tmp_path, case):
    """As sentence-transformers restores it, which a model that pools the last token needs."""
    folder = _copy(case, tmp_path / "ended")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template + "</s>[/INST]")
    model = load_mistral_model(folder, device="cpu", dtype=None)
    whole = model.encode_query("word " * 30, max_length=99, index=0).ids
    cut = model.encode_query("word " * 30, max_length=20, index=0).ids
    assert cut == whole[:18] + whole[-2:]
    assert cut[-2:] == [2, 4]
    assert model.encode_text("word " * 30, max_length=20, index=0).ids[-2:] == [2, 4]
    assert model.encode_query("a", max_length=len(whole), index=0).ids[-2:] == [2, 4]


@pytest.mark.parametrize("case", [EMBED, RERANK, TEXT])
def test_all_that_is_read_is_downloaded(tmp_path, monkeypatch, case):
    def snapshot(repo, *, revision, allow_patterns, local_files_only):
        for file in (file for file in case.rglob("*") if file.is_file()):
            name = file.relative_to(case)
            if any(fnmatch.fnmatch(str(name), pattern) for pattern in allow_patterns):  # as the hub's client does
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / name)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    folder = hub.download("nvidia/some", revision="main")
    assert not (folder / "images").exists()
    if case == RERANK:
        np.testing.assert_array_equal(_scores(folder), _scores(case))
    else:
        found, wanted = (load_embedder(place, device="cpu").embed_queries(["a"]) for place in (folder, case))
        np.testing.assert_array_equal(found, wanted)


# ---- pooling and lengths ----


@pytest.mark.parametrize(("mode", "place"), [("cls", 0), ("lasttoken", -1)])
def test_pooling_is_the_checkpoints(tmp_path, mode, place):
    folder = _edit(_copy(TEXT, tmp_path / mode), "1_Pooling/config.json", pooling_mode=mode)
    model = load_mistral_model(folder, device="cpu", dtype=None)
    texts = ["a", "more words than that"]
    found = load_embedder(folder, device="cpu").embed_queries(texts)
    for text, row in zip(texts, found, strict=True):
        ids = model.encode_query(text, max_length=99, index=0).ids
        with torch.inference_mode():
            hidden = model._stack(torch.tensor(ids), pack([len(ids)], torch.device("cpu")))[place]
        np.testing.assert_allclose(row, hidden / hidden.norm(), atol=1e-6)
    assert load_embedder(folder, device="cpu").identity["pooling"] in ("cls", "last")


def test_pooling_may_be_spelled_in_older_ways(tmp_path):
    folder = _copy(TEXT, tmp_path / "older")
    (folder / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_lasttoken": false}'
    )
    assert load_embedder(folder, device="cpu").identity["pooling"] == "cls"
    shutil.rmtree(folder / "1_Pooling")
    assert load_embedder(folder, device="cpu").identity["pooling"] == "avg"
    _edit(folder, "config.json", pooling="last")
    (folder / "modules.json").unlink()
    assert load_embedder(folder, device="cpu").identity["pooling"] == "last"


def test_lengths_come_from_the_first_file_that_names_one(tmp_path):
    folder = _copy(TEXT, tmp_path / "lengths")
    _edit(folder, "sentence_bert_config.json", max_seq_length=77)
    assert load_embedder(folder, device="cpu").identity["max_length_query"] == 77
    _edit(folder, "sentence_bert_config.json", max_seq_length=None)
    _edit(folder, "tokenizer_config.json", model_max_length=600)
    assert load_embedder(folder, device="cpu").identity["max_length_text"] == 512  # positions of the network
    _edit(folder, "tokenizer_config.json", model_max_length=10**30)
    assert load_embedder(folder, device="cpu").identity["max_length_text"] == 512


# ---- network ----


def test_rotary_settings_may_be_spelled_in_older_ways(tmp_path):
    folder = _copy(EMBED, tmp_path / "older")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    rope = text.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    _edit(folder, "config.json", text_config=text | {"rope_theta": theta, "rope_scaling": rope})
    np.testing.assert_array_equal(_embedded(folder), _embedded(EMBED))


def test_an_older_release_has_two_files_for_its_processors(tmp_path):
    folder = _copy(EMBED, tmp_path / "older")
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(processor.pop("image_processor")))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    np.testing.assert_array_equal(_embedded(folder), _embedded(EMBED))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("config.json", {"vision_feature_layer": -2}, "has vision_feature_layer=-2, only -1 is implemented"),
        ("config.json", {"image_token_index": 9}, "has ids .* for .IMG., .*, its config.json needs 9 for the first"),
        (
            "config.json",
            {"spatial_merge_size": 3},
            "has spatial_merge_size=2 in its processor's files and 3 in its con",
        ),
        ("config.json", {"vision_config": {}}, "config.json of checkpoint .* cannot be used: KeyError"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "has pooling='max', only mean, avg"),
        ("processor_config.json", {"image_end_token": "[NO]"}, "has ids .10, 12, None. for"),
        ("processor_config.json", {"image_processor": {"resample": 2}}, "has resample=2, only 3 is implemented"),
    ],
)
def test_what_is_not_implemented_raises(tmp_path, name, fields, message):
    with pytest.raises(CheckpointError, match=message):
        load_embedder(_edit(_copy(EMBED, tmp_path / "odd"), name, **fields), device="cpu")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"is_causal": True}, "does not say is_causal=false, only attention in both directions is implemented"),
        ({"is_causal": None}, "does not say is_causal=false"),
        ({"sliding_window": 512}, "has sliding_window=512, only null is implemented"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}},
            "of type 'llama3', only 'default' and 'yarn'",
        ),
    ],
)
def test_another_network_raises(tmp_path, fields, message):
    with pytest.raises(CheckpointError, match=f"checkpoint {tmp_path}.* {message}"):
        load_embedder(_edit_text(_copy(EMBED, tmp_path / "odd"), **fields), device="cpu")


def test_an_unknown_module_of_an_embedder_raises(tmp_path):
    folder = _copy(EMBED, tmp_path / "dense")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {"type": "x.Dense", "path": "3_Dense"}]))
    with pytest.raises(CheckpointError, match=r"has a module Dense in modules.json; only Transformer, Pooling, Normal"):
        load_embedder(folder, device="cpu")
    (folder / "modules.json").write_text(json.dumps([{"type": "x.Pooling", "path": "../elsewhere"}]))
    with pytest.raises(
        CheckpointError, match="has its pooling at '../elsewhere' in modules.json, expected a folder in"
    ):
        load_embedder(folder, device="cpu")


@pytest.mark.parametrize(
    ("case", "hidden", "name"),
    [
        (EMBED, 2048, "Embed-1B"),
        (EMBED, 4096, "Embed-8B"),
        (RERANK, 4096, "Rerank-8B"),
        (EMBED, 64, "Embed-1B-BF16 or nvidia/Nemotron-3.5-Embed-8B"),
    ],
)
def test_quantized_folders_are_refused_with_the_name_of_the_other(tmp_path, case, hidden, name):
    folder = _edit_text(_copy(case, tmp_path / "fp8"), hidden_size=hidden)
    load = load_reranker if case == RERANK else load_embedder
    message = (
        rf"the weights of checkpoint .* are quantized \({{}}\), which is not read; give nvidia/Nemotron-3.5-{name}-BF16"
    )
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    with pytest.raises(CheckpointError, match=message.format("NVFP4")):
        load(folder, device="cpu")
    _edit(folder, "config.json", quantization_config={"quant_method": "fp8"})
    with pytest.raises(CheckpointError, match=message.format("fp8")):
        load(folder, device="cpu")


def test_a_quantized_cache_of_keys_and_values_is_no_quantized_weight(tmp_path):
    folder = _copy(TEXT, tmp_path / "cache")
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}}')
    assert load_embedder(folder, device="cpu").dimensions == 64


# ---- images ----


def test_a_row_does_not_depend_on_the_others():
    sizes = [(1, 1), (900, 6), (6, 900), (28, 28), (29, 28), (200, 300), (300, 200), (64, 64)]
    passages = [Passage(image=make_image(n, size)) for n, size in enumerate(sizes)]
    passages += [Passage("word " * n, make_image(n, (77, 60 + n))) for n in (1, 20)] + [
        Passage("word " * n)
        for n in (0, 1, 45, 46, 47, 48, 200)  # across the original length of 48 tokens
    ]
    embedder = load_embedder(EMBED, device="cpu")
    vision_features.clear()
    together = embedder.embed_passages(passages)
    for row, passage in zip(together, passages, strict=True):
        vision_features.clear()
        np.testing.assert_allclose(embedder.embed_passages([passage])[0], row, atol=2e-6)
    reranker = load_reranker(RERANK, device="cpu")
    together = reranker.score("a query", passages)
    alone = [reranker.score("a query", [passage])[0] for passage in passages]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)


def test_an_image_is_encoded_once(monkeypatch):
    reranker = load_reranker(RERANK, device="cpu")
    vision_features.clear()
    first = reranker.score("a query", PAGES)
    tower = reranker._model._stack
    monkeypatch.setattr(tower, "encode_images", lambda *args: pytest.fail("it was encoded again"))
    np.testing.assert_allclose(reranker.score("a query", PAGES), first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("most", [1, 2, 5, 12, 30, 1000])
def test_images_are_shrunk_to_a_number_of_tokens(most):
    sizes = [(1, 1), (168, 168), (120, 168), (168, 30), (900, 6), (6, 900), (29, 140)]
    limits = Limits(dict.fromkeys(("image",), 999), max_image_tokens=most)
    model = load_mistral_model(EMBED, device="cpu", dtype=None)
    for size in sizes:
        free, held = (
            model.encode_passage(Passage(image=make_image(1, size)), each, index=0).image
            for each in (Limits({"image": 999}), limits)
        )
        assert held.tokens <= most
        if free.tokens <= most:
            assert held.grid == free.grid
        elif size == (168, 168):
            assert held.tokens == math.isqrt(most) ** 2


def test_shrunk_images_are_other_vectors_under_another_identity():
    free, held = (load_embedder(EMBED, device="cpu", max_image_tokens=most) for most in (None, 6))
    assert (free.identity["max_image_tokens"], held.identity["max_image_tokens"]) == (None, 6)
    page = [Passage(image=make_image(1, (168, 168)))]
    assert abs(free.embed_passages(page) - held.embed_passages(page)).max() > 1e-3
    few, many = (load_reranker(RERANK, device="cpu", max_image_tokens=most).score("a", page) for most in (6, 36))
    assert few != pytest.approx(many, abs=1e-3)
    assert many == pytest.approx(load_reranker(RERANK, device="cpu").score("a", page), abs=1e-4)


def test_transparency_is_laid_on_white():
    page = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    page.paste((200, 0, 0, 255), (10, 10, 30, 30))
    white = Image.new("RGB", (60, 40), "white")
    white.paste((200, 0, 0), (10, 10, 30, 30))
    found, wanted = load_embedder(EMBED, device="cpu").embed_passages([Passage(image=page), Passage(image=white)])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
