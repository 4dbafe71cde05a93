"""The GPU day: no part takes another with it, all that was found is kept, and golden vectors are compared in earnest.

That every part runs is tested by ``make rehearsal``, which takes as long as half of these tests together.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_day import golden, profiling
from benchmarks.gpu_day.__main__ import PARTS, main
from benchmarks.gpu_day.aims import note_aims
from benchmarks.gpu_day.cases import REFERENCE, Case, all_cases
from benchmarks.gpu_day.day import Day
from benchmarks.gpu_day.part import Part
from benchmarks.gpu_day.profiling import Span
from benchmarks.gpu_day.results import Results
from benchmarks.gpu_day.wheels import install_missing, missing
from nemotron_rag.models.families import FAMILIES
from support.devices import either_device

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGE = "support.gpu_day_parts"


PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "shared")])


@pytest.fixture
def _path(monkeypatch):
    """For the process that others are forked from."""
    monkeypatch.setenv("PYTHONPATH", PATH)


def _part(function: str, **settings) -> Part:
    return Part(function, f"{PACKAGE}:{function}", **({"seconds": 60, "least": 0.1} | settings))


def _day(tmp_path: Path, *parts: Part, **settings) -> Day:
    work = tmp_path / "work"
    work.mkdir()
    given = {"seconds": 480, "device": "cpu", "dry_run": False} | settings
    return Day(parts=parts, out=tmp_path / "out", work=work, **given)


def _states(out: Path) -> dict[str, tuple[str, str]]:
    return {name: (part["state"], part["why"]) for name, part in Results(out).read()["parts"].items()}


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("preload", [[], ["support.gpu_day_preloaded"]], ids=["started anew", "forked"])
def test_a_part_that_fails_or_is_late_takes_no_other_with_it(tmp_path, capsys, preload):
    day = _day(
        tmp_path,
        *map(_part, ("wrong", "raising", "crashing", "impossible")),
        _part("endless", seconds=4),
        _part("good"),
        preload=preload,
    )
    assert day.run() == 1
    out = tmp_path / "out"
    assert _states(out) == {
        "wrong": ("failed", "3 of 4 rows are not ok"),
        "raising": ("failed", "RuntimeError: CUDA error: an illegal memory access"),
        "crashing": ("failed", "its process ended with status 7"),
        "impossible": ("skipped", "there is no such thing here"),
        "endless": ("late", "stopped; what it had found by then is kept"),
        "good": ("done", "all found"),
    }
    parts = Results(out).read()["parts"]
    assert parts["good"]["data"] == {"answer": 42}
    for name in ("wrong", "endless"):
        assert parts[name]["tables"]["Half"]["rows"] == [["kept"]]
    assert 4 <= parts["endless"]["seconds"] < 30
    assert not any(_alive(pid) for pid in parts["endless"]["data"].values())
    assert {path.name for path in out.iterdir()} == {"results.json", "report.md", "output.log"}
    report = (out / "report.md").read_text()
    assert "| good | done |" in report
    assert "| endless | late |" in report
    assert "| kept |" in report
    printed = capsys.readouterr().out
    assert printed == (out / "output.log").read_text()
    assert "good prints" in printed
    assert "Traceback" in printed


def test_the_exit_status_says_whether_what_ran_passed(tmp_path):
    assert _day(tmp_path, _part("good"), _part("impossible")).run() == 0


def test_in_a_dry_run_nothing_may_be_left_out(tmp_path):
    assert _day(tmp_path, _part("good"), _part("impossible"), dry_run=True).run() == 1


def test_no_part_begins_that_has_no_time_left(tmp_path):
    begun = time.time()
    assert _day(tmp_path, _part("endless", least=1), _part("good", least=20), seconds=9).run() == 1
    assert time.time() - begun < 20
    states = _states(tmp_path / "out")
    assert states["endless"][0] == "late"
    assert states["good"] == ("skipped", "0 s are left, it needs 20 s")


def test_without_a_vital_part_the_rest_is_pointless(tmp_path):
    assert _day(tmp_path, _part("wrong", vital=True), _part("good")).run() == 1
    assert _states(tmp_path / "out")["good"] == ("skipped", "without wrong")


@pytest.mark.usefixtures("_path")
def test_what_cannot_be_forked_is_started_anew(tmp_path):
    day = _day(tmp_path, _part("only_anew", vital=True), _part("good"), preload=["support.gpu_day_preloaded"])
    assert day.run() == 0
    assert _states(tmp_path / "out")["only_anew"] == ("done", "started anew")
    log = (tmp_path / "out" / "output.log").read_text()
    assert "only_anew failed (RuntimeError: cannot be initialised in a forked process)" in log


def test_a_run_that_is_ended_leaves_what_it_knew_and_no_process(tmp_path):
    code = f"""
