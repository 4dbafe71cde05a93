"""The leaf packages share a namespace with LlamaIndex and stand on its core alone."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from llama_index.embeddings.nemotron_rag import base, components, nodes, transform
from llama_index.postprocessor.nemotron_rag_rerank import base as rerank_base
from llama_index.postprocessor.nemotron_rag_rerank import page_text
from llama_index.readers.nemotron_rag import base as reader_base
from llama_index.readers.nemotron_rag import documents
from llama_index.retrievers.nemotron_rag import base as retriever_base
from llama_index.retrievers.nemotron_rag import collection

ROOT = Path(__file__).parents[3] / "integrations" / "llama_index" / "llama_index"
LEAVES = [
    "embeddings/nemotron_rag",
    "postprocessor/nemotron_rag_rerank",
    "readers/nemotron_rag",
    "retrievers/nemotron_rag",
]


EXAMPLES = [base, components, nodes, transform, page_text, rerank_base]
EXAMPLES += [reader_base, documents, retriever_base, collection]


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: module.__name__)
def test_the_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_no_init_above_the_leaves():
    found = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("__init__.py")}
    assert found == set(LEAVES)


@pytest.mark.parametrize("leaf", LEAVES)
def test_core_alone(leaf):
    ours = tuple(f"llama_index.{name.replace('/', '.')}" for name in LEAVES)
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / leaf).rglob("*.py"))
    imported = re.findall(r"^\s*(?:from|import) (llama_index[\w.]*)", sources, flags=re.MULTILINE)
    assert [name for name in imported if not name.startswith(("llama_index.core", *ours))] == []
