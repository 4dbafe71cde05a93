"""Checkpoints as training leaves them: other names, formats and files of the same weights, and adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from nemotron_rag import Passage, load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.errors import CheckpointError
from nemotron_rag.models._base.weights import own_name
from nemotron_rag.models.families import FAMILIES
from nemotron_rag.models.load import check_model
from support.contracts import make_image

DATA = Path(__file__).parents[2] / "data" / "reference"
LOAD = {"embedder": load_embedder, "multivector_embedder": load_multivector_embedder, "reranker": load_reranker}
CASES = {
    "llama_nemotron_embed_vl": "embed_vl_open_1",
    "llama_nemotron_rerank_vl": "rerank_vl_open_1",
    "llama_nemotron_colembed_vl": "colembed_llama_open_1",
    "llama_nemotron_text_embed": "embed_text_open_1",
    "llama_nemotron_text_rerank": "rerank_text_open_2",
    "nemotron_colembed_qwen3_vl": "colembed_qwen3vl_open_1",
    "jina_reranker_m0": "jina_m0_open_1",
    "monoqwen2_vl": "monoqwen2vl_open_1",
    "qwen3_vl_embed": "qwen3vl_embed_open_1",
    "qwen3_vl_rerank": "qwen3vl_rerank_open_1",
    "nemotron35_embed": "nemotron35_embed_open_1",
    "nemotron35_rerank": "nemotron35_rerank_open_1",
    "nemotron3_embed": "nemotron3_embed_text_open_1",
}
HEADS = ("score.", "lm_head.")
TEXT_ONLY = ("llama_nemotron_text_embed", "llama_nemotron_text_rerank", "nemotron3_embed")


def test_every_family_is_here():
    assert CASES.keys() == {family.module for family in FAMILIES}


def _bare(name: str) -> str:
    return name.removeprefix("model.")


def _with_model(name: str) -> str:
    return name if name.startswith(HEADS) else f"model.{_bare(name)}"


def _newer(name: str) -> str:
    """As transformers 5 writes them: towers not nested twice, the language model of Qwen2-VL within its own name."""
    flat = name.replace("vision_model.vision_model.", "vision_model.")
    if flat.startswith("visual."):
        return f"model.{flat}"
    is_old_qwen = flat.startswith(("model.layers.", "model.embed_tokens.", "model.norm."))
    return flat.replace("model.", "model.language_model.", 1) if is_old_qwen else flat


def _resaved(place: Path, family: str, *, rename: Callable[[str], str], dtype: torch.dtype, shards: int = 1) -> Path:
    folder = DATA / CASES[family]
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("images", "expected.safetensors", "*.index.json"))
    weights = {rename(name): tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    layers = next(name for name in weights if ".layers.0." in name or name.startswith("layers.0."))
    before = layers.partition("layers.0.")[0]
    weights[f"{before}rotary_emb.inv_freq"] = torch.ones(4)
    weights[f"{before}layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    (place / "model.safetensors").unlink()
    files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(sorted(weights))}
    for file in set(files.values()):
        save_file({name: tensor for name, tensor in weights.items() if files[name] == file}, place / file)
    if shards == 1:
        (place / files[min(files)]).rename(place / "model.safetensors")
    else:
        (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return place


def _outputs(folder: Path, family: str) -> list[np.ndarray]:
    """What a model gives for a text and, if it reads images, a page."""
    found = next(row for row in FAMILIES if row.module == family)
    model = LOAD[found.kind](folder, device="cpu", dtype="float32")
    passages = [Passage("Tornadoes form in thunderstorms."), Passage(image=make_image())]
    if family in TEXT_ONLY:
        passages = passages[:1]
    if family == "monoqwen2_vl":
        passages = passages[1:]
    if found.kind == "reranker":
        return [model.score("tornadoes", passages)]
    return [*model.embed_passages(passages), *model.embed_queries(["tornadoes"])]


@pytest.mark.parametrize("family", CASES)
def test_the_same_weights_are_the_same_model(tmp_path, family):
    wanted = _outputs(DATA / CASES[family], family)
    variants = {
        "bare, float32": {"rename": _bare, "dtype": torch.float32},
        "prefixed, float16, sharded": {"rename": _with_model, "dtype": torch.float16, "shards": 3},
        "newer, bfloat16, sharded": {"rename": _newer, "dtype": torch.bfloat16, "shards": 2},
    }
    if family.startswith("nemotron3") or family in TEXT_ONLY:
        del variants["newer, bfloat16, sharded"]  # transformers 5 gives them no other names
    for name, settings in variants.items():
        found = _outputs(_resaved(tmp_path / name, family, **settings), family)
        tolerance = 1e-3 if settings["dtype"] == torch.float16 else 1e-6
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=tolerance, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("wrapper", ["module.", "base_model.model.", "_orig_mod."])
@pytest.mark.parametrize(
    "family", ["llama_nemotron_text_rerank", "llama_nemotron_rerank_vl", "qwen3_vl_rerank", "jina_reranker_m0"]
)
def test_prefixes_of_wrappers_are_left_out(tmp_path, family, wrapper):
    folder = _resaved(tmp_path / "w", family, rename=lambda name: wrapper + name, dtype=torch.float32)
    wanted = _outputs(DATA / CASES[family], family)
    np.testing.assert_allclose(_outputs(folder, family)[0], wanted[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("class_name", "family"),
    [
        ("Qwen3VLForConditionalGeneration", "qwen3_vl_rerank"),
        ("Qwen3VLModel", "qwen3_vl_embed"),
        ("Qwen2VLForConditionalGeneration", "monoqwen2_vl"),
    ],
)
def test_what_transformers_saves_is_loaded(tmp_path, class_name, family):
    source = DATA / CASES[family]
    model = getattr(transformers, class_name).from_pretrained(source, dtype=torch.float16)
    model.save_pretrained(tmp_path / "saved", max_shard_size="300KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "preprocessor_config.json"):
        shutil.copy(source / name, tmp_path / "saved" / name)
    for one, other in zip(_outputs(tmp_path / "saved", family), _outputs(source, family), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


def test_an_adapter_is_refused_with_how_to_merge_it(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Base\nModel"}))
    for load in (load_embedder, load_reranker, lambda folder: check_model(folder, "embedder")):
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path)
        message = str(caught.value)
        assert "\n" not in message
        assert "holds a LoRA adapter (adapter_config.json), not a model; merge it with PEFT" in message
        assert "PeftModel.from_pretrained(<Qwen/Base Model>, <folder>).merge_and_unload()" in message
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="from_pretrained\\(<its base model>"):
        load_embedder(tmp_path)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("qwen3_vl_embed", "Qwen/Qwen3-VL-Embedding-2B or Qwen/Qwen3-VL-Embedding-8B"),
        ("qwen3_vl_rerank", "the model that was quantized"),
        ("llama_nemotron_embed_vl", "nvidia/llama-nemotron-embed-vl-1b-v2"),
    ],
)
def test_quantized_weights_are_refused_with_what_to_give(tmp_path, family, names):
    place = Path(shutil.copytree(DATA / CASES[family], tmp_path / "q", ignore=shutil.ignore_patterns("images")))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    row = next(row for row in FAMILIES if row.module == family)
    for load in (LOAD[row.kind], lambda folder: check_model(folder, row.kind)):
        with pytest.raises(CheckpointError, match=rf"are quantized \(bitsandbytes\), which is not read; give {names}$"):
            load(place)


def test_weights_of_an_adapter_among_the_others_are_refused(tmp_path):
    folder = _resaved(tmp_path / "a", "qwen3_vl_embed", rename=lambda name: name, dtype=torch.float32)
    weights = load_file(folder / "model.safetensors")
    name = "model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"
    save_file(weights | {name: torch.zeros(4, 64)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"q_proj.lora_A.default.weight is of a LoRA adapter that was not merged"):
        load_embedder(folder, device="cpu")


def test_own_names():
    assert own_name("module.base_model.model.model.layers.0.mlp.up_proj.weight") == "layers.0.mlp.up_proj.weight"
    assert own_name("model.vision_model.embeddings.position_embedding.weight").startswith("vision_model.")
    assert own_name("model.visual.rotary_pos_emb.inv_freq") is None