import signal, sys
from pathlib import Path
from benchmarks.gpu_day.day import Day
from benchmarks.gpu_day.part import Part

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = [Part(name, f"{PACKAGE}:{{name}}", 60, least=0.1) for name in ("good", "endless")]
    Day(parts=parts, out=Path("out"), work=Path("work"), seconds=480, device="cpu", dry_run=False).run()
"""
    (tmp_path / "run.py").write_text(code)
    (tmp_path / "work").mkdir()
    running = subprocess.Popen([sys.executable, "run.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": PATH})
    out = tmp_path / "out"
    until = time.time() + 120
    while "tables" not in str(Results(out).read()["parts"].get("endless")) or not _pids(out):
        assert time.time() < until
        time.sleep(0.1)
    pids = _pids(out)
    assert all(map(_alive, pids))
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 143
    assert not any(map(_alive, pids))
    assert _states(out) == {"good": ("done", "all found"), "endless": ("running", "")}


def _pids(out: Path) -> list[int]:
    return list(Results(out).read()["parts"]["endless"].get("data", {}).values())


def test_results_of_an_earlier_run_are_not_mixed_with_new_ones(tmp_path):
    Results(tmp_path).set_state("good", "done")
    with pytest.raises(SystemExit, match="holds the results of an earlier run; give another folder"):
        main(["--out", str(tmp_path), "--dry-run"])


def test_every_part_is_there():
    for part in PARTS:
        module, _, function = part.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert sum(part.least for part in PARTS) < 480


def test_every_family_has_a_golden_case():
    cases = all_cases()
    assert {case.family.module for case in cases} == {family.module for family in FAMILIES}
    modules = {family.module for family in FAMILIES}
    assert {case.family.module for case in cases[: len(modules)]} == modules  # one of each comes first
    assert all(len(case.calls) > 0 for case in cases)


@either_device
@pytest.mark.parametrize(
    "name", ["embed_vl_open_1", "colembed_qwen3vl_open_1", "rerank_text_open_2", "nemotron35_rerank_open_1"]
)
def test_golden_vectors_are_met_by_every_variant(name, device):
    rows = _check(Case(REFERENCE / name), device)
    shown = {(row[1], row[2]) for row in rows}
    assert ("float32", "plain") in shown
    assert ("bfloat16", "packed attention") in shown
    assert (("bfloat16", "resized on the device") in shown) == ("text" not in name)
    assert {row[-1] for row in rows} <= {"yes", "not taken"}
    assert device == "cuda" or {row[-1] for row in rows} == {"yes"}


def test_golden_vectors_that_are_not_met_show():
    case = Case(REFERENCE / "rerank_text_open_2")
    for call in case.calls:
        call.expected[0] *= 1.5
    assert {row[-1] for row in _check(case, "cpu")} == {"no"}


def test_a_fast_path_that_is_not_taken_shows(monkeypatch):
    monkeypatch.setattr(golden.stand_ins, "packed_kernel", golden.nullcontext)
    rows = {(row[1], row[2]): row[-1] for row in _check(Case(REFERENCE / "rerank_text_open_2"), "cpu")}
    assert rows["bfloat16", "packed attention"] == "not taken"
    assert rows["bfloat16", "plain"] == "yes"


def _check(case: Case, device: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    golden.check(case, [v for v in golden.VARIANTS if not v.compile], device, lambda *row: rows.append(row))
    return rows


def test_time_without_a_kernel():
    spans = [Span("a", 0, 10), Span("b", 5, 20), Span("c", 6, 8), Span("d", 30, 40), Span("e", 41, 45)]
    assert profiling.gaps(spans) == [(10, "b", "d"), (1, "d", "e")]
    assert profiling.union(spans) == 34
    assert profiling.union([]) == 0
    names = {"ampere_bf16_s16816gemm": "matrix products", "flash_fwd_kernel": "attention", "Memcpy HtoD": "copies"}
    assert {name: profiling._group(name) for name in names} == names
    assert profiling._group("something_else") == "others"


def test_the_profiler_sees_the_thread_that_computes(reference):
    """Without that, a profile on a CPU would be empty."""
    model = Case(reference / "embed_text_open_1").load(device="cpu")
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], experimental_config=profiling._all_threads()
    ) as profiled:
        model.embed_queries(["a"])
    names = {span.name for span in profiling._spans(profiled, on_device=False)}
    assert "aten::scaled_dot_product_attention" in names


def test_aims_are_held_against_what_was_measured(tmp_path):
    results = Results(tmp_path)

    def row(name, rate, p50, share):
        return {"name": name, "rate": rate, "p50": p50, "share": share}

    results.add_data("embed", **{"embed 64 page images": {"rows": [row("nemotron-rag", 50.0, 1.28, 0.68)]}})
    rows = [row("nemotron-rag, first query", 33, 0.75, 0.46), row("nemotron-rag, second query", 125, 0.2, 0.63)]
    results.add_data("rerank", **{"rerank 25 page images": {"rows": rows}})
    results.add_data("profile", embed={"share without kernel": 0.12})
    note_aims(results, dry_run=False)
    assert results.read()["aims"]["Aims"]["rows"] == [
        ["embedding", ">= 44 pages/s", "50.0 pages/s", "yes", "68%, at 60%"],
        ["reranking, first query", "<= 0.6 s for 25 pages", "0.750 s", "no", "46%, below 60%"],
        ["reranking, second query", "<= 0.25 s for 25 pages", "0.200 s", "yes", "63%, at 60%"],
        ["embed: the device waits", "never", "12.0% of the time", "no", "-"],
    ]


def test_of_a_folder_of_wheels_only_what_is_missing_is_installed(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    _write_wheel(folder, "numpy", "99.0")  # which is here, and must not be hidden
    ours = _write_wheel(folder, "gpu_day_example", "1.0")
    assert missing(folder) == [ours]
    assert install_missing(folder, tmp_path / "site") == "installed gpu_day_example"
    assert (tmp_path / "site" / "gpu_day_example.py").exists()
    assert not (tmp_path / "site" / "numpy.py").exists()
    ours.unlink()
    assert install_missing(folder, tmp_path / "site") == f"nothing of {folder} is missing here"
    (folder / "broken-1.0-py3-none-any.whl").write_bytes(b"no zip")
    assert install_missing(folder, tmp_path / "site").startswith("broken could not be installed: ")


def _write_wheel(folder: Path, name: str, version: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "found = True\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_results_are_whole_at_any_moment(tmp_path):
    results = Results(tmp_path)
    for n in range(3):
        results.put_table("a", "growing", ["n | m"], [[str(i)] for i in range(n + 1)])
        assert json.loads((tmp_path / "results.json").read_text())["parts"]["a"]["tables"]["growing"]["rows"][-1] == [
            str(n)
        ]
    report = (tmp_path / "report.md").read_text()
    assert report.count("**growing**") == 1
    assert "| n / m |" in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "results.json"]
