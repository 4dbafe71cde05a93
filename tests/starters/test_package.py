"""The package of the starter checkpoints: what it holds, and what happens without it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron_rag import CATALOG, load_embedder
from nemotron_rag.errors import InputError, MissingExtraError
from nemotron_rag.models.lazy import LazyModel
from nemotron_rag.models.load import check_model, load_model, load_row, model_kind
from nemotron_rag_starters import NAMES, checkpoint

FOLDER = Path(__file__).parents[2] / "starters"
STARTERS = [spec for spec in CATALOG if spec.starter]
FILES = {
    "MODEL_CARD.md",
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def _without_starters(monkeypatch):
    monkeypatch.setitem(sys.modules, "nemotron_rag_starters", None)


def test_it_holds_the_starters_of_the_catalog():
    assert sorted(NAMES) == sorted(spec.id for spec in STARTERS)
    assert len(NAMES) == 3


@pytest.mark.parametrize("name", NAMES)
def test_every_checkpoint_is_whole(name):
    assert {path.name for path in checkpoint(name).iterdir()} == FILES


@pytest.mark.parametrize("name", ["starter", "../starter-embed-vl", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="name must be one of starter-embed-vl, starter-rerank-vl, starter-colembed"):
        checkpoint(name)


def test_importing_it_imports_nothing_else():
    code = (
        "import sys, nemotron_rag_starters; "
        "print([name for name in ('torch', 'numpy', 'nemotron_rag') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.usefixtures("_without_starters")
@pytest.mark.parametrize("spec", STARTERS, ids=lambda spec: spec.id)
def test_a_starter_that_is_not_installed_is_refused_before_anything_is_loaded(spec):
    attempts = [
        lambda: check_model(spec.id, spec.kind),
        lambda: LazyModel(spec.id, spec.kind),
        lambda: load_model(spec.id, spec.kind),
        lambda: load_row(spec),
    ]
    for attempt in attempts:
        with pytest.raises(MissingExtraError, match=r"pip install 'nemotron-rag\[starters\]'") as caught:
            attempt()
        assert (caught.value.package, caught.value.extra) == ("nemotron_rag_starters", "starters")


@pytest.mark.usefixtures("_without_starters")
def test_without_starters_everything_else_is_the_same(reference):
    assert model_kind("starter-embed-vl") == "embedder"
    assert check_model("llama-nemotron-embed-vl-1b-v2", "embedder") == "embedder"
    with pytest.raises(InputError, match="is of kind embedder, wanted reranker"):
        check_model("starter-embed-vl", "reranker")
    assert load_embedder(reference / "embed_vl_open_1", device="cpu").embed_queries(["a"]).shape == (1, 64)


def test_an_error_inside_the_package_is_not_a_missing_package(monkeypatch, tmp_path):
    (tmp_path / "nemotron_rag_starters.py").write_text("import a_module_that_is_not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nemotron_rag_starters")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there") as caught:
        check_model("starter-embed-vl", "embedder")
    assert not isinstance(caught.value, MissingExtraError)


def test_the_code_in_its_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "(1, 1024)\n"


@pytest.mark.parametrize("page", [FOLDER / "README.md", FOLDER / "training" / "README.md"], ids=["package", "training"])
def test_files_that_its_pages_name_are_there(page):
    text = page.read_text(encoding="utf-8")
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    modules = re.findall(r"`(\w+\.py)`", text)
    assert [name for name in links if not (page.parent / name).exists()] == []
    assert [name for name in modules if not (FOLDER / "training" / name).exists()] == []
