"""README and docs say what is true: code and commands run, tables are the catalog, paths, names and links exist."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import re
import shlex
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymupdf
import pytest
import typer.core
from PIL import Image

import nemotron_rag
from nemotron_rag import Hit, LoadOptions, Page, PageIndex, cli, configure_vision_cache
from nemotron_rag.cli._models import MODEL_COLUMNS, model_row
from nemotron_rag.models import catalog, lazy, load
from nemotron_rag.ranking import DEFAULT_CANDIDATES
from nemotron_rag.report import hit_json
from nemotron_rag.stores.qdrant import DEFAULT_PREFETCH
from nemotron_rag.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "shared" / "nemotron_rag"
DOCS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")}
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "starters/README.md")} | DOCS
DOCUMENTS = [
    *PAGES,
    *("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "cookbook/README.md", "integrations/README.md"),
]
NEEDS_HUB = "# needs the model hub\n"


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", read(document), re.DOTALL)


def table(text: str, header: str) -> list[list[str]]:
    """The cells of the rows of the table that begins with a header line."""
    lines = text.split(header, 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# ---- README ----


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 9000


def test_the_readme_shows_the_report_and_describes_it():
    ((alternative, target),) = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", PAGES["README.md"])
    assert len(alternative.split()) > 10
    image = ROOT / target
    assert image.stat().st_size <= 200_000
    with Image.open(image) as opened:
        assert opened.format == "PNG"
        assert min(opened.size) > 300


def test_models_of_the_readme_are_those_of_the_catalog():
    rows = table(PAGES["README.md"], "| model | what it does |")
    assert len(rows) >= 5
    for names, _, size, commercial in rows:
        for name in names.split(", "):
            spec = catalog.find(name)
            assert commercial == ("yes" if spec.commercial else "no"), name
            assert "," in names or size == model_row(spec)[2], name


def test_extras_of_the_readme_exist():
    extras = re.findall(r"^\| `([a-z`, -]+)` \|", PAGES["README.md"].split("| extra | brings |")[1], re.MULTILINE)
    named = {name for cell in extras for name in re.findall(r"[a-z-]+", cell)}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert len(named) > 4
    assert [name for name in sorted(named) if not re.search(rf"^{name} = \[", project, re.MULTILINE)] == []


# ---- models and search ----


def test_models_table_is_the_catalog():
    rows = [MODEL_COLUMNS, ("---",) * len(MODEL_COLUMNS), *(model_row(spec) for spec in catalog.CATALOG)]
    shown = re.search(r"<!-- models:.*?-->\n\n(.*?)\n\n<!-- /models -->", DOCS["docs/models.md"], re.DOTALL).group(1)
    assert shown == "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_sizes_beside_quality_are_those_of_the_catalog():
    headers = ("| embedder | page image |", "| reranker | what it orders |")
    rows = [
        (row, -2 if header.startswith("| emb") else -1)
        for header in headers
        for row in table(DOCS["docs/models.md"], header)
    ]
    assert len(rows) > 15
    for row, size in rows:
        assert row[size] == f"{2 * catalog.find(row[0]).parameters / 1e9:.1f} GB", row[0]


def test_every_loading_option_is_named():
    assert [name for name in LoadOptions.__annotations__ if f"`{name}`" not in DOCS["docs/models.md"]] == []


def test_every_parameter_of_a_search_is_explained():
    parameters = [name for name in inspect.signature(PageIndex.search).parameters if name not in ("self", "query")]
    assert len(parameters) > 8
    assert [name for name in parameters if not re.search(rf"\b{name}\b", DOCS["docs/search.md"])] == []


def test_defaults_of_a_search_are_true():
    parameters = inspect.signature(PageIndex.search).parameters
    returned, fetched, _, exact = (row[1] for row in table(DOCS["docs/search.md"], "| what is counted |"))
    assert returned == f"`k` ({parameters['k'].default})"
    assert fetched.startswith(f"`candidates` ({DEFAULT_CANDIDATES},")
    assert exact == f"`prefetch` ({DEFAULT_PREFETCH})"
    for name, default, _ in table(DOCS["docs/search.md"], "| option | default |"):
        assert default.split(",")[0].strip('`"') == str(parameters[name.strip("`")].default), name


def test_keys_of_the_json_output_are_named():
    hit = hit_json(Hit(Page(id="1"), score=1.0, retrieval_score=1.0, rank=1))
    assert [key for key in hit if f"`{key}`" not in DOCS["docs/search.md"]] == []


# ---- the map ----

MAP = DOCS["docs/architecture.md"]


def resolved(path: str) -> Path | None:
    return next((root / path for root in (PACKAGE, ROOT) if (root / path).exists()), None)


def test_every_path_of_the_map_and_of_the_security_page_exists():
    paths = {name for name in re.findall(r"`([\w./-]+)`", MAP + DOCS["docs/security.md"]) if "/" in name}
    assert len(paths) > 60
    assert [path for path in sorted(paths) if resolved(path) is None] == []


def test_every_file_named_within_a_room_is_there():
    for row in table(MAP, "| room |"):
        room = resolved(row[0].strip("`"))
        assert room is not None, row[0]
        for name in re.findall(r"`(\w+\.py)`", row[1]):
            assert (room / name).exists(), f"{row[0]} {name}"


def test_names_of_the_map_are_in_the_files_beside_them():
    for _, where in table(MAP, "| to see or change |"):
        named = re.findall(r"`([\w./-]+)`", where)
        files = [path for name in named if "/" in name or name.endswith(".py") for path in [resolved(name)] if path]
        for name in named:
            if "/" not in name and not name.endswith(".py"):
                assert any(f"def {name}(" in file.read_text(encoding="utf-8") for file in files), name


NOUNS = {"types.py", "protocols.py", "errors.py", "testing.py"}  # what every room speaks of; no rooms themselves


def test_the_map_names_every_room():
    rooms = {path.name for path in PACKAGE.glob("[!_]*.py")}
    rooms |= {f"{path.parent.name}/" for path in PACKAGE.glob("[!_]*/__init__.py")}
    assert rooms >= NOUNS
    assert len(rooms - NOUNS) <= 15
    mapped = {row[0].strip("`") for row in table(MAP, "| room |")}
    assert sorted(rooms - mapped) == []
    floor = {f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*/*.py"))}
    roots = {room.split("/")[0] + "/" for room in mapped}
    assert {name for name in floor if not name.startswith(".")} - roots <= {"shared/"}


# ---- public names ----

API = [
    (module, re.findall(r"`(\w+)`", names))
    for module, names in re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", DOCS["docs/api.md"], re.MULTILINE)
]


@pytest.mark.parametrize(("module", "names"), API, ids=[module for module, _ in API])
def test_public_names_exist(module, names):
    assert names
    assert not any(part.startswith("_") for part in module.split("."))
    found = importlib.import_module(module)
    assert [name for name in names if not hasattr(found, name)] == []


def listed(module: str) -> set[str]:
    return {name for row, names in API if row == module for name in names}


def test_everything_exported_is_listed():
    for module in {"nemotron_rag", "nemotron_rag.errors", *(row for row, _ in API if not row.startswith("nemotron_"))}:
        assert set(importlib.import_module(module).__all__) == listed(module), module
    assert dir(nemotron_rag) == sorted(listed("nemotron_rag"))


def imported(path: Path) -> set[tuple[str, str]]:
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    froms = [node for node in tree if isinstance(node, ast.ImportFrom) and node.module]
    return {(node.module, alias.name) for node in froms for alias in node.names}


def test_adapters_use_public_names_only():
    used = {pair for path in (ROOT / "integrations").rglob("*.py") for pair in imported(path)}
    used = {(module, name) for module, name in used if module.split(".")[0] == "nemotron_rag"}
    assert len(used) > 20
    assert sorted(f"{module}.{name}" for module, name in used if name not in listed(module)) == []


# ---- links, words, licences ----


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    page = ROOT / document
    for target in re.findall(r"\]\(([^)]+)\)", read(document)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_words_are_those_of_the_field(document):
    text = read(document)
    if document == "CHANGELOG.md":
        text = text.split("### Added")[1]
    coined = r"pictures?|sketch(es|ed)?|questions?|knows? no(thing)?|asked page|kept (vision )?features|telling words?"
    assert [line for line in text.splitlines() if re.search(rf"\b(?:{coined})\b", line, re.IGNORECASE)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document):
    targets = set(re.findall(r"(?:^    |`)make ([\w-]+)", read(document), re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in sorted(targets) if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_every_demo_pdf_has_a_licence():
    noted = read("cookbook/README.md")
    for pdf in (ROOT / "cookbook").rglob("*.pdf"):
        assert re.search(rf"^\| `{re.escape(pdf.name)}` \|.*(public domain|CC BY)", noted, re.MULTILINE), pdf.name


def test_every_name_of_the_integrations_is_what_the_readme_says():
    langchain, llama_index = read("integrations/README.md").split("\n## ")[1:3]
    rows = [
        (name, "langchain_nemotron_rag", base)
        for name, base in re.findall(r"^\| `(\w+)` \| `(\w+)` \|", langchain, re.M)
    ]
    found = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (?:`(\w+)`)?", llama_index, re.M)
    rows += [(name, f"llama_index.{package}", base) for name, package, base in found]
    assert len(rows) == 8 + 10
    for name, package, base in rows:
        bases = {each.__name__ for each in getattr(importlib.import_module(package), name).__mro__}
        assert not base or base in bases, name


@pytest.mark.parametrize("project", sorted(ROOT.glob("integrations/llama_index/hub/*/pyproject.toml")), ids=str)
def test_llamahub_names_what_is_public(project):
    metadata = tomllib.loads(project.read_text(encoding="utf-8"))
    hub = metadata["tool"]["llamahub"]
    assert metadata["project"]["name"] == project.parent.name
    assert set(hub["class_authors"]) == listed(hub["import_path"])


# ---- code ----


class CataloguedEmbedder(FakeEmbedder):
    """A fake that says which revision it is of, as a model of the hub does."""

    @property
    def identity(self):
        return {**super().identity, "revision": catalog.find(self.name).revision}


def load_fake(name, *kinds, **options):
    """A fake of the model that the page names, once its name, kind and options were checked."""
    kind = load.check_model(name, *kinds, **options)
    if kind == "reranker":
        return FakeReranker()
    fake = CataloguedEmbedder if kind == "embedder" else FakeMultiVectorEmbedder
    spec = catalog.find(name)
    return fake(name=spec.id, dimensions=spec.dimensions[-1])


@pytest.fixture
def _folder_of_a_reader(tmp_path, monkeypatch):
    """A working folder with a PDF and an image, and fakes in place of the models."""
    monkeypatch.setattr(load, "load_model", load_fake)
    monkeypatch.setattr(lazy, "load_model", load_fake)
    monkeypatch.chdir(tmp_path)
    Path("my-pdfs").mkdir()
    with pymupdf.open() as document:
        document.new_page().insert_text((50, 80), "Sales did grow by 4 %.")
        document.save("my-pdfs/report.pdf")
    Image.new("RGB", (64, 48), "white").save("chart.png")
    yield
    configure_vision_cache()


# Pages in the formats of the frameworks' own documentation, to be sent there.
UPSTREAM = [
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("integrations/langchain/docs/*.mdx"),
        *ROOT.glob("integrations/llama_index/hub/*/README.md"),
    )
]
WITH_CODE = [document for document in PAGES if blocks(document)]


@pytest.mark.usefixtures("_folder_of_a_reader")
@pytest.mark.parametrize("document", WITH_CODE)
def test_python_blocks_run_one_after_the_other(document):
    """Each block stands alone but for the files of those before it, and prints something.

    In a thread, where LlamaIndex closes its event loops; in the main thread it leaves them open to whoever comes next.
    """
    for number, block in enumerate(blocks(document), 1):
        code = compile(block, f"{document}, block {number}", "exec")
        if block.startswith(NEEDS_HUB):
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed, ThreadPoolExecutor(1) as thread:
            thread.submit(exec, code, {"__name__": "docs"}).result()
        assert printed.getvalue(), f"{document}, block {number} prints nothing"


@pytest.mark.usefixtures("_folder_of_a_reader")
@pytest.mark.parametrize("document", UPSTREAM)
def test_python_blocks_of_a_page_for_a_framework_run_as_one(document):
    code = "\n".join(blocks(document))
    assert "print(" in code or document.endswith("provider.mdx")
    with contextlib.redirect_stdout(io.StringIO()) as printed, ThreadPoolExecutor(1) as thread:
        thread.submit(exec, compile(code, document, "exec"), {"__name__": "docs"}).result()
    assert bool(printed.getvalue()) == bool(code)


def test_most_blocks_run():
    every = [block for document in WITH_CODE for block in blocks(document)]
    assert len(every) > 12
    assert sum(block.startswith(NEEDS_HUB) for block in every) < len(every) / 4


LINES = sorted(
    {line for page in DOCUMENTS for line in re.findall(r"^    nemotron-rag (.*?)(?: +#.*)?$", read(page), re.MULTILINE)}
)


@pytest.mark.parametrize("line", LINES)
def test_command_lines_are_understood(line, monkeypatch):
    ran = []
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda self, ctx: ran.append((self.name, ctx.params)))
    assert cli.main(shlex.split(line)) == 0
    ((name, parameters),) = ran
    assert name == line.split()[0]
    assert parameters
