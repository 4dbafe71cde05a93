"""The README says what is true: its table is the catalog, its code runs, its map and links lead somewhere."""

import importlib
import re
import shlex
from pathlib import Path

import pymupdf
import pytest
import typer.core

from nemotron_rag import catalog, cli, configure_vision_cache, load
from nemotron_rag.cli._models import MODEL_COLUMNS, model_row
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NEEDS_HUB = "# needs the model hub\n"


def expected_table():
    rows = [MODEL_COLUMNS, ("---",) * len(MODEL_COLUMNS), *(model_row(spec) for spec in catalog.CATALOG)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_models_table_is_the_catalog():
    table = re.search(r"<!-- models:.*?-->\n\n(.*?)\n\n<!-- /models -->", README, re.DOTALL).group(1)
    assert table == expected_table()


def test_every_folder_and_module_of_the_map_is_there():
    rooms = re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)
    assert len(rooms) > 15
    assert [room for room in rooms if not (ROOT / room).exists()] == []


def test_map_names_every_public_module():
    package = ROOT / "shared" / "nemotron_rag"
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("_")}
    assert [name for name in sorted(modules) if f"`shared/nemotron_rag/{name}`" not in README] == []


DOCUMENTS = [
    "README.md",
    "BENCHMARKS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "cookbook/README.md",
    "integrations/README.md",
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document):
    page = ROOT / document
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_every_demo_pdf_has_a_licence():
    noted = (ROOT / "cookbook" / "README.md").read_text(encoding="utf-8")
    for pdf in (ROOT / "cookbook" / "pdfs").iterdir():
        assert re.search(rf"^\| `{re.escape(pdf.name)}` \|.*(public domain|CC BY)", noted, re.MULTILINE), pdf.name


def test_every_name_of_the_integrations_is_what_the_readme_says():
    text = (ROOT / "integrations" / "README.md").read_text(encoding="utf-8")
    langchain, llama_index = text.split("\n## ")[1:]
    rows = [
        (name, "langchain_nemotron_rag", base)
        for name, base in re.findall(r"^\| `(\w+)` \| `(\w+)` \|", langchain, re.M)
    ]
    found = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (?:`(\w+)`)?", llama_index, re.M)
    rows += [(name, f"llama_index.{package}", base) for name, package, base in found]
    assert len(rows) == 6 + 7
    for name, package, base in rows:
        bases = {each.__name__ for each in getattr(importlib.import_module(package), name).__mro__}
        assert not base or base in bases, name


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_compile(block):
    compile(block, "README.md", "exec")


@pytest.fixture
def _usual_vision_cache():
    yield
    configure_vision_cache()


@pytest.mark.usefixtures("_usual_vision_cache")
@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.startswith(NEEDS_HUB)])
def test_python_blocks_run(block, tmp_path, monkeypatch, capsys):
    def load_fake(name, kind, *_):
        catalogued = name if name.startswith("starter-") else catalog.find(name).id
        fakes = {"embedder": FakeEmbedder, "multivector_embedder": FakeMultiVectorEmbedder}
        return fakes[kind](name=catalogued) if kind in fakes else FakeReranker()

    monkeypatch.setattr(load, "_load", load_fake)
    monkeypatch.chdir(tmp_path)
    Path("my-pdfs").mkdir()
    document = pymupdf.open()
    document.new_page().insert_text((50, 80), "Sales did grow by 4 %.")
    document.save("my-pdfs/report.pdf")
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out


def test_most_blocks_run():
    assert len(BLOCKS) > sum(block.startswith(NEEDS_HUB) for block in BLOCKS) + 1


@pytest.mark.parametrize("line", re.findall(r"^    nemotron-rag (.*)$", README, re.MULTILINE))
def test_commands_of_the_readme_are_understood(line, monkeypatch):
    asked = []
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda self, ctx: asked.append((self.name, ctx.params)))
    assert cli.main(shlex.split(line)) == 0
    ((name, parameters),) = asked
    assert name == line.split()[0]
    assert parameters
