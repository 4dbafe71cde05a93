"""What a user installs: three import roots, the data files, and nothing of the repository beside them."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel = build_wheel(str(folder))
    with zipfile.ZipFile(folder / wheel) as archive:
        return archive.namelist()


def test_import_roots(names):
    roots = {name.split("/")[0] for name in names}
    info = next(root for root in roots if root.endswith(".dist-info"))
    assert roots == {"nemotron_rag", "langchain_nemotron_rag", "llama_index", info}
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


def test_the_wheel_is_small_enough(names):
    shipped = ROOT / "shared" / "nemotron_rag" / "checkpoints"
    weights = [path for path in shipped.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in weights) < 60e6
    for path in weights:
        assert f"nemotron_rag/checkpoints/{path.relative_to(shipped)}" in names


def test_extras_that_errors_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for path in (ROOT / "shared").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "MissingExtraError(" in line and "class " not in line:
                named.add(line.rstrip().rstrip(")").rpartition('"')[0].rpartition('"')[2])
    assert named
    assert named <= set(extras)
