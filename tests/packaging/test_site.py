"""The docs site's own parts; `make docs` builds it whole, with warnings as errors."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("site_pages", DOCS / "_site" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _literals() -> str:
    """All string literals of the code, those in pieces joined as they are when read aloud."""
    found = []
    for path in [*(ROOT / "shared").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                )
            elif _is_text(node):
                found.append(node.value)
            elif isinstance(node, ast.ClassDef):
                found.append(node.name)
    return "\n".join(found)


def test_every_message_of_the_troubleshooting_page_is_one_of_ours():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    firsts = [row.split("|")[1] for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
    messages = [message for cell in firsts for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 15
    literals = _literals()
    assert [message for message in messages if message not in literals] == []


def test_links_that_leave_the_folder_lead_to_the_copies(pages):
    text = "[a](../BENCHMARKS.md#x) [b](models.md) [c](search.md#k) [d](../constraints.txt) [e](https://a.org) [f](#x)"
    assert pages._with_links(text, DOCS / "start.md", DOCS, DOCS) == (
        "[a](_generated/benchmarks.md#x) [b](models.md) [c](_generated/searching.md#k) d (`constraints.txt`) "
        "[e](https://a.org) [f](#x)"
    )
    assert pages._with_links("![x](docs/images/a.png)", ROOT / "README.md", DOCS, DOCS / "_generated") == (
        "![x](../images/a.png)"
    )


def test_links_of_notebooks_lead_to_the_pages_of_the_site(pages):
    for notebook in (ROOT / "cookbook").glob("*.ipynb"):
        moved = json.loads(pages._moved_notebook(notebook, DOCS))
        text = "\n".join(cell["source"] for cell in moved["cells"] if cell["cell_type"] == "markdown")
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                there = (DOCS / "_generated" / target).resolve()
                named = {*pages.COPIED.values(), *(each.stem for each in (ROOT / "cookbook").glob("*.ipynb"))}
                assert there.exists() or (there.parent == DOCS / "_generated" and there.stem in named), target


def test_every_command_and_option_is_on_the_page_of_the_command_line(pages):
    text = pages._command_line()
    for name in ("index", "search", "serve", "verify"):
        assert f"\n## {name}\n" in text
    assert "`--embedder" in text


def test_every_public_name_is_in_the_reference(pages, tmp_path):
    (tmp_path / "api.md").write_text((DOCS / "api.md").read_text(encoding="utf-8"), encoding="utf-8")
    pages._write_reference(tmp_path, tmp_path / "reference")
    for module, names in pages.API_ROW.findall((DOCS / "api.md").read_text(encoding="utf-8")):
        page = (tmp_path / "reference" / f"{module}.md").read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", page), f"{module}.{name}"
