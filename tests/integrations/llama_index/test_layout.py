"""One package behind four leaves, which share a namespace with LlamaIndex and stand on its core alone."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

import llama_index_nemotron_rag

ROOT = Path(__file__).parents[3] / "integrations" / "llama_index"
BASE = Path(llama_index_nemotron_rag.__file__).parent
LEAVES = [
    "embeddings/nemotron_rag",
    "postprocessor/nemotron_rag_rerank",
    "readers/nemotron_rag",
    "retrievers/nemotron_rag",
]
NAMES = [
    {"NemotronEmbedding", "NemotronPageEmbedder", "PageNode"},
    {"KeepPageText", "NemotronRerank", "PageImageLimits"},
    {"DocumentPageReader", "PDFPageReader", "PageDocument"},
    {"NemotronPageRetriever", "NodeCollection", "PageRetrieverTool", "page_asker"},
]
EXAMPLES = [
    *("collection", "documents", "embedding", "nodes"),
    *("reader", "reranking", "retriever"),
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"llama_index_nemotron_rag.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_leaves_are_an_init_file_each_and_nothing_lies_above_them():
    files = [path for path in (ROOT / "llama_index").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    found = {path.relative_to(ROOT / "llama_index").as_posix() for path in files}
    assert found == {f"{leaf}/{file}" for leaf in LEAVES for file in ("__init__.py", "py.typed")}


@pytest.mark.parametrize(("leaf", "names"), [*zip(LEAVES, NAMES, strict=True)])
def test_a_leaf_re_exports_public_names_and_holds_no_code(leaf, names):
    module = importlib.import_module(f"llama_index.{leaf.replace('/', '.')}")
    assert set(module.__all__) == names
    assert all(getattr(module, name).__module__.startswith("llama_index_nemotron_rag.") for name in names)
    tree = ast.parse((ROOT / "llama_index" / leaf / "__init__.py").read_text("utf-8"))
    assert {type(node) for node in tree.body} == {ast.Expr, ast.ImportFrom, ast.Assign}


def test_core_alone_and_public_names_alone():
    files = [*BASE.rglob("*.py"), *(ROOT / "llama_index").rglob("*.py")]
    sources = "\n".join(path.read_text("utf-8") for path in files)
    imported = re.findall(r"^\s*(?:from|import) ([\w.]+)", sources, flags=re.MULTILINE)
    llama_index = {name for name in imported if name.partition(".")[0] == "llama_index"}
    assert {name for name in llama_index if not name.startswith("llama_index.core")} == set()
    ours = {name for name in imported if name.partition(".")[0] == "nemotron_rag"}
    assert ours
    assert [name for name in ours if "._" in name] == []
