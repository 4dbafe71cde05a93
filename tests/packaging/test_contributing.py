"""CONTRIBUTING says what is true: its examples are in the sources, and a family is a file that nothing imports."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

from nemotron_rag.models.families import FAMILIES

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"In `([^`]+)`[^\n]*:\n\n```python\n(.*?)```", CONTRIBUTING, re.DOTALL)
MODELS = ROOT / "shared" / "nemotron_rag" / "models"
SHARED = {"arguments", "cached", "catalog", "endpoints", "families", "lazy", "load", "public_identity"}
FAMILY_FILES = {path.stem for path in MODELS.glob("*.py") if not path.name.startswith("_")} - SHARED


def flat(code: str) -> str:
    """Code without its indentation, which the page does not need."""
    return "\n".join(line.strip() for line in textwrap.dedent(code).strip().splitlines())


@pytest.mark.parametrize(("file", "code"), EXAMPLES, ids=[file for file, _ in EXAMPLES])
def test_examples_are_in_the_sources(file, code):
    assert flat(code) in flat((ROOT / file).read_text(encoding="utf-8"))


def test_every_block_names_its_source():
    assert len(EXAMPLES) == CONTRIBUTING.count("```python") > 2


def test_every_family_is_a_file_and_a_row():
    assert {family.module for family in FAMILIES} == FAMILY_FILES


def imports(path: Path) -> set[str]:
    """Every name that a file imports, dotted."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_imports_a_family(path):
    """What two families share lives in a file that begins with an underscore; `load.py` imports families by name."""
    assert not imports(path) & {f"nemotron_rag.models.{family}" for family in FAMILY_FILES}
