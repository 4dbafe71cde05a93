"""Names, folders, and checkpoints that are not what they should be."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import nemotron_rag.models.load
import nemotron_rag_starters
from nemotron_rag import CATALOG, Passage, load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.errors import CheckpointError, InputError, MissingExtraError, UnknownModelError
from nemotron_rag.models import catalog, families
from nemotron_rag.runtime import hub


@pytest.fixture
def checkpoint(reference, tmp_path) -> Path:
    return Path(shutil.copytree(reference / "embed_vl_open_1", tmp_path / "checkpoint"))


def _edit(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _embed(folder: Path):
    return load_embedder(folder, device="cpu").embed_passages([Passage("a b c")])


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(UnknownModelError, match="no model named 'lama'.*llama-nemotron-embed-vl-1b-v2"):
        load_embedder("lama")
    with pytest.raises(CheckpointError, match="holds no config.json"):
        load_embedder(tmp_path)


def test_the_wrong_kind(reference):
    with pytest.raises(InputError, match="is of kind reranker, wanted embedder; load it with load_reranker"):
        load_embedder(reference / "rerank_vl_open_1")
    with pytest.raises(InputError, match="is of kind embedder, wanted reranker"):
        load_reranker(reference / "embed_vl_open_1")


def test_impossible_arguments(reference):
    folder = reference / "embed_vl_open_1"
    for options, message in [
        ({"device": "gpu"}, "device must be 'cpu', 'cuda', 'cuda:N' or 'mps', got 'gpu'"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used here"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        ({"revision": "main"}, "is not on the model hub"),
        ({"dimensions": 65}, "dimensions must be between 1 and 64, got 65"),
        ({"max_input_tiles": 0}, "max_input_tiles must be a positive integer, got 0"),
        ({"max_length": 0}, "max_length must be a positive integer, or such integers by modality; got 0"),
    ]:
        with pytest.raises(InputError, match=message):
            load_embedder(folder, **{"device": "cpu", **options})
    with pytest.raises(InputError, match="has vectors of 2048 dimensions, got dimensions=100"):
        load_embedder("llama-nemotron-embed-vl-1b-v2", dimensions=100)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "bert"}, "of type 'bert'; supported types: llama_nemotron_vl"),
        ({"pooling": "max"}, "pooling='max', only mean, avg, cls, lasttoken, last"),
        ({"select_layer": -2}, "select_layer=-2, only -1"),
        ({"ps_version": "v1"}, "ps_version='v1', only 'v2'"),
        ({"vision_config": None}, "config.json of checkpoint .* cannot be used"),
        ({"img_context_token_id": None}, "cannot be used"),
    ],
)
def test_configurations_we_cannot_run(checkpoint, fields, message):
    _edit(checkpoint, **fields)
    with pytest.raises(CheckpointError, match=message):
        load_embedder(checkpoint, device="cpu")


def test_rope_in_the_newer_spelling_is_the_same(checkpoint):
    before = _embed(checkpoint)
    llm = json.loads((checkpoint / "config.json").read_text())["llm_config"]
    llm["rope_parameters"] = {"rope_theta": llm.pop("rope_theta"), **llm.pop("rope_scaling")}
    copy = checkpoint.with_name("newer")
    shutil.copytree(checkpoint, copy)
    _edit(copy, llm_config=llm)
    assert (_embed(copy) == before).all()


def test_weight_names_of_both_transformers_lines(checkpoint):
    before = _embed(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    flat = {name.replace("vision_model.vision_model.", "vision_model."): tensor for name, tensor in weights.items()}
    copy = Path(shutil.copytree(checkpoint, checkpoint.with_name("flat")))
    save_file(flat, copy / "model.safetensors")
    assert (_embed(copy) == before).all()


def test_sharded_weights(checkpoint):
    before = _embed(checkpoint)
    copy = Path(shutil.copytree(checkpoint, checkpoint.with_name("sharded")))
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    files = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in names if files[name] == file}, copy / file)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert (_embed(copy) == before).all()
    files[names[0]] = "../outside.safetensors"
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(CheckpointError, match="names '../outside.safetensors'"):
        load_embedder(copy, device="cpu", dtype="bfloat16")


def test_broken_weights(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    norm = weights.pop("language_model.norm.weight")
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \['language_model.norm.weight'\], 0 unknown"):
        load_embedder(checkpoint, device="cpu")
    save_file(weights | {"language_model.norm.weight": norm[:3].clone()}, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has shape \(3,\), its config.json needs \(64,\)"):
        load_embedder(checkpoint, device="cpu")
    (checkpoint / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="cannot read weights"):
        load_embedder(checkpoint, device="cpu")
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"a pickle would be here")
    with pytest.raises(CheckpointError, match="only safetensors are read"):
        load_embedder(checkpoint, device="cpu")


def test_reranker_without_head(reference, tmp_path):
    folder = Path(shutil.copytree(reference / "rerank_vl_open_1", tmp_path / "rerank"))
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no weight named score.weight"):
        load_reranker(folder, device="cpu")


@pytest.mark.slow
def test_equal_checkpoints_share_their_weights_until_closed(checkpoint):
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: load_embedder(checkpoint, device="cpu", max_input_tiles=2), range(8)))
    models = {id(embedder._model) for embedder in loaded}
    assert len(models) == 1
    assert load_embedder(checkpoint, device="cpu", dtype="bfloat16")._model is not loaded[0]._model
    weights = weakref.ref(loaded[0]._model)
    loaded[0].close()
    assert loaded[1].embed_queries(["still there"]).shape == (1, 64)
    for embedder in loaded:
        embedder.close()
    gc.collect()
    assert weights() is None


def test_identity_tells_weights_apart(checkpoint):
    before = load_embedder(checkpoint, device="cpu").identity
    assert before == load_embedder(checkpoint, device="cpu").identity
    assert before != load_embedder(checkpoint, device="cpu", max_input_tiles=3).identity
    weights = load_file(checkpoint / "model.safetensors")
    weights["language_model.norm.weight"] += 1
    save_file(weights, checkpoint / "model.safetensors")
    assert before != load_embedder(checkpoint, device="cpu", dtype="float16").identity


def test_missing_torch_names_the_extra(monkeypatch, reference):
    def refuse(name):
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setattr(nemotron_rag.models.load.importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'nemotron-rag\[local\]'"):
        load_embedder(reference / "embed_vl_open_1")


def test_unreachable_hub_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError("offline\nand a second line"))
    )
    with pytest.raises(CheckpointError) as caught:
        load_embedder("llama-nemotron-embed-vl-1b-v2")
    assert "\n" not in str(caught.value)
    assert "local folder" in str(caught.value)


def test_catalog_rows_are_pinned():
    for spec in CATALOG:
        assert (spec.repo is None) == (spec.revision is None)
        if spec.revision is not None:
            assert len(spec.revision) == 40
            assert int(spec.revision, 16) >= 0
    assert len({spec.id for spec in CATALOG}) == len(CATALOG)


def test_weights_that_nobody_publishes_are_not_guessed():
    with pytest.raises(CheckpointError, match="vlm-embed-v1 are not on the model hub; give a local folder"):
        load_embedder("llama-3.2-nemoretriever-1b-vlm-embed-v1")


def test_non_commercial_weights_are_told_of_once(monkeypatch, reference, caplog):
    """The first loading warns; what the hub would give is a local folder here."""
    spec = catalog.find("llama-nemotron-colembed-vl-3b-v2")
    nemotron_rag.models.load._warn_of_licence.cache_clear()
    monkeypatch.setattr(hub, "download", lambda repo, *, revision, only_cached: reference / "colembed_llama_open_1")
    for _ in range(2):
        model = load_multivector_embedder(spec.id, device="cpu")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"the weights of {spec.id} may not be used commercially; their licence: {spec.licence}"
    ]
    assert (model.name, model.identity["revision"]) == (spec.id, spec.revision)
    assert model.identity["max_input_tiles"] == spec.max_input_tiles == 8


def test_a_family_is_found_by_its_most_particular_fields():
    assert families.find_family({"model_type": "llama_nemotron_vl"}).kind == "embedder"
    assert (
        families.find_family({"model_type": "llama_nemotron_vl", "pooling": "colbert"}).kind == "multivector_embedder"
    )
    modules = {family.module for family in families.FAMILIES}
    assert {spec.family for spec in CATALOG} <= modules


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, nemotron_rag; print([m for m in ('torch', 'transformers', 'pymupdf') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import nemotron_rag

    assert nemotron_rag.__all__ == sorted(nemotron_rag.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(nemotron_rag, name) for name in nemotron_rag.__all__)
    with pytest.raises(AttributeError, match="no attribute 'PagIndex'"):
        _ = nemotron_rag.PagIndex


LOADERS = {
    "embedder": load_embedder,
    "multivector_embedder": load_multivector_embedder,
    "reranker": load_reranker,
}


@pytest.mark.parametrize("spec", [spec for spec in CATALOG if spec.starter], ids=lambda spec: spec.id)
def test_starter_rows_tell_the_truth(spec, caplog):
    folder = nemotron_rag_starters.checkpoint(spec.id)
    weights = load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == spec.parameters
    assert (folder / "MODEL_CARD.md").is_file()
    with caplog.at_level("INFO", logger="nemotron_rag"):
        model = LOADERS[spec.kind](spec.id, device="cpu")
    assert "not one of NVIDIA's" in caplog.text
    assert model.identity["max_input_tiles"] == spec.max_input_tiles
    for dimensions in spec.dimensions if spec.kind == "embedder" else ():
        short = load_embedder(spec.id, device="cpu", dimensions=dimensions)
        assert short.embed_queries(["a"]).shape == (1, dimensions)
