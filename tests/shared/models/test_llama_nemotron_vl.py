"""Both VL families against golden vectors of the published reference implementation, number by number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nemotron_rag import Passage, load_embedder, load_reranker
from nemotron_rag.documents.images import load_image, to_rgb
from nemotron_rag.models._llama.config import read_vl_config
from nemotron_rag.models._llama.network import load_vl_stack
from nemotron_rag.models._llama.pixels import Cut, cut_tiles, normalise
from nemotron_rag.models._llama.tiling import choose_grid, count_tiles
from support.contracts import make_image

DATA = Path(__file__).parents[2] / "data" / "reference"
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}  # stated by the cases' meta.json


def _calls(*cases: str) -> list:
    calls = [(case, call) for case in cases for call in json.loads((DATA / case / "inputs.json").read_text())["calls"]]
    return [pytest.param(case, call, id=f"{case}-{call['name']}") for case, call in calls]


EMBED_CALLS = _calls("embed_vl_open_1", "embed_vl_open_2")
RERANK_CALLS = _calls("rerank_vl_open_1", "rerank_vl_open_2")


def _options(call: dict) -> dict:
    overrides = call.get("processor_overrides", {})
    tiles = overrides.get("max_input_tiles")
    if overrides.get("dynamic_image_size") is False:
        tiles = 1
    return {"max_input_tiles": tiles, "use_thumbnail": overrides.get("use_thumbnail")}


def _expected(case: str, name: str) -> torch.Tensor:
    tensors = load_file(DATA / case / "expected.safetensors")
    return tensors.get(f"{name}.pil", tensors.get(name))


def _passages(case: str, texts: list[str], images: list[str | None]) -> list[Passage]:
    return [
        Passage(text, DATA / case / "images" / image if image else None)
        for text, image in zip(texts, images, strict=True)
    ]


@pytest.mark.parametrize(("case", "call"), EMBED_CALLS)
def test_embeddings_equal_the_reference(case, call):
    embedder = load_embedder(DATA / case, device="cpu", **_options(call))
    if call["kind"] == "documents":
        found = embedder.embed_passages(_passages(case, call["texts"], call["images"]))
    elif call["kind"] == "queries":
        found = embedder.embed_queries(call["texts"])
    else:  # the processor called without its prefixes; ours adds them, so that the texts without them are the same
        found = np.concatenate([embedder.embed_queries(["hello"]), embedder.embed_passages([Passage("the valve")])])
        assert call["texts"] == ["query: hello", "passage: the valve"]
    expected = _expected(case, f"{call['name']}.embeddings_l2").numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize(("case", "call"), RERANK_CALLS)
def test_logits_equal_the_reference(case, call):
    reranker = load_reranker(DATA / case, device="cpu", **_options(call))
    queries, texts, images = zip(*call["pairs"], strict=True)
    passages = _passages(case, list(texts), list(images))
    expected = _expected(case, f"{call['name']}.logits").numpy()[:, 0]
    for query in set(queries):
        rows = [i for i, other in enumerate(queries) if other == query]
        found = reranker.score(query, [passages[i] for i in rows])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[rows], **TOLERANCE)


@pytest.mark.parametrize(("case", "call"), [*EMBED_CALLS, *RERANK_CALLS])
def test_pixels_and_vision_features_equal_the_reference(case, call):
    pixels = _expected(case, f"{call['name']}.pixel_values")
    sampled = load_file(DATA / case / "expected.safetensors").get(f"{call['name']}.pixel_values.pil.stride16")
    features = _expected(case, f"{call['name']}.vision_features")
    if pixels is None and sampled is None and features is None:
        pytest.skip("a call without images")
    config = read_vl_config(DATA / case)
    options = _options(call)
    keep_mode = case.startswith("rerank")
    tiles = []
    for name in call.get("images") or [pair[2] for pair in call["pairs"]]:
        if name:
            image = load_image(DATA / case / "images" / name)
            cut = Cut.of(
                image.size,
                max_tiles=options["max_input_tiles"] or config.max_input_tiles,
                side=config.tile_size,
                use_thumbnail=config.use_thumbnail if options["use_thumbnail"] is None else False,
            )
            tiles.append(cut_tiles(image if keep_mode else to_rgb(image), cut))
    found = normalise(
        torch.from_numpy(np.concatenate(tiles)), mean=config.mean, std=config.std, device=torch.device("cpu")
    )
    if pixels is not None:
        assert torch.equal(found.float(), pixels.float())
    if sampled is not None:  # rows and columns 5, 21, 37, ... of every tile
        assert torch.equal(found[:, :, 5::16, 5::16], sampled)
    if features is not None:
        stack = load_vl_stack(DATA / case, config, device=torch.device("cpu"), dtype=torch.float32)
        with torch.inference_mode():
            ours = stack.encode_tiles(found)
        if ours.shape == features.shape:  # larger ones are stored thinned out
            torch.testing.assert_close(ours, features, **TOLERANCE)
        else:
            torch.testing.assert_close(ours.flatten(0, 1)[::4], features.flatten(0, -2), **TOLERANCE)


def test_tiling_table():
    table = json.loads((DATA / "tiling_table.json").read_text())
    checked = 0
    for size in table["tables"]:
        for row in size["rows"]:
            for max_tiles, expected in row["grid"].items():
                grid = choose_grid(row["w"], row["h"], max_tiles=int(max_tiles), tile_size=size["image_size"])
                found = [*grid, grid[0] * grid[1], count_tiles(grid, use_thumbnail=True)]
                assert found == expected, (row["w"], row["h"], max_tiles)
                checked += 1
    assert checked > 7000


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_the_reference(dtype):
    """The cases' `spread` puts bfloat16 runs within about 1 % of the largest value, min_cosine 0.9999."""
    case, call = next(param.values for param in EMBED_CALLS if param.id == "embed_vl_open_1-docs_mixed")
    embedder = load_embedder(DATA / case, device="cpu", dtype=dtype)
    found = embedder.embed_passages(_passages(case, call["texts"], call["images"]))
    expected = _expected(case, "docs_mixed.embeddings_l2").numpy()
    assert (found * expected).sum(axis=1).min() > 0.9998


@pytest.mark.parametrize(("pooling", "place"), [("last", -1), ("cls", 0), ("avg", None)])
@pytest.mark.parametrize("of_language_model", [False, True])
def test_poolings_of_the_published_class(tmp_path, pooling, place, of_language_model):
    """Which token counts is what its `pool` says; it may be named for the whole model or its language model."""
    folder = Path(shutil.copytree(DATA / "embed_vl_open_1", tmp_path / "copy", ignore=shutil.ignore_patterns("images")))
    config = json.loads((folder / "config.json").read_text())
    del config["pooling"]
    (config["llm_config"] if of_language_model else config)["pooling"] = pooling
    (folder / "config.json").write_text(json.dumps(config))
    model = load_embedder(folder, device="cpu")
    page = Passage("a caption", make_image())
    states = model._model._run([model._prepare_passage(model._model, page, 0)]).numpy()  # (tokens, hidden)
    wanted = states.mean(axis=0) if place is None else states[place]
    np.testing.assert_allclose(model.embed_passages([page])[0], wanted / np.linalg.norm(wanted), atol=2e-5)
    assert model.identity["pooling"] == pooling
