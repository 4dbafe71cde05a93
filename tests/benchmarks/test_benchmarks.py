"""The benchmarks measure what they say: the padded loop is the published one, and all contenders agree."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import ablation, checkpoints, float8, measure, workloads
from benchmarks.__main__ import LOADS, main
from benchmarks.measure import Contender
from benchmarks.padded import PaddedLoop
from benchmarks.setup import Setup
from benchmarks.sizes import FULL, SMALL, TOY
from benchmarks.work import sequence_operations, tile_operations
from nemotron_rag import Passage, configure_vision_cache
from nemotron_rag.runtime import windows

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[1] / "data" / "reference"
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}  # stated by the cases' meta.json
CPU = torch.device("cpu")


def _calls(case: str) -> list:
    calls = json.loads((DATA / case / "inputs.json").read_text())["calls"]
    left_out = ("docs_tiles2_nothumb", "docs_static", "texts_raw", "trunc")  # other settings than the loop's
    return [pytest.param(case, call, id=f"{case}-{call['name']}") for call in calls if call["name"] not in left_out]


def _padded(case: str) -> PaddedLoop:
    return PaddedLoop(DATA / case, device=CPU, dtype=torch.float32, batch=3)


def _expected(case: str, name: str) -> np.ndarray:
    tensors = load_file(DATA / case / "expected.safetensors")
    return tensors.get(f"{name}.pil", tensors.get(name)).numpy()


def _passage(case: str, text: str, image: str | None) -> Passage:
    return Passage(text, Image.open(DATA / case / "images" / image) if image else None)


@pytest.mark.parametrize(("case", "call"), [*_calls("embed_vl_open_1"), *_calls("embed_text_open_1")])
def test_the_padded_loop_embeds_as_the_reference(case, call):
    images = call.get("images", [None] * len(call["texts"]))
    if "query" in call.get("prefix", "") or call.get("kind") == "queries":
        found = _padded(case).embed_queries(call["texts"])
    else:
        passages = [_passage(case, text, image) for text, image in zip(call["texts"], images or [], strict=False)]
        found = _padded(case).embed_passages(passages)
    np.testing.assert_allclose(found, _expected(case, f"{call['name']}.embeddings_l2"), **TOLERANCE)


@pytest.mark.parametrize(("case", "call"), _calls("rerank_vl_open_1"))
def test_the_padded_loop_scores_as_the_reference(case, call):
    loop = _padded(case)
    found = [loop.score(query, [_passage(case, text, image)])[0] for query, text, image in call["pairs"]]
    np.testing.assert_allclose(found, _expected(case, f"{call['name']}.logits")[:, 0], **TOLERANCE)


def test_operations_of_the_1_7_b_geometry(tmp_path):
    """Figures of the geometry, worked out by hand: 981.1 GFLOP a tile, 3947 GFLOP for 1808 tokens."""
    (tmp_path / "config.json").write_text(json.dumps(checkpoints.model_config("embed_vl", FULL)))
    assert tile_operations(tmp_path) == pytest.approx(981.12e9, rel=1e-4)
    assert sequence_operations(tmp_path, 1808) == pytest.approx(3947.1e9, rel=1e-4)


@pytest.fixture
def _tiny(monkeypatch, tmp_path):
    """Three pages, and windows that are smaller than the loads."""
    shutil.copy(workloads.PDFS / "census-disability-us001.pdf", tmp_path)
    monkeypatch.setattr(workloads, "PDFS", tmp_path)
    monkeypatch.setattr(windows, "WINDOW", 4)


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("command", LOADS)
def test_every_contender_computes_the_same(command, capsys):
    main([command, "--toy", "--rounds", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert found["command"].startswith(f"python -m benchmarks {command}")
    assert found["sections"]
    for section in found["sections"]:
        assert section["title"].split()[0] in printed
        assert len(section["rows"]) > 1
        for row in section["rows"]:
            assert row["runs"] == 1
            assert row["p50"] > 0
            assert row["difference"] < 1e-4, (section["title"], row["name"])


@pytest.mark.usefixtures("_tiny")
def test_the_kernels_of_a_gpu_compute_the_same(tmp_path, monkeypatch):
    """Run on the CPU, where there is one kernel only, and uncompiled: that the load runs is what is tested."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    setup = Setup(folder=tmp_path, device=CPU, dtype=torch.float32, size=TOY, rounds=1, pages=3)
    for section, contenders in (
        (ablation.kernels(setup), 3),
        (ablation.graphs(setup), 2),
        (ablation.compiler(setup), 2),
    ):
        assert [row.runs for row in section.rows] == [1] * contenders
        assert max(row.difference for row in section.rows) < 1e-4


