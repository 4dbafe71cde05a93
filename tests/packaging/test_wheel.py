"""What a user installs: the package and its adapters in one wheel, the starter checkpoints in another."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

ROOT = Path(__file__).parents[2]
STARTERS = ROOT / "starters"
CHECKPOINTS = STARTERS / "nemotron_rag_starters" / "checkpoints"


def _build(project: Path, folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return folder / build_wheel(str(folder))


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _info(names: list[str]) -> str:
    return next(root for root in {name.split("/")[0] for name in names} if root.endswith(".dist-info"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return _build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel) -> list[str]:
    return _names(wheel)


@pytest.fixture(scope="module")
def starters(tmp_path_factory) -> list[str]:
    return _names(_build(STARTERS, tmp_path_factory.mktemp("starters")))


def test_import_roots(names):
    info = _info(names)
    assert {name.split("/")[0] for name in names} == {
        "nemotron_rag",
        "langchain_nemotron_rag",
        "llama_index",
        "llama_index_nemotron_rag",
        info,
    }
    assert f"{info}/licenses/LICENSE" in names
    assert f"{info}/licenses/NOTICE" in names


def test_the_shared_namespace_stays_without_init_files(names):
    for folder in ("llama_index", *(f"llama_index/{kind}" for kind in ("embeddings", "postprocessor", "readers"))):
        assert f"{folder}/__init__.py" not in names


def test_every_import_package_is_typed(names):
    leaves = {name.rpartition("/")[0] for name in names if name.endswith("/__init__.py")}
    tops = {leaf for leaf in leaves if not any(leaf.startswith(f"{other}/") for other in leaves)}
    assert tops
    assert [top for top in tops if f"{top}/py.typed" not in names] == []


def test_the_wheel_is_below_one_megabyte_and_holds_no_weights(wheel, names):
    assert wheel.stat().st_size < 1e6
    assert [name for name in names if name.endswith((".safetensors", "tokenizer.json"))] == []


@pytest.mark.slow
def test_the_starters_wheel_holds_the_checkpoints_and_nothing_of_training(starters):
    info = _info(starters)
    files = {path.relative_to(STARTERS).as_posix() for path in CHECKPOINTS.rglob("*") if path.is_file()}
    assert len(files) == 3 * 6
    package = {"nemotron_rag_starters/__init__.py", "nemotron_rag_starters/py.typed"}
    metadata = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    assert set(starters) == files | package | metadata
    assert sum((STARTERS / file).stat().st_size for file in files) < 60e6


def test_the_licence_of_the_starters_is_that_of_the_project():
    assert (STARTERS / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_files_in_the_repository_stay_below_80_mebibytes():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 100
    assert sum(file.lstat().st_size for file in files if file.is_file()) < 80 * 2**20


def _extras() -> dict[str, list[str]]:
    extras: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    return extras


def test_extras_that_errors_name_exist():
    named = set()
    for path in (ROOT / "shared").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "MissingExtraError(" in line and "class " not in line:
                named.add(line.rstrip().rstrip(")").rpartition('"')[0].rpartition('"')[2])
    assert named
    assert named <= set(_extras())


def test_the_starters_need_nothing_and_their_extra_names_them():
    project = tomllib.loads((STARTERS / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == []
    assert [each.partition(">")[0] for each in _extras()["starters"]] == [project["name"]]


def test_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert tomllib.loads((STARTERS / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == version
