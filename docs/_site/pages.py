"""Pages of the site that are made from others: documents, notebooks, the reference, the command line."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
from os.path import relpath
from pathlib import Path

import click
import typer.main

from nemotron_rag.cli import app

# Documents that the site has under other names: those outside of docs/, and one whose name Sphinx's search page has.
COPIED = {
    "docs/search.md": "searching",
    "BENCHMARKS.md": "benchmarks",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "starters/README.md": "starters",
    "cookbook/README.md": "cookbook",
    "integrations/README.md": "integrations",
}
GENERATED = "_generated"
LONGEST_VALUE = 200  # characters of a constant that are shown
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
API_ROW = re.compile(r"^\| `([\w.]+)` \| ([^|]+) \|", re.MULTILINE)


def write_generated(docs: Path) -> None:
    """Write `_generated/`: copies of documents and notebooks, and the reference."""
    folder = docs / GENERATED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, stem in COPIED.items():
        source = docs.parent / name
        text = source.read_text(encoding="utf-8")
        (folder / f"{stem}.md").write_text(_moved(text, source, docs), encoding="utf-8")
    for notebook in sorted((docs.parent / "cookbook").glob("*.ipynb")):
        (folder / notebook.name).write_text(_moved_notebook(notebook, docs), encoding="utf-8")
    _write_reference(docs, folder / "reference")
    (folder / "command-line.md").write_text(_command_line(), encoding="utf-8")


def rewrite_links(sphinx: object, name: str, source: list[str]) -> None:
    """Point links of a hand-written page that leave `docs/` at the copies inside it."""
    if not name.startswith(GENERATED):
        docs = Path(sphinx.srcdir)  # type: ignore[attr-defined]
        source[0] = _with_links(source[0], docs / f"{name}.md", docs, docs)


def _moved(text: str, source: Path, docs: Path) -> str:
    return _with_links(text, source, docs, docs / GENERATED)


def _moved_notebook(source: Path, docs: Path) -> str:
    notebook = json.loads(source.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _moved("".join(cell["source"]), source, docs)
    return json.dumps(notebook)


def _with_links(text: str, source: Path, docs: Path, base: Path) -> str:
    """The text with each relative link of `source` as it is from a page in `base`."""

    def replace(match: re.Match[str]) -> str:
        label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        there = (source.parent / path).resolve()
        page = _page_of(there, docs)
        if page is None:  # a file of the repository that is no page: its path
            return f"{label[1:-1]} (`{there.relative_to(docs.parent.resolve())}`)"
        return f"{label}({Path(relpath(page, base)).as_posix()}{hash_}{anchor})"

    return LINK.sub(replace, text)


def _page_of(there: Path, docs: Path) -> Path | None:
    """The file inside `docs/` that shows a file of the repository; None if nothing does."""
    docs, root = docs.resolve(), docs.parent.resolve()
    name = there.relative_to(root).as_posix()
    if name in COPIED:
        return docs / GENERATED / f"{COPIED[name]}.md"
    if there.is_relative_to(docs):
        return there
    if there.suffix == ".ipynb":
        return docs / GENERATED / there.name
    return None


def _write_reference(docs: Path, folder: Path) -> None:
    """One page for each module of `api.md`; a name that two modules export is described where it is listed first."""
    folder.mkdir()
    api = (docs / "api.md").read_text(encoding="utf-8")
    listed: dict[str, list[str]] = {}
    for module, names in API_ROW.findall(api):
        listed.setdefault(module, []).extend(re.findall(r"`(\w+)`", names))
    described: dict[int, str] = {}
    for module, names in listed.items():
        (folder / f"{module}.md").write_text(_reference_page(module, names, described), encoding="utf-8")
    toctree = "\n".join(f"{module.removeprefix('nemotron_rag.')} <{module}>" for module in listed)
    (folder / "index.md").write_text(
        f"# API reference\n\n```{{toctree}}\n:maxdepth: 1\n\n{toctree}\n```\n", encoding="utf-8"
    )


def _reference_page(module: str, names: list[str], described: dict[int, str]) -> str:
    found = importlib.import_module(module)
    summary = (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ")
    lines = [f"# {module}", "", summary.replace("``", "`"), "", "```{eval-rst}"]
    for name in dict.fromkeys(names):
        value = getattr(found, name)
        constant = isinstance(value, (str, int, float, tuple))
        where = f"{module}.{name}" if constant else described.setdefault(id(value), f"{module}.{name}")
        if where != f"{module}.{name}":
            lines += [f"``{name}`` is :py:obj:`{where}`.", ""]
        elif inspect.isclass(value):
            lines += [f".. autoclass:: {where}", "   :members:", "   :show-inheritance:", ""]
        elif inspect.isroutine(value):
            lines += [f".. autofunction:: {where}", ""]
        else:
            shown = " ".join(repr(value).split())
            lines += [f".. data:: {where}", "", *([f"   ``{shown}``", ""] if len(shown) <= LONGEST_VALUE else [])]
    return "\n".join([*lines, "```", ""])


def _command_line() -> str:
    """Every command with its arguments and options, as ``--help`` says them."""
    program = typer.main.get_command(app)
    context = click.Context(program, info_name="nemotron-rag")
    lines = ["# Command line", "", program.help or "", "", program.epilog or "", ""]
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(inner))
        lines += [f"## {name}", "", f"    nemotron-rag {name} {usage}", "", inspect.cleandoc(command.help or ""), ""]
        records = [record for parameter in command.get_params(inner) if (record := parameter.get_help_record(inner))]
        lines += ["| option | what it does |", "| --- | --- |", *(_row(*record) for record in records), ""]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    option, meaning = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| `{option}` | {meaning} |"