def test_no_round_starts_after_the_time_is_over():
    slow = Contender("slow", lambda: time.sleep(0.02) or np.zeros(1))
    [timing] = measure.measure([slow], rounds=50, device=CPU, seconds=0.1)
    assert 1 <= len(timing.seconds) < 10
    [timing] = measure.measure([slow], rounds=50, device=CPU, seconds=0)
    assert len(timing.seconds) == 1


def test_a_checkpoint_is_written_once(tmp_path):
    def write(size):
        return checkpoints.write_checkpoint("embed_text", tmp_path, size=size, device=CPU, dtype=torch.float32)

    folder = write(TOY)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert write(TOY) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="holds a model of another size; give another folder"):
        write(SMALL)


@pytest.mark.parametrize("there_is_a_folder", [True, False])
def test_pages_are_drawn_where_there_are_no_pdfs(monkeypatch, tmp_path, there_is_a_folder):
    monkeypatch.setattr(workloads, "PDFS", tmp_path if there_is_a_folder else None)
    images = [passage.image for passage in workloads.page_images(26)]
    assert {image.size for image in images} == {workloads._SIZE}
    assert len({image.tobytes() for image in images}) == 26
    assert [len(text.text.split()) for text in workloads.mixed_texts(0, 2, words=90)] == [90, 90]


def test_contenders_take_turns_and_are_compared_with_the_first():
    order = []

    def work(name, seconds, answer):
        def run():
            order.append(name)
            time.sleep(seconds)
            return np.array([answer])

        return Contender(name, run, before=lambda: order.append(f"before {name}"))

    slow, fast = measure.measure([work("a", 0.03, 1.0), work("b", 0.01, 1.5)], rounds=3, device=CPU)
    assert order == ["before a", "a", "before b", "b"] * 4
    assert len(slow.seconds) == len(fast.seconds) == 3
    assert fast.ratio(slow) < 1 < slow.ratio(fast)
    assert fast.difference(slow) == 0.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_full_size_is_refused_in_one_line():
    with pytest.raises(SystemExit, match="^--full needs a GPU, and torch finds no CUDA device here; .*$"):
        main(["all", "--full"])


def test_float8_rounds_to_steps_of_an_eighth_of_each_row_s_scale():
    rows = torch.tensor([[448.0, 17.0, -17.9, 1.0], [4.48, 0.17, 0.0, -0.01]])
    assert float8.rounded(rows)[0].tolist() == [448.0, 16.0, -18.0, 1.0]  # three bits behind the leading one
    torch.testing.assert_close(float8.rounded(rows)[1], torch.tensor([4.48, 0.16, 0.0, -0.01]))
    assert torch.equal(float8.rounded(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_float8_is_held_against_bfloat16(capsys):
    folder = Path(__file__).parents[2] / "cookbook" / "pdfs"
    try:
        float8.main([str(DATA / "embed_vl_open_1"), str(folder), "--pages", "2"])
    finally:
        configure_vision_cache()  # it keeps nothing, and other tests want it
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| bfloat16")]
    half, less = (float(line.split("|")[2]) for line in lines)
    assert 0.9 < less < half <= 1
