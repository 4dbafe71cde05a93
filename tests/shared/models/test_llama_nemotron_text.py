"""Both text families against golden vectors of the published reference implementation, number by number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag.errors import CheckpointError, InputError
from nemotron_rag.models._llama.prompts import embed_prompt, rerank_prompt
from nemotron_rag.models._llama.text_model import TextInput, load_text_model
from nemotron_rag.models._llama.tokenizer import Prompt, PromptTokenizer
from support.contracts import EmbedderContract, RerankerContract, make_image

DATA = Path(__file__).parents[2] / "data" / "reference"
EMBED, RERANK = DATA / "embed_text_open_1", DATA / "rerank_text_open_2"
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}  # stated by the cases' meta.json
TEXT_ONLY = [Passage("Tornadoes form in thunderstorms."), Passage(""), Passage("x"), Passage("Tornado " * 40)]


def _calls(folder: Path) -> list:
    return [pytest.param(call, id=call["name"]) for call in json.loads((folder / "inputs.json").read_text())["calls"]]


def _expected(folder: Path, name: str) -> np.ndarray:
    return load_file(folder / "expected.safetensors")[name].numpy()


def _ids(folder: Path, call: str) -> list[list[int]]:
    """What the reference gave to the model, without its padding."""
    ids, mask = (_expected(folder, f"{call}.{what}") for what in ("input_ids", "attention_mask"))
    return [row[real == 1].tolist() for row, real in zip(ids, mask, strict=True)]


@pytest.mark.parametrize("call", _calls(EMBED))
def test_embeddings_equal_the_reference(call):
    for dimensions, what in [(None, "embeddings_l2"), (8, "matryoshka_8"), (32, "matryoshka_32")]:
        embedder = load_embedder(EMBED, device="cpu", dimensions=dimensions)
        texts = call["texts"]
        is_query = call["prefix"] == "query: "
        rows = embedder.embed_queries(texts) if is_query else embedder.embed_passages([Passage(t) for t in texts])
        np.testing.assert_allclose(rows, _expected(EMBED, f"{call['name']}.{what}"), **TOLERANCE)


@pytest.mark.parametrize("call", _calls(RERANK))
def test_logits_equal_the_reference(call):
    longest = max(map(len, _ids(RERANK, call["name"])))
    reranker = load_reranker(RERANK, device="cpu", max_length=longest)
    scores = [reranker.score(query, [Passage(text)])[0] for query, text in call["pairs"]]
    np.testing.assert_allclose(scores, _expected(RERANK, f"{call['name']}.logits")[:, 0], **TOLERANCE)


def test_token_ids_equal_the_reference():
    tokenizer = PromptTokenizer(EMBED)
    for call in json.loads((EMBED / "inputs.json").read_text())["calls"]:
        prompts = [embed_prompt(call["prefix"].strip(), text) for text in call["texts"]]
        found = [tokenizer.encode(prompt, max_length=8192, index=0) for prompt in prompts]
        assert found == _ids(EMBED, call["name"])
    tokenizer = PromptTokenizer(RERANK)
    for call in json.loads((RERANK / "inputs.json").read_text())["calls"]:
        wanted = _ids(RERANK, call["name"])
        prompts = [rerank_prompt(query, text, template="v1") for query, text in call["pairs"]]
        longest = max(map(len, wanted))
        assert [tokenizer.encode(prompt, max_length=longest, index=0) for prompt in prompts] == wanted


def test_a_tokenizer_without_image_tokens_reads_no_image():
    with pytest.raises(InputError, match="has no image tokens"):
        PromptTokenizer(EMBED).encode(Prompt("a", image_tokens=4), max_length=99, index=0)


class TestLlamaNemotronTextEmbed(EmbedderContract):
    passages = TEXT_ONLY

    @pytest.fixture
    def embedder(self):
        return load_embedder(EMBED, device="cpu")

    def test_an_image_is_never_ignored_where_it_is_all_there_is(self, embedder):
        with pytest.raises(InputError, match="passage 1 is an image without text, and .* reads text only"):
            embedder.embed_passages([Passage("a"), Passage(image=make_image())])
        with pytest.raises(InputError, match="passage 0 is an image without text"):
            embedder.embed_passages([Passage(" \n", make_image())])

    def test_of_a_page_the_text_is_read(self, embedder):
        with_image, text = embedder.embed_passages([Passage("a page", make_image()), Passage("a page")])
        np.testing.assert_allclose(with_image, text, atol=1e-6)

    def test_lengths_can_be_set(self, embedder):
        assert embedder.identity["max_length_text"] == embedder.identity["max_length_query"] == 8192
        short = load_embedder(EMBED, device="cpu", max_length={"text": 10})
        rows = short.embed_passages([Passage("word " * 50), Passage("word " * 60)])
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
        with pytest.raises(InputError, match="max_length has no key 'image'"):
            load_embedder(EMBED, device="cpu", max_length={"image": 10})

    def test_options_for_images_are_refused(self):
        with pytest.raises(InputError, match="has no use for max_input_tiles; leave it out"):
            load_embedder(EMBED, device="cpu", max_input_tiles=4)


class TestLlamaNemotronTextRerank(RerankerContract):
    passages = TEXT_ONLY
    tolerance = 1e-3  # a temperature of 0.02 makes logits of this case large

    @pytest.fixture
    def reranker(self):
        return load_reranker(RERANK, device="cpu")

    def test_an_image_is_never_ignored_where_it_is_all_there_is(self, reranker):
        with pytest.raises(InputError, match="passage 0 is an image without text"):
            reranker.score("a", [Passage(image=make_image())])
        same = reranker.score("a", [Passage("b", make_image()), Passage("b")])
        assert same[0] == pytest.approx(same[1], abs=self.tolerance)


def test_architectures_tell_embedder_and_reranker_apart(tmp_path):
    with pytest.raises(InputError, match="is of kind reranker, wanted embedder"):
        load_embedder(RERANK)
    with pytest.raises(InputError, match="is of kind embedder, wanted reranker"):
        load_reranker(EMBED)
    config = json.loads((EMBED / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForMaskedLM"]}))
    with pytest.raises(CheckpointError, match=r"type 'llama_bidirec' with architectures \['LlamaForMaskedLM'\]"):
        load_embedder(tmp_path)


def test_checkpoints_we_cannot_run(tmp_path):
    folder = Path(shutil.copytree(RERANK, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pooling": "max"}))
    with pytest.raises(CheckpointError, match="pooling='max', only mean, avg, cls, lasttoken, last"):
        load_reranker(folder, device="cpu")
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    with pytest.raises(CheckpointError, match="config.json of checkpoint .* cannot be used"):
        load_reranker(folder, device="cpu")
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"score.weight": weights["score.weight"].repeat(2, 1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"score.weight .* has shape \(2, 72\), its config.json needs \(1, 72\)"):
        load_reranker(folder, device="cpu")


def _hidden(folder: Path, call: dict) -> list[np.ndarray]:
    """The last hidden states of each text, after the final norm, without padding: (tokens, hidden)."""
    model = load_text_model(folder, device="cpu", dtype=None)
    rows = []
    for ids in _ids(folder, call["name"]):
        found = model._run([TextInput(ids)])
        rows.append(found.numpy())
    return rows


def _pooled_folder(place: Path, source: Path, **fields) -> Path:
    folder = Path(shutil.copytree(source, place))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


@pytest.mark.parametrize(("pooling", "place"), [("last", -1), ("cls", 0), ("cls_last", 0)])
def test_other_poolings_of_the_published_class(tmp_path, pooling, place):
    """Which token counts is what its `pool` says; the states are those whose mean golden vectors hold."""
    folder = _pooled_folder(tmp_path / "embed", EMBED, pooling=pooling)
    call = json.loads((EMBED / "inputs.json").read_text())["calls"][0]
    model = load_embedder(folder, device="cpu")
    states = _hidden(folder, call)
    wanted = np.stack([rows[place] / np.linalg.norm(rows[place]) for rows in states])
    as_query = call["prefix"] == "query: "
    found = model.embed_queries(call["texts"]) if as_query else model.embed_passages(list(map(Passage, call["texts"])))
    np.testing.assert_allclose(found, wanted, **TOLERANCE)
    assert model.identity["pooling"] == pooling.removesuffix("_last")
    means = np.stack([rows.mean(axis=0) for rows in states])
    expected = _expected(EMBED, f"{call['name']}.embeddings_l2")
    np.testing.assert_allclose(means / np.linalg.norm(means, axis=1, keepdims=True), expected, **TOLERANCE)
    reranker = load_reranker(_pooled_folder(tmp_path / "rerank", RERANK, pooling=pooling), device="cpu")
    head = load_file(RERANK / "model.safetensors")["score.weight"].float().numpy()[0]
    item = reranker._prepare(reranker._model, "a", Passage("b c"), 0)
    state = reranker._model._run([item]).numpy()[place]
    logit = state @ head / reranker._model.temperature
    assert reranker.score("a", [Passage("b c")])[0] == pytest.approx(logit, rel=1e-4, abs=1e-4)


def test_the_published_weighted_average_is_the_sum(tmp_path):
    """Whose direction is that of the mean; a reranker reads its length too."""
    found = load_embedder(_pooled_folder(tmp_path / "sum", EMBED, pooling="weighted_avg"), device="cpu")
    wanted = load_embedder(EMBED, device="cpu").embed_queries(["a b c"])
    np.testing.assert_allclose(found.embed_queries(["a b c"]), wanted, atol=1e-6)
    with pytest.raises(CheckpointError, match="pooling='weighted_avg', only"):
        load_reranker(_pooled_folder(tmp_path / "rerank", RERANK, pooling="weighted_avg"), device="cpu")


class TestLastTokenPooling(EmbedderContract):
    passages = TEXT_ONLY

    @pytest.fixture
    def embedder(self, tmp_path):
        return load_embedder(_pooled_folder(tmp_path / "last", EMBED, pooling="last"), device="cpu")


def test_files_of_sentence_transformers_decide(tmp_path):
    """A model fine-tuned with it pools and prompts as its own files say."""
    folder = Path(shutil.copytree(EMBED, tmp_path / "tuned"))
    (folder / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    prompts = {"prompts": {"query": "find: ", "document": ""}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    found = load_embedder(folder, device="cpu")
    assert found.identity["pooling"] == "last"
    assert (found.identity["query_prefix"], found.identity["passage_prefix"]) == ("find: ", "")
    plain = load_embedder(_pooled_folder(tmp_path / "last", EMBED, pooling="last"), device="cpu")
    assert "query_prefix" not in plain.identity
    tokenizer = PromptTokenizer(EMBED)
    for text, prepared in (("find: a", found._prepare_query(found._model, "a", 0)), ("b", _first(found, "b"))):
        assert prepared.ids == tokenizer.encode(Prompt(text), max_length=99, index=0)


def _first(model, text: str):
    return model._prepare_passage(model._model, Passage(text), 0)


def test_weights_under_a_common_prefix_are_the_same(tmp_path):
    folder = Path(shutil.copytree(EMBED, tmp_path / "prefixed"))
    weights = load_file(folder / "model.safetensors")
    save_file({f"model.{name}": tensor for name, tensor in weights.items()}, folder / "model.safetensors")
    found = load_embedder(folder, device="cpu").embed_queries(["a"])
    np.testing.assert_array_equal(found, load_embedder(EMBED, device="cpu").embed_queries(["a"]))
